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
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cimc.passes.schedule.copies.ways import Limits, Options, Way, Ways

ROUNDS = 24
"""Sums that are looked for at most."""
FRUITLESS = 8
"""Rounds without a shorter latency after which the search ends."""
HALVINGS = 30
"""Steps of the search for the price of a crossbar."""
FINER = 0.99
"""A way must take less than this share of the cycles of the one that takes less room."""

Floats = npt.NDArray[np.float64]


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

    def critical_turns(self, ways: Ways) -> Mapping[int, int]:
        """Turns of each stage on the way that decides the latency."""
        ...


class _Row:
    """A stage's ways that keep the interval, cheapest first, with their room and the cycles of a turn."""

    def __init__(self, number: int, own: Options, known: Estimator, slowest: float):
        found: list[Way] = []
        turns: list[int] = []
        for way in own.all_ways():
            if known.interval(number, way) > slowest:
                continue
            turn = known.turn(number, way)
            if not turns or turn < FINER * turns[-1]:
                found.append(way)
                turns.append(turn)
        self.ways = found
        self.turns: Floats = np.array(turns, np.float64)
        self.room: Floats = np.array([w.room(own.size, 1.0) for w in found], np.float64)

    def at(self, turns: float, price: float) -> Way:
        """The best way at a price of a crossbar."""
        return self.ways[int((turns * self.turns + price * self.room).argmin())]


@dataclass(frozen=True)
class _Sum:
    """The latency as one way of rows sees it: ``rest`` cycles and so many turns of each stage."""

    turns: Floats
    rest: float


def rebalance(
    stages: Mapping[int, Options], chosen: Ways, limits: Limits, known: Estimator, slowest: float
) -> dict[int, Way]:
    """Ways with a shorter latency than ``chosen`` within the limits, or ``chosen``.

    No stage has a longer interval than ``slowest``.
    """
    reached, current = known.latency(chosen), dict(chosen)
    best, least = current, reached
    rows = {i: _Row(i, own, known, slowest) for i, own in stages.items()}
    if not all(row.ways for row in rows.values()):
        return best
    sums, fruitless = list[_Sum](), 0
    total = dict.fromkeys(stages, 0.0)
    for number in range(1, ROUNDS + 1):
        sums.append(_sum(current, reached, known))
        weights = _weights(rows, sums, limits)
        total = {i: total[i] + turns for i, turns in weights.items()}
        # The programme's own prices swing to and fro at first; their mean settles.
        mean = {i: turns / number for i, turns in total.items()}
        tried = [ways for turns in (weights, mean) if (ways := _fill(rows, turns, limits)) is not None]
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


def _weights(rows: Mapping[int, _Row], sums: Sequence[_Sum], limits: Limits) -> dict[int, float]:
    """Turns of each stage in the mean of the sums by their prices in the programme."""
    from scipy.optimize import linprog

    owner = np.repeat(np.arange(len(rows)), [len(row.ways) for row in rows.values()])
    turns = np.concatenate([row.turns for row in rows.values()])
    room = np.concatenate([row.room for row in rows.values()])
    supply = limits.cores * limits.size - sum(way.room(limits.size, 1.0) for way in limits.taken)
    cuts = np.array([np.append(s.turns[owner] * turns, -1.0) for s in sums])
    one_each = np.hstack([owner == np.arange(len(rows))[:, None], np.zeros((len(rows), 1))])
    found: Any = linprog(
        np.append(np.zeros(len(owner)), 1.0),
        np.vstack([cuts, np.append(room, 0.0)]),
        np.append([-s.rest for s in sums], supply),
        one_each,
        np.ones(len(rows)),
        method="highs",
    )
    prices = -np.asarray(found.ineqlin.marginals[:-1]) if found.status == 0 else np.zeros(len(sums))
    if not prices.sum():
        prices = np.ones(len(sums))
    mean = sum(price * s.turns for price, s in zip(prices / prices.sum(), sums, strict=True))
    return dict(zip(rows, np.asarray(mean).tolist(), strict=True))


def _fill(rows: Mapping[int, _Row], turns: Mapping[int, float], limits: Limits) -> dict[int, Way] | None:
    """The ways at the lowest price at which they are allowed; ``None`` where they are at none."""

    def at(price: float) -> dict[int, Way]:
        return {i: row.at(turns[i], price) for i, row in rows.items()}

    high = max(float(row.turns[0]) * max(1.0, turns[i]) for i, row in rows.items())
    if not limits.allow(at(high)):
        return None
    low = high * 2.0**-HALVINGS
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if limits.allow(at(middle)) else (middle, high)
    return at(high)
