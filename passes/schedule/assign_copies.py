"""How many copies of its weights each stage gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from cimc.diagnostics import DoesNotFitError
from cimc.dialects.cim import StageOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph import main_function
from cimc.passes.place.network import COLUMNS
from cimc.passes.place.pieces import divisible
from cimc.passes.place.place_contexts import frames_of
from cimc.passes.schedule.copies.bounds import arrays_interval, traffic
from cimc.passes.schedule.copies.choose import Goal, Problem, choose, shorten
from cimc.passes.schedule.copies.ours import ADDED_CONTEXTS, SLACK, TIMES_CONTEXTS
from cimc.passes.schedule.copies.stage_costs import StageCost, cuts_of, stage_cost, stages_of, stride_of
from cimc.passes.schedule.copies.ways import Options, Way, Ways
from cimc.passes.schedule.copy_digital import keep_pace
from cimc.passes.schedule.deal_pieces import MOST, STAGGERED
from cimc.passes.schedule.dealing import possible_copies
from cimc.passes.schedule.estimate.nodes import Timing
from cimc.passes.schedule.estimate.timings import timings
from cimc.passes.schedule.packing import Table, needs_of
from cimc.passes.schedule.phase_costs import STAYS, Choices, Work, copies_that_pay
from cimc.passes.schedule.phase_estimate import PhaseEstimate, WayNodes, cut, set_copies
from cimc.passes.schedule.placements import Placements
from cimc.passes.schedule.segment_stages import XBARS
from cimc.passes.schedule.segments import segments_of
from cimc.passes.schedule.staying import (
    Plan,
    estimated,
    greedy_plan,
    leading,
    marked_like,
    plans,
    with_copies,
)

COPY, P0 = map(COLUMNS.index, ("copy", "p0"))


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
        for stage in stages:
            named = ctx.mapping.for_node(stage.label.data)
            if stage.read is not None and ctx.mapping.chosen_scheduler == "none":
                set_copies(stage, named.copies, ctx.arch)
            if named.pieces is not None and divisible(stage):
                stage.pieces = IntegerAttr(named.pieces, i64)
        if ctx.mapping.chosen_scheduler != "none":
            _schedule(op, stages, ctx, self.share)


def _schedule(module: ModuleOp, stages: Sequence[StageOp], ctx: CimContext, share: float) -> None:
    """The copies of a scheduler; those an override names stay as named."""
    assert ctx.mapping is not None
    assert ctx.arch is not None
    if not any(stage.read is not None for stage in stages):
        return
    named = {i: ctx.mapping.named_copies(s.label.data) for i, s in enumerate(stages) if s.read is not None}
    pinned = {i: possible_copies(stages[i], n, ctx.arch) for i, n in named.items() if n is not None}
    for i, stage in enumerate(stages):
        set_copies(stage, pinned.get(i, 1), ctx.arch)
    placements = Placements(ctx.arch)
    tables = [placements.table(stage) for stage in stages]
    goal = Goal(ctx.mapping.chosen_scheduler, ctx.mapping.objective, ctx.mapping.power_cap_mw)
    together = placements.fit_together(stages)
    if not together and not ctx.arch.chip.allow_writes:
        return  # does not fit: segment-stages says by how much with one copy each
    cuts = goal.scheduler == "cimc" and together
    by_cut = [
        _cut_tables(stage, placements, ctx.arch, cuts=cuts and i not in pinned)
        for i, stage in enumerate(stages)
    ]
    options = [_options(stage, own, ctx.arch) for stage, own in zip(stages, by_cut, strict=True)]
    by_stage = dict(zip(stages, tables, strict=True))
    nodes = timings(list(main_function(module).body.block.ops), ctx.arch, by_stage.__getitem__, ctx.store)
    _check_power([own.base for own in options if own is not None], goal, ctx.arch)
    if together:
        floor = max(traffic(module, ctx.arch).values())
        if goal.scheduler == "cimc":
            # The search sees digital stages that will keep pace (pass ``copy-digital``), or they would be all it sees.
            least = arrays_interval([list(own.variants) for own in options if own], ctx.arch)
            nodes = keep_pace(nodes, max(floor, least), ctx.mapping, lambda: placements.fit_together(stages))
        known = PhaseEstimate(WayNodes(nodes, stages, by_cut, ctx.arch), range(len(nodes)), rewrites=False)
        strides = tuple(stride_of(stage) for stage in stages)
        problem = Problem(tuple(options), strides, pinned, floor, known)
        room = partial(placements.fit_together, stages)
        ways = _choose(problem, goal, stages, ctx.arch, share, room)
        if goal.scheduler == "cimc" and goal.objective in SLACK:
            most = _most_pieces(stages, ctx.mapping)

            def fits(found: Ways) -> bool:
                _put(stages, found, ctx.arch)
                return room()

            made = shorten(problem, goal, ways, most, ctx.arch, fits, share)
            _put(stages, made.ways, ctx.arch)
            for i, count in made.pieces.items():
                stages[i].pieces = IntegerAttr(count, i64)
        return
    choices = {i: _choices(own.base) for i, own in enumerate(options) if own is not None and i not in pinned}
    frames = frames_of(module)
    contexts = max(ADDED_CONTEXTS, TIMES_CONTEXTS * max(map(len, tables)))
    ops = list(main_function(module).body.block.ops)

    def read(given: Sequence[Table]) -> list[Timing]:
        return timings(ops, ctx.arch, dict(zip(stages, given, strict=True)).__getitem__, ctx.store)

    def work(given: Sequence[Table]) -> Work:
        return Work(stages, given, read(given), ctx.arch, frames, choices, contexts)

    if goal.scheduler != "cimc":
        _choose_by_phase(greedy_plan(work(tables)), goal, options, by_cut, pinned, share, placements)
        return
    found = plans(work, tables, stay=share == 1)
    runs: list[tuple[float, list[int]]] = []
    for plan in leading(found):
        for i, stage in enumerate(stages):
            set_copies(stage, pinned.get(i, 1), ctx.arch)
        _choose_by_phase(plan, goal, options, by_cut, pinned, share, placements)
        done = with_copies(plan, [placements.table(stage) for stage in stages])
        runs.append((estimated(done, read), [stage.copies.value.data for stage in stages]))
    for stage, copies in zip(stages, min(runs)[1], strict=True):
        set_copies(stage, copies, ctx.arch)


def _choose_by_phase(
    plan: Plan,
    goal: Goal,
    options: Sequence[Options | None],
    by_cut: Sequence[Mapping[int, Table]],
    pinned: Mapping[int, int],
    share: float,
    placements: Placements,
) -> None:
    """Set the copies of the stages of every phase that no operator larger than the chip has a part in."""
    work, stages, arch = plan.work, plan.work.stages, plan.work.arch
    supply = arch.chip.cores * arch.core.crossbars
    for members, here in segments_of(work, plan.phases):
        # Stages larger than the chip are in no segment, and leave the others of their phases what they do not fill.
        number = {i: n for n, i in enumerate(members)}
        problem = Problem(
            tuple(options[i] for i in members),
            tuple(stride_of(stages[i]) for i in members),
            {number[i]: n for i, n in pinned.items() if i in number},
            Fraction(0),
            PhaseEstimate(
                WayNodes(work.nodes, [stages[i] for i in members], [by_cut[i] for i in members], arch),
                here,
                rewrites=True,
            ),
            _Paying(work, here, number),
        )

        def fits(members: Sequence[int] = members) -> bool:
            """Whether what is rewritten has room beside what stays."""
            marked = [marked_like(work.tables[i], placements.table(stages[i])) for i in members]
            needs = [
                need
                for i, table in zip(members, marked, strict=True)
                for need, stays in zip(
                    needs_of(stages[i], table, arch), table[:, STAYS].tolist(), strict=True
                )
                if not stays
            ]
            return work.room.put(needs) is not None

        if any(problem.stages):
            held = sum(work.nodes[n].staying for n in here)
            own = min(share, (work.room.crossbars + held) / supply)
            _choose(problem, goal, [stages[i] for i in members], arch, own, fits)


def _most_pieces(stages: Sequence[StageOp], mapping: Any) -> dict[int, int]:
    """How many pieces stages may have: those whose rows can be cut, and that no option names."""
    most = STAGGERED if mapping.staggers else MOST
    labels = {i: stage.label.data for i, stage in enumerate(stages) if divisible(stage)}
    return {i: most for i, name in labels.items() if mapping.for_node(name).pieces is None}


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
    return Choices(copies, cycles, cost.tiles, cost.contexts)


def _cut_tables(stage: StageOp, placements: Placements, arch: Any, *, cuts: bool) -> dict[int, Table]:
    """The placement of a stage with one copy in every useful cut of its weights, by row tiles; none for digital ones.

    The cut it has comes first; without ``cuts`` it is the only one.
    """
    if stage.write is None:
        return {}
    base = stage.write.grid.data[0]
    found = {base: placements.table(stage)}
    for row_tiles in cuts_of(stage, arch) if cuts else ():
        if row_tiles != base:
            cut(stage, row_tiles)
            found[row_tiles] = placements.table(stage)
    cut(stage, base)
    return found


def _options(stage: StageOp, tables: Mapping[int, Table], arch: Any) -> Options | None:
    """What a scheduler may choose from for a stage whose ``tables`` are known; ``None`` for a digital one."""
    costs = [(stage_cost(stage, arch, row_tiles), table) for row_tiles, table in tables.items()]
    variants = tuple(replace(cost, sizes=_sizes(table)) for cost, table in costs if cost is not None)
    return Options(variants, arch.core.crossbars) if variants else None


def _sizes(table: Table) -> tuple[int, ...]:
    """Crossbars of the contexts of the first copy."""
    own = (table[:, COPY] == table[0, COPY]) & (table[:, P0] == table[0, P0])
    return tuple(table[own, XBARS].tolist())


def _choose(
    problem: Problem,
    goal: Goal,
    stages: Sequence[StageOp],
    arch: Any,
    share: float,
    room: Callable[[], bool],
) -> Ways:
    """Set copies and cuts of the stages of one phase; the ways of those with arrays.

    ``room``: whether they fit side by side as they are.
    """

    def fits(decided: Sequence[Way | None]) -> bool:
        """Whether the stages in these ways run side by side."""
        _put(stages, _known(decided), arch)
        return room()

    chosen = choose(problem, goal, arch, fits, share)
    ways = _known(problem.complete({}) if chosen is None else chosen)
    _put(stages, ways, arch)
    return ways


def _known(decided: Sequence[Way | None]) -> dict[int, Way]:
    return {i: way for i, way in enumerate(decided) if way is not None}


def _put(stages: Sequence[StageOp], ways: Ways, arch: Any) -> None:
    """Set copies and cuts of stages."""
    for i, way in ways.items():
        cut(stages[i], way.cost.row_tiles)
        set_copies(stages[i], way.copies, arch)


def _check_power(costs: Sequence[StageCost], goal: Goal, arch: Any) -> None:
    """Raises ``DoesNotFitError`` for a cap below what one copy each draws."""
    least = arch.static_power_mw + sum(cost.power_mw for cost in costs)
    if goal.power_cap_mw is not None and least > goal.power_cap_mw:
        raise DoesNotFitError(
            f"one copy of every operator draws {least:.0f} mW on {arch.name}, {arch.static_power_mw:.0f} of them "
            f"static, the cap is {goal.power_cap_mw:.0f} (power_cap_mw); raise the cap, or take a smaller model"
        )
