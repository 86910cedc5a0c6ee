"""Our choice of copies for a list of operators, by objective, with the bounds it is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from cimc.passes.schedule.closed_form import copies
from cimc.passes.schedule.closed_form.makespan import makespan, refine, terms
from cimc.passes.schedule.closed_form.operators import Machine, Operator
from cimc.passes.schedule.closed_form.relaxation import relax

Objective = Literal["throughput", "latency"]


@dataclass(frozen=True)
class Schedule:
    """Copies of the convolutions in order, what they give, and what no copies can beat. Cycles."""

    copies: tuple[int, ...]
    crossbars: int
    latency: int
    latency_bound: float
    """Of the relaxation, with the interval held where the objective holds it."""
    interval: Fraction
    interval_bound: Fraction
    """The exact min-max over integer copies."""


def schedule(ops: Sequence[Operator], machine: Machine, objective: Objective) -> Schedule:
    """``throughput``: the smallest interval, then spare crossbars to the latency. ``latency``: the latency alone.

    The better of two climbs: from the greedy, and from the relaxation rounded down. Raises ``ValueError`` when one copy
    each does not fit.
    """
    given, chain = copies.products(ops, machine), terms(ops, machine)
    smallest = copies.min_max(given, machine.crossbars)
    least = smallest if objective == "throughput" else (1,) * len(given)
    relaxed = relax(chain, machine.crossbars, least, smallest)
    rounded = tuple(max(lo, int(n)) for lo, n in zip(least, relaxed.copies, strict=True))
    # The greedy reaches the min-max interval (docs/scheduling.md), so it keeps `least`.
    starts = (copies.greedy(given, machine.crossbars), rounded)
    climbed = [refine(chain, start, machine.crossbars, least) for start in starts]
    best = min(climbed, key=lambda n: (makespan(chain, n), copies.used(given, n)))
    return Schedule(
        best,
        copies.used(given, best),
        makespan(chain, best),
        relaxed.bound,
        copies.interval(given, best),
        copies.interval(given, smallest),
    )


def with_pools(ops: Sequence[Operator], chosen: Sequence[int]) -> tuple[int, ...]:
    """Copies of the convolutions as one entry an operator; a pool has 1."""
    left = iter(chosen)
    return tuple(1 if op.is_pool else next(left) for op in ops)


def bus_cycles(ops: Sequence[Operator], machine: Machine, *, written: bool) -> Fraction:
    """Cycles an image keeps the chip's bus busy if each operator reads its input over it once, one byte a value.

    Only the pixels that some window covers are read. ``written``: results cross the bus too.
    """
    moved = 0
    for op in ops:
        pixels = op.height**2 if op.kernel >= op.stride else op.windows * op.kernel**2
        moved += pixels * op.inputs + (op.windows * op.outputs if written else 0)
    return Fraction(moved, machine.chip_bus)
