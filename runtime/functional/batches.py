"""Rows of several contexts executed as one: reads of equal cells as one product, digital rows as one row.

Contexts of a round are independent of each other, so the windows of all are gathered, multiplied or
converted once, and put back. A group answers with the first request that breaks a rule, or -1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cimc.runtime.functional import layout as y
from cimc.runtime.functional import transfers
from cimc.runtime.functional.digital import bind_alu
from cimc.runtime.functional.fields import Frame, ProgramRows
from cimc.runtime.functional.layout import Array, Int
from cimc.runtime.functional.memory import Buffer, Memory
from cimc.runtime.functional.reads import BoundRead
from cimc.runtime.program.opcodes import BufferKind, Element
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import LEVELS, Program

ELEMENTS_AT_ONCE = 1 << 20
"""Elements that one batch gathers: a few MB, what second-level caches and the sums beside them hold."""


def in_parts(requests: Int, sizes: Int, most: int, run: Callable[[Int, int], int]) -> int:
    """``run`` parts of the requests whose sizes add up to ``most`` or little more; the first bad request, or -1."""
    ends = np.cumsum(sizes)
    if ends[-1] <= most:
        return run(requests, int(ends[-1]))
    start = 0
    while start < len(requests):
        before = int(ends[start] - sizes[start])
        stop = max(start + 1, int(np.searchsorted(ends, before + most, "right")))
        bad = run(requests[start:stop], int(ends[stop - 1]) - before)
        if bad >= 0:
            return start + bad
        start = stop
    return -1


class ReadGroup:
    """Reads of the same window, block and addresses by loop.

    ``loop``: rows begin loops. ``bound`` gives a row's read, ``cells`` numbers what the cells of rows hold:
    equal numbers, equal cells.
    """

    def __init__(
        self,
        memory: Memory,
        rows: Int,
        row: int,
        bound: Callable[[int], BoundRead],
        cells: Callable[[Int], Int],
        *,
        loop: bool,
    ):
        self._memory, self._rows, self._bound, self._cells = memory, rows, bound, cells
        read = bound(row)
        shape = read.shape
        step, self._dst_step = shape.pos_step, read.columns
        if loop:
            level = int(rows[row, y.LEVEL])
            step = read.source.col.step(level)
            self._dst_step = read.dst.col.step(level) or read.columns
        tap_row = shape.kw * shape.c
        first, last = shape.lo // tap_row, -(-shape.hi // tap_row)
        self._shape = np.array(
            [first, last, shape.row_step, shape.kw, shape.col_step, shape.c, step], np.int64
        )
        self._window = (last - first) * tap_row
        self._cut = slice(shape.lo - first * tap_row, shape.hi - first * tap_row)
        self._kind = read.source.buffer.data.dtype
        target = read.dst.buffer.data.dtype
        self._target, self._limit = memory.bytes.view(target), int(np.iinfo(target).max)
        self._add = read.add

    def run(self, requests: Int) -> int:
        """Execute all requests, those with the same cells as one product."""
        cells = self._cells(requests[:, y.Q_ROW])
        if (cells == cells[0]).all():
            return self._parts(requests)
        for number in np.unique(cells).tolist():
            alike = np.flatnonzero(cells == number)
            bad = self._parts(requests[alike])
            if bad >= 0:
                return int(alike[bad])
        return -1

    def _parts(self, requests: Int) -> int:
        counts = self._rows[requests[:, y.Q_ROW], y.COUNT]
        return in_parts(requests, counts, ELEMENTS_AT_ONCE // self._window, self._run)

    def _run(self, requests: Int, count: int) -> int:
        memory, rows = self._memory, self._rows
        patches = np.empty(count * self._window, self._kind)
        state = memory.table, memory.slots
        flat = patches.view(np.uint8)
        bad = transfers.gather_windows(*state, memory.bytes, rows, requests, self._shape, flat)
        if bad >= 0:
            return bad
        windows = patches.reshape(count, self._window)[:, self._cut]
        sums = self._bound(int(requests[0, y.Q_ROW])).reader.read(windows)
        how = self._dst_step, self._limit, self._add
        return transfers.scatter_sums(*state, self._target, rows, requests, sums, *how)


class AluGroup:
    """Digital rows of one function and record: positions of all of them are positions of one row."""

    def __init__(self, program: Program, memory: Memory, fields: ProgramRows, rows: Int, row: Row):
        self._program, self._memory, self._fields, self._rows, self._row = program, memory, fields, rows, row
        self._kinds = [
            Element(int(memory.table[number, y.ELEMENT])) if number >= 0 else None
            for number in (row.a, row.b, row.dst)
        ]
        self._actions: dict[int, tuple[Callable[[], None], list[Array]]] = {}

    def run(self, requests: Int) -> int:
        """Execute all requests as one row of all their positions."""
        positions = self._rows[requests[:, y.Q_ROW], y.M]
        return in_parts(requests, positions, ELEMENTS_AT_ONCE // self._row.n, self._run)

    def _run(self, requests: Int, positions: int) -> int:
        memory = self._memory
        action, (a, b, d) = self._action(positions)
        state = memory.table, memory.slots, memory.bytes, self._rows, requests
        bad = transfers.transfer(*state, y.A, a)
        if bad < 0 and self._kinds[1] is not None:
            bad = transfers.transfer(*state, y.B, b)
        if bad >= 0:
            return bad
        action()
        return transfers.transfer(*state, y.D, d)

    def _action(self, positions: int) -> tuple[Callable[[], None], list[Array]]:
        """The function over so many positions between buffers of its own, and their bytes."""
        known = self._actions.get(positions)
        if known is not None:
            return known
        pitch = positions * self._row.n
        buffers = [_scratch(number, kind, pitch) for number, kind in enumerate(self._kinds)]
        row, plain = self._row, self._kinds[1] is None
        row = row._replace(a=0, a_row=0, a_col=0, a_st=0, dst=2, dst_row=0, dst_col=0, dst_st=0, m=positions)
        if not plain:
            row = row._replace(b=1, b_row=0, b_col=0, b_st=0)
        action = bind_alu(Frame(self._program, self._fields, buffers, [0] * LEVELS), row)
        made = self._actions[positions] = (
            action,
            [buffer.data.view(np.uint8).reshape(-1) for buffer in buffers],
        )
        return made


def _scratch(number: int, kind: Element | None, pitch: int) -> Buffer:
    # Element.I8 is 0: a test for truth would take it for none.
    kept = Element.U8 if kind is None else kind
    data: Any = np.zeros((1, pitch if kind is not None else 0), kept.dtype)
    return Buffer(number, BufferKind.STATE, data, np.zeros(1, np.int64), np.zeros(1, np.int64))
