"""Where to cut a model that is larger than the chip into phases: dynamic programming over cut points.

With stages in order, ``L[m] = min over i of L[i] + T(i, m)``, where ``T`` is the estimate of the segment of stages i to
m - 1 on the whole chip: its weights written, rows of earlier segments sent again, copies that pay for their writes. A
stage larger than the chip cannot be a segment; it fills what the segment before it leaves, then phases of its own, and
its last phase is open to the stages behind it. So the states of the search are open phases, not only cut points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np

from cimc.diagnostics import DoesNotFitError
from cimc.passes.place.network import COLUMNS
from cimc.passes.schedule.estimate.flow import Handoff
from cimc.passes.schedule.estimate.recurrence import BARRIER
from cimc.passes.schedule.packing import Room, Table, order_of_cut
from cimc.passes.schedule.phase_costs import Member, Work, phase_cycles

OPEN = 8
"""Open phases kept between two stages: those with the fewest cycles so far. The greedy one is kept beside them."""

ALIKE = 2
"""Of these, how many may begin with the same stage, behind phases that leave different room for its writes."""

CUT_FROM = 2
"""Open phases, of those, that an operator larger than the chip may begin in; the others would differ little."""

WAITING = 0.75
"""Share of the global buffer that rows which wait for later phases may take; its rest are rows under way."""

_K0, _K1, _N0, _N1, _STAYS = map(COLUMNS.index, ("k0", "k1", "n0", "n1", "stays"))


@dataclass(frozen=True, eq=False)
class Open:
    """Phases so far: ``closed`` cycles of those that are over, and one that may still get stages."""

    phase: int
    closed: int
    cycles: int
    """Of the open phase."""
    members: tuple[Member, ...]
    room: Room
    first: int
    """Stage the open phase begins with."""
    given: Handoff | None
    """What the phase before leaves for the writes of the open one."""
    leaves: Handoff | None
    """What the open phase leaves."""
    greedy: bool
    before: Open | None = None
    decided: tuple[int, ...] = ()
    """Phases of the contexts of the last stage; one number for all of them."""

    @property
    def total(self) -> int:
        """Cycles of all phases."""
        return self.closed + self.cycles


def greedy(work: Work) -> list[Table]:
    """Phases of the contexts of every stage: a stage joins the open phase if it fits, else it begins one."""
    room, phase = work.room, 0
    found: list[Table] = []
    for number, table in enumerate(work.tables):
        needs = work.rewritten[number]
        joined = room.put(needs)
        if joined is None and not room.untouched:
            phase, room = phase + 1, work.room
            joined = room.put(needs)
        if joined is None:
            offsets, room = _cut(room, work, number)
            found.append(phase + offsets)
            phase += int(offsets.max())
            continue
        room = joined
        found.append(np.full(len(table), phase, np.int64))
    return found


def best(work: Work, keep: int = OPEN, alike: int = ALIKE) -> tuple[list[Table], int]:
    """Phases of the contexts of every stage with the fewest estimated cycles, and these; never more than ``greedy``'s.

    ``keep``: open phases kept between two stages, ``alike`` of them with the same first stage; with all of them the
    result is exact (a test compares with all ways to cut).
    """
    search = _Search(work, alike)
    states = [search.start()]
    for number in range(len(work.stages)):
        states = _kept(list(search.extended(states, number)), keep, alike)
    end = min(states, key=lambda state: state.total)
    return _decisions(end, work), end.total


def segments_of(work: Work, decided: Sequence[Table]) -> list[tuple[list[int], list[int]]]:
    """Stages and nodes, chip operations with them, of every phase that no stage larger than the chip has a part in."""
    phase = [0] * len(work.nodes)
    cut: set[int] = set()
    for number, node in enumerate(work.nodes):
        stage = work.stage_of.get(number)
        if stage is None:
            phase[number] = max((phase[edge.source] for edge in node.edges), default=0)
            continue
        phase[number] = int(decided[stage].max())
        if int(decided[stage].min()) < phase[number]:
            cut |= set(decided[stage].tolist())
    found: list[tuple[list[int], list[int]]] = []
    for one in sorted(set(phase) - cut):
        here = [number for number in range(len(phase)) if phase[number] == one]
        found.append(([work.stage_of[n] for n in here if n in work.stage_of], here))
    return found


def _kept(states: list[Open], keep: int, alike: int) -> list[Open]:
    """The cheapest states, one of those that are alike to the stages behind, and the greedy one."""
    ordered = sorted(states, key=lambda state: state.total)
    seen: set[tuple[int, int, Handoff | None]] = set()
    begun: Counter[tuple[int, int]] = Counter()
    kept: list[Open] = []
    for state in ordered:
        start = state.first, state.room.crossbars
        if (*start, state.given) in seen or begun[start] == alike or len(kept) == keep:
            continue
        seen.add((*start, state.given))
        begun[start] += 1
        kept.append(state)
    return kept if any(state.greedy for state in kept) else [*kept, next(s for s in ordered if s.greedy)]


def _decisions(end: Open, work: Work) -> list[Table]:
    found: list[Table] = []
    state: Open | None = end
    for table in reversed(work.tables):
        assert state is not None
        phases = np.array(state.decided, np.int64)
        found.append(np.full(len(table), phases[0]) if len(phases) == 1 else phases)
        state = state.before
    return found[::-1]


def _cut(room: Room, work: Work, stage: int) -> tuple[Table, Room]:
    """Phases of the contexts of an operator larger than the chip, counted from the one that ``room`` is of; those whose
    weights stay work with the one before them."""
    table, needs = work.tables[stage], work.needs[stage]
    label = work.stages[stage].label.data
    if work.stages[stage].copies.value.data > 1:
        raise DoesNotFitError("copies do not find room side by side; use fewer", where=label)
    order = order_of_cut(table, room.arch)
    again = [i for i in order if not table[i, _STAYS]]
    phases, left = room.cut([needs[i] for i in again], label)
    offsets = np.zeros(len(order), np.int64)
    offsets[again] = phases
    offsets[order] = np.maximum.accumulate(offsets[order])
    return offsets, left


@dataclass
class _Search:
    """Extends open phases by a stage; estimates of the same phase are made once."""

    work: Work
    alike: int
    known: dict[tuple[tuple[Member, ...], Handoff | None], tuple[int, Handoff]] = field(
        default_factory=dict[tuple[tuple[Member, ...], Handoff | None], tuple[int, Handoff]]
    )

    def start(self) -> Open:
        """Nothing but the inputs."""
        members = tuple(Member(n, 0) for n in self.work.behind[-1])
        return Open(0, 0, 0, members, self.work.room, 0, None, None, greedy=True)

    def extended(self, states: Sequence[Open], stage: int) -> Iterator[Open]:
        """All states behind ``stage``."""
        needs = self.work.rewritten[stage]
        joined = {id(state): state.room.put(needs) for state in states}
        for state in states:
            room = joined[id(state)]
            if room is not None:
                yield self._joined(state, stage, room)
        whole = self.work.room.put(needs)
        if whole is None:
            yield from self._cut(states, stage)
            return
        for state in self._may_close(states, stage):
            if not state.room.untouched:
                fresh = self._next(state, stage, greedy=joined[id(state)] is None)
                yield self._joined(fresh, stage, whole)

    def _may_close(self, states: Sequence[Open], stage: int) -> list[Open]:
        """States behind which a phase may begin with ``stage``: the cheapest whose waiting rows have room, as many as
        are kept alike, and the greedy one."""
        size = self.work.arch.chip.global_buffer_bytes * WAITING
        waits = self.work.waiting
        able = [s for s in states if waits[stage] + (waits[s.first] if s.phase else 0) <= size]
        chosen = sorted(able, key=lambda s: s.total)[: self.alike]
        return chosen + [s for s in states if s.greedy and s not in chosen]

    def _next(self, state: Open, stage: int, *, greedy: bool) -> Open:
        """A phase behind ``state``."""
        return replace(
            state,
            phase=state.phase + 1,
            closed=state.total + BARRIER,
            cycles=0,
            members=(),
            room=self.work.room,
            first=stage,
            given=state.leaves,
            leaves=None,
            greedy=state.greedy and greedy,
        )

    def _joined(self, state: Open, stage: int, room: Room) -> Open:
        """``state`` with a whole stage in its open phase."""
        node = self.work.numbers[stage]
        members = self._with_chip((*state.members, Member(node, self.work.nodes[node].load)), stage)
        cycles, leaves = self.cycles(members, state.given)
        return replace(
            state,
            cycles=cycles,
            leaves=leaves,
            members=members,
            room=room,
            before=state,
            decided=(state.phase,),
        )

    def _with_chip(self, members: tuple[Member, ...], stage: int) -> tuple[Member, ...]:
        """With the operations of the chip behind ``stage`` that take rows of a member."""
        here = {member.node for member in members}
        for number in self.work.behind[stage]:
            if any(edge.source in here for edge in self.work.nodes[number].edges):
                here.add(number)
                members = (*members, Member(number, 0))
        return members

    def _cut(self, states: Sequence[Open], stage: int) -> Iterator[Open]:
        """States behind an operator larger than the chip: it begins in an open phase, or in one of its own."""
        for state in sorted(states, key=lambda s: s.total)[:CUT_FROM]:
            yield self._cut_from(replace(state, greedy=False), stage)
        for state in self._may_close(states, stage):
            fresh = state if state.room.untouched else self._next(state, stage, greedy=True)
            yield self._cut_from(fresh, stage)

    def _cut_from(self, state: Open, stage: int) -> Open:
        work, table, node = self.work, self.work.tables[stage], self.work.numbers[stage]
        offsets, room = _cut(state.room, work, stage)
        weights = (table[:, _K1] - table[:, _K0]) * (table[:, _N1] - table[:, _N0]) * (1 - table[:, _STAYS])
        if not weights.any():  # contexts that hold nothing of the model
            weights = np.ones_like(weights)
        shares: list[float] = (np.bincount(offsets, weights) / weights.sum()).tolist()
        loads = [ceil(work.nodes[node].load * share) for share in shares]
        closed, members, given = state.closed, state.members, state.given
        for share, load in zip(shares[:-1], loads[:-1], strict=True):
            members = (*members, Member(node, load)) if share else members
            cycles, given = self.cycles(members, given)
            closed += cycles + BARRIER
            members = ()
        members = self._with_chip((*members, Member(node, loads[-1])), stage)
        cycles, leaves = self.cycles(members, given)
        return replace(
            state,
            phase=state.phase + len(loads) - 1,
            closed=closed,
            cycles=cycles,
            members=members,
            room=room,
            first=stage,
            given=given,
            leaves=leaves,
            before=state,
            decided=tuple((state.phase + offsets).tolist()),
        )

    def cycles(self, members: tuple[Member, ...], given: Handoff | None) -> tuple[int, Handoff]:
        """Of a phase, with the copies that pay in it, and what it leaves for the next one's writes."""
        key = members, given
        if key not in self.known:
            self.known[key] = phase_cycles(self.work, members, given)
        return self.known[key]
