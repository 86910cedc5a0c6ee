"""Products of two activations on arrays that are written at run time: what the arrays of a head hold."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from xdsl.dialects.builtin import TensorType, i32, i64
from xdsl.ir import Block, SSAValue

from cimc.diagnostics import UnsupportedError
from cimc.dialects.base import located
from cimc.dialects.cim import RequantiseOp, StageOp
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph import MatmulOp, tensor_names
from cimc.dialects.graph_types import QuantType, quant_of, shape_of
from cimc.passes.schedule.array_product import coding_attr, coding_of, machine_coding
from cimc.passes.schedule.copies.stage_costs import conversion_cycles, exact, window_cycles
from cimc.passes.schedule.sum_bounds import accumulator_bits
from cimc.runtime.crossbar.coding import Coding

Tile = tuple[int, int, int, int]
"""k0, k1, n0, n1."""


def frame_coding(arch: Any, weight_bits: int, given: QuantType) -> Coding:
    """The coding of a frame of ``weight_bits`` codes, which may be any, behind rows of type ``given``."""
    return machine_coding(arch, weight_bits, given, 0)


def add_array_frames(
    block: Block, op: MatmulOp, operands: Sequence[SSAValue], result: TensorType[Any], ctx: CimContext
) -> SSAValue:
    """Append a product of codes on arrays and its conversion to reals (rule 13) to a stage's body."""
    given, frame = quant_of(op.lhs), quant_of(op.rhs)
    assert given is not None
    assert frame is not None
    if given.zero_point != given.qmin and given.zero_point:
        raise UnsupportedError(located(op, f"codes with zero point {given.zero_point} need sums of columns"))
    coding = frame_coding(ctx.arch, frame.bits, given)
    rows, positions, columns = result.get_shape()
    depth = shape_of(operands[0])[2]
    largest = depth * (given.qmax - given.qmin) * -frame.qmin
    sums = TensorType(i32 if accumulator_bits(largest) == 32 else i64, (rows, positions, columns))
    product = FrameProductOp(operands[0], operands[1], sums, by_columns=False, coding=coding_attr(coding))
    scale = np.full(columns, given.scale * frame.scale, np.float32)
    stem = tensor_names(op)[0]
    keys = [
        ctx.store.put(ctx.store.fresh(f"{stem}.{name}"), array)
        for name, array in (("constant", np.zeros(columns, np.int64)), ("multiplier", scale))
    ]
    reals = RequantiseOp(product.result, keys[0], keys[1], None, result)
    for step in (product, reals):
        step.location = op.location
        block.add_op(step)
    return reals.result


def frame_tiles(op: FrameProductOp, columns: int, arch: Any) -> list[Tile]:
    """The crossbars of ``columns`` of a head, each with its block: row tiles of a column in order, packed."""
    assert op.coding is not None
    return tiles_of(op.depth, columns, coding_of(op.coding).weight_bits, arch)


def tiles_of(depth: int, columns: int, weight_bits: int, arch: Any) -> list[Tile]:
    """``depth`` x ``columns`` weights in crossbars of the machine."""
    rows, width = arch.crossbar.rows, arch.crossbar.weight_columns(weight_bits)
    return [
        (k0, min(k0 + rows, depth), n0, min(n0 + width, columns))
        for n0 in range(0, columns, width)
        for k0 in range(0, depth, rows)
    ]


def frame_columns(depth: int, columns: int, weight_bits: int, arch: Any) -> int:
    """Columns of a head that one core holds, even parts of all of them; 0 where not even one column of tiles fits."""
    width = arch.crossbar.weight_columns(weight_bits)
    beside = arch.core.crossbars // ceil(depth / arch.crossbar.rows)
    return width * ceil(ceil(columns / width) / ceil(columns / (width * beside))) if beside * width else 0


def frame_blocks(stage: StageOp, arch: Any) -> list[tuple[int, int, int]]:
    """Columns [first, last) of the contexts of a head, with their crossbars: 0 where a digital unit multiplies."""
    product, columns = stage.frame_product, shape_of(stage.result)[2]
    if product is None or product.coding is None:
        return [(0, columns, 0)]
    span = frame_columns(product.depth, columns, coding_of(product.coding).weight_bits, arch)
    edges = [(n, min(n + span, columns)) for n in range(0, columns, span)]
    return [(n0, n1, len(frame_tiles(product, n1 - n0, arch))) for n0, n1 in edges]


def write_cycles(arch: Any) -> int:
    """Cycles to write one row of cells."""
    return ceil(exact(arch.crossbar.write_latency_ns) * exact(arch.clock_ghz))


def frame_window_cycles(op: FrameProductOp, arch: Any) -> int:
    """Cycles from the issue of a row's read to its last sum; 0 where a digital unit multiplies."""
    if op.coding is None:
        return 0
    coding = coding_of(op.coding)
    tiles = frame_tiles(op, shape_of(op.result)[2], arch)
    height, width = max(k1 - k0 for k0, k1, _, _ in tiles), max(n1 - n0 for _, _, n0, n1 in tiles)
    return window_cycles(coding, height, width, arch) + conversion_cycles(coding, width, arch)
