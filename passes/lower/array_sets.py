"""The arrays of a context: the block of the weights they hold, their crossbars, and what a read gathers."""

from __future__ import annotations

from math import ceil

from cimc.dialects.cim import ReadCoreOp, StageOp
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.context import CimContext
from cimc.passes.place.network import ContextSpec
from cimc.passes.schedule.array_frames import frame_tiles
from cimc.passes.schedule.array_product import coding_of
from cimc.passes.schedule.row_tiles import stage_tile_height
from cimc.runtime.program import NONE
from cimc.runtime.program.builder import ProgramBuilder, Tile


class StageArrays:
    """The arrays of an array stage's contexts; what all share is read off the stage and added to the program once."""

    def __init__(self, builder: ProgramBuilder, ctx: CimContext, stage: StageOp):
        write, read = stage.write, stage.read
        assert write is not None
        assert read is not None
        assert ctx.arch is not None
        coding = coding_of(write.coding)
        steps = [1] * coding.step_count
        if read.steps is not None:
            steps = ctx.store.array(read.steps.key.data).reshape(-1).tolist()
        self._builder, self._read = builder, read
        self._height = stage_tile_height(write, ctx.arch, coding)
        self._width = ctx.arch.crossbar.weight_columns(coding.weight_bits)
        self._coding = builder.add_coding(coding.to_row().tolist())
        self._weight = builder.weight(write.weight.key.data)
        self._steps = builder.add_steps(steps)
        self._groups = read.diagonal.groups
        self._windows: dict[tuple[int, int], int] = {}

    def add(self, number: int, spec: ContextSpec) -> dict[str, int]:
        """Window, array set and wordlines of context ``number``: its block of the weights in tiles, a crossbar each."""
        k, n = spec.k1 - spec.k0, spec.n1 - spec.n0
        blocks = [
            (k0, min(k0 + self._height, k), n0, min(n0 + self._width, n))
            for n0 in range(0, n, self._width)
            for k0 in range(0, k, self._height)
        ]
        arrays = self._builder.add_array_set(
            number,
            spec.core,
            self._coding,
            self._weight,
            (spec.k0, spec.k1, spec.n0, spec.n1),
            [Tile(spec.xbar + i, *block) for i, block in enumerate(blocks)],
            step_first=self._steps,
            phase=spec.phase,
            groups=self._groups,
        )
        # Wordlines are those of the tallest tile: what a read or write by wordlines goes over.
        return {"window": self._window(spec), "arrays": arrays, "wordlines": min(self._height, k)}

    def _window(self, spec: ContextSpec) -> int:
        """What a read gathers: the kernel rows of the context's chunk, cut to its weight rows."""
        key = spec.k0, spec.k1
        if key in self._windows:
            return self._windows[key]
        window, depth = self._read.window, self._read.diagonal.channels
        row = window.kernel[1] * depth
        first, last = spec.k0 // row, ceil(spec.k1 / row)
        self._windows[key] = self._builder.add_window(
            kh=last - first,
            row_step=window.dilations[0],
            kw=window.kernel[1],
            col_step=window.dilations[1] * depth,
            c=depth,
            lo=spec.k0 - first * row,
            hi=spec.k1 - first * row,
            pos_step=window.strides[1] * depth if isinstance(self._read, ReadCoreOp) else 0,
        )
        return self._windows[key]


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
