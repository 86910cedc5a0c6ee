"""How many copies of its weights each stage gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from cimc.dialects.cim import StageOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import shape_of
from cimc.passes.schedule.copies.bounds import traffic
from cimc.passes.schedule.copies.choose import Problem, choose
from cimc.passes.schedule.copies.stage_costs import stage_cost, stages_of, stride_of
from cimc.passes.schedule.partition_stages import partition
from cimc.passes.schedule.segment_stages import fit_together


@dataclass(frozen=True)
class AssignCopiesPass(ModulePass):
    """Give every array stage the copies that the scheduler of the mapping options chooses, or the options name.

    Output rows are dealt to the copies in turn, so there are at most as many copies as output rows. A model
    whose stages do not fit the chip together keeps one copy each and runs in phases.

    ```mlir
    %y = cim.stage "conv1" (%x) ...           // before
    %y = cim.stage "conv1" copies 4 (%x) ...  // with copies: 4 in the mapping file
    ```
    """

    name = "assign-copies"

    share: float = 1.0
    """Of the chip's crossbars, for a scheduler; 0 leaves one copy each."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set ``copies`` of the stages in place."""
        assert isinstance(ctx, CimContext)
        if ctx.mapping is None:
            return
        stages = stages_of(op)
        if ctx.mapping.chosen_scheduler != "none":
            _schedule(op, stages, ctx, self.share)
            return
        for stage in stages:
            if stage.read is not None:
                _set(stage, ctx.mapping.for_node(stage.label.data).copies)


def _set(stage: StageOp, copies: int) -> None:
    stage.copies = IntegerAttr(min(copies, shape_of(stage.result)[0]), i64)


def _schedule(module: ModuleOp, stages: Sequence[StageOp], ctx: CimContext, share: float) -> None:
    """The copies of a scheduler; those an override names stay as named."""
    assert ctx.mapping is not None
    assert ctx.arch is not None
    costs = tuple(stage_cost(stage, ctx.arch) for stage in stages)
    if not any(costs):
        return
    named = {i: ctx.mapping.named_copies(s.label.data) for i, s in enumerate(stages) if costs[i] is not None}
    pinned = {i: min(n, shape_of(stages[i].result)[0]) for i, n in named.items() if n is not None}
    floor = max(traffic(module, ctx.arch).values())
    problem = Problem(costs, tuple(map(stride_of, stages)), pinned, floor)

    def fits(copies: Sequence[int]) -> bool:
        """Whether the stages with these copies run side by side."""
        for stage, n in zip(stages, copies, strict=True):
            _set(stage, n)
        return fit_together([(stage, partition(stage, ctx.arch)) for stage in stages], ctx.arch)

    chosen = choose(problem, ctx.mapping.chosen_scheduler, ctx.arch, fits, share)
    for i, stage in enumerate(stages):
        _set(stage, chosen[i] if chosen is not None else pinned.get(i, 1))
