"""``write_*`` and ``read_*`` bound to one context.

An innermost loop that holds nothing but reads is one step: its windows are gathered from the buffer and
multiplied as one matrix. The result is that of the loop because no window reads what another writes and
no two windows write the same place; where that does not hold the loop is executed as written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.functional.arrays import Arrays, ArraySet, Piece
from cimc.runtime.functional.fields import Frame, Operand
from cimc.runtime.functional.gather import WindowShape, gather_windows, walk_window, window_shape
from cimc.runtime.functional.problems import BoundsError, OverflowingError
from cimc.runtime.functional.set_reader import SetReader
from cimc.runtime.program.opcodes import BY_WORDLINE, Opcode
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import AGAIN, NONE

Action = Callable[[], None]


@dataclass(frozen=True)
class BoundRead:
    """A read with its operands; ``reader`` knows the cells."""

    dst: Operand
    source: Operand
    shape: WindowShape
    reader: SetReader
    columns: int
    add: bool
    positions: int = 1
    """Windows of one execution, ``shape.pos_step`` elements apart."""


@dataclass
class ReadBinder:
    """Binds reads and writes against the crossbars; collects the readers for the statistics."""

    arrays: Arrays
    count_converters: bool
    readers: list[tuple[int, SetReader]] = field(default_factory=list[tuple[int, SetReader]])
    """(node, reader) of every read bound so far."""

    def write(self, row: Row) -> Action:
        """``write_xb``, ``write_row`` or ``write_core``."""
        arrays = self.arrays
        array_set = arrays.array_set(row.xb)
        pieces = self._pieces(array_set, row)
        again = row.func == AGAIN
        return lambda: arrays.write(array_set, pieces, again=again)

    def write_local(self, frame: Frame, row: Row) -> Action:
        """``write_local``: rows of the set from codes in local memory. BoundsError for no set without a tensor."""
        arrays = self.arrays
        array_set = arrays.array_set(row.xb)
        if array_set.tensor != NONE:
            raise BoundsError(
                f"array set {row.xb} holds weights of the model; write_local does not change them"
            )
        if row.n < 1:
            raise BoundsError(f"write_local programs {row.n} rows; give at least 1")
        source, first, columns = frame.a(row), frame.b_row(row), array_set.columns
        if source.buffer.data.dtype.kind not in "iu":
            raise BoundsError(
                f"write_local takes codes, {source.buffer.label} holds {source.buffer.data.dtype}"
            )
        at_row, at_col = source.row.bind(frame.counters), source.col.bind(frame.counters)

        def action() -> None:
            codes = source.buffer.read(at_row(), at_col(), row.n * columns)
            arrays.write_rows(array_set, first(), codes.reshape(row.n, columns))

        return action

    def read(self, frame: Frame, row: Row) -> BoundRead:
        """``read_xb``, ``read_row`` or ``read_core``. BoundsError when window, set and ``n`` do not fit together."""
        array_set = self.arrays.array_set(row.xb)
        shape = window_shape(frame.program, row.imm)
        if shape.size != array_set.rows:
            raise BoundsError(
                f"window {row.imm} has {shape.size} elements, array set {row.xb} takes {array_set.rows}"
            )
        if row.n != array_set.columns:
            raise BoundsError(f"a read of array set {row.xb} gives {array_set.columns} columns, n is {row.n}")
        dst = frame.dst(row)
        if dst.buffer.data.dtype.kind != "i" or dst.buffer.data.dtype.itemsize < 4:
            raise BoundsError(
                f"a read writes int32 or int64, {dst.buffer.label} holds {dst.buffer.data.dtype}"
            )
        pieces = self._pieces(array_set, row)
        reader = SetReader(self.arrays, array_set, pieces, count=self.count_converters)
        self.readers.append((row.node, reader))
        positions = row.m if row.opcode == Opcode.READ_CORE else 1
        if positions < 1:
            raise BoundsError(f"a read of a core takes {positions} windows; give at least 1")
        return BoundRead(dst, frame.a(row), shape, reader, row.n, bool(row.func), positions)

    def _pieces(self, array_set: ArraySet, row: Row) -> tuple[Piece, ...]:
        if row.opcode in BY_WORDLINE:
            return self.arrays.pieces_of_wordlines(array_set, row.b_row, row.b_col)
        return self.arrays.pieces_of_tiles(array_set, row.b_row, row.b_col)


def read_once(read: BoundRead, counters: list[int]) -> Action:
    """The windows of one instruction."""
    return _windows(read, counters, level=None, count=read.positions)


def read_walking(read: BoundRead, counters: list[int]) -> Action:
    """The windows of one instruction by the definition: element by element, tile by tile, digit by digit."""
    row, col = read.source.row.bind(counters), read.source.col.bind(counters)
    dst_row, dst_col = read.dst.row.bind(counters), read.dst.col.bind(counters)

    def action() -> None:
        for position in range(read.positions):
            one(position)

    def one(position: int) -> None:
        window = walk_window(read.source.buffer, row(), col() + position * read.shape.pos_step, read.shape)
        sums = read.reader.walk(window)[0].tolist()
        at_row, at_col = dst_row(), dst_col() + position * read.columns
        kind = np.iinfo(read.dst.buffer.data.dtype)
        for n, value in enumerate(sums):
            held = int(read.dst.buffer.read(at_row, at_col + n, 1)[0]) if read.add else 0
            if not kind.min <= held + value <= kind.max:
                raise OverflowingError(f"a sum of {held + value} does not fit {kind.dtype}")
            read.dst.buffer.write(at_row, at_col + n, 1)[0] = held + value

    return action


def read_loop(reads: Sequence[BoundRead], counters: list[int], level: int, count: int) -> Action | None:
    """A loop at ``level`` of ``count`` iterations over ``reads`` as one step; None where that is not the same."""
    if count < 1 or not _independent(reads, level, count):
        return None
    actions = [_windows(read, counters, level, count) for read in reads]
    if len(actions) == 1:
        return actions[0]

    def action() -> None:
        for one in actions:
            one()

    return action


def _independent(reads: Sequence[BoundRead], level: int, count: int) -> bool:
    """Whether iterations touch different places of one row and read nothing that is written here."""
    dst = reads[0].dst
    for read in reads:
        if read.source.row.step(level) or read.dst.row.step(level) or read.source.buffer is read.dst.buffer:
            return False
        if count > 1 and read.dst.col.step(level) < read.columns:
            return False
        same = (read.dst.buffer, read.dst.row, read.dst.col) == (dst.buffer, dst.row, dst.col)
        if len(reads) > 1 and (not same or read.source.buffer is dst.buffer):
            return False
    return True


def _windows(read: BoundRead, counters: list[int], level: int | None, count: int) -> Action:
    """``count`` windows along the loop at ``level`` (None: the present one)."""
    source_col, dst_col = read.source.col, read.dst.col
    step, dst_step = read.shape.pos_step, read.columns
    if level is not None:
        step, dst_step = source_col.step(level), dst_col.step(level) or read.columns
        source_col, dst_col = source_col.without(level), dst_col.without(level)
    row, col = read.source.row.bind(counters), source_col.bind(counters)
    out_row, out_col = read.dst.row.bind(counters), dst_col.bind(counters)
    source, target = read.source.buffer, read.dst.buffer
    shape, columns, product = read.shape, read.columns, read.reader.read
    span = (count - 1) * dst_step + columns
    kind = target.data.dtype
    size = kind.itemsize
    strides = (dst_step * size, size)
    narrow = np.iinfo(np.int32) if size == 4 else None

    def action() -> None:
        sums = product(gather_windows(source, row(), col(), shape, count, step))
        at_row, at_col = out_row(), out_col()
        if read.add:
            held = target.read(at_row, at_col, span)
            sums += np.ndarray((count, columns), kind, held, 0, strides)
        if narrow is not None:
            _check_range(sums, narrow)
        place = target.write(at_row, at_col, span)
        np.ndarray((count, columns), kind, place, 0, strides)[...] = sums

    return action


def _check_range(sums: npt.NDArray[Any], kind: np.iinfo[np.int32]) -> None:
    least, most = int(sums.min()), int(sums.max())
    if least < kind.min or most > kind.max:
        raise OverflowingError(f"sums of {least} … {most} do not fit int32; the accumulator must be int64")
