"""Rows of a weight matrix on more crossbars than they need, where that is quicker a crossbar and arrays are idle."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from cimc.diagnostics import DoesNotFitError
from cimc.dialects.cim import StageOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import IntsAttr
from cimc.passes.schedule.array_product import coding_of
from cimc.passes.schedule.partition_stages import partition
from cimc.passes.schedule.row_tiles import row_tiles
from cimc.passes.schedule.segment_stages import fit_together

SPARE = 0.75
"""Share of the chip's crossbars that stages may take with the copies the options name: contexts do not fill cores."""


@dataclass(frozen=True)
class SpreadRowsPass(ModulePass):
    """Choose the row tiles of every stage by crossbars x steps of a window, where the model then still fits the chip.

    Only on machines that read groups of wordlines. Tiles are as tall as the number in the grid allows, a whole number
    of groups. A stage keeps its packed tiles where the spread ones of a column are more than a core has.

    ```mlir
    %w = cim.write_row #graph.ref<"conv1.matrix"> grid #graph.ints<5, 2> ...  // before: 576 rows, 16 steps a window
    %w = cim.write_row #graph.ref<"conv1.matrix"> grid #graph.ints<6, 2> ...  // after: 12 steps
    ```
    """

    name = "spread-rows"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set the row tiles of the grids in place."""
        assert isinstance(ctx, CimContext)
        assert ctx.arch is not None
        stages = [stage for stage in op.walk() if isinstance(stage, StageOp)]
        packed = {stage: _packed(stage.write, ctx) for stage in stages if stage.write is not None}
        changed = [_spread(stage, ctx) for stage in packed]
        if any(changed) and not _fits(stages, ctx):
            for stage, grid in packed.items():
                assert stage.write is not None
                stage.write.grid = grid


def _packed(write: Any, ctx: CimContext) -> IntsAttr:
    """The grid with the fewest row tiles, whatever a schedule before this one chose."""
    assert ctx.arch is not None
    rows = write.arrays.type.shape.data[0]
    return IntsAttr.of((ceil(rows / ctx.arch.crossbar.rows), write.grid.data[1]))


def _fits(stages: list[StageOp], ctx: CimContext) -> bool:
    """Whether the stages stand side by side with one copy each, and their crossbars with the copies of the options."""
    assert ctx.arch is not None
    if _crossbars(stages, ctx) > SPARE * ctx.arch.chip.cores * ctx.arch.core.crossbars:
        return False
    try:
        tables = [(stage, partition(stage, ctx.arch)) for stage in stages]
    except DoesNotFitError:  # partition-stages names all that no core can hold, packed
        return False
    return fit_together(tables, ctx.arch)


def _spread(stage: StageOp, ctx: CimContext) -> bool:
    """Change the row tiles of a stage; whether there is a change."""
    write = stage.write
    assert write is not None
    assert ctx.arch is not None
    tiles = row_tiles(write.arrays.type.shape.data[0], coding_of(write.coding), ctx.arch.crossbar.rows)
    if tiles == write.grid.data[0] or tiles > ctx.arch.core.crossbars:
        return False
    write.grid = IntsAttr.of((tiles, write.grid.data[1]))
    return True


def _crossbars(stages: list[StageOp], ctx: CimContext) -> int:
    """Crossbars of all stages with the copies that the options name."""
    total = 0
    for stage in stages:
        if stage.write is None:
            continue
        rows, columns = stage.write.grid.data
        copies = ctx.mapping.for_node(stage.label.data).copies if ctx.mapping is not None else 1
        total += rows * columns * copies
    return total
