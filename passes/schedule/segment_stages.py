"""Cut a model that is larger than the chip into phases; weights are rewritten between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from cimc.diagnostics import DoesNotFitError
from cimc.dialects.cim import StageOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph import main_function
from cimc.dialects.weights import WeightRefAttr
from cimc.passes.place.network import COLUMNS
from cimc.passes.place.place_contexts import frames_of
from cimc.passes.schedule.dealing import possible_copies
from cimc.passes.schedule.estimate.nodes import Timing
from cimc.passes.schedule.estimate.timings import timings
from cimc.passes.schedule.packing import Need, Room, Table, needs_of
from cimc.passes.schedule.partition_stages import partition
from cimc.passes.schedule.phase_costs import Work
from cimc.passes.schedule.staying import estimated, greedy_plan, plans

XBARS, PHASE = map(COLUMNS.index, ("xbars", "phase"))


@dataclass(frozen=True)
class SegmentStagesPass(ModulePass):
    """The phases in which contexts work, where they do not fit the chip together (docs/scheduling.md, Phases).

    With the scheduler ``cimc`` cuts are chosen by the estimate of all phases (``segments.py``), together with the
    weights that stay in crossbars of their own (``staying.py``); with the others
    stages join the current phase while their contexts fit, in topological order. An operator larger than the chip is
    cut itself, by column blocks and, within a block, by row chunks: chunks of earlier phases leave their partial sums
    in the global buffer, and the chunk that ends the block comes last. Copies work side by side or not at all: those
    that do not fit the chip together are dropped. Machines without run-time writes have one phase.

    ```mlir
    %y = cim.stage "fc6" (%x) placement <"fc6.partition"> ...  // before: phase column all 0
    %y = cim.stage "fc6" (%x) placement <"fc6.phases"> ...     // after, on a chip that is too small
    ```
    """

    name = "segment-stages"

    stay: bool = True
    """Whether weights may stay in crossbars of their own."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set phases. Raises ``DoesNotFitError`` when they are needed and the machine cannot rewrite weights."""
        assert isinstance(ctx, CimContext)
        assert ctx.arch is not None
        stages = [s for s in op.walk() if isinstance(s, StageOp)]
        tables = [ctx.store.array(_placement(s)) for s in stages]
        if fit_together(list(zip(stages, tables, strict=True)), ctx.arch):
            return
        tables = [_side_by_side(s, t, ctx.arch) for s, t in zip(stages, tables, strict=True)]
        ops = list(main_function(op).body.block.ops)

        def read(given: Sequence[Table]) -> list[Timing]:
            return timings(ops, ctx.arch, dict(zip(stages, given, strict=True)).__getitem__, ctx.store)

        def work(given: Sequence[Table]) -> Work:
            return Work(stages, given, read(given), ctx.arch, frames_of(op))

        ours = ctx.mapping is not None and ctx.mapping.chosen_scheduler == "cimc"
        if ours and ctx.arch.chip.allow_writes:
            tables = min(plans(work, tables, stay=self.stay), key=lambda plan: estimated(plan, read)).tables
        else:
            tables = greedy_plan(work(tables)).tables
        if not ctx.arch.chip.allow_writes:
            need = sum(int(t[:, XBARS].sum()) for t in tables)
            supply = ctx.arch.chip.cores * ctx.arch.core.crossbars
            count = 1 + max(int(table[:, PHASE].max()) for table in tables)
            raise DoesNotFitError(
                f"the model needs {need} crossbars and their cores' memory in {count} phases, {ctx.arch.name} "
                f"has {supply} crossbars ({ctx.arch.chip.cores} cores x {ctx.arch.core.crossbars}) and no run-time "
                "writes (chip.allow_writes: false); use fewer copies, a larger machine or one that can rewrite weights"
            )
        for stage, table in zip(stages, tables, strict=True):
            key = ctx.store.fresh(f"{stage.label.data}.phases")
            stage.placement = WeightRefAttr.of(ctx.store.put(key, table))


def fit_together(tables: Sequence[tuple[StageOp, Table]], arch: Any) -> bool:
    """Whether the contexts of all stages fit the chip in one phase, by their crossbars and estimated memory."""
    crossbars = sum(int(table[:, XBARS].sum()) for _, table in tables)
    if crossbars > arch.chip.cores * arch.core.crossbars:
        return False
    return have_room([need for stage, table in tables for need in needs_of(stage, table, arch)], arch)


def have_room(needs: Sequence[Need], arch: Any) -> bool:
    """Whether contexts with these needs fit the chip in one phase: the largest first, as ``place-contexts`` takes those
    of a program of one phase."""
    return Room.empty(arch).put(sorted(needs, key=lambda need: -need[0])) is not None


def _side_by_side(stage: StageOp, table: Table, arch: Any) -> Table:
    """The stage's table without the copies that do not fit the chip together; one of them may be larger than it."""
    while stage.copies.value.data > 1 and Room.empty(arch).put(needs_of(stage, table, arch)) is None:
        stage.copies = IntegerAttr(possible_copies(stage, stage.copies.value.data - 1, arch), i64)
        table = partition(stage, arch)
    return table


def _placement(stage: StageOp) -> str:
    assert stage.placement is not None
    return stage.placement.key.data
