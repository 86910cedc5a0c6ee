"""Constants of digital functions: the record of each, in the order of docs/isa.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.dialects.cim import DcomOp, RequantiseOp
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.cim_real import RealOp
from cimc.dialects.cim_types import Function, WindowAttr
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.runtime.program.builder import ProgramBuilder


def requantise_record(op: RequantiseOp, ctx: CimContext, builder: ProgramBuilder) -> tuple[str, int]:
    """Function and record of a requantisation."""
    constant = ctx.store.array(op.constant.key.data).tolist()
    multiplier = ctx.store.array(op.multiplier.key.data)
    codes = quant_of(op.result)
    if codes is None:
        return "acc_to_float", builder.add_record(np.concatenate([[len(constant)], constant]), multiplier)
    assert op.lo is not None
    assert op.hi is not None
    head = [codes.zero_point, op.lo.value.data, op.hi.value.data, len(constant)]
    return "requantise", builder.add_record(np.concatenate([head, constant]), multiplier)


def dcom_record(op: DcomOp, builder: ProgramBuilder, channels: int) -> tuple[str, int]:
    """Function and record of a digital function on rows of ``channels`` channels.

    Global pools of codes stream instead: :func:`mean_record`.
    """
    given = [quant_of(a) for a in op.args]
    result = quant_of(op.result)
    match op.function.data:
        case Function.ADD if result is not None:
            a, b = given
            assert a is not None
            assert b is not None
            ints = [a.zero_point, b.zero_point, result.zero_point, *op.clamp]
            return "add_codes", builder.add_record(ints, [a.scale, b.scale, result.scale])
        case Function.ADD:
            return "add_float", builder.add_record([], _clip(op))
        case Function.CLAMP if result is not None:
            return "clamp_codes", builder.add_record(op.clamp)
        case Function.CLAMP:
            return "clip_float", builder.add_record([], _clip(op))
        case Function.QUANTISE:
            assert result is not None
            return "quantise", builder.add_record([result.zero_point, *op.clamp], [result.scale])
        case Function.DEQUANTISE:
            assert given[0] is not None
            return "dequantise", builder.add_record([given[0].zero_point], [given[0].scale])
        case Function.REQUANTISE:
            assert given[0] is not None
            assert result is not None
            ints = [given[0].zero_point, result.zero_point, *op.clamp]
            return "requantise_codes", builder.add_record(ints, [given[0].scale, result.scale])
        case Function.SOFTMAX:
            return "softmax", -1
        case Function.MAX_POOL:
            clamp = op.clamp if result is not None else (0, 0)
            return "max_pool", builder.add_record([window_index(op, builder, channels), *clamp])
        case Function.AVERAGE_POOL | Function.GLOBAL_AVERAGE_POOL:
            return _average_pool(op, builder, channels)


def product_record(op: FrameProductOp, builder: ProgramBuilder) -> int:
    """Record of a product with one position of a frame whose rows lie one behind the other."""
    row = shape_of(op.frame)[2]
    steps = (row, 1) if op.by_columns is None else (1, row)
    return builder.add_record([op.depth, *steps])


def real_record(op: RealOp, ctx: CimContext, builder: ProgramBuilder) -> tuple[str, int]:
    """Function and record of a function on float32 rows."""
    constant = None if op.constant is None else ctx.store.array(op.constant.key.data)
    match op.kind:
        case "layer_norm" | "rms_norm" if constant is not None:
            floats = np.concatenate([np.array(op.values, np.float32), constant.reshape(-1)])
            return op.kind, builder.add_record([constant.shape[1]], floats)
        case "local_response_norm":
            *factors, size = op.values
            return op.kind, builder.add_record([int(size)], factors)
        case "lookup":
            assert constant is not None
            return op.kind, builder.add_record(constant.shape, constant.reshape(-1))
        case "add" if constant is None:
            return "add_float", builder.add_record([], (-np.inf, np.inf))
        case _ if constant is not None:
            constant = np.broadcast_to(constant, shape_of_constant(op, ctx))
            ints = [constant.size, *_steps(constant.shape), int(op.swapped is not None)]
            return f"{op.kind}_constant", builder.add_record(ints, constant.reshape(-1))
        case _:
            return op.kind, builder.add_record([], op.values) if op.values else -1


def shape_of_constant(op: RealOp, ctx: CimContext) -> tuple[int, int, int]:
    """Rows, positions and channels of a constant as its record holds it: one that differs along a row has all channels
    of each position, so that a block of a row begins at a plain number of elements."""
    assert op.constant is not None
    rows, positions, channels = ctx.store.array(op.constant.key.data).shape
    return rows, positions, channels if positions == 1 else shape_of(op.result)[2]


def _steps(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Steps of row, position and channel in rows of constants; 0 along extents of 1."""
    rows, positions, channels = shape
    return (
        positions * channels if rows > 1 else 0,
        channels if positions > 1 else 0,
        1 if channels > 1 else 0,
    )


def _clip(op: DcomOp) -> tuple[float, float]:
    low = op.fmin.data if op.fmin is not None else float("-inf")
    return low, op.fmax.data if op.fmax is not None else float("inf")


def _average_pool(op: DcomOp, builder: ProgramBuilder, channels: int) -> tuple[str, int]:
    """Pools over a window held in the ring; a global pool of floats has the image as its window."""
    height, width, _ = shape_of(op.args[0])
    window = _pool_window(op)
    rows, columns, _ = shape_of(op.result)
    include = op.count_include_pad is not None
    counts = [
        _counted(extent, out, window, axis, include)
        for axis, (extent, out) in enumerate(((height, rows), (width, columns)))
    ]
    table = [rows, columns, *counts[0], *counts[1]]
    index = window_index(op, builder, channels)
    given, result = quant_of(op.args[0]), quant_of(op.result)
    if given is None or result is None:
        return "average_pool_float", builder.add_record([index, *table])
    ints = [index, given.zero_point, result.zero_point, *op.clamp, *table]
    return "average_pool", builder.add_record(ints, [given.scale, result.scale])


def _counted(extent: int, outputs: int, window: WindowAttr, axis: int, include: bool) -> npt.NDArray[Any]:
    """Cells along one axis that each output's average counts."""
    kernel, stride = window.kernel[axis], window.strides[axis]
    if include:
        return np.full(outputs, kernel)
    start = np.arange(outputs) * stride - window.pads[axis]
    taps = start[:, None] + np.arange(kernel) * window.dilations[axis]
    return ((taps >= 0) & (taps < extent)).sum(axis=1)


def _pool_window(op: DcomOp) -> WindowAttr:
    height, width, _ = shape_of(op.args[0])
    return op.window if op.window is not None else WindowAttr.of((height, width))


def window_index(op: DcomOp, builder: ProgramBuilder, channels: int) -> int:
    """The window-table row of a pool over rings of ``channels`` channels."""
    window = _pool_window(op)
    (kh, kw), (dh, dw) = window.kernel, window.dilations
    return builder.add_window(
        kh=kh, row_step=dh, kw=kw, col_step=dw * channels, c=channels, pos_step=window.strides[1] * channels
    )


def mean_record(op: DcomOp, builder: ProgramBuilder) -> tuple[int, int]:
    """Records of ``sum_positions`` and ``mean_codes`` for a streaming global pool of codes."""
    height, width, _ = shape_of(op.args[0])
    given, result = quant_of(op.args[0]), quant_of(op.result)
    assert given is not None
    assert result is not None
    ints = [height * width, result.zero_point, *op.clamp]
    return builder.add_record([given.zero_point]), builder.add_record(ints, [given.scale, result.scale])
