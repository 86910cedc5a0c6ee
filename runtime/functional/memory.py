"""Buffers and rings as numpy arrays, with the rules of ``docs/isa.md`` on who may touch what.

A view handed out here is a slice of the buffer itself: reading it needs no copy, writing to it writes
the buffer. Slots of buffers with undefined content carry the hull of what was written to them, one
pair of integers, so that a read of something never written is found at the price of two comparisons.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.functional.problems import BoundsError, OverlapError, RingError, UnwrittenError
from cimc.runtime.program.opcodes import BufferKind, Element
from cimc.runtime.program.tables import Program

Vector = npt.NDArray[Any]


class Buffer:
    """A buffer that is not a ring: ``slots`` x ``pitch`` elements, a row lives in slot ``row mod slots``."""

    def __init__(self, number: int, kind: BufferKind, element: Element, slots: int, pitch: int):
        self.number = number
        self.kind = kind
        self.slots = slots
        self.pitch = pitch
        self.data: Vector = np.zeros((slots, pitch), element.dtype)
        self.low = [pitch] * slots
        self.high = [0] * slots
        if kind is BufferKind.STATE:  # survives between runs: its content is defined
            self.low, self.high = [0] * slots, [pitch] * slots

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

    def __init__(self, number: int, element: Element, slots: int, pitch: int, fields: dict[str, int]):
        super().__init__(number, BufferKind.RING, element, slots, pitch)
        self.first = fields["first"]
        self.last = fields["last"]
        self.period = fields["period"]
        self.advance = fields["advance"]
        self.places = fields["places"]
        self.top = fields["top"]
        self.bottom = fields["bottom"]
        self.fill = fields["fill"]
        self.channels = fields["channels"]
        self.pad: Any = fields["pad"]
        if element is Element.F32:
            self.pad = np.array(self.pad, np.int64).astype(np.int32).view(np.float32)[()]
        self.data[:] = self.pad
        self.low, self.high = [0] * slots, [pitch] * slots
        self.freed = 0
        self.received = 0
        self.filled = [0] * slots
        self.most_held = 0

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
        self.received = end
        self.most_held = max(self.most_held, end - self.freed)
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
        self.freed += count


def make_buffers(program: Program) -> list[Buffer]:
    """All buffers of a program with their starting content."""
    columns = {name: column.tolist() for name, column in program["buffers"].items()}
    buffers: list[Buffer] = []
    for number in range(program.count("buffers")):
        fields = {name: column[number] for name, column in columns.items()}
        kind, element = BufferKind(fields["kind"]), Element(fields["element"])
        slots, pitch = fields["slots"], fields["pitch"]
        if kind is BufferKind.RING:
            buffers.append(Ring(number, element, slots, pitch, fields))
        else:
            buffers.append(Buffer(number, kind, element, slots, pitch))
    return buffers
