"""Which weights of a model larger than the chip stay in crossbars of their own for all calls (docs/scheduling.md).

Phases that rewrite all of their crossbars send every weight through the global buffer in every call. What stays is
written once, before the first call; the rest takes turns on the crossbars that are left. More that stays is less to
write, but phases with less room, hence more of them and less written beside the phase before: so several shares are
tried, and the estimate of the whole program decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from cimc.diagnostics import DoesNotFitError
from cimc.passes.place.network import COLUMNS
from cimc.passes.schedule.estimate.nodes import Timing
from cimc.passes.schedule.estimate.pipeline import latency
from cimc.passes.schedule.packing import Room, Table
from cimc.passes.schedule.phase_costs import STAYS, Work
from cimc.passes.schedule.segments import best, greedy

SHARES = (1.0, 15 / 16, 7 / 8, 13 / 16, 3 / 4, 5 / 8, 1 / 2, 1 / 4)
"""Of the most weights that could stay, what is tried."""

FULL = 0.5
"""Weights that stay take crossbars as full as the fullest of the model, or half as full at least."""

LEAST = 1 / 16
"""Of all weights: a chip that could keep fewer saves less than that of the writes, which is not worth a search."""

STEPS = 10
"""Halvings in the search for the most weights that could stay."""

_COPY, _K0, _K1, _N0, _N1, _P0, _XBARS, _PHASE = map(
    COLUMNS.index, ("copy", "k0", "k1", "n0", "n1", "p0", "xbars", "phase")
)


@dataclass(frozen=True)
class Plan:
    """A way to run a model in phases: ``work`` says which weights stay, ``phases`` those of every stage's contexts."""

    work: Work
    phases: Sequence[Table]
    cycles: int | None = None
    """Of all phases, as the search for cuts estimates them; ``None`` where it did not."""

    @property
    def tables(self) -> list[Table]:
        """The placement of every stage, phases filled in."""
        found = [table.copy() for table in self.work.tables]
        for table, phases in zip(found, self.phases, strict=True):
            table[:, _PHASE] = phases
        return found


def greedy_plan(work: Work) -> Plan:
    """A stage joins the open phase if it fits."""
    return Plan(work, greedy(work))


def plans(make: Callable[[Sequence[Table]], Work], tables: Sequence[Table], *, stay: bool) -> list[Plan]:
    """Ways to run a model in phases, the greedy one among them; ``make`` gives what the search decides on for
    ``tables`` that say which weights stay: none but where they may (``stay``)."""
    none = make(tables)
    found = [greedy_plan(none), Plan(none, *best(none))]
    most = _most(none) if stay else 0.0
    for share in SHARES if most >= LEAST else ():
        work = make(spread(tables, share * most))
        try:
            found.append(Plan(work, *best(work)))
        except DoesNotFitError:  # phases have too little left for a context
            continue
    return found


def estimated(plan: Plan, read: Callable[[Sequence[Table]], Sequence[Timing]]) -> float:
    """Cycles of the finished program, for whose tables ``read`` gives the nodes; for calls of several frames those of
    the search, which knows what they share: infinite for the greedy plan, which it has among its own."""
    if plan.work.frames > 1:
        return inf if plan.cycles is None else plan.cycles
    return latency(read(plan.tables))


def leading(found: Sequence[Plan]) -> list[Plan]:
    """The plans that are worth looking at with copies: the greedy one, the best of those where none stays, and the best
    of those where some do."""
    searched = [plan for plan in found if plan.cycles is not None]
    leaders = [plan for plan in found if plan.cycles is None]
    for stay in (False, True):
        own = [plan for plan in searched if any(t[:, STAYS].any() for t in plan.work.tables) == stay]
        leaders += sorted(own, key=lambda plan: plan.cycles or 0)[:1]
    return leaders


def marked_like(table: Table, copied: Table) -> Table:
    """``copied``, the placement of a stage with copies, with the weights marked that stay in ``table``, with one."""
    staying = {tuple(row) for row in table[table[:, STAYS] > 0][:, [_K0, _N0]].tolist()}
    done = copied.copy()
    first = (copied[:, _COPY] == 0) & (copied[:, _P0] == copied[0, _P0])
    for row in np.flatnonzero(first):
        done[row, STAYS] = (int(copied[row, _K0]), int(copied[row, _N0])) in staying
    return done


def with_copies(plan: Plan, tables: Sequence[Table]) -> Plan:
    """The plan with the copies that ``tables`` show."""
    marked = [marked_like(one, table) for one, table in zip(plan.work.tables, tables, strict=True)]
    phases = [
        phases if len(phases) == len(table) else np.full(len(table), phases[0])
        for phases, table in zip(plan.phases, marked, strict=True)
    ]
    return Plan(replace(plan.work, tables=marked), phases, plan.cycles)


def spread(tables: Sequence[Table], share: float) -> list[Table]:
    """``tables`` with ``share`` of the contexts marked as staying, spread evenly over the model, so that all phases
    have as little to write. Crossbars that hold few weights take turns: they are written quickly."""
    density = [_density(table) for table in tables]
    fullest = max((float(one.max(initial=0)) for one in density), default=0.0)
    credit = 0.0
    found: list[Table] = []
    for table, dense in zip(tables, density, strict=True):
        done = table.copy()
        done[:, STAYS] = 0
        for row in np.flatnonzero(dense >= FULL * fullest) if fullest else ():
            xbars = int(table[row, _XBARS])
            credit += share * xbars
            if credit >= xbars:
                done[row, STAYS] = 1
                credit -= xbars
        found.append(done)
    return found


def _density(table: Table) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Weights a crossbar of every context."""
    weights = (table[:, _K1] - table[:, _K0]) * (table[:, _N1] - table[:, _N0])
    return np.where(table[:, _XBARS] > 0, weights / np.maximum(1, table[:, _XBARS]), 0.0)


def _most(work: Work) -> float:
    """The largest share that finds cores."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        marked = spread(work.tables, middle)
        staying = [
            need
            for needs, table in zip(work.needs, marked, strict=True)
            for need, stays in zip(needs, table[:, STAYS].tolist(), strict=True)
            if stays
        ]
        low, high = (low, middle) if Room.beside(work.arch, staying) is None else (middle, high)
    return low
