"""Copies of array stages by the named schedulers, tried against the cores of the chip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from cimc.passes.schedule.closed_form.cim_mlc import Layer, assign_layers
from cimc.passes.schedule.closed_form.copies import Product, polyxb
from cimc.passes.schedule.copies.anneal import Choice, Space, anneal
from cimc.passes.schedule.copies.estimator import Estimator
from cimc.passes.schedule.copies.ours import (
    ADDED_CONTEXTS,
    ROUNDS,
    SLACK,
    TIMES_CONTEXTS,
    Chosen,
    Objective,
    climb,
    energy_pj,
    even,
    keep_up,
    least_energy,
    min_max,
)
from cimc.passes.schedule.copies.ways import Limits, Options, Way, Ways

Scheduler = Literal["polyxb", "cim-mlc", "cim-mlc-matmul", "cimc"]

SHARES = tuple(Fraction(n, 100) for n in range(100, 0, -2))
"""Shares of the chip's cores that are tried in turn until the contexts fit them."""


@dataclass(frozen=True)
class Goal:
    """Who chooses, and for what. ``power_cap_mw`` includes static power."""

    scheduler: Scheduler
    objective: Objective = "balanced"
    power_cap_mw: float | None = None


@dataclass(frozen=True)
class Problem:
    """Stages in order, digital ones as ``None``, and what they may have."""

    stages: tuple[Options | None, ...]
    strides: tuple[int, ...]
    pinned: Mapping[int, int]
    """Copies of the stages that the user decided."""
    floor: Fraction
    """Interval that something other than the arrays needs."""
    known: Estimator
    """The estimate of the phase's cycles."""
    paying: Callable[[int], Mapping[int, int]] | None = None
    """Copies worth their writes with so many crossbars, where the stages' weights are written for every image; there
    the latency is all."""

    @property
    def free(self) -> dict[int, Options]:
        """The array stages whose copies are open."""
        return {i: own for i, own in enumerate(self.stages) if own is not None and i not in self.pinned}

    @property
    def decided(self) -> dict[int, Way]:
        """The ways of the array stages that the user decided."""
        return {i: own.way(self.pinned[i]) for i, own in enumerate(self.stages) if own and i in self.pinned}

    def complete(self, chosen: Ways) -> Decided:
        """Ways of all stages, one copy where nothing is said, ``None`` for digital ones."""
        known = {**chosen, **self.decided}
        return tuple(own and known.get(i, own.one) for i, own in enumerate(self.stages))


Decided = tuple[Way | None, ...]
"""A way of every stage; ``None`` for digital ones."""


def choose(
    problem: Problem,
    goal: Goal,
    arch: Any,
    fits: Callable[[Decided], bool],
    share: float = 1.0,
) -> Decided | None:
    """Ways of every stage; ``None`` when not even one copy each fits the chip.

    The scheduler gets ``share`` of the cores first, then less at a time, until ``fits`` says that a core is found
    for every context: contexts need memory, too. All schedulers have the same limit of contexts. Where weights are
    written for every image, or energy is the goal, ours moves single stages behind that, with all that is left and less
    at a time; else :func:`shorten` goes on from here.
    """
    tried: Decided | None = None
    for part in SHARES:
        if part > share:
            continue
        limits = _limits(problem, goal, part, arch)
        chosen = _ways(problem, goal, limits, arch)
        if chosen is None:
            break
        ways = problem.complete(chosen)
        if ways != tried and limits.allow(chosen) and fits(ways):
            return _quicker(problem, goal, chosen, share, arch, fits)
        tried = ways
    least = problem.complete({})
    return least if fits(least) else None


def shorten(
    problem: Problem,
    goal: Goal,
    ways: Ways,
    most: Mapping[int, int],
    arch: Any,
    fits: Callable[[Ways], bool],
    share: float = 1.0,
) -> Choice:
    """Ways and pieces of rows that shorten the latency, from what :func:`choose` found; an interval that the objective
    holds stays within its slack. Where energy is the goal, pieces alone.

    ``most``: pieces that stages may have. ``fits`` as of :func:`choose`, for the open ways.
    """
    known = problem.known
    interval = max(float(problem.floor), *(known.interval(i, way) for i, way in ways.items()))
    slowest = interval * (1 + SLACK[goal.objective])
    free = {} if goal.objective == "energy" else problem.free
    for i, way in ways.items():
        known.put(i, way, None)
    pieces = {i: known.useful(i, ways.get(i), own, slowest) for i, own in most.items()}
    space = Space(free, most, _limits(problem, goal, share, arch), slowest)
    return anneal(space, Choice({i: ways[i] for i in free}, pieces), known, fits)


def _limits(problem: Problem, goal: Goal, share: float | Fraction, arch: Any) -> Limits:
    """What the named copies leave of contexts and power, on ``share`` of the cores."""
    named = tuple(problem.decided.values())
    bases = [own.base for own in problem.stages if own is not None]
    contexts = max(ADDED_CONTEXTS, TIMES_CONTEXTS * sum(base.contexts for base in bases))
    contexts = max(0, contexts - sum(way.contexts for way in named))
    static = arch.static_power_mw + sum(way.power_mw for way in named)
    cores = int(arch.chip.cores * share)
    return Limits(cores, arch.core.crossbars, contexts, static, goal.power_cap_mw, named)


def _ways(problem: Problem, goal: Goal, limits: Limits, arch: Any) -> Chosen | None:
    """The scheduler's ways within the limits; ``None`` where there are none."""
    free = problem.free
    if not free:
        return {}
    crossbars = limits.cores * limits.size - sum(way.tiles for way in limits.taken)
    if sum(own.base.tiles for own in free.values()) > crossbars:
        return None
    match goal.scheduler:
        case "cimc":
            return _ours(problem, goal, limits, arch)
        case "polyxb":
            bases = {i: own.base for i, own in free.items()}
            given = [Product(c.windows, c.cycles, c.tiles, c.most) for c in bases.values()]
            copies = polyxb(given, crossbars)
            return {i: free[i].way(c.possible(n)) for (i, c), n in zip(bases.items(), copies, strict=True)}
        case "cim-mlc" | "cim-mlc-matmul":
            return _cim_mlc(problem, goal, crossbars // limits.size, limits.size)


def _ours(problem: Problem, goal: Goal, limits: Limits, arch: Any) -> Chosen | None:
    """The start of our schedule: what the objective asks of the interval."""
    free = problem.free
    if problem.paying is not None:
        paying = problem.paying(limits.cores * limits.size)
        worth = {i: own.way(paying.get(i, 1)) for i, own in free.items()}
        return worth if limits.allow(worth) else {i: own.one for i, own in free.items()}
    floor = max(problem.floor, *(Fraction(way.cycles) for way in problem.decided.values()), Fraction(0))
    if goal.objective == "energy":
        return least_energy(free, limits, floor, arch, problem.known)
    if goal.objective == "peak-power":
        return min_max(free, limits, floor)
    # Below the floor, too: what is left is for the latency, which the moves behind this begin from.
    chosen = min_max(free, limits, Fraction(0))
    if chosen is None:
        return None
    return even(free, keep_up(free, chosen, limits, floor, problem.known), limits)


def _quicker(
    problem: Problem,
    goal: Goal,
    chosen: Chosen,
    share: float,
    arch: Any,
    fits: Callable[[Decided], bool],
) -> Decided:
    """``chosen`` with the moves that shorten the latency, where the goal asks for them and they fit."""
    rounds = ROUNDS["paying"] if problem.paying is not None else ROUNDS.get(goal.objective, 0)
    start = problem.complete(chosen)
    if goal.scheduler != "cimc" or not chosen or not rounds:
        return start
    free, limits = problem.free, _limits(problem, goal, share, arch)
    filled = limits.filled(chosen)
    spare = max(0, limits.cores - filled)
    slowest = {i: (own.one if problem.paying is not None else chosen[i]).cycles for i, own in free.items()}
    for quarters in (4, 3, 2, 1):
        some = replace(limits, cores=filled + spare * quarters // 4)
        ways = problem.complete(climb(free, chosen, some, problem.known.latency, slowest, rounds))
        if goal.objective == "energy" and _energy_pj(problem, ways, arch) > _energy_pj(problem, start, arch):
            return start
        if ways == start or fits(ways):
            return ways
    return start


def _energy_pj(problem: Problem, ways: Decided, arch: Any) -> float:
    known = {i: way for i, way in enumerate(ways) if way is not None}
    return energy_pj(known, problem.floor, arch, problem.known)


def _cim_mlc(problem: Problem, goal: Goal, cores: int, core_crossbars: int) -> Chosen | None:
    """The baseline on the stages from the first one on arrays.

    As published, products of single windows a row are never copied; ``cim-mlc-matmul`` copies them like any other.
    """
    start = next(i for i, own in enumerate(problem.stages) if own is not None)
    layers: list[Layer] = []
    for i, own in enumerate(problem.stages[start:], start):
        stride = problem.strides[i]
        if own is None or i in problem.pinned:
            layers.append(Layer(1, 0, stride, 0, 0))
            continue
        cost = own.base
        copied = cost.positions > 1 or goal.scheduler == "cim-mlc-matmul"
        rows = cost.rows if copied else 1
        layers.append(Layer(rows, cost.windows, stride, -(-cost.tiles // core_crossbars), cost.tiles))
    if sum(layer.cores for layer in layers) > cores:
        return None
    refined = assign_layers(tuple(layers), cores, core_crossbars).refined
    found: Chosen = {}
    for i, (layer, n) in enumerate(zip(layers, refined, strict=True), start):
        own = problem.stages[i]
        if own is not None and i not in problem.pinned:
            found[i] = own.way(own.base.possible(n)) if layer.rows > 1 else own.one
    return found
