"""The digital tail of a stage: level-2 operations as functions on rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Block, Operation, SSAValue

from cimc.diagnostics import UnsupportedError
from cimc.dialects import graph
from cimc.dialects.base import located
from cimc.dialects.cim import DcomOp
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.cim_real import RealOp
from cimc.dialects.cim_types import Function, WindowAttr
from cimc.dialects.context import CimContext
from cimc.dialects.graph_base import BoundedOperation
from cimc.dialects.graph_types import quant_of, shape_of, tensor
from cimc.dialects.row_layout import RowLayout, columns_layout, frame_shape, heads_layout
from cimc.passes.schedule.array_frames import add_array_frames
from cimc.passes.schedule.array_product import ArrayProduct, add_product
from cimc.passes.schedule.real_tails import real_step
from cimc.passes.schedule.stages import Group


def add_tail(
    block: Block,
    group: Group,
    product: ArrayProduct | None,
    layout: Callable[[SSAValue], RowLayout],
    ctx: CimContext,
) -> SSAValue:
    """Append the operations of ``group`` to ``block``, whose arguments are the stage's sources in order.

    ``layout``: that of a level-2 value inside this stage. Returns the rows the stage delivers.
    """
    inside: dict[SSAValue, SSAValue] = {}
    arguments: Iterator[SSAValue] = iter(block.args)
    for op in group.ops:
        operands = [inside[v] if v in inside else next(arguments) for v in op.operands]
        result = TensorType(tensor(op.results[0]).get_element_type(), layout(op.results[0]).shape)
        if isinstance(op, graph.ProductOperation):
            assert product is not None
            inside[op.result] = add_product(block, product, operands[0], result, ctx)
            continue
        if isinstance(op, graph.MatmulOp):
            if op.is_quantised:
                inside[op.result] = add_array_frames(block, op, operands, result, ctx)
                continue
            frame = frame_shape(shape_of(op.rhs))
            by_columns = layout(op.rhs) == columns_layout(frame) != heads_layout(frame)
            step = FrameProductOp(operands[0], operands[1], result, by_columns=by_columns)
        else:
            step = _step(op, operands, result, layout, ctx)
        step.location = op.location
        block.add_op(step)
        inside[op.results[0]] = step.result
    return inside[group.last.results[0]]


def _step(
    op: Operation,
    operands: Sequence[SSAValue],
    result: TensorType[Any],
    layout: Callable[[SSAValue], RowLayout],
    ctx: CimContext,
) -> DcomOp | RealOp:
    match op:
        case graph.MaxPoolOp():
            return DcomOp(Function.MAX_POOL, operands, result, window=_window(op), clamp=_clamp(op))
        case graph.AveragePoolOp():
            return DcomOp(
                Function.AVERAGE_POOL,
                operands,
                result,
                window=_window(op),
                count_include_pad=op.counts_padding,
                clamp=_clamp(op),
            )
        case graph.GlobalAveragePoolOp():
            return DcomOp(Function.GLOBAL_AVERAGE_POOL, operands, result, clamp=_clamp(op))
        case graph.AddOp():
            return DcomOp(Function.ADD, operands, result, clamp=_clamp(op))
        case graph.QuantizeOp():
            return DcomOp(Function.QUANTISE, operands, result, clamp=_clamp(op))
        case graph.RequantizeOp():
            return DcomOp(Function.REQUANTISE, operands, result, clamp=_clamp(op))
        case graph.DequantizeOp():
            return DcomOp(Function.DEQUANTISE, operands, result)
        case graph.SoftmaxOp():
            return DcomOp(Function.SOFTMAX, operands, result)
        case graph.ReluOp():
            return _clip(operands, result, 0.0, None)
        case graph.ClipOp():
            return _clip(operands, result, *op.bounds())
        case _:
            return real_step(op, operands, result, layout(op.results[0]), ctx)


def _window(op: graph.MaxPoolOp | graph.AveragePoolOp) -> WindowAttr:
    return WindowAttr.of(op.kernel.data, op.strides.data, op.pads.data, op.dilations.data)


def _clamp(op: BoundedOperation) -> tuple[int, int] | None:
    return op.clamp() if quant_of(op.results[0]) is not None else None


def _clip(
    operands: Sequence[SSAValue], result: TensorType[Any], low: float | None, high: float | None
) -> DcomOp:
    """A Relu or Clip that stands alone; on codes its bounds are quantised by rule 1."""
    codes = quant_of(operands[0])
    if codes is None:
        return DcomOp(Function.CLAMP, operands, result, clip=(low, high))

    def code(bound: float | None, open_end: int) -> int:
        if bound is None:
            return open_end
        steps = np.rint(np.float32(bound) / codes.scale)
        return int(np.clip(steps + codes.zero_point, codes.qmin, codes.qmax))

    return DcomOp(Function.CLAMP, operands, result, clamp=(code(low, codes.qmin), code(high, codes.qmax)))


def head_layout(op: Operation, image: RowLayout, tokens: RowLayout) -> RowLayout:
    """The layout a stage works in: products and functions of the last axis take tokens, the rest images.

    Raises ``UnsupportedError`` for a softmax over an axis that is neither channels nor the last.
    """
    if isinstance(op, graph.GemmOp | graph.ReduceOp | graph.LookupOp):
        return tokens
    if isinstance(op, graph.NormOp):
        return image if op.constant is None else tokens
    if not isinstance(op, graph.SoftmaxOp):
        return image
    rank, axis = len(shape_of(op.input)), op.axis.value.data
    if axis == rank - 1:
        return tokens
    if rank == 4 and axis == 1:
        return image
    raise UnsupportedError(
        located(op, f"softmax over axis {axis} of {rank}; rows hold channels or the last axis")
    )
