"""Our choice of copies: exact min-max over useful numbers of copies, then moves that shorten the estimated latency."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from cimc.passes.schedule.copies.stage_costs import StageCost

Objective = Literal["throughput", "latency", "energy", "peak-power"]
Copies = dict[int, int]
"""Copies by number of the stage."""

LEAST_GAIN = Fraction(1, 400)
"""Share of the latency that a move must save: smaller ones cost contexts, and the estimate is no better than that."""

ADDED_CONTEXTS = 256
TIMES_CONTEXTS = 2
"""Contexts that copies may add: so many, or so many times those of one copy each. Placing and linking take some ms a
context; ResNet-20, whose windows would fill the chip with 5,000, takes a minute then (docs/scheduling.md)."""

ROUNDS = {"throughput": 3, "latency": 12}
"""Rounds of moves, one of which tries every stage."""


@dataclass(frozen=True)
class Limits:
    """What copies may take, ``contexts`` beyond those of one copy each; ``power_mw`` with ``static_mw``, if capped."""

    crossbars: int
    contexts: int
    static_mw: float
    power_mw: float | None = None

    def allow(self, stages: Mapping[int, StageCost], copies: Mapping[int, int]) -> bool:
        """Whether the copies stay below all of them; one copy each never has too many contexts."""
        if sum(stages[i].room * n for i, n in copies.items()) > self.crossbars:
            return False
        more = sum(stages[i].contexts * (n - 1) for i, n in copies.items())
        if more > self.contexts:
            return False
        return self.power_mw is None or power_mw(stages, copies, self.static_mw) <= self.power_mw


def power_mw(stages: Mapping[int, StageCost], copies: Mapping[int, int], static_mw: float) -> float:
    """What the arrays of all copies draw when they work together, static power included."""
    return static_mw + sum(stages[i].power_mw * n for i, n in copies.items())


def min_max(stages: Mapping[int, StageCost], limits: Limits, floor: Fraction) -> Copies | None:
    """The smallest interval above ``floor``, with the fewest copies; ``None`` where one copy each is not allowed.

    Exact: the interval is one of the stages' with a useful number of copies, and fewer cycles take more copies, so
    bisection over all of them finds the smallest that is allowed.
    """
    if not limits.allow(stages, dict.fromkeys(stages, 1)):
        return None
    values: list[Fraction | int] = [floor]
    values += sorted({cycles for cost in stages.values() for _, cycles in cost.ways if cycles > floor})
    lo, hi = 0, len(values) - 1
    while lo < hi:
        middle = (lo + hi) // 2
        found = fewest(stages, values[middle])
        lo, hi = (lo, middle) if found is not None and limits.allow(stages, found) else (middle + 1, hi)
    return fewest(stages, values[lo])


def fewest(stages: Mapping[int, StageCost], bottleneck: Fraction | int) -> Copies | None:
    """The fewest copies with which no stage takes longer than ``bottleneck``; ``None`` where there are none."""
    found: Copies = {}
    for i, cost in stages.items():
        if cost.ways[-1][1] > bottleneck:
            return None
        found[i] = next(n for n, cycles in cost.ways if cycles <= bottleneck)
    return found


def even(stages: Mapping[int, StageCost], copies: Copies, limits: Limits) -> Copies:
    """Give stages with equally many windows equal copies, the cheapest first, as far as the limits go.

    The branches of a residual then deliver their rows in the same rhythm. A quick stage left with fewer copies than its
    neighbours hands on row by row what they take many rows at a time: ResNet-20's interval is five times longer so.
    """
    most: dict[tuple[int, int], int] = {}
    for i, n in copies.items():
        shape = stages[i].rows, stages[i].dealable
        most[shape] = max(most.get(shape, 1), n)
    result = dict(copies)
    lacking = [(cost.tiles * (most[cost.rows, cost.dealable] - copies[i]), i) for i, cost in stages.items()]
    for _, i in sorted(lacking):
        trial = result | {i: most[stages[i].rows, stages[i].dealable]}
        if limits.allow(stages, trial):
            result = trial
    return result


def climb(
    stages: Mapping[int, StageCost],
    copies: Copies,
    limits: Limits,
    latency: Callable[[Mapping[int, int]], int],
    least: Mapping[int, int],
    rounds: int,
) -> Copies:
    """Moves that shorten ``latency``: more copies of a stage, paid by spare crossbars or by another stage's copies.

    Every round tries for each stage the next useful number of copies and one that halves its cycles, takes the moves
    in the order of cycles saved a crossbar as long as each still saves ``LEAST_GAIN``, and, where one does not fit,
    frees crossbars of the stage that loses least. No stage falls below ``least``.
    """
    best, current = dict(copies), latency(copies)
    for _ in range(rounds):
        moves: list[tuple[float, int, int]] = []
        for i, cost in stages.items():
            for n in steps_up(cost, best[i]):
                saved = current - latency(best | {i: n})
                if saved > current * LEAST_GAIN:
                    moves.append((-saved / (cost.tiles * (n - best[i])), i, n))
        moved: set[int] = set()
        for _, i, n in sorted(moves):
            if i in moved:
                continue
            trial = _paid(stages, best | {i: n}, i, limits, latency, least)
            if trial is None:
                continue
            reached = latency(trial)
            if current - reached > current * LEAST_GAIN:
                best, current = trial, reached
                moved.add(i)
        if not moved:
            break
    return best


def steps_up(cost: StageCost, copies: int) -> list[int]:
    """The next useful number of copies, and the first that halves the cycles."""
    more = [(n, cycles) for n, cycles in cost.ways if n > copies]
    if not more:
        return []
    now = cost.ways[bisect_right([n for n, _ in cost.ways], copies) - 1][1]
    half = next((n for n, cycles in more if 2 * cycles <= now), more[-1][0])
    return sorted({more[0][0], half})


def _paid(
    stages: Mapping[int, StageCost],
    wanted: Copies,
    winner: int,
    limits: Limits,
    latency: Callable[[Mapping[int, int]], int],
    least: Mapping[int, int],
) -> Copies | None:
    """``wanted`` within the limits, if a single other stage can give what is missing; the one that costs least."""
    if limits.allow(stages, wanted):
        return wanted
    givers: list[tuple[int, Copies]] = []
    for i, cost in stages.items():
        fewer = [n for n, _ in cost.ways if least[i] <= n < wanted[i]]
        trial = next((t for n in reversed(fewer) if limits.allow(stages, t := wanted | {i: n})), None)
        if i != winner and trial is not None:
            givers.append((latency(trial), trial))
    return min(givers, key=lambda pair: pair[0])[1] if givers else None


def least_energy(
    stages: Mapping[int, StageCost], limits: Limits, floor: Fraction, arch: Any
) -> Copies | None:
    """Copies with the least energy an image: static power over the interval against rows that travel to more copies.

    All intervals that a stage can have are tried; products and digital functions cost the same with any copies.
    ``None`` where one copy each is not allowed.
    """
    quickest = min_max(stages, limits, floor)
    if quickest is None:
        return None

    def energy_pj(copies: Mapping[int, int]) -> float:
        cycles = max(float(floor), *(stages[i].interval(n) for i, n in copies.items()))
        moved = sum(stages[i].arriving_bytes(n) for i, n in copies.items())
        byte = arch.core.local_buffer_energy_pj_per_byte + arch.network.energy_pj_per_byte_hop
        return arch.static_power_mw * cycles / arch.clock_ghz + moved * byte

    choices = [quickest]
    for value in sorted({cycles for cost in stages.values() for _, cycles in cost.ways}):
        found = fewest(stages, value)
        if found is not None and limits.allow(stages, found):
            choices.append(found)
    return min(choices, key=energy_pj)
