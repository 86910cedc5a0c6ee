"""Rows of several contexts executed as one: reads of equal cells as one product, digital rows as one row.

Contexts of a round are independent of each other, so the windows of all are gathered, multiplied or
converted once, and put back. A group answers with the first request that breaks a rule, or -1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cimc.runtime.functional import kernel
from cimc.runtime.functional import layout as y
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


def _places(rows: Int, requests: Int, buffer: int, row: int) -> Int:
    """(buffer, row, column) of an operand of every request."""
    places = np.empty((len(requests), 3), np.int64)
    places[:, 0] = rows[requests[:, y.Q_ROW], buffer]
    places[:, 1:] = requests[:, row : row + 2]
    return places


class ReadGroup:
    """Reads of the same window, block and addresses by loop; ``bound`` gives a row's read with its cells."""

    def __init__(self, memory: Memory, rows: Int, row: int, bound: Callable[[int], BoundRead]):
        self._memory, self._rows, self._bound = memory, rows, bound
        read = bound(row)
        shape, fused = read.shape, rows[row, y.COUNT] > 0
        self._count = int(rows[row, y.COUNT]) if fused else read.positions
        step, self._dst_step = shape.pos_step, read.columns
        if fused:
            level = int(rows[row, y.LEVEL])
            step = read.source.col.step(level)
            self._dst_step = read.dst.col.step(level) or read.columns
        tap_row = shape.kw * shape.c
        first, last = shape.lo // tap_row, -(-shape.hi // tap_row)
        self._shape = np.array(
            [first, last, shape.row_step, shape.kw, shape.col_step, shape.c, self._count, step], np.int64
        )
        self._window = (last - first) * tap_row
        self._cut = slice(shape.lo - first * tap_row, shape.hi - first * tap_row)
        self._kind = read.source.buffer.data.dtype
        target = read.dst.buffer.data.dtype
        self._target, self._limit = memory.bytes.view(target), int(np.iinfo(target).max)
        self._columns, self._add = read.columns, read.add

    def run(self, requests: Int) -> int:
        """Execute all requests, those with the same cells as one product."""
        blocks = [self._bound(row).reader.current() for row in requests[:, y.Q_ROW].tolist()]
        most = max(1, ELEMENTS_AT_ONCE // (self._count * self._window))
        if len(blocks) <= most and all(block is blocks[0] for block in blocks):
            return self._run(requests)
        names = np.array([id(block) for block in blocks])
        for name in np.unique(names).tolist():
            alike = np.flatnonzero(names == name)
            for start in range(0, len(alike), most):
                some = alike[start : start + most]
                bad = self._run(requests[some])
                if bad >= 0:
                    return int(some[bad])
        return -1

    def _run(self, requests: Int) -> int:
        memory, size = self._memory, len(requests)
        patches = np.empty((size, self._count * self._window), self._kind)
        places = _places(self._rows, requests, y.A, y.Q_A_ROW)
        bad = kernel.gather_windows(
            memory.table, memory.slots, memory.bytes, places, self._shape, patches.view(np.uint8)
        )
        if bad >= 0:
            return bad
        windows = patches.reshape(size * self._count, self._window)[:, self._cut]
        sums = self._bound(int(requests[0, y.Q_ROW])).reader.read(windows)
        places = _places(self._rows, requests, y.D, y.Q_D_ROW)
        shaped = sums.reshape(size, self._count, self._columns)
        return kernel.scatter_sums(
            memory.table, memory.slots, self._target, places, shaped, self._dst_step, self._limit, self._add
        )


class AluGroup:
    """Digital rows of one function and record: positions of all of them are positions of one row."""

    def __init__(self, program: Program, memory: Memory, fields: ProgramRows, rows: Int, row: Row):
        self._program, self._memory, self._fields, self._rows, self._row = program, memory, fields, rows, row
        self._size = row.n * row.m
        self._kinds = [
            Element(int(memory.table[number, y.ELEMENT])) if number >= 0 else None
            for number in (row.a, row.b, row.dst)
        ]
        self._actions: dict[int, tuple[Callable[[], None], list[Array]]] = {}

    def run(self, requests: Int) -> int:
        """Execute all requests as rows of as many times the positions."""
        most = max(1, ELEMENTS_AT_ONCE // self._size)
        for start in range(0, len(requests), most):
            bad = self._run(requests[start : start + most])
            if bad >= 0:
                return start + bad
        return -1

    def _run(self, requests: Int) -> int:
        memory, rows = self._memory, self._rows
        action, (a, b, d) = self._action(len(requests))
        places = _places(rows, requests, y.A, y.Q_A_ROW)
        bad = kernel.gather(memory.table, memory.slots, memory.bytes, places, self._size, a)
        if bad < 0 and self._kinds[1] is not None:
            places = _places(rows, requests, y.B, y.Q_B_ROW)
            bad = kernel.gather(memory.table, memory.slots, memory.bytes, places, self._size, b)
        if bad >= 0:
            return bad
        action()
        places = _places(rows, requests, y.D, y.Q_D_ROW)
        return kernel.scatter(memory.table, memory.slots, memory.bytes, places, self._size, d)

    def _action(self, count: int) -> tuple[Callable[[], None], list[Array]]:
        """The function over ``count`` rows between buffers of its own, and their bytes."""
        known = self._actions.get(count)
        if known is not None:
            return known
        pitch = count * self._size
        buffers = [_scratch(number, kind, pitch) for number, kind in enumerate(self._kinds)]
        row, plain = self._row, self._kinds[1] is None
        row = row._replace(
            a=0, a_row=0, a_col=0, a_st=0, dst=2, dst_row=0, dst_col=0, dst_st=0, m=count * row.m
        )
        if not plain:
            row = row._replace(b=1, b_row=0, b_col=0, b_st=0)
        action = bind_alu(Frame(self._program, self._fields, buffers, [0] * LEVELS), row)
        made = self._actions[count] = action, [buffer.data.view(np.uint8).reshape(-1) for buffer in buffers]
        return made


def _scratch(number: int, kind: Element | None, pitch: int) -> Buffer:
    data: Any = np.zeros((1, pitch if kind is not None else 0), (kind or Element.U8).dtype)
    return Buffer(number, BufferKind.STATE, data, np.zeros(1, np.int64), np.zeros(1, np.int64))
