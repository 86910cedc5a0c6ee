"""Copies of array stages by the named schedulers, tried against the cores of the chip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from cimc.passes.schedule.closed_form.cim_mlc import Layer, assign_layers
from cimc.passes.schedule.closed_form.copies import Product, min_max_turns, polyxb, used
from cimc.passes.schedule.copies.stage_costs import StageCost

Scheduler = Literal["polyxb", "cim-mlc", "cimc"]

SHARES = tuple(Fraction(n, 100) for n in range(100, 0, -2))
"""Shares of the chip's crossbars that are tried in turn until the contexts fit its cores."""


@dataclass(frozen=True)
class Problem:
    """Stages in order, digital ones as ``None``, and what they may have."""

    stages: tuple[StageCost | None, ...]
    strides: tuple[int, ...]
    pinned: Mapping[int, int]
    """Copies of the stages that the user decided."""
    floor: Fraction
    """Interval that something other than the arrays needs."""


def choose(
    problem: Problem,
    scheduler: Scheduler,
    arch: Any,
    fits: Callable[[Sequence[int]], bool],
    share: float = 1.0,
) -> tuple[int, ...] | None:
    """Copies of every stage (digital ones 1); ``None`` when not even one copy each fits the chip.

    The scheduler gets ``share`` of the crossbars first, then less at a time, until ``fits`` says that a core is found
    for every context: contexts do not fill cores exactly.
    """
    supply = arch.chip.cores * arch.core.crossbars
    tried: tuple[int, ...] | None = None
    for part in SHARES:
        if part > share:
            continue
        copies = _copies(problem, scheduler, int(supply * part), arch.core.crossbars)
        if copies is None:
            break
        if copies != tried and fits(copies):
            return copies
        tried = copies
    least = tuple(problem.pinned.get(i, 1) for i in range(len(problem.stages)))
    return least if fits(least) else None


def _copies(
    problem: Problem, scheduler: Scheduler, crossbars: int, core_crossbars: int
) -> tuple[int, ...] | None:
    """The scheduler's copies on a chip of so many crossbars; ``None`` when it has too few."""
    copies = [problem.pinned.get(i, 1) for i in range(len(problem.stages))]
    free = [
        (i, cost) for i, cost in enumerate(problem.stages) if cost is not None and i not in problem.pinned
    ]
    taken = sum(
        problem.pinned[i] * cost.tiles
        for i, cost in enumerate(problem.stages)
        if cost and i in problem.pinned
    )
    left = crossbars - taken
    if not free:
        return tuple(copies)
    if sum(cost.tiles for _, cost in free) > left:
        return None
    match scheduler:
        case "cimc":
            rows = [Product(c.rows, c.cycles, c.tiles, c.rows) for _, c in free]
            floor = max(problem.floor, *(Fraction(n) for n in _pinned_intervals(problem)), Fraction(0))
            chosen = _even(rows, min_max_turns(rows, left, floor), left)
        case "polyxb":
            chosen = polyxb([Product(c.windows, c.cycles, c.tiles, c.rows) for _, c in free], left)
        case "cim-mlc":
            return _cim_mlc(problem, copies, left // core_crossbars, core_crossbars)
    for (i, _), n in zip(free, chosen, strict=True):
        copies[i] = n
    return tuple(copies)


def _even(given: Sequence[Product], copies: Sequence[int], crossbars: int) -> tuple[int, ...]:
    """Give stages with equally many rows equal copies, the cheapest first, as far as ``crossbars`` go.

    The branches of a residual then deliver their rows in the same rhythm. A quick stage left with fewer copies than its
    neighbours hands on row by row what they take many rows at a time: ResNet-20's interval is five times longer so.
    """
    most: dict[int, int] = {}
    for stage, n in zip(given, copies, strict=True):
        most[stage.windows] = max(most.get(stage.windows, 1), n)
    even, left = list(copies), crossbars - used(given, copies)
    lacking = [(stage.tiles * (most[stage.windows] - copies[i]), i) for i, stage in enumerate(given)]
    for cost, i in sorted(lacking):
        if cost <= left:
            even[i] = most[given[i].windows]
            left -= cost
    return tuple(even)


def _pinned_intervals(problem: Problem) -> list[int]:
    return [
        cost.interval(problem.pinned[i])
        for i, cost in enumerate(problem.stages)
        if cost and i in problem.pinned
    ]


def _cim_mlc(problem: Problem, copies: list[int], cores: int, core_crossbars: int) -> tuple[int, ...] | None:
    """The baseline on the stages from the first one on arrays; products of single windows a row are never copied."""
    start = next(i for i, cost in enumerate(problem.stages) if cost is not None)
    layers: list[Layer] = []
    for i, cost in enumerate(problem.stages[start:], start):
        stride = problem.strides[i]
        if cost is None or i in problem.pinned:
            layers.append(Layer(1, 0, stride, 0, 0))
            continue
        rows = cost.rows if cost.positions > 1 else 1
        layers.append(Layer(rows, cost.windows, stride, -(-cost.tiles // core_crossbars), cost.tiles))
    if sum(layer.cores for layer in layers) > cores:
        return None
    refined = assign_layers(tuple(layers), cores, core_crossbars).refined
    for i, (layer, n) in enumerate(zip(layers, refined, strict=True), start):
        copies[i] = copies[i] if i in problem.pinned else min(n, layer.rows)
    return tuple(copies)
