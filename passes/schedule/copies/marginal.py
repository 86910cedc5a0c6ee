"""Crossbars where they shorten the latency most: a linear programme over ways, on the rows that the last row waits for.

The latency of a pipeline is a sum over its stages: each holds the last row back by some of its turns. Any way of rows
through the network gives such a sum, so the latency is the largest of many sums, linear in the cycles of turns. The
programme chooses mixtures of ways within the chip's crossbars under the sums found so far; its prices round it to one
way each, whose estimate names the next sum (Kelley, "The cutting-plane method for solving convex programs", J. SIAM 8,
1960).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cimc.passes.schedule.copies.ways import Limits, Load, Options, Way, Ways

ROUNDS = 24
"""Sums that are looked for at most."""
FRUITLESS = 8
"""Rounds without a shorter latency after which the search ends."""
HALVINGS = 30
"""Steps of the search for the price of a crossbar."""
FINER = 0.99
"""A way must take less than this share of the cycles of the one that takes less room."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


class Estimator(Protocol):
    """What is known of a phase in closed form."""

    def latency(self, ways: Ways) -> int:
        """Cycles of an image with ``ways`` of some stages, the others as they are."""
        ...

    def turn(self, stage: int, way: Way) -> int:
        """Cycles of a context of the stage from one row to its next."""
        ...

    def interval(self, stage: int, way: Way) -> int:
        """Cycles between images that the stage's contexts allow."""
        ...

    def critical_turns(self, ways: Ways) -> Mapping[int, float]:
        """Turns of each stage on the way that decides the latency."""
        ...


class Menu:
    """The ways of all stages that keep an interval, as tables: a row a stage, the cheapest way first.

    A way that takes more room than another is there only where its turn is shorter (``FINER``). Rows shorter than the
    longest are filled with ways that take forever.
    """

    def __init__(self, stages: Mapping[int, Options], known: Estimator, slowest: float):
        """The ways with which no stage takes longer than ``slowest`` cycles an image."""
        self.stages = tuple(stages)
        self.ways: list[list[Way]] = []
        turns: list[list[int]] = []
        for number, own in stages.items():
            found: list[Way] = []
            cycles: list[int] = []
            for way in own.all_ways():
                bar = FINER * cycles[-1] if cycles else inf
                if way.cycles > slowest or way.row_cycles >= bar:
                    continue  # most ways; what the arrays take is known without the estimate
                turn = known.turn(number, way)
                if turn >= bar or known.interval(number, way) > slowest:
                    continue
                found.append(way)
                cycles.append(turn)
            self.ways.append(found)
            turns.append(cycles)
        size = max((own.size for own in stages.values()), default=0)
        shape = len(self.ways), max(map(len, self.ways), default=0)
        self.turns, self.room = np.full(shape, np.inf), np.full(shape, np.inf)
        self._loads = np.zeros((*shape, 2 + size + 1))
        for i, (own, row) in enumerate(zip(stages.values(), self.ways, strict=True)):
            self.turns[i, : len(row)] = turns[i]
            self.room[i, : len(row)] = [way.room(own.size, 1.0) for way in row]
            for j, way in enumerate(row):
                self._loads[i, j, :2] = way.contexts, way.power_mw
                for taken, n in way.cost.counts.items():
                    self._loads[i, j, 2 + taken] = n * way.copies

    @property
    def empty(self) -> bool:
        """Whether some stage has no way."""
        return not all(self.ways)

    def at(self, turns: Floats, price: float) -> Ints:
        """The best way of each stage, by its place in the stage's row, at a price of a crossbar."""
        cost = turns[:, None] * np.where(np.isinf(self.turns), 0.0, self.turns) + price * self.room
        return cost.argmin(axis=1)

    def load(self, picked: Ints) -> Load:
        """What these ways take of what is limited."""
        contexts, power, *counts = self._loads[np.arange(len(picked)), picked].sum(axis=0).tolist()
        return Load(round(contexts), power, {size: round(n) for size, n in enumerate(counts) if n})

    def chosen(self, picked: Ints) -> dict[int, Way]:
        """The ways by the number of the stage."""
        rows = zip(self.stages, self.ways, picked.tolist(), strict=True)
        return {i: row[at] for i, row, at in rows}


@dataclass(frozen=True)
class _Sum:
    """The latency as one way of rows sees it: ``rest`` cycles and so many turns of each stage."""

    turns: Floats
    rest: float


def rebalance(menu: Menu, chosen: Ways, limits: Limits, known: Estimator) -> dict[int, Way]:
    """Ways of the menu with a shorter latency than ``chosen`` within the limits, or ``chosen``."""
    reached, current = known.latency(chosen), dict(chosen)
    best, least = current, reached
    if menu.empty:
        return best
    sums, fruitless = list[_Sum](), 0
    total = np.zeros(len(menu.stages))
    for number in range(1, ROUNDS + 1):
        sums.append(_sum(current, reached, known))
        weights = _weights(menu, sums, limits)
        total += weights
        # The programme's own prices swing to and fro at first; their mean settles.
        picked = (_fill(menu, turns, limits) for turns in (weights, total / number))
        tried = [menu.chosen(found) for found in picked if found is not None]
        if not tried:
            return best
        reached, _, current = min((known.latency(ways), n, ways) for n, ways in enumerate(tried))
        fruitless += 1
        if reached < least:
            best, least, fruitless = current, reached, 0
        if fruitless == FRUITLESS:
            break
    return best


def _sum(ways: Ways, latency: int, known: Estimator) -> _Sum:
    """The sum that decides the ``latency`` of ``ways``."""
    found = known.critical_turns(ways)
    turns = np.array([found[i] for i in ways], np.float64)
    cycles = np.array([known.turn(i, way) for i, way in ways.items()], np.float64)
    return _Sum(turns, latency - float(turns @ cycles))


def _weights(menu: Menu, sums: Sequence[_Sum], limits: Limits) -> Floats:
    """Turns of each stage in the mean of the sums by their prices in the programme."""
    from scipy.optimize import linprog

    owner, place = np.nonzero(np.isfinite(menu.turns))
    turns, room = menu.turns[owner, place], menu.room[owner, place]
    supply = limits.cores * limits.size - sum(way.room(limits.size, 1.0) for way in limits.taken)
    cuts = np.array([np.append(s.turns[owner] * turns, -1.0) for s in sums])
    stages = np.arange(len(menu.stages))
    one_each = np.hstack([owner == stages[:, None], np.zeros((len(stages), 1))])
    found: Any = linprog(
        np.append(np.zeros(len(owner)), 1.0),
        np.vstack([cuts, np.append(room, 0.0)]),
        np.append([-s.rest for s in sums], supply),
        one_each,
        np.ones(len(stages)),
        method="highs",
    )
    prices = -np.asarray(found.ineqlin.marginals[:-1]) if found.status == 0 else np.zeros(len(sums))
    if not prices.sum():
        prices = np.ones(len(sums))
    return sum((p * s.turns for p, s in zip(prices / prices.sum(), sums, strict=True)), np.zeros(len(stages)))


def _fill(menu: Menu, turns: Floats, limits: Limits) -> Ints | None:
    """The ways at the lowest price at which they are allowed; ``None`` where they are at none."""
    high = float((menu.turns[:, 0] * np.maximum(1.0, turns)).max())
    allowed, refused = menu.at(turns, high), None
    if not limits.allow_load(menu.load(allowed)):
        return None
    low = high * 2.0**-HALVINGS
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        picked = menu.at(turns, middle)
        known = picked.tolist() == allowed.tolist()
        if known or (
            (refused is None or picked.tolist() != refused.tolist()) and limits.allow_load(menu.load(picked))
        ):
            high, allowed = middle, picked
        else:
            low, refused = middle, picked
    return allowed
