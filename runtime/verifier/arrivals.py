"""Rings whose places are all seen at once to be filled by disjoint parts.

What a ring gets in one image is enumerated for many rings together, as flat arrays; only rings that do not turn out
well here are looked at one by one, for the place and the words of a finding (``routes_check.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cimc.runtime.program.opcodes import BufferKind
from cimc.runtime.verifier.operands import Tables
from cimc.runtime.verifier.sends import RECTANGLE, Ints, Sends, within

_CHUNK = 1 << 20
"""Arriving parts of rows looked at together; each takes about 100 bytes. A ring with more is looked at alone."""

_COLUMNS = ("kind", "first", "last", "period", "advance", "places", "top", "bottom", "fill")


def unclear_rings(tables: Tables, sends: Sends, routes: Ints) -> set[int]:
    """All rings but those that get each of their places once, whole, and nothing else.

    ``routes``: numbers of the routes of ``sends``, sound ones, by their ring.
    """
    return set(_Arrivals.of(tables, sends).unclear(routes))


class _Chunk(NamedTuple):
    """The parts that some rings get, one number for each rectangle in each ring."""

    rings: Ints
    """Of every number, ascending."""
    rectangles: Ints
    """(numbers, 4), in the order of ``RECTANGLE``."""
    numbers: Ints
    """Of every arriving part."""
    places: Ints
    """Of every arriving part."""


class _Arrivals(NamedTuple):
    columns: dict[str, Ints]
    """Of the table of buffers."""
    sends: Sends
    starts: Ints
    """Where each send's rows begin in ``rows``."""
    lengths: Ints
    rows: Ints

    @staticmethod
    def of(tables: Tables, sends: Sends) -> _Arrivals:
        columns = {name: np.array(tables.buffers[name], np.int64) for name in _COLUMNS}
        lengths = np.array([len(rows) for rows in sends.rows], np.int64)
        rows = np.concatenate([np.empty(0, np.int64), *sends.rows])
        return _Arrivals(columns, sends, np.cumsum(lengths) - lengths, lengths, rows)

    def unclear(self, routes: Ints) -> Iterator[int]:
        """The rings that are not seen to be well."""
        rings = self.sends.routes["ring"][routes]
        yield from np.setdiff1d(np.flatnonzero(self.columns["kind"] == BufferKind.RING), rings).tolist()
        edges = np.flatnonzero(np.diff(rings, prepend=-1, append=-1))
        total = np.concatenate([[0], np.cumsum(self.lengths[self.sends.sender[routes]])])[edges]
        disjoint: dict[bytes, bool] = {}
        begin = 0
        while begin < len(edges) - 1:
            end = int(np.searchsorted(total, total[begin] + _CHUNK, side="right")) - 1
            if end > begin:
                yield from self._unclear(self._chunk(routes[edges[begin] : edges[end]]), disjoint)
            else:
                end = begin + 1
                yield int(rings[edges[begin]])
            begin = end

    def _chunk(self, routes: Ints) -> _Chunk:
        keys = [self.sends.routes[name][routes] for name in ("ring", *RECTANGLE)]
        order = np.lexsort(keys[::-1])
        routes, keys = routes[order], [key[order] for key in keys]
        changes = np.any([np.diff(key, prepend=-1) != 0 for key in keys], axis=0)
        sender = self.sends.sender[routes]
        count = self.lengths[sender]
        row = self.rows[np.repeat(self.starts[sender], count) + within(count)]
        ring = np.repeat(keys[0], count)
        first, last, period, advance = (
            self.columns[name][ring] for name in ("first", "last", "period", "advance")
        )
        turn, offset = np.divmod(row - first, period)
        wanted = (row >= first) & (row <= last) & (offset < advance)
        return _Chunk(
            keys[0][changes],
            np.stack([key[changes] for key in keys[1:]], 1),
            np.repeat(np.cumsum(changes) - 1, count)[wanted],
            (turn * advance + offset)[wanted],
        )

    def _unclear(self, chunk: _Chunk, disjoint: dict[bytes, bool]) -> Iterator[int]:
        """Rings with a part that comes twice, places with too much or too little, or parts that overlap.

        ``disjoint``: what is known of sets of rectangles, of which copies of a stage have the same.
        """
        rings, first_number, ring_of = np.unique(chunk.rings, return_index=True, return_inverse=True)
        sizes = self.columns["places"][chunk.rings]
        base = np.cumsum(sizes) - sizes
        came = np.bincount(base[chunk.numbers] + chunk.places, minlength=int(sizes.sum()))
        twice = np.add.reduceat(came > 1, base)

        lengths = self.columns["places"][rings]
        begins = np.cumsum(lengths) - lengths
        place = within(lengths)
        area = chunk.rectangles[:, 2] * chunk.rectangles[:, 3]
        arrived = np.zeros(len(place), np.int64)
        at = begins[ring_of][chunk.numbers] + chunk.places
        np.add.at(arrived, at, area[chunk.numbers])
        top, end, fill = (
            np.repeat(column[rings], lengths)
            for column in (
                self.columns["top"],
                self.columns["places"] - self.columns["bottom"],
                self.columns["fill"],
            )
        )
        due = np.where((place >= top) & (place < end), fill, 0)
        wrong = np.add.reduceat(arrived != due, begins) > 0
        np.logical_or.at(wrong, ring_of, twice > 0)
        groups = np.split(chunk.rectangles, first_number[1:])
        for ring, bad, rectangles in zip(rings.tolist(), wrong.tolist(), groups, strict=True):
            key = rectangles.tobytes()
            if key not in disjoint:
                disjoint[key] = _are_disjoint(rectangles)
            if bad or not disjoint[key]:
                yield ring


def _are_disjoint(rectangles: Ints) -> bool:
    """Whether no two of (n, 4) rectangles overlap."""
    low, high = rectangles[:, :2], rectangles[:, :2] + rectangles[:, 2:]

    def meets(one: int) -> npt.NDArray[np.bool_]:
        return ((low[one] < high[one + 1 :]) & (low[one + 1 :] < high[one])).all(axis=1)

    return not any(meets(one).any() for one in range(len(rectangles) - 1))
