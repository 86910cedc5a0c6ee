"""Rows between rings, the host's tensors and buffers: ``send``, ``recv``, ``free``, ``dma_*``, ``copy``, events.

A step of these may block: it then notes itself with what it waits for and is tried again when that
changes. Nothing polls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cimc.runtime.functional.fields import Frame
from cimc.runtime.functional.memory import Buffer, Ring
from cimc.runtime.functional.problems import BoundsError, ExecutionError
from cimc.runtime.functional.tensors import HostTensor
from cimc.runtime.program.builder import Route
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import Program

Action = Callable[[], None]
Attempt = Callable[[], bool]
"""Executes and returns True, or changes nothing, hangs the context on what it waits for and returns False."""


class Waiter(Protocol):
    """A context that can be woken."""

    reason: str
    """What it waits for, as a deadlock report says it."""


@dataclass(frozen=True)
class Port:
    """One entry of a route set: a ring, source and destination rectangle."""

    ring: Ring
    slots: npt.NDArray[Any]
    """(slots, positions, channels) view of the ring."""
    size: int
    src: tuple[slice, slice]
    dst: tuple[slice, slice]


@dataclass
class Event:
    """A counted event."""

    count: int


@dataclass
class Switchboard:
    """Who waits for what. ``wake`` puts a context back among the ready ones."""

    program: Program
    buffers: list[Buffer]
    wake: Callable[[Waiter], None]
    events: list[Event]
    waiting: dict[int, list[Waiter]] = field(default_factory=dict[int, list[Waiter]])
    """Contexts by ``id`` of the ring side or event they wait for."""
    _targets: dict[tuple[int, int], list[tuple[Port, int]]] = field(
        default_factory=dict[tuple[int, int], list[tuple[Port, int]]]
    )
    _ports: dict[int, list[Port]] = field(default_factory=dict[int, list[Port]])

    def hang(self, key: int, waiter: Waiter, reason: str) -> bool:
        """The context waits; returns False for the step to pass on."""
        waiter.reason = reason
        self.waiting.setdefault(key, []).append(waiter)
        return False

    def changed(self, key: int) -> None:
        """Wake who waits for ``key``."""
        if key not in self.waiting:
            return
        for waiter in self.waiting.pop(key):
            self.wake(waiter)

    def targets(self, routes: int, row: int) -> list[tuple[Port, int]]:
        """Entries of a route set that want row number ``row``, and its place within an image there."""
        known = self._targets.get((routes, row))
        if known is None:
            places = ((port, port.ring.place_of(row)) for port in self._route_set(routes))
            known = self._targets[routes, row] = [(port, p) for port, p in places if p is not None]
        return known

    def _route_set(self, routes: int) -> list[Port]:
        known = self._ports.get(routes)
        if known is not None:
            return known
        if not 0 <= routes < self.program.count("route_sets"):
            raise BoundsError(
                f"route set {routes} is named, the table has {self.program.count('route_sets')}"
            )
        first = int(self.program["route_sets"]["first"][routes])
        count = int(self.program["route_sets"]["count"][routes])
        columns = [self.program["routes"][name][first : first + count].tolist() for name in Route._fields]
        ports = [self._port(Route(*values)) for values in zip(*columns, strict=True)]
        self._ports[routes] = ports
        return ports

    def _port(self, entry: Route) -> Port:
        if not 0 <= entry.ring < len(self.buffers):
            raise BoundsError(f"a route leads to buffer {entry.ring}, the program has {len(self.buffers)}")
        ring = self.buffers[entry.ring]
        if not isinstance(ring, Ring):
            raise BoundsError(f"a route leads to {ring.label}, which is not a ring")
        positions, channels = ring.pitch // ring.channels, ring.channels
        dst = (
            slice(entry.dst_pos, entry.dst_pos + entry.positions),
            slice(entry.dst_chan, entry.dst_chan + entry.channels),
        )
        if min(entry[2:]) < 0 or dst[0].stop > positions or dst[1].stop > channels:
            raise BoundsError(
                f"a route writes positions {dst[0].start} … {dst[0].stop - 1}, channels {dst[1].start} … "
                f"{dst[1].stop - 1} of {ring.label}, whose rows are {positions} x {channels}"
            )
        size = ring.data.itemsize
        strides = (ring.pitch * size, channels * size, size)
        shape = (ring.slots, positions, channels)
        return Port(
            ring=ring,
            slots=np.ndarray(shape, ring.data.dtype, ring.data, 0, strides),
            size=entry.positions * entry.channels,
            src=(
                slice(entry.src_pos, entry.src_pos + entry.positions),
                slice(entry.src_chan, entry.src_chan + entry.channels),
            ),
            dst=dst,
        )


def bind_send(
    frame: Frame, row: Row, board: Switchboard, waiter: Waiter, taps: dict[int, HostTensor]
) -> Attempt:
    """``send``: waits until there is room at every target, then writes all parts."""
    source = frame.a(row)
    src_row, src_col = source.row.bind(frame.counters), source.col.bind(frame.counters)
    number, image = frame.b_row(row), frame.image()
    n, m, size, read = row.n, row.m, row.n * row.m, source.buffer.read
    kind = source.buffer.data.dtype
    tap, corner = taps.get(row.dst), (row.dst_row, row.dst_col)

    def attempt() -> bool:
        r, i = number(), image()
        targets = board.targets(row.imm, r)
        for port, local in targets:
            ring = port.ring
            place = i * ring.places + local
            if not ring.has_room(place):
                reason = f"room for place {place} in {ring.label}, which holds places from {ring.freed}"
                return board.hang(id(ring), waiter, reason)
        data = read(src_row(), src_col(), size).reshape(m, n)
        for port, local in targets:
            ring = port.ring
            part = data[port.src]
            if part.size != port.size or ring.data.dtype != kind:
                raise BoundsError(
                    f"a route takes positions {port.src[0].start} … {port.src[0].stop - 1}, channels "
                    f"{port.src[1].start} … {port.src[1].stop - 1} of a row of {m} x {n} {kind} into "
                    f"{ring.label} of {ring.data.dtype}"
                )
            slot = ring.arrive(i * ring.places + local, port.size)
            port.slots[slot][port.dst] = part
            if ring.filled[slot] == ring.fill:
                board.changed(id(ring.filled))
        if tap is not None:
            tap.write(i, r, data, *corner)
        return True

    return attempt


def bind_recv(frame: Frame, row: Row, board: Switchboard, waiter: Waiter) -> Attempt:
    """``recv``: waits until the next ``n`` places are full."""
    ring, n = frame.ring(row.a), row.n

    def attempt() -> bool:
        if ring.try_receive(n):
            return True
        wanted = range(ring.received, ring.received + n)
        missing = next(
            p for p in wanted if not ring.is_padding(p) and ring.filled[p % ring.slots] < ring.fill
        )
        reason = (
            f"place {missing} of {ring.label}: {ring.filled[missing % ring.slots]} of {ring.fill} elements"
        )
        return board.hang(id(ring.filled), waiter, reason)

    return attempt


def bind_free(frame: Frame, row: Row, board: Switchboard) -> Action:
    """``free``: gives places back and wakes who waits for room."""
    ring, n = frame.ring(row.a), row.n

    def action() -> None:
        ring.release(n)
        board.changed(id(ring))

    return action


def bind_signal(row: Row, board: Switchboard) -> Action:
    """``signal``: adds to an event."""
    event = _event(row, board)

    def action() -> None:
        event.count += row.n
        board.changed(id(event))

    return action


def bind_wait(row: Row, board: Switchboard, waiter: Waiter) -> Attempt:
    """``wait``: until the event counts ``n``, which are then taken away."""
    event = _event(row, board)

    def attempt() -> bool:
        if event.count < row.n:
            return board.hang(id(event), waiter, f"event {row.imm} to count {row.n}, it counts {event.count}")
        event.count -= row.n
        return True

    return attempt


def _event(row: Row, board: Switchboard) -> Event:
    if not 0 <= row.imm < len(board.events):
        raise BoundsError(f"event {row.imm} is named, the table has {len(board.events)}")
    return board.events[row.imm]


def bind_dma(frame: Frame, row: Row, tensors: list[HostTensor], *, inward: bool) -> Action:
    """``dma_in`` and ``dma_out``: one row of this frame of a host tensor."""
    if not 0 <= row.imm < len(tensors) or tensors[row.imm].inward != inward:
        raise BoundsError(f"{'dma_in' if inward else 'dma_out'} names I/O {row.imm}, which is no such tensor")
    tensor = tensors[row.imm]
    operand = frame.dst(row) if inward else frame.a(row)
    if operand.buffer.data.dtype != tensor.data.dtype:
        raise BoundsError(
            f"rows of '{tensor.io.name}' are {tensor.data.dtype}, {operand.buffer.label} holds "
            f"{operand.buffer.data.dtype}"
        )
    at_row, at_col = operand.row.bind(frame.counters), operand.col.bind(frame.counters)
    number, image, n, m = frame.b_row(row), frame.image(), row.n, row.m
    read, write = operand.buffer.read, operand.buffer.write

    def fetch() -> None:
        data = tensor.read(image(), number(), m, n)
        write(at_row(), at_col(), n * m).reshape(m, n)[...] = data

    def deliver() -> None:
        tensor.write(image(), number(), read(at_row(), at_col(), n * m).reshape(m, n))

    return fetch if inward else deliver


def bind_copy(frame: Frame, row: Row) -> Action:
    """``copy``: two extents with strides on both sides, within one slot each."""
    if not 0 <= row.imm < frame.program.count("copies"):
        raise BoundsError(f"copy pattern {row.imm} is named, the table has {frame.program.count('copies')}")
    n0, s0, d0, n1, s1, d1 = (
        int(frame.program["copies"][name][row.imm]) for name in ("n0", "s0", "d0", "n1", "s1", "d1")
    )
    if min(n0, n1) < 1 or min(s0, d0, s1, d1) < 0:
        raise ExecutionError(f"copy pattern {row.imm} has an empty extent or a stride below 0")
    source, target = frame.a(row), frame.dst(row)
    kind = source.buffer.data.dtype
    if kind != target.buffer.data.dtype:
        raise BoundsError(f"copy keeps the element type, given {kind} and {target.buffer.data.dtype}")
    row_a, col_a = source.row.bind(frame.counters), source.col.bind(frame.counters)
    row_d, col_d = target.row.bind(frame.counters), target.col.bind(frame.counters)
    span_a, span_d = (n0 - 1) * s0 + (n1 - 1) * s1 + 1, (n0 - 1) * d0 + (n1 - 1) * d1 + 1
    size = kind.itemsize
    strides_a, strides_d = (s0 * size, s1 * size), (d0 * size, d1 * size)
    read, write = source.buffer.read, target.buffer.write

    def action() -> None:
        values = np.ndarray((n0, n1), kind, read(row_a(), col_a(), span_a), 0, strides_a).copy()
        np.ndarray((n0, n1), kind, write(row_d(), col_d(), span_d), 0, strides_d)[...] = values

    return action


def events_of(program: Program) -> list[Event]:
    """All events at their starting counts."""
    return [Event(int(count)) for count in program["events"]["initial"]]


def taps_by_index(program: Program, wanted: dict[str, HostTensor]) -> dict[int, HostTensor]:
    """The tapped tensors by the index ``send`` names them with; of several holders of a name the wanted one."""
    return {
        i: wanted[tap.name]
        for i, tap in enumerate(program.taps)
        if tap.name in wanted and wanted[tap.name].io is tap
    }
