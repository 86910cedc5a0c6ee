"""Our choice of copies: the smallest interval that fits the cores, then moves that shorten the estimated latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Literal

from cimc.passes.schedule.copies.estimator import Estimator
from cimc.passes.schedule.copies.ways import UNFILLED, Limits, Options, Way, Ways

Objective = Literal["balanced", "throughput", "latency", "energy", "peak-power"]
Chosen = dict[int, Way]
"""A way by number of the stage."""

SLACK = {"balanced": 0.1, "throughput": 0.0, "latency": 0.25, "energy": 0.0}
"""Share of the smallest interval by which it may get longer for the sake of the latency, by objective; others have
whole rows. A tenth is what the pieces of a row may cost (``deal_pieces.MORE``): all stages may have them, the slowest,
too. With more than a quarter memories are so busy that the latency grows, too (docs/scheduling.md, Latency)."""

LEAST_GAIN = Fraction(1, 400)
"""Share of the latency that a move must save: smaller ones cost contexts, and the estimate is no better than that."""

ADDED_CONTEXTS = 4096
TIMES_CONTEXTS = 2
"""Contexts that copies may add, with any scheduler: so many, or so many times those of one copy each. Placing and
linking take about a ms a context."""

ROUNDS = {"paying": 12, "energy": 3}
"""Rounds of moves, one of which tries every stage."""


def min_max(stages: Mapping[int, Options], limits: Limits, floor: Fraction) -> Chosen | None:
    """The smallest interval above ``floor``, with the least room; ``None`` where no ways are allowed.

    The interval is one of the stages' in some way, and fewer cycles take more room, so bisection over all of them finds
    the smallest that is allowed: exact in crossbars, and in cores as far as packing by size is.
    """
    values: list[Fraction | int] = [floor]
    values += sorted({cycles for own in stages.values() for cycles in own.cycles if cycles > floor})
    lo, hi = 0, len(values) - 1
    while lo < hi:
        middle = (lo + hi) // 2
        lo, hi = (lo, middle) if fewest(stages, limits, values[middle]) is not None else (middle + 1, hi)
    return fewest(stages, limits, values[lo])


def fewest(stages: Mapping[int, Options], limits: Limits, bottleneck: Fraction | int) -> Chosen | None:
    """The cheapest ways with which no stage takes longer than ``bottleneck``; ``None`` where none are allowed."""
    for share in UNFILLED:
        found = {i: own.cheapest(float(bottleneck), share) for i, own in stages.items()}
        ways = {i: way for i, way in found.items() if way is not None}
        if len(ways) == len(stages) and limits.allow(ways):
            return ways
    return None


def keep_up(
    stages: Mapping[int, Options], chosen: Ways, limits: Limits, floor: Fraction, known: Estimator
) -> Chosen:
    """Quicker ways for whichever stage is the slowest in the estimate, the cheapest that shorten its interval, down to
    ``floor`` or as far as the limits go: the arrays of small layers are no longer busy than what surrounds them."""
    result = dict(chosen)
    cycles = {i: known.interval(i, way) for i, way in result.items()}
    while max(cycles.values()) > floor:
        slowest = max(cycles, key=lambda i: cycles[i])
        quicker = (
            (way, found)
            for way in stages[slowest].ways()
            if way.cycles < result[slowest].cycles
            and (found := known.interval(slowest, way)) < cycles[slowest]
        )
        way, found = next(quicker, (None, 0))
        if way is None or not limits.allow(result | {slowest: way}):
            return result
        result[slowest], cycles[slowest] = way, found
    return result


def even(stages: Mapping[int, Options], chosen: Ways, limits: Limits) -> Chosen:
    """Make stages with equally many windows equally quick, the cheapest first, as far as the limits go.

    The branches of a residual then deliver their rows in the same rhythm. A stage left slower than its neighbours
    hands on row by row what they take many rows at a time: ResNet-20's interval is five times longer so.
    """
    least: dict[tuple[int, int], int] = {}
    for i, way in chosen.items():
        shape = stages[i].shape
        least[shape] = min(least.get(shape, way.cycles), way.cycles)
    quicker = {i: own.cheapest(least[own.shape]) for i, own in stages.items()}
    result = dict(chosen)
    lacking = [(way.tiles - chosen[i].tiles, i, way) for i, way in quicker.items() if way is not None]
    for more, i, way in sorted(lacking, key=lambda entry: entry[:2]):
        trial = result | {i: way}
        if more > 0 and limits.allow(trial):
            result = trial
    return result


def climb(
    stages: Mapping[int, Options],
    chosen: Ways,
    limits: Limits,
    latency: Callable[[Ways], int],
    slowest: Mapping[int, int],
    rounds: int,
) -> Chosen:
    """Moves that shorten ``latency``: a quicker way of a stage, paid by spare cores or by another stage's.

    Every round tries for each stage the next way and one that halves its cycles, takes the moves in the order of cycles
    saved a crossbar as long as each still saves ``LEAST_GAIN``, and, where one does not fit, frees crossbars of the
    stage that loses least. No stage takes more cycles than ``slowest`` says.
    """
    best, current = dict(chosen), latency(chosen)
    for _ in range(rounds):
        moves: list[tuple[float, int, Way]] = []
        for i, own in stages.items():
            for way in steps_up(own, best[i]):
                saved = current - latency(best | {i: way})
                if saved > current * LEAST_GAIN:
                    moves.append((-saved / max(1, way.tiles - best[i].tiles), i, way))
        moved: set[int] = set()
        for _, i, way in sorted(moves, key=lambda move: move[:2]):
            if i in moved:
                continue
            trial = _paid(stages, best | {i: way}, i, limits, latency, slowest)
            if trial is None:
                continue
            reached = latency(trial)
            if current - reached > current * LEAST_GAIN:
                best, current = trial, reached
                moved.add(i)
        if not moved:
            break
    return best


def steps_up(own: Options, now: Way) -> list[Way]:
    """The next quicker way, and the first that halves the cycles."""
    more = [way for way in own.ways() if way.cycles < now.cycles]
    if not more:
        return []
    half = next((way for way in more if 2 * way.cycles <= now.cycles), more[-1])
    return [more[0]] if half is more[0] else [more[0], half]


def _paid(
    stages: Mapping[int, Options],
    wanted: Chosen,
    winner: int,
    limits: Limits,
    latency: Callable[[Ways], int],
    slowest: Mapping[int, int],
) -> Chosen | None:
    """``wanted`` within the limits, if a single other stage can give what is missing; the one that costs least."""
    if limits.allow(wanted):
        return wanted
    givers: list[tuple[int, Chosen]] = []
    for i, own in stages.items():
        if i == winner:
            continue
        fewer = own.slower(wanted[i].cycles, slowest[i])
        trial = next((t for w in reversed(fewer) if limits.allow(t := wanted | {i: w})), None)
        if trial is not None:
            givers.append((latency(trial), trial))
    return min(givers, key=lambda pair: pair[0])[1] if givers else None


def least_energy(
    stages: Mapping[int, Options], limits: Limits, floor: Fraction, arch: Any, known: Estimator
) -> Chosen | None:
    """Ways with the least energy an image: static power over the interval against rows that travel to more copies.

    All intervals that a stage can have are tried; products and digital functions cost the same in any way.
    ``None`` where one copy each is not allowed.
    """
    quickest = min_max(stages, limits, floor)
    if quickest is None:
        return None
    choices = [quickest]
    for value in sorted({cycles for own in stages.values() for cycles in own.cycles}):
        found = fewest(stages, limits, value)
        if found is not None:
            choices.append(found)
    return min(choices, key=lambda ways: energy_pj(ways, floor, arch, known))


def energy_pj(ways: Ways, floor: Fraction, arch: Any, known: Estimator) -> float:
    """What ways change of the energy of an image: static power over the interval, bytes that travel to copies."""
    cycles = max(float(floor), *(known.interval(i, way) for i, way in ways.items()))
    moved = sum(way.cost.arriving_bytes(way.copies) for way in ways.values())
    byte = arch.core.local_buffer_energy_pj_per_byte + arch.network.energy_pj_per_byte_hop
    return arch.static_power_mw * cycles / arch.clock_ghz + moved * byte
