"""Copies of array stages by the named schedulers, tried against the cores of the chip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Any, Literal

from cimc.passes.schedule.closed_form.cim_mlc import Layer, assign_layers
from cimc.passes.schedule.closed_form.copies import Product, polyxb
from cimc.passes.schedule.copies.ours import (
    ADDED_CONTEXTS,
    ROUNDS,
    TIMES_CONTEXTS,
    Copies,
    Limits,
    Objective,
    climb,
    even,
    least_energy,
    min_max,
)
from cimc.passes.schedule.copies.stage_costs import StageCost

Scheduler = Literal["polyxb", "cim-mlc", "cim-mlc-matmul", "cimc"]

SHARES = tuple(Fraction(n, 100) for n in range(100, 0, -2))
"""Shares of the chip's crossbars that are tried in turn until the contexts fit its cores."""


@dataclass(frozen=True)
class Goal:
    """Who chooses, and for what. ``power_cap_mw`` includes static power."""

    scheduler: Scheduler
    objective: Objective = "throughput"
    power_cap_mw: float | None = None


@dataclass(frozen=True)
class Problem:
    """Stages in order, digital ones as ``None``, and what they may have."""

    stages: tuple[StageCost | None, ...]
    strides: tuple[int, ...]
    pinned: Mapping[int, int]
    """Copies of the stages that the user decided."""
    floor: Fraction
    """Interval that something other than the arrays needs."""
    latency: Callable[[Mapping[int, int]], int]
    """The estimate of an image's cycles with copies of some stages, the others as they are."""
    paying: Callable[[int], Mapping[int, int]] | None = None
    """Copies worth their writes with so many crossbars, where the stages' weights are written for every image; there
    the latency is all."""

    @property
    def free(self) -> dict[int, StageCost]:
        """The array stages whose copies are open."""
        return {i: c for i, c in enumerate(self.stages) if c is not None and i not in self.pinned}

    def complete(self, chosen: Mapping[int, int]) -> tuple[int, ...]:
        """Copies of all stages, 1 where nothing is said."""
        return tuple(self.pinned.get(i, chosen.get(i, 1)) for i in range(len(self.stages)))


def choose(
    problem: Problem,
    goal: Goal,
    arch: Any,
    fits: Callable[[Sequence[int]], bool],
    share: float = 1.0,
) -> tuple[int, ...] | None:
    """Copies of every stage (digital ones 1); ``None`` when not even one copy each fits the chip.

    The scheduler gets ``share`` of the crossbars first, then less at a time, until ``fits`` says that a core is found
    for every context: contexts do not fill cores exactly. All schedulers have the same limit of contexts. Ours gets
    its moves for the latency behind that, with all that is left and less at a time.
    """
    supply = arch.chip.cores * arch.core.crossbars
    tried: tuple[int, ...] | None = None
    for part in SHARES:
        if part > share:
            continue
        chosen = _copies(problem, goal, int(supply * part), arch)
        if chosen is None:
            break
        copies = problem.complete(chosen)
        allowed = _limits(problem, goal, int(supply * part), arch).allow(problem.free, chosen)
        if copies != tried and allowed and fits(copies):
            return _quicker(problem, goal, chosen, int(supply * Fraction(share)), arch, fits)
        tried = copies
    least = problem.complete({})
    return least if fits(least) else None


def _limits(problem: Problem, goal: Goal, crossbars: int, arch: Any) -> Limits:
    """What the named copies leave of crossbars and power."""
    named = [(problem.stages[i], n) for i, n in problem.pinned.items()]
    taken = sum(cost.tiles * n for cost, n in named if cost is not None)
    drawn = sum(cost.power_mw * n for cost, n in named if cost is not None)
    added = sum(cost.contexts * (n - 1) for cost, n in named if cost is not None)
    each = sum(cost.contexts for cost in problem.stages if cost is not None)
    contexts = max(0, max(ADDED_CONTEXTS, TIMES_CONTEXTS * each) - added)
    return Limits(crossbars - taken, contexts, arch.static_power_mw + drawn, goal.power_cap_mw)


def _copies(problem: Problem, goal: Goal, crossbars: int, arch: Any) -> Copies | None:
    """The scheduler's copies on a chip of so many crossbars; ``None`` when it has too few."""
    free, limits = problem.free, _limits(problem, goal, crossbars, arch)
    if not free:
        return {}
    if sum(cost.tiles for cost in free.values()) > limits.crossbars:
        return None
    match goal.scheduler:
        case "cimc":
            return _ours(problem, goal, limits, arch)
        case "polyxb":
            given = [Product(c.windows, c.cycles, c.tiles, c.most) for c in free.values()]
            chosen = polyxb(given, limits.crossbars)
            return {i: c.possible(n) for (i, c), n in zip(free.items(), chosen, strict=True)}
        case "cim-mlc" | "cim-mlc-matmul":
            return _cim_mlc(problem, goal, limits.crossbars // arch.core.crossbars, arch.core.crossbars)


def _ours(problem: Problem, goal: Goal, limits: Limits, arch: Any) -> Copies | None:
    """The start of our schedule: what the objective asks of the interval."""
    free = problem.free
    if problem.paying is not None:
        paying = problem.paying(limits.crossbars)
        chosen = {i: paying.get(i, 1) for i in free}
        return chosen if limits.allow(free, chosen) else dict.fromkeys(free, 1)
    named = (c.interval(problem.pinned[i]) for i, c in enumerate(problem.stages) if c and i in problem.pinned)
    floor = max(problem.floor, *(Fraction(n) for n in named), Fraction(0))
    if goal.objective == "energy":
        return least_energy(free, limits, floor, arch)
    chosen = min_max(free, limits, floor)
    if chosen is None or goal.objective == "peak-power":
        return chosen
    return even(free, chosen, limits)


def _quicker(
    problem: Problem,
    goal: Goal,
    chosen: Copies,
    crossbars: int,
    arch: Any,
    fits: Callable[[Sequence[int]], bool],
) -> tuple[int, ...]:
    """``chosen`` with the moves that shorten the latency, where the goal asks for them and they fit."""
    rounds = ROUNDS["latency"] if problem.paying is not None else ROUNDS.get(goal.objective, 0)
    start = problem.complete(chosen)
    if goal.scheduler != "cimc" or not chosen or not rounds:
        return start
    free, limits = problem.free, _limits(problem, goal, crossbars, arch)
    keep = chosen if goal.objective == "throughput" and problem.paying is None else dict.fromkeys(free, 1)
    taken = ceil(sum(cost.room * chosen[i] for i, cost in free.items()))
    spare = max(0, limits.crossbars - taken)
    for quarters in (4, 3, 2, 1):
        some = replace(limits, crossbars=taken + spare * quarters // 4)
        copies = problem.complete(climb(free, chosen, some, problem.latency, keep, rounds))
        if copies == start or fits(copies):
            return copies
    return start


def _cim_mlc(problem: Problem, goal: Goal, cores: int, core_crossbars: int) -> Copies | None:
    """The baseline on the stages from the first one on arrays.

    As published, products of single windows a row are never copied; ``cim-mlc-matmul`` copies them like any other.
    """
    start = next(i for i, cost in enumerate(problem.stages) if cost is not None)
    layers: list[Layer] = []
    for i, cost in enumerate(problem.stages[start:], start):
        stride = problem.strides[i]
        if cost is None or i in problem.pinned:
            layers.append(Layer(1, 0, stride, 0, 0))
            continue
        copied = cost.positions > 1 or goal.scheduler == "cim-mlc-matmul"
        rows = cost.rows if copied else 1
        layers.append(Layer(rows, cost.windows, stride, -(-cost.tiles // core_crossbars), cost.tiles))
    if sum(layer.cores for layer in layers) > cores:
        return None
    refined = assign_layers(tuple(layers), cores, core_crossbars).refined
    found: Copies = {}
    for i, (layer, n) in enumerate(zip(layers, refined, strict=True), start):
        cost = problem.stages[i]
        if cost is not None and i not in problem.pinned:
            found[i] = cost.possible(n) if layer.rows > 1 else 1
    return found
