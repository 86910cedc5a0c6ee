"""A list of element numbers as few strided copies, and a list of rows as few loops of equal copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]

MAX_LOOPS = 3
"""Loops around the copies of a row, inside the loop over images."""


class Copy(NamedTuple):
    """``outer`` x ``inner`` elements from one source to offset ``to`` of a row, strides on both sides."""

    source: int
    to: int
    outer: int
    outer_from: int
    outer_to: int
    inner: int
    inner_from: int
    inner_to: int


@dataclass(frozen=True)
class RowLoops:
    """Rows made by the same copies: row ``first`` + sum of steps, each copy from ``bases`` + sum of its steps."""

    first: int
    extents: tuple[int, ...]
    row_steps: tuple[int, ...]
    copies: tuple[Copy, ...]
    bases: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    """Per copy: what each loop adds to where it takes from."""


class _Run(NamedTuple):
    to: int
    start: int
    length: int
    stride: int


def _runs(numbers: Index, to: int) -> list[_Run]:
    """Maximal stretches of one stride, from the left; strides are not negative."""
    runs: list[_Run] = []
    steps = np.diff(numbers)
    at, end = 0, len(numbers)
    changes = np.flatnonzero(np.diff(steps)) + 1
    while at < end:
        if at == end - 1 or steps[at] < 0:
            runs.append(_Run(to + at, int(numbers[at]), 1, 0))
            at += 1
            continue
        later = changes[np.searchsorted(changes, at, side="right") :]
        last = int(later[0]) if len(later) else end - 1
        runs.append(_Run(to + at, int(numbers[at]), last - at + 1, int(steps[at])))
        at = last + 1
    return runs


def row_copies(numbers: Index, starts: Index) -> list[tuple[Copy, int]]:
    """Copies that make a row of the elements ``numbers``, each with where it begins in its source.

    ``starts``: the first number of every source, ascending.
    """
    source = np.searchsorted(starts, numbers, side="right") - 1
    edges = [0, *(np.flatnonzero(np.diff(source)) + 1).tolist(), len(numbers)]
    found: list[tuple[Copy, int]] = []
    for begin, end in pairwise(edges):
        own = int(source[begin])
        runs = _runs(numbers[begin:end] - starts[own], begin)
        at = 0
        while at < len(runs):
            group = _alike(runs, at)
            head = runs[at]
            gap = runs[at + 1].start - head.start if group > 1 else 0
            step = runs[at + 1].to - head.to if group > 1 else 0
            copy = Copy(own, head.to, group, gap, step, head.length, head.stride, 1)
            found.append((copy, head.start))
            at += group
    return found


def _alike(runs: list[_Run], at: int) -> int:
    """How many runs from ``at`` on have one length and stride and lie at equal distances."""
    head = runs[at]
    count = 1
    while at + count < len(runs):
        run, before = runs[at + count], runs[at + count - 1]
        alike = (run.length, run.stride) == (head.length, head.stride) and run.start >= before.start
        first_gap = (runs[at + 1].start - head.start, runs[at + 1].to - head.to)
        if not alike or (run.start - before.start, run.to - before.to) != first_gap:
            break
        count += 1
    return count


def row_loops(rows: Index, starts: Index) -> Iterator[RowLoops]:
    """Loops that make all ``rows`` (R, elements) in order."""
    known: dict[bytes, tuple[list[Copy], list[int]]] = {}
    patterns: list[tuple[Copy, ...]] = []
    bases: list[Index] = []
    for numbers in rows:
        source = np.searchsorted(starts, numbers, side="right") - 1
        steps = np.where(np.diff(source) == 0, np.diff(numbers), 0)
        key = source.tobytes() + steps.tobytes()
        if key not in known:
            made = row_copies(numbers, starts)
            known[key] = [copy for copy, _ in made], [copy.to for copy, _ in made]
        copies, places = known[key]
        patterns.append(tuple(copies))
        bases.append(numbers[places] - starts[[copy.source for copy in copies]])
    first = 0
    while first < len(rows):
        end = first + 1
        while end < len(rows) and patterns[end] == patterns[first]:
            end += 1
        for begin, extents, row_steps, steps in _nests(np.stack(bases[first:end])):
            yield RowLoops(
                first + begin,
                extents,
                row_steps,
                patterns[first],
                tuple(bases[first + begin].tolist()),
                tuple(tuple(int(s[c]) for s in steps) for c in range(len(patterns[first]))),
            )
        first = end


def _nests(bases: Index) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...], list[Index]]]:
    """Cut rows into nests of loops over which ``bases`` (rows, copies) are affine: first row, extents, steps."""
    at = 0
    while at < len(bases):
        extents, row_steps, steps, size = _nest(bases[at:])
        yield at, extents, row_steps, steps
        at += size


def _nest(bases: Index) -> tuple[tuple[int, ...], tuple[int, ...], list[Index], int]:
    """The nest that begins at row 0: extents, row steps, steps of the bases, rows covered."""
    extents: list[int] = []
    row_steps: list[int] = []
    steps: list[Index] = []
    size = 1
    while len(extents) < MAX_LOOPS and 2 * size <= len(bases):
        step = bases[size] - bases[0]
        count = 1
        while (count + 1) * size <= len(bases) and np.array_equal(
            bases[count * size : (count + 1) * size], bases[:size] + count * step
        ):
            count += 1
        if count == 1:
            break
        extents.insert(0, count)
        row_steps.insert(0, size)
        steps.insert(0, step)
        size *= count
    if not extents:
        return (1,), (1,), [np.zeros_like(bases[0])], 1
    return tuple(extents), tuple(row_steps), steps, size
