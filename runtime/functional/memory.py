"""Buffers and rings as numpy arrays, with the rules of ``docs/isa.md`` on who may touch what.

A view handed out here is a slice of the buffer itself: reading it needs no copy, writing to it writes
the buffer. Slots of buffers with undefined content carry the hull of what was written to them, one
pair of integers, so that a read of something never written is found at the price of two comparisons.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.functional import layout as y
from cimc.runtime.functional.layout import Int
from cimc.runtime.functional.problems import BoundsError, OverlapError, RingError, UnwrittenError
from cimc.runtime.program.opcodes import BufferKind, Element
from cimc.runtime.program.tables import Program

Vector = npt.NDArray[Any]

ALIGNMENT = 64
"""Bytes of a cache line: buffers begin there."""

_COLUMNS = (
    (y.ELEMENT, "element"),
    (y.SLOTS, "slots"),
    (y.PITCH, "pitch"),
    (y.CHANNELS, "channels"),
    (y.FIRST, "first"),
    (y.LAST, "last"),
    (y.PERIOD, "period"),
    (y.ADVANCE, "advance"),
    (y.PLACES, "places"),
    (y.TOP, "top"),
    (y.BOTTOM, "bottom"),
    (y.FILL, "fill"),
    (y.PAD, "pad"),
)
"""Records that are columns of the program's table."""


class Buffer:
    """A buffer that is not a ring: ``slots`` x ``pitch`` elements, a row lives in slot ``row mod slots``.

    ``low`` and ``high`` are the hull of what was written to each slot.
    """

    def __init__(self, number: int, kind: BufferKind, data: Vector, low: Vector, high: Vector):
        self.number = number
        self.kind = kind
        self.data = data
        self.slots, self.pitch = data.shape
        self.low, self.high = low, high
        defined = kind in (BufferKind.STATE, BufferKind.RING)  # survives between runs; padding
        low[:], high[:] = (0, self.pitch) if defined else (self.pitch, 0)

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"buffer {self.number} ({self.kind.name.lower()}, {self.slots} slots x {self.pitch})"

    def slot(self, row: int) -> int:
        """The slot of a row."""
        return row % self.slots

    def read(self, row: int, col: int, size: int) -> Vector:
        """``size`` elements at (row, col). BoundsError outside the slot, UnwrittenError if never written."""
        slot = self.slot(row)
        stop = col + size
        if col < self.low[slot] or stop > self.high[slot]:
            self.refuse_read(slot, col, stop)
        return self.data[slot, col:stop]

    def write(self, row: int, col: int, size: int) -> Vector:
        """``size`` elements at (row, col) to be written now. BoundsError outside the slot."""
        slot = self.slot(row)
        stop = col + size
        if col < 0 or stop > self.pitch:
            self.refuse_bounds(col, stop)
        if col < self.low[slot]:
            self.low[slot] = col
        if stop > self.high[slot]:
            self.high[slot] = stop
        return self.data[slot, col:stop]

    def refuse_bounds(self, col: int, stop: int) -> None:
        """Raise: elements [col, stop) are not inside a slot."""
        raise BoundsError(
            f"elements {col} … {stop - 1} of a slot of {self.label} are used; a slot has 0 … {self.pitch - 1}"
        )

    def refuse_read(self, slot: int, col: int, stop: int) -> None:
        """Raise for a read of [col, stop): BoundsError outside the slot, else UnwrittenError."""
        if col < 0 or stop > self.pitch:
            self.refuse_bounds(col, stop)
        low, high = self.low[slot], self.high[slot]
        known = f"only {low} … {high - 1} were" if high > low else "nothing was"
        raise UnwrittenError(
            f"elements {col} … {stop - 1} of slot {slot} of {self.label} are read, {known} written"
        )


class Ring(Buffer):
    """A ring: row 0 is the oldest place held. Places are numbered over the whole run."""

    def __init__(self, number: int, data: Vector, slots: Int, record: Int, channels: int):
        super().__init__(number, BufferKind.RING, data, slots[:, y.LOW], slots[:, y.HIGH])
        self._record = record
        geometry = (y.FIRST, y.LAST, y.PERIOD, y.ADVANCE, y.PLACES, y.TOP, y.BOTTOM, y.FILL)
        self.first, self.last, self.period, self.advance, self.places, self.top, self.bottom, self.fill = (
            int(record[at]) for at in geometry
        )
        self.channels = channels
        self.pad: Any = record[y.PAD : y.PAD + 1].view(np.uint8)[: data.itemsize].view(data.dtype)[0]
        if record[y.PAD]:
            self.data[:] = self.pad
        self.filled = slots[:, y.FILLED]

    @property
    def freed(self) -> int:
        """Places given back so far."""
        return int(self._record[y.FREED])

    @property
    def received(self) -> int:
        """Places received so far."""
        return int(self._record[y.RECEIVED])

    @property
    def most_held(self) -> int:
        """Most places held at once."""
        return int(self._record[y.MOST])

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"ring {self.number} ({self.slots} slots x {self.pitch})"

    def slot(self, row: int) -> int:
        """The slot of a row, counted from the oldest place held. RingError unless it is held."""
        if row < 0 or row >= self.received - self.freed:
            raise RingError(
                f"row {row} of {self.label} is used, but places {self.freed} … {self.received - 1} are held "
                f"({self.received - self.freed} rows): nobody received it, or it was freed"
            )
        return (self.freed + row) % self.slots

    def place_of(self, row: int) -> int | None:
        """Place within its image of row number ``row``, None if the ring does not want it."""
        if not self.first <= row <= self.last:
            return None
        turn, offset = divmod(row - self.first, self.period)
        return turn * self.advance + offset if offset < self.advance else None

    def has_room(self, place: int) -> bool:
        """Whether a place may be written. OverlapError if it was received already."""
        if place < self.received:
            raise OverlapError(f"place {place} of {self.label} arrives again: it was received as full")
        return place < self.freed + self.slots

    def arrive(self, place: int, size: int) -> int:
        """Count ``size`` elements of a place in; returns its slot. OverlapError if that is too many."""
        slot = place % self.slots
        filled = self.filled[slot] + size
        if filled > self.fill:
            raise OverlapError(
                f"{filled} elements arrive for place {place} of {self.label}, which {self.fill} make full: "
                "parts of a row overlap, or a row is sent twice"
            )
        self.filled[slot] = filled
        return slot

    def try_receive(self, count: int) -> bool:
        """Take the next ``count`` places if all are full; rows outside the image are filled here."""
        end = self.received + count
        if end > self.freed + self.slots:
            raise RingError(
                f"{count} more places of {self.label} are received while {self.received - self.freed} are held: "
                "the first of them would overwrite a place that is not freed"
            )
        for place in range(self.received, end):
            if not self.is_padding(place) and self.filled[place % self.slots] < self.fill:
                return False
        for place in range(self.received, end):
            if self.is_padding(place):
                self.data[place % self.slots] = self.pad
        self._record[y.RECEIVED] = end
        self._record[y.MOST] = max(self.most_held, end - self.freed)
        return True

    def is_padding(self, place: int) -> bool:
        """Whether a place is a row above or below its image."""
        local = place % self.places
        return local < self.top or local >= self.places - self.bottom

    def release(self, count: int) -> None:
        """Give the ``count`` oldest places back. RingError if fewer are held."""
        if count < 0 or self.freed + count > self.received:
            raise RingError(
                f"{count} places of {self.label} are freed, {self.received - self.freed} are held"
            )
        for place in range(self.freed, self.freed + count):
            self.filled[place % self.slots] = 0
        self._record[y.FREED] += count


class Memory:
    """All memories of a program in one array of bytes, with the tables of ``layout.py`` beside it.

    Buffers are views of their bytes and records, so that Python steps and the compiled loop share their state.
    """

    def __init__(self, program: Program):
        table = program["buffers"]
        element, slots, pitch = (table[name].astype(np.int64) for name in ("element", "slots", "pitch"))
        item = np.array([kind.size_bytes for kind in Element], np.int64)[element]
        sizes = -(-slots * pitch * item // ALIGNMENT) * ALIGNMENT
        self.table: Int = np.zeros((len(element), y.BUFFER_WIDTH), np.int64)
        for at, column in (
            (y.DATA, np.cumsum(sizes) - sizes),
            (y.ITEM, item),
            (y.RING, table["kind"] == BufferKind.RING),
            (y.FIRST_SLOT, np.cumsum(slots) - slots),
            *((at, table[name]) for at, name in _COLUMNS),
        ):
            self.table[:, at] = column
        self.table[:, [y.FOR_ROOM, y.FOR_ROWS]] = y.NOBODY
        self.bytes: y.Bytes = np.zeros(int(sizes.sum()), np.uint8)
        self.slots: Int = np.zeros((int(slots.sum()), y.SLOT_WIDTH), np.int64)
        self.buffers = [self._buffer(number, kind) for number, kind in enumerate(table["kind"].tolist())]

    def _buffer(self, number: int, kind: int) -> Buffer:
        record = self.table[number]
        data, slots, pitch, first = record[[y.DATA, y.SLOTS, y.PITCH, y.FIRST_SLOT]].tolist()
        shape, dtype = (slots, pitch), Element(int(record[y.ELEMENT])).dtype
        view = np.ndarray(shape, dtype, self.bytes, data)
        states = self.slots[first : first + slots]
        if kind == BufferKind.RING:
            return Ring(number, view, states, record, int(record[y.CHANNELS]))
        return Buffer(number, BufferKind(kind), view, states[:, y.LOW], states[:, y.HIGH])
