"""How many copies of its weights each stage gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from cimc.diagnostics import DoesNotFitError
from cimc.dialects.cim import StageOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph import main_function
from cimc.passes.place.place_contexts import frames_of
from cimc.passes.schedule.copies.bounds import traffic
from cimc.passes.schedule.copies.choose import Goal, Problem, choose
from cimc.passes.schedule.copies.ours import ADDED_CONTEXTS, TIMES_CONTEXTS, power_mw
from cimc.passes.schedule.copies.stage_costs import StageCost, stage_cost, stages_of, stride_of
from cimc.passes.schedule.dealing import possible_copies
from cimc.passes.schedule.estimate.nodes import Timing
from cimc.passes.schedule.estimate.pipeline import span
from cimc.passes.schedule.estimate.timings import timings
from cimc.passes.schedule.partition_stages import partition
from cimc.passes.schedule.segment_stages import XBARS, fit_together
from cimc.passes.schedule.segments import Choices, Work, best, copies_that_pay, greedy, segments_of


@dataclass(frozen=True)
class AssignCopiesPass(ModulePass):
    """Give every array stage the copies that the scheduler of the mapping options chooses, or the options name.

    Windows are dealt to the copies (``dealing.py``), so there are at most as many copies as windows. The stages of a
    model that does not fit the chip together are scheduled phase by phase, by what one copy each fills.

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
    stage.copies = IntegerAttr(possible_copies(stage, copies), i64)


def _schedule(module: ModuleOp, stages: Sequence[StageOp], ctx: CimContext, share: float) -> None:
    """The copies of a scheduler; those an override names stay as named."""
    assert ctx.mapping is not None
    assert ctx.arch is not None
    costs = tuple(stage_cost(stage, ctx.arch) for stage in stages)
    if not any(costs):
        return
    named = {i: ctx.mapping.named_copies(s.label.data) for i, s in enumerate(stages) if costs[i] is not None}
    pinned = {i: possible_copies(stages[i], n) for i, n in named.items() if n is not None}
    for i, stage in enumerate(stages):
        _set(stage, pinned.get(i, 1))
    tables = [partition(stage, ctx.arch) for stage in stages]
    costs = tuple(c and replace(c, contexts=len(t)) for c, t in zip(costs, tables, strict=True))
    costs = _with_unfilled(costs, tables, ctx.arch)
    goal = Goal(ctx.mapping.chosen_scheduler, ctx.mapping.objective, ctx.mapping.power_cap_mw)
    together = fit_together(list(zip(stages, tables, strict=True)), ctx.arch)
    if not together and not ctx.arch.chip.allow_writes:
        return  # does not fit: segment-stages says by how much with one copy each
    by_stage = dict(zip(stages, tables, strict=True))
    nodes = timings(list(main_function(module).body.block.ops), ctx.arch, by_stage.__getitem__, ctx.store)
    _check_power(costs, goal, ctx.arch)
    if together:
        floor = max(traffic(module, ctx.arch).values())
        latency = _Latency(nodes, stages, range(len(nodes)), rewrites=False)
        strides = tuple(stride_of(stage) for stage in stages)
        _choose(Problem(costs, strides, pinned, floor, latency), goal, stages, ctx.arch, share)
        return
    choices = {i: _choices(c) for i, c in enumerate(costs) if c is not None and i not in pinned}
    contexts = max(ADDED_CONTEXTS, TIMES_CONTEXTS * max(map(len, tables)))
    work = Work(stages, tables, nodes, ctx.arch, frames_of(module), choices, contexts)
    decided = best(work)[0] if goal.scheduler == "cimc" else greedy(work)
    for members, here in segments_of(work, decided):
        # Stages larger than the chip are in no segment, and leave the others of their phases what they do not fill.
        number = {i: n for n, i in enumerate(members)}
        problem = Problem(
            tuple(costs[i] for i in members),
            tuple(stride_of(stages[i]) for i in members),
            {number[i]: n for i, n in pinned.items() if i in number},
            Fraction(0),
            _Latency(nodes, [stages[i] for i in members], here, rewrites=True),
            _Paying(work, here, number),
        )
        if any(problem.stages):
            _choose(problem, goal, [stages[i] for i in members], ctx.arch, share)


@dataclass(frozen=True)
class _Paying:
    """The copies of a segment that are worth their writes, as a function of the crossbars there are."""

    work: Work
    nodes: Sequence[int]
    number: Mapping[int, int]
    """Of every stage in the segment."""

    def __call__(self, crossbars: int) -> dict[int, int]:
        """Copies by the stage's number in the segment."""
        found = copies_that_pay(self.work, self.nodes, crossbars)
        return {self.number[self.work.stage_of[node]]: n for node, n in found.items()}


def _choices(cost: StageCost) -> Choices:
    copies, cycles = np.array(cost.ways, np.int64).T
    return Choices(copies, cycles, cost.room, cost.contexts)


def _with_unfilled(
    costs: tuple[StageCost | None, ...], tables: Sequence[Any], arch: Any
) -> tuple[StageCost | None, ...]:
    """The costs with what cores of contexts of a stage leave unfilled, where one copy each has ample room for that.

    Cores of 16 crossbars hold one context of 9, not 1.8. Smaller contexts of other stages may fill what is left, so
    that a chip that is nearly full is judged by crossbars alone.
    """
    size, supply = arch.core.crossbars, arch.chip.cores * arch.core.crossbars

    def unfilled(table: Any) -> float:
        taken = table[:, XBARS]
        return float((size / (size // taken) - taken).sum())

    known = tuple(c and replace(c, unfilled=unfilled(t)) for c, t in zip(costs, tables, strict=True))
    return known if sum(c.room for c in known if c) <= 0.75 * supply else costs


def _choose(problem: Problem, goal: Goal, stages: Sequence[StageOp], arch: Any, share: float) -> None:
    """Set the copies of the stages of one phase."""

    def fits(copies: Sequence[int]) -> bool:
        """Whether the stages with these copies run side by side."""
        for stage, n in zip(stages, copies, strict=True):
            _set(stage, n)
        return fit_together([(stage, partition(stage, arch)) for stage in stages], arch)

    chosen = choose(problem, goal, arch, fits, share)
    for i, stage in enumerate(stages):
        _set(stage, chosen[i] if chosen is not None else problem.pinned.get(i, 1))


class _Latency:
    """The estimate of a phase's cycles as a function of the copies of its stages."""

    def __init__(
        self, nodes: Sequence[Timing], stages: Sequence[StageOp], members: Sequence[int], *, rewrites: bool
    ):
        numbers = {node.op: i for i, node in enumerate(nodes)}
        self._nodes, self._members, self._rewrites = list(nodes), members, rewrites
        self._numbers = [numbers[stage] for stage in stages]
        self._known: dict[tuple[int, int], Timing] = {}

    def __call__(self, copies: Mapping[int, int]) -> int:
        """Cycles with ``copies`` of the stages named by their number."""
        nodes = list(self._nodes)
        for i, n in copies.items():
            number = self._numbers[i]
            if (i, n) not in self._known:
                self._known[i, n] = nodes[number].dealt(n)
            nodes[number] = self._known[i, n]
        return span(nodes, self._members, rewrites=self._rewrites)


def _check_power(costs: Sequence[StageCost | None], goal: Goal, arch: Any) -> None:
    """Raises ``DoesNotFitError`` for a cap below what one copy each draws."""
    each = {i: cost for i, cost in enumerate(costs) if cost is not None}
    least = power_mw(each, dict.fromkeys(each, 1), arch.static_power_mw)
    if goal.power_cap_mw is not None and least > goal.power_cap_mw:
        raise DoesNotFitError(
            f"one copy of every operator draws {least:.0f} mW on {arch.name}, {arch.static_power_mw:.0f} of them "
            f"static, the cap is {goal.power_cap_mw:.0f} (power_cap_mw); raise the cap, or take a smaller model"
        )
