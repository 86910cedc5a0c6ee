"""Placement tables as the estimate sees them: what works of every stage in every phase, all tables at once.

A model larger than the chip has hundreds of phases of a dozen contexts each: the tables are put behind each other and
reduced phase by phase, in a few dozen passes over all contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from cimc.passes.place.network import COLUMNS
from cimc.passes.schedule.estimate.units import Units

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Value = TypeVar("Value")


class Part(NamedTuple):
    """The contexts of a stage that work in a phase; those of the first copy stand for all copies of its weights."""

    phase: int
    channels: int
    """Of the largest block of channels."""
    starts: int
    """Blocks of channels."""
    blocks: int
    """Blocks of the source's channels that those see."""
    chunks: int
    """Contexts at most that share the weights' rows: their sums are added."""
    crossbars: int
    """Of the contexts of a block of positions."""
    contexts: int
    """Those."""
    largest: int
    """Crossbars of the largest of those."""
    staying: int
    """Crossbars of the contexts whose weights stay."""
    sharing: int
    """Contexts that the fullest core holds; 0 where cores are not known yet."""
    load: int
    """Cycles in which the weights of all contexts leave the global buffer, but for those that stay."""
    kept_load: int
    """It would take those."""
    carried: int
    """Cycles of link and memory for the weights that a context writes, at most."""
    written: int
    """Rows of weights at most that a context writes, but for those whose weights stay."""
    kept_written: int
    """Of those."""
    products: tuple[tuple[int, int], ...]
    """Rows and columns of the weights of the contexts of a block of positions, each pair once."""
    widths: tuple[int, ...]
    """Channels of the contexts that send a block of positions of a row."""


def parts_of(
    tables: Sequence[Any], bits: Sequence[int], spans: Sequence[int], units: Units
) -> list[list[Part]]:
    """The parts of every stage in the order of their phases.

    ``tables``: placement tables (``network.COLUMNS``). ``bits``: of a weight, of every stage. ``spans``: channels of
    the result that see the same channels of the source.
    """
    if not tables:
        return []
    stage = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    rows = np.concatenate(tables)
    order = np.lexsort((rows[:, _PHASE], stage))
    stage, rows = stage[order], rows[order].T.copy()
    copy, chunk, k0, k1, n0, n1, p0, _, xbars, phase, core, _, stays = rows
    k, n, kept = k1 - k0, n1 - n0, stays > 0
    begins = np.flatnonzero(np.diff(stage, prepend=-1) | np.diff(phase, prepend=-1))
    part = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(stage)))

    one = copy == 0
    (ones,) = one.nonzero()
    lead = ones[np.searchsorted(part[ones], np.arange(len(begins)))]
    first = one & (p0 == p0[lead][part])
    main = one & (p0 == p0[begins][part]) & (chunk == np.minimum.reduceat(chunk, begins)[part])

    def most(values: Ints, among: Flags) -> list[int]:
        return np.maximum.reduceat(np.where(among, values, 0), begins).tolist()

    def total(values: Ints, among: Flags) -> list[int]:
        return np.add.reduceat(np.where(among, values, 0), begins).tolist()

    def distinct(values: Ints) -> list[int]:
        wide = int(values.max()) + 1
        return np.bincount(np.unique(part[one] * wide + values[one]) // wide, minlength=len(begins)).tolist()

    sizes = -(-k * n * np.repeat(bits, [len(table) for table in tables])[order] // 8)
    load = units.buffers(sizes)
    cores = int(core.max()) + 2
    fullest = np.bincount(part * cores + core + 1, minlength=len(begins) * cores).reshape(-1, cores)[:, 1:]
    high, wide = int(k.max()) + 1, int(n.max()) + 1
    shapes = np.unique((part[first] * high + k[first]) * wide + n[first])
    pairs = zip((shapes // wide % high).tolist(), (shapes % wide).tolist(), strict=True)
    fields = (
        phase[begins].tolist(),
        most(n, one),
        distinct(n0),
        distinct(n0 // np.array(spans)[stage]),
        [chunks + 1 for chunks in most(chunk, one)],
        total(xbars, first),
        total(np.ones_like(k), first),
        most(xbars, first),
        total(xbars, kept),
        fullest.max(axis=1, initial=0).tolist(),
        total(load, ~kept),
        total(load, kept),
        [units.link(size) + units.port(size) if size else 0 for size in most(sizes, ~kept)],
        most(k, ~kept),
        most(k, kept),
        _cut(list(pairs), shapes // (high * wide), len(begins)),
        _cut(n[main].tolist(), part[main], len(begins)),
    )
    found: list[list[Part]] = [[] for _ in tables]
    for number, values in zip(stage[begins].tolist(), zip(*fields, strict=True), strict=True):
        found[number].append(Part(*values))
    return found


def _cut(values: list[Value], part: Ints, parts: int) -> list[tuple[Value, ...]]:
    """``values`` of every part, which come in order."""
    ends = np.searchsorted(part, np.arange(parts + 1)).tolist()
    return [tuple(values[first:end]) for first, end in pairwise(ends)]


_PHASE = COLUMNS.index("phase")
