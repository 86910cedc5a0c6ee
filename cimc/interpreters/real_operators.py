"""Operators that are float32 at levels 1 and 2 alike, by the digital unit's library (docs/numerics.md rule 11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation

from cimc.diagnostics import UnsupportedError
from cimc.dialects.base import located
from cimc.dialects.graph import (
    BinaryConstantOp,
    BinaryOp,
    IndexMapOp,
    LookupOp,
    MatmulOp,
    NormOp,
    ReduceOp,
    UnaryOp,
)
from cimc.dialects.graph_types import shape_of
from cimc.dialects.weights import WeightStore
from cimc.runtime.numerics import digital

Array = npt.NDArray[Any]
Kernel = Callable[[Any, WeightStore, Sequence[Array]], Array]


def _binary_constant(op: BinaryConstantOp, store: WeightStore, operands: Sequence[Array]) -> Array:
    pair = (operands[0], store.array(op.constant.key.data))
    return digital.binary(op.function.data, *(pair if op.swapped is None else pair[::-1]))


def normalise(
    function: str, x: Array, constant: npt.NDArray[np.float32] | None, values: Sequence[float]
) -> Array:
    """A norm of ``graph.norm`` over the last axis of ``x``; ``constant`` as the operation holds it."""
    if constant is None:
        alpha, beta, bias, size = values
        return digital.local_response_norm(x, int(size), alpha, beta, bias)
    if function == "rms_norm":
        return digital.rms_norm(x, constant[0], values[0])
    return digital.layer_norm(x, constant[0], constant[1], values[0])


def _norm(op: NormOp, store: WeightStore, operands: Sequence[Array]) -> Array:
    constant = None if op.constant is None else store.array(op.constant.key.data)
    if constant is not None:
        return normalise(op.function.data, operands[0], constant, op.values)
    channel_last = np.moveaxis(operands[0], 1, -1)
    return np.ascontiguousarray(
        np.moveaxis(normalise(op.function.data, channel_last, None, op.values), -1, 1)
    )


def _lookup(op: LookupOp, store: WeightStore, operands: Sequence[Array]) -> Array:
    try:
        return digital.lookup(store.array(op.table.key.data), operands[0])
    except ValueError as error:
        raise UnsupportedError(located(op, str(error))) from error


def take_elements(operands: Sequence[Array], index: npt.NDArray[np.int64], constant: Array | None) -> Array:
    """Elements of flat ``operands`` and ``constant``, one after the other, at ``index``."""
    parts = [np.ascontiguousarray(x).reshape(-1) for x in operands]
    return np.concatenate([*parts, constant] if constant is not None else parts)[index]


def _index_map(op: IndexMapOp, store: WeightStore, operands: Sequence[Array]) -> Array:
    index = store.array(op.index.key.data)
    constant = None if op.constant is None else store.array(op.constant.key.data)
    if op.per_frame is None:
        return take_elements(operands, index, constant).reshape(shape_of(op.result))
    frames = zip(*operands, strict=True)
    return np.stack([take_elements([np.asarray(x) for x in frame], index, constant) for frame in frames])


REAL_OPERATORS: Mapping[type[Operation], Kernel] = MappingProxyType(
    {
        UnaryOp: lambda op, store, operands: digital.unary(op.function.data, operands[0], op.values),
        BinaryOp: lambda op, store, operands: digital.binary(op.function.data, *operands),
        BinaryConstantOp: _binary_constant,
        NormOp: _norm,
        ReduceOp: lambda op, store, operands: digital.reduce_row(op.function.data, operands[0]),
        LookupOp: _lookup,
        MatmulOp: lambda op, store, operands: digital.matmul_float(*operands),
        IndexMapOp: _index_map,
    }
)
"""By operation: what it computes of its operands' arrays, in ONNX layout."""
