"""The arrays of a context: the block of the weights they hold, their crossbars, and what a read gathers."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from cimc.dialects.cim import ReadCoreOp, StageOp
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.context import CimContext
from cimc.passes.place.network import ContextSpec
from cimc.passes.schedule.array_frames import frame_tiles
from cimc.passes.schedule.array_product import coding_of
from cimc.passes.schedule.row_tiles import stage_tile_height
from cimc.runtime.program import NONE
from cimc.runtime.program.builder import ProgramBuilder, Tile


def add_read_window(builder: ProgramBuilder, spec: ContextSpec, stage: StageOp) -> int:
    """What a read gathers: the kernel rows of the context's chunk, cut to its weight rows."""
    assert stage.read is not None
    window = stage.read.window
    depth = stage.read.diagonal.channels
    row = window.kernel[1] * depth
    first, last = spec.k0 // row, ceil(spec.k1 / row)
    return builder.add_window(
        kh=last - first,
        row_step=window.dilations[0],
        kw=window.kernel[1],
        col_step=window.dilations[1] * depth,
        c=depth,
        lo=spec.k0 - first * row,
        hi=spec.k1 - first * row,
        pos_step=window.strides[1] * depth if isinstance(stage.read, ReadCoreOp) else 0,
    )


def wordlines(spec: ContextSpec, stage: StageOp, arch: Any) -> int:
    """The wordlines of the context's tallest tile: what a read or write by wordlines goes over."""
    assert stage.write is not None
    return min(stage_tile_height(stage.write, arch, coding_of(stage.write.coding)), spec.k1 - spec.k0)


def add_arrays(
    builder: ProgramBuilder, ctx: CimContext, number: int, spec: ContextSpec, stage: StageOp
) -> int:
    """The array set of context ``number``: its block of the weights in tiles, a crossbar each."""
    write, read = stage.write, stage.read
    assert write is not None
    assert read is not None
    assert ctx.arch is not None
    coding = coding_of(write.coding)
    rows = stage_tile_height(write, ctx.arch, coding)
    columns = ctx.arch.crossbar.weight_columns(coding.weight_bits)
    k, n = spec.k1 - spec.k0, spec.n1 - spec.n0
    blocks = [
        (k0, min(k0 + rows, k), n0, min(n0 + columns, n))
        for n0 in range(0, n, columns)
        for k0 in range(0, k, rows)
    ]
    ones = np.ones(coding.step_count, np.int64)
    steps = ctx.store.array(read.steps.key.data).reshape(-1) if read.steps is not None else ones
    return builder.add_array_set(
        number,
        spec.core,
        builder.add_coding(coding.to_row().tolist()),
        builder.weight(write.weight.key.data),
        (spec.k0, spec.k1, spec.n0, spec.n1),
        [Tile(spec.xbar + i, *block) for i, block in enumerate(blocks)],
        step_first=builder.add_steps(steps.tolist()),
        phase=spec.phase,
        groups=read.diagonal.groups,
    )


def add_frame_arrays(
    builder: ProgramBuilder, ctx: CimContext, number: int, spec: ContextSpec, product: FrameProductOp
) -> dict[str, int]:
    """Array set, window and wordlines of context ``number``, whose cells hold a frame of each image in turn."""
    assert product.coding is not None
    coding = coding_of(product.coding)
    tiles = frame_tiles(product, spec.n1 - spec.n0, ctx.arch)
    arrays = builder.add_array_set(
        number,
        spec.core,
        builder.add_coding(coding.to_row().tolist()),
        NONE,
        (0, product.depth, 0, spec.n1 - spec.n0),
        [Tile(spec.xbar + i, *tile) for i, tile in enumerate(tiles)],
        step_first=builder.add_steps([1] * coding.step_count),
        phase=spec.phase,
    )
    wordlines = max(k1 - k0 for k0, k1, _, _ in tiles)
    return {"arrays": arrays, "window": builder.add_window(c=product.depth), "wordlines": wordlines}
