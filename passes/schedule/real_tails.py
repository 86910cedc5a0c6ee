"""Float32 functions of a stage's tail: level-2 operations as ``cim.real`` on rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Operation, SSAValue

from cimc.diagnostics import UnsupportedError
from cimc.dialects import graph
from cimc.dialects.base import located
from cimc.dialects.cim_real import LOOKUP, RealOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import shape_of
from cimc.dialects.row_layout import RowLayout, frame_shape
from cimc.passes.schedule.moves import flat_numbers


def real_step(
    op: Operation,
    operands: Sequence[SSAValue],
    result: TensorType[Any],
    layout: RowLayout,
    ctx: CimContext,
) -> RealOp:
    """``op`` on rows that lie in ``layout``. Raises ``UnsupportedError`` for operations on other than float32 rows."""
    match op:
        case graph.UnaryOp():
            return RealOp(op.function.data, operands, result, parameters=op.values)
        case graph.BinaryOp():
            return RealOp(op.function.data, operands, result)
        case graph.BinaryConstantOp():
            rows = constant_rows(ctx.store.array(op.constant.key.data), shape_of(op.result), layout)
            key = ctx.store.put(ctx.store.fresh(f"{op.constant.key.data}.rows"), rows)
            return RealOp(op.function.data, operands, result, constant=key, swapped=op.swapped is not None)
        case graph.NormOp():
            constant = None if op.constant is None else op.constant.key.data
            return RealOp(op.function.data, operands, result, parameters=op.values, constant=constant)
        case graph.ReduceOp():
            return RealOp(op.function.data, operands, result)
        case graph.LookupOp():
            return RealOp(LOOKUP, operands, result, constant=op.table.key.data)
        case _:
            raise UnsupportedError(located(op, "the digital units have no such function"))


def constant_rows(
    constant: npt.NDArray[np.float32], shape: tuple[int, ...], layout: RowLayout
) -> npt.NDArray[np.float32]:
    """A constant that broadcasts to ``shape``, in rows (H, W, C) of ``layout``, extents 1 where it does not vary."""
    frame = frame_shape(shape)
    own = constant.reshape(constant.shape[1:]) if len(shape) > len(frame) else constant
    full = np.broadcast_to(own, frame).reshape(-1)[flat_numbers(layout)]
    for axis in range(3):
        first = full.take([0], axis=axis)
        if np.array_equal(np.broadcast_to(first, full.shape), full):
            full = first
    return np.ascontiguousarray(full)
