"""Digital functions of the mapped level, on whole tensors of rows (F, H, W, C).

Scales and zero points are those of the operands' and the result's types, arithmetic is the digital unit's
library (docs/numerics.md section 0, rules 1, 2 and 5 to 11).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isinf
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.dialects.cim import DcomOp, RequantiseOp
from cimc.dialects.cim_real import LOOKUP, RealOp
from cimc.dialects.cim_types import Function
from cimc.dialects.graph_elementwise import UNARY
from cimc.dialects.graph_rows import NORMS, REDUCTIONS
from cimc.dialects.graph_types import QuantType, quant_of, shape_of
from cimc.dialects.locations import describe
from cimc.dialects.weights import WeightStore
from cimc.interpreters.real_operators import normalise
from cimc.runtime.numerics import digital

Array = npt.NDArray[Any]


def requantise(op: RequantiseOp, acc: Array, store: WeightStore) -> Array:
    """Sums and their constants as codes (rule 5) or real values (rule 6)."""
    total = acc + store.array(op.constant.key.data)
    multiplier = store.array(op.multiplier.key.data)
    y = quant_of(op.result)
    if y is None:
        return digital.acc_to_float(total, multiplier)
    assert op.lo is not None
    assert op.hi is not None
    bounds = op.lo.value.data, op.hi.value.data
    return digital.requantise_acc(total, multiplier, y.zero_point, *bounds, dtype=y.dtype)


def apply_function(op: DcomOp, args: Sequence[Array]) -> Array:
    """The result rows of a digital function on the rows ``args``."""
    return _FUNCTIONS[Function(op.function.data)](op, args)


def apply_real(op: RealOp, args: Sequence[Array], store: WeightStore) -> Array:
    """The result rows of a function on float32 rows."""
    constant = None if op.constant is None else store.array(op.constant.key.data)
    if op.kind in UNARY:
        return digital.unary(op.kind, args[0], op.values)
    if op.kind in NORMS:
        return normalise(op.kind, args[0], constant, op.values)
    if op.kind in REDUCTIONS:
        return digital.reduce_row(op.kind, args[0])
    if constant is None:
        return digital.binary(op.kind, args[0], args[1])
    if op.kind == LOOKUP:
        return digital.lookup(constant, args[0][..., 0])
    pair = (args[0], constant)
    return digital.binary(op.kind, *(pair if op.swapped is None else pair[::-1]))


def _codes(op: DcomOp, index: int) -> QuantType:
    codes = quant_of(op.args[index])
    assert codes is not None, f"operand {index} of {op.function.data} holds no codes"
    return codes


def _clip(op: DcomOp, values: Array) -> Array:
    """``values`` within ``fmin`` and ``fmax``; an infinite bound is none."""
    low = None if op.fmin is None or isinf(op.fmin.data) else op.fmin.data
    high = None if op.fmax is None or isinf(op.fmax.data) else op.fmax.data
    return values if low is None and high is None else digital.clip_float(values, low, high)


def _add(op: DcomOp, args: Sequence[Array]) -> Array:
    y = quant_of(op.result)
    if y is None:
        return _clip(op, digital.add_float(args[0], args[1]))
    a, b = _codes(op, 0), _codes(op, 1)
    scales = (y.scale, y.zero_point, *op.clamp)
    return digital.add_codes(
        args[0], a.scale, a.zero_point, args[1], b.scale, b.zero_point, *scales, dtype=y.dtype
    )


def _clamp(op: DcomOp, args: Sequence[Array]) -> Array:
    if quant_of(op.result) is None:
        return _clip(op, args[0])
    return digital.clip_codes(args[0], *op.clamp)


def _quantise(op: DcomOp, args: Sequence[Array]) -> Array:
    y = quant_of(op.result)
    assert y is not None
    where = describe(op.location)
    return digital.quantise(args[0], y.scale, y.zero_point, *op.clamp, dtype=y.dtype, tensor=where)


def _dequantise(op: DcomOp, args: Sequence[Array]) -> Array:
    x = _codes(op, 0)
    return digital.dequantise(args[0], x.scale, x.zero_point)


def _requantise_codes(op: DcomOp, args: Sequence[Array]) -> Array:
    x, y = _codes(op, 0), quant_of(op.result)
    assert y is not None
    scales = (x.scale, x.zero_point, y.scale, y.zero_point, *op.clamp)
    return digital.requantise_codes(args[0], *scales, dtype=y.dtype)


def _pool_window(op: DcomOp) -> digital.Window:
    """The pool's window over the axes H and W; the whole image where the operation has none."""
    if op.window is None:
        extents = shape_of(op.args[0])[:2]
        return digital.Window((1, 2), extents, (1, 1), (0, 0), (0, 0), (1, 1))
    w = op.window
    return digital.Window((1, 2), w.kernel, w.strides, w.pads[:2], w.pads[2:], w.dilations)


def _max_pool(op: DcomOp, args: Sequence[Array]) -> Array:
    y = quant_of(op.result)
    if y is None:
        return digital.max_pool_float(args[0], _pool_window(op))
    return digital.clip_codes(digital.max_pool_codes(args[0], _pool_window(op), y.qmin), *op.clamp)


def _average_pool(op: DcomOp, args: Sequence[Array]) -> Array:
    x, y, window = quant_of(op.args[0]), quant_of(op.result), _pool_window(op)
    include = op.count_include_pad is not None
    if x is None or y is None:
        return digital.average_pool_float(args[0], window, include)
    sums = digital.window_sums(args[0], x.zero_point, window)
    counts = digital.window_counts(args[0].shape, window, include)
    scales = (x.scale, y.scale, y.zero_point, *op.clamp)
    return digital.average_codes(sums, counts, *scales, dtype=y.dtype)


def _global_average_pool(op: DcomOp, args: Sequence[Array]) -> Array:
    x, y = quant_of(op.args[0]), quant_of(op.result)
    if x is None or y is None:
        return digital.global_average_float(args[0], (1, 2))
    cells = args[0].shape[1] * args[0].shape[2]
    sums = args[0].sum(axis=(1, 2), keepdims=True, dtype=np.int64) - x.zero_point * cells
    scales = (x.scale, y.scale, y.zero_point, *op.clamp)
    return digital.average_codes(sums, cells, *scales, dtype=y.dtype)


def _softmax(op: DcomOp, args: Sequence[Array]) -> Array:
    return digital.softmax(args[0])


_FUNCTIONS: Mapping[str, Callable[[DcomOp, Sequence[Array]], Array]] = MappingProxyType(
    {
        Function.ADD: _add,
        Function.CLAMP: _clamp,
        Function.QUANTISE: _quantise,
        Function.DEQUANTISE: _dequantise,
        Function.REQUANTISE: _requantise_codes,
        Function.MAX_POOL: _max_pool,
        Function.AVERAGE_POOL: _average_pool,
        Function.GLOBAL_AVERAGE_POOL: _global_average_pool,
        Function.SOFTMAX: _softmax,
    }
)
