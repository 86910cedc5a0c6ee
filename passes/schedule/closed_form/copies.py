"""Copies at crossbar granularity: the baseline ``polyxb``, the greedy, the exact min-max, and the fluid bound.

``Product`` is all they know of an operator, so they serve closed forms and compiled modules alike.
Sources: Han et al., PolyXB ("Poly-Schedule"), JETC 2021, for the baseline; docs/scheduling.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from heapq import heapify, heapreplace

from cimc.passes.schedule.closed_form.operators import Machine, Operator, ceil_div


@dataclass(frozen=True)
class Product:
    """A product with static weights."""

    windows: int
    """Matrix-vector products of one image."""
    cycles: int
    """Cycles that one copy computes for one image."""
    tiles: int
    """Crossbars of one copy."""
    most: int
    """Copies that can be used at once."""


def products(ops: Sequence[Operator], machine: Machine, *, wordline: bool = False) -> tuple[Product, ...]:
    """The convolutions of a list, at most one copy a window. ``wordline``: exact row groups, not all of a crossbar."""
    found: list[Product] = []
    for op in ops:
        if op.is_pool:
            continue
        groups = machine.exact_row_groups(op) if wordline else machine.row_groups
        found.append(Product(op.windows, op.work * groups, machine.tiles(op), op.windows))
    return tuple(found)


def used(given: Sequence[Product], copies: Sequence[int]) -> int:
    """Crossbars of all copies."""
    return sum(p.tiles * n for p, n in zip(given, copies, strict=True))


def interval(given: Sequence[Product], copies: Sequence[int]) -> Fraction:
    """Cycles between images of a pipeline: those of its slowest stage."""
    return max(Fraction(p.cycles, n) for p, n in zip(given, copies, strict=True))


def polyxb(given: Sequence[Product], crossbars: int) -> tuple[int, ...]:
    """One copy more for all products with the largest ``ceil(windows / copies)``, until that does not fit."""
    copies = [1] * len(given)
    left = crossbars - used(given, copies)
    while True:
        turns = [ceil_div(p.windows, n) for p, n in zip(given, copies, strict=True)]
        slowest = [i for i, t in enumerate(turns) if t == max(turns)]
        left -= sum(given[i].tiles for i in slowest)
        if left < 0 or any(copies[i] == given[i].most for i in slowest):
            return tuple(copies)
        for i in slowest:
            copies[i] += 1


def greedy(given: Sequence[Product], crossbars: int) -> tuple[int, ...]:
    """One copy more for the slowest product (the first of equals), until that does not fit."""
    copies = [1] * len(given)
    left = crossbars - used(given, copies)
    heap = [(Fraction(-p.cycles), i) for i, p in enumerate(given)]
    heapify(heap)
    while heap:
        i = heap[0][1]
        left -= given[i].tiles
        if left < 0 or copies[i] == given[i].most:
            break
        copies[i] += 1
        heapreplace(heap, (Fraction(-given[i].cycles, copies[i]), i))
    return tuple(copies)


def fluid_interval(given: Sequence[Product], crossbars: int) -> Fraction:
    """Cycles between images if copies could be fractions: all crossbars always busy."""
    return Fraction(sum(p.cycles * p.tiles for p in given), crossbars)


def copies_for(given: Sequence[Product], bottleneck: Fraction) -> tuple[int, ...]:
    """The fewest copies with which no product is slower than ``bottleneck`` cycles."""
    return tuple(max(1, -(-p.cycles * bottleneck.denominator // bottleneck.numerator)) for p in given)


def min_max(given: Sequence[Product], crossbars: int) -> tuple[int, ...]:
    """Copies of the smallest possible interval, with as many crossbars as possible left.

    Exact: the interval is ``cycles / copies`` of some product, so bisection over these fractions finds the smallest
    that fits. Raises ``ValueError`` when one copy each needs more crossbars than there are.
    """
    if used(given, (1,) * len(given)) > crossbars:
        raise ValueError(
            f"one copy each needs {used(given, (1,) * len(given))} crossbars, given {crossbars}; take a larger machine"
        )
    # No product gets below this, whatever the others have: a finite range of copies each.
    floor = max(
        fluid_interval(given, crossbars),
        *(Fraction(p.cycles, p.most) for p in given),
    )
    values = sorted(
        {Fraction(p.cycles, n) for p in given for n in range(1, min(p.most, int(p.cycles / floor)) + 1)}
    )
    lo, hi = 0, len(values) - 1
    while lo < hi:
        middle = (lo + hi) // 2
        if used(given, copies_for(given, values[middle])) <= crossbars:
            hi = middle
        else:
            lo = middle + 1
    return copies_for(given, values[lo])


def min_max_interval(given: Sequence[Sequence[Product]], crossbars: int) -> Fraction:
    """The smallest possible interval where every operator is one of several products, in as many copies as fit.

    Exact, as :func:`min_max`. Raises ``ValueError`` when one copy each needs more crossbars than there are.
    """
    least = sum(min(p.tiles for p in own) for own in given)
    if least > crossbars:
        raise ValueError(f"one copy each needs {least} crossbars, given {crossbars}; take a larger machine")

    def needed(bottleneck: Fraction) -> int:
        return sum(
            min(
                (p.tiles * n for p, n in zip(own, copies_for(own, bottleneck), strict=True) if n <= p.most),
                default=crossbars + 1,
            )
            for own in given
        )

    cheapest = [min(own, key=lambda p: p.cycles * p.tiles) for own in given]
    floor = max(
        fluid_interval(cheapest, crossbars), *(min(Fraction(p.cycles, p.most) for p in own) for own in given)
    )
    values = sorted(
        {
            Fraction(p.cycles, n)
            for own in given
            for p in own
            for n in range(1, min(p.most, int(p.cycles / floor)) + 1)
        }
    )
    lo, hi = 0, len(values) - 1
    while lo < hi:
        middle = (lo + hi) // 2
        lo, hi = (lo, middle) if needed(values[middle]) <= crossbars else (middle + 1, hi)
    return values[lo]
