"""From counts to places: which of the equal blocks stream, so that transfers hide (docs/streaming.md, placement).

A streamed block right behind another has one block's compute to hide behind; spread evenly among resident
blocks, and fetched ahead, it has several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from math import comb, prod

from cimc.runtime.device.streaming.knapsack import Choice
from cimc.runtime.device.streaming.problem import Problem, pass_time

EVERY = 400
"""Sets that are all looked at; where there are more, even spreading is improved by exchanges."""
EXCHANGES = 200
"""Placements evaluated while improving."""
STARTS = 4
"""Counts that are improved."""


def arrangements(
    problem: Problem, free: Sequence[int], choice: Choice, slots: int
) -> Iterator[tuple[frozenset[int], bool]]:
    """Streamed sets that realise ``choice`` over the blocks ``free``, each with whether these are all there are.

    The blocks of ``choice`` are numbered within ``free``; what no class holds streams.
    """
    classes = [tuple(free[i] for i in members) for members in choice.classes]
    always = frozenset(free) - {i for members in classes for i in members}
    number = sum(prod(comb(len(m), n) for m, n in zip(classes, kept, strict=True)) for kept in choice.kept)
    if number <= EVERY:
        for kept in choice.kept:
            parts = (combinations(m, len(m) - n) for m, n in zip(classes, kept, strict=True))
            for streamed in product(*parts):
                yield always.union(*streamed), choice.complete
        return
    for kept in choice.kept[:STARTS]:
        start = always.union(*(_evenly(m, len(m) - n) for m, n in zip(classes, kept, strict=True)))
        yield _improved(problem, classes, start, slots), False


def _evenly(members: Sequence[int], wanted: int) -> set[int]:
    """``wanted`` of ``members``, as far from one another as they go."""
    return {members[(2 * k + 1) * len(members) // (2 * wanted)] for k in range(wanted)}


def _improved(
    problem: Problem, classes: Sequence[tuple[int, ...]], start: frozenset[int], slots: int
) -> frozenset[int]:
    """Exchange a streamed block with a resident one of its class while that shortens the pass."""
    best, least = start, pass_time(problem, start, slots).total_ns
    left = EXCHANGES
    improving = True
    while improving and left > 0:
        improving = False
        for members in classes:
            inside = [i for i in members if i in best]
            outside = [i for i in members if i not in best]
            for out, into in product(inside, outside):
                if left == 0:
                    return best
                left -= 1
                changed = (best - {out}) | {into}
                time = pass_time(problem, changed, slots).total_ns
                if time < least:
                    best, least, improving = changed, time, True
                    break
    return best
