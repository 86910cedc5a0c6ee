"""The abstract run: contexts on row counts alone, values, times and pixel loops left out.

Only ``recv``, ``free``, ``send``, ``signal`` and ``wait`` and the loops around them are kept; a loop
without any of these is no step at all. What is left is a bounded Kahn network: if it comes to its end in
one order of execution, it does in every order, and at any larger depth of its rings.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from cimc.runtime.program.opcodes import BufferKind, Element, Opcode
from cimc.runtime.program.tables import IMAGES, NONE, Program
from cimc.runtime.verifier.code import Decoded, Step
from cimc.runtime.verifier.operands import Tables

Int = npt.NDArray[np.int64]

# Columns of a row of code.
OP, N, TARGET, JUMP, LEVEL, BASE, STRIDE = range(7)
"""TARGET: ring, route set or event; JUMP: of an end, its loop; LEVEL: its counter; BASE and STRIDE: row number."""
CODE_WIDTH = 7

# Columns of a ring.
R_FIRST, R_LAST, R_PERIOD, R_ADVANCE, R_PLACES, R_TOP, R_BOTTOM, R_FILL, R_SLOTS, R_BASE = range(10)
R_RECEIVED, R_FREED, R_CONSUMER, R_SENDERS, R_BYTES = range(10, 15)
"""R_BASE: its first counter in ``filled``; R_CONSUMER, R_SENDERS: heads of the lists of those that wait; R_BYTES: of a
slot."""
RING_WIDTH = 15

# Columns of a context.
C_PC, C_STATE, C_FOLLOWER, C_LINK = range(4)
"""C_FOLLOWER: the context of the stream's next phase; C_LINK: next in a list of those that wait."""
CONTEXT_WIDTH = 4

READY, ON_RECV, ON_ROOM, ON_EVENT, HALTED, BEHIND = range(6)
"""States of a context; BEHIND: waits for the stream's earlier phase."""

DONE, STUCK, TWICE = range(3)
"""Ends of a run: all contexts halted; some are left; a row arrived at a place that was full or received."""

# Plain ints: the compiler of the kernel wants constants, not enumerations.
_HALT, _LOOP, _END = int(Opcode.HALT), int(Opcode.LOOP), int(Opcode.END)
_SEND, _RECV, _FREE = int(Opcode.SEND), int(Opcode.RECV), int(Opcode.FREE)
_SIGNAL, _WAIT = int(Opcode.SIGNAL), int(Opcode.WAIT)
_CHANNEL = frozenset((_SEND, _RECV, _FREE, _SIGNAL, _WAIT))


class Network(NamedTuple):
    """Flat arrays of one abstract run; the run changes ``rings``, ``contexts``, ``filled`` and ``events``."""

    code: Int
    """Rows of all contexts, CODE_WIDTH columns."""
    source: Int
    """(context, row of the instruction table) of each row of code."""
    strides: Int
    rings: Int
    """One row a buffer; only rings are used."""
    route_sets: Int
    routes: Int
    """(ring, elements)."""
    contexts: Int
    counters: Int
    filled: Int
    """Elements arrived, by place over the whole run, ring after ring."""
    events: Int
    """(count, head of the list of those that wait)."""


def build_network(decoded: Decoded, tables: Tables, slots: npt.NDArray[np.integer[Any]]) -> Network:
    """The network of a decoded program whose rings have ``slots`` (by buffer)."""
    program, images = decoded.program, decoded.images
    code: list[tuple[int, ...]] = []
    source: list[tuple[int, int]] = []
    starts: list[int] = []
    for steps in decoded.steps:
        starts.append(len(code))
        _compress(steps, code, source)
    contexts = np.full((len(starts), CONTEXT_WIDTH), NONE, np.int64)
    contexts[:, C_PC] = starts
    _link_phases(program, contexts)
    columns = tables.buffers
    count = program.count("buffers")
    rings = np.full((count, RING_WIDTH), NONE, np.int64)
    fields = ("first", "last", "period", "advance", "places", "top", "bottom", "fill")
    for column, name in enumerate(fields):
        rings[:, column] = columns[name]
    rings[:, R_SLOTS] = slots
    sizes = np.array([Element(e).size_bytes for e in columns["element"]], np.int64)
    rings[:, R_BYTES] = np.array(columns["pitch"], np.int64) * sizes
    rings[:, (R_RECEIVED, R_FREED)] = 0
    places = np.where(np.array(columns["kind"]) == BufferKind.RING, rings[:, R_PLACES] * images, 0)
    rings[:, R_BASE] = np.cumsum(places) - places
    events = np.full((program.count("events"), 2), NONE, np.int64)
    events[:, 0] = program["events"]["initial"]
    routes = program["routes"]
    return Network(
        np.array(code, np.int64).reshape(-1, CODE_WIDTH),
        np.array(source, np.int64).reshape(-1, 2),
        program["strides"]["row"].astype(np.int64),
        rings,
        np.stack([program["route_sets"]["first"], program["route_sets"]["count"]], 1).astype(np.int64),
        np.stack([routes["ring"], routes["positions"] * routes["channels"]], 1).astype(np.int64),
        contexts,
        np.zeros((len(starts), program["strides"]["row"].shape[1]), np.int64),
        np.zeros(int(places.sum()), np.int64),
        events,
    )


def _compress(steps: list[Step], code: list[tuple[int, ...]], source: list[tuple[int, int]]) -> None:
    """Append the channel instructions of a context and the loops around them."""
    kept = {loop for step in steps if step.row.opcode in _CHANNEL and step.runs for loop in step.loops}
    open_loops: list[int] = []
    open_rows: list[int] = []
    for step in steps:
        row = step.row
        if row.opcode == Opcode.LOOP:
            open_rows.append(step.number)
            if step.number in kept:
                open_loops.append(len(code))
                n = NONE if row.func == IMAGES else row.n
                code.append((_LOOP, n, 0, 0, len(step.loops), 0, 0))
                source.append((step.context, step.number))
        elif row.opcode == Opcode.END:
            if open_rows.pop() in kept:
                begin = open_loops.pop()
                code.append((_END, 0, 0, begin, code[begin][LEVEL], 0, 0))
                source.append((step.context, step.number))
        elif row.opcode == Opcode.HALT:
            code.append((_HALT, 0, 0, 0, 0, 0, 0))
            source.append((step.context, step.number))
        elif row.opcode in _CHANNEL and step.runs:
            target = row.a if row.opcode in (Opcode.RECV, Opcode.FREE) else row.imm
            # Outside an image loop a send belongs to image 0: its LEVEL says whether counter 0 counts images.
            code.append((row.opcode, row.n, target, 0, int(step.images), row.b_row, row.b_st))
            source.append((step.context, step.number))


def _link_phases(program: Program, contexts: Int) -> None:
    streams, phases = program["contexts"]["stream"], program["contexts"]["phase"]
    order = np.lexsort((phases, streams))
    contexts[:, C_STATE] = READY
    for before, after in pairwise(order.tolist()):
        if streams[before] == streams[after]:
            contexts[before, C_FOLLOWER] = after
            contexts[after, C_STATE] = BEHIND


def run(network: Network, images: int, grow: bool = False) -> tuple[int, int, int]:
    """Run until nothing moves: (DONE | STUCK | TWICE, context, ring).

    ``grow``: on a stop with contexts left, add one slot to the ring that has grown by the fewest bytes with it, among
    those that block a send, and go on; the slots are in ``network.rings``.
    """
    status, context, ring = _run(*network, images, grow)
    return int(status), int(context), int(ring)


@numba.njit(cache=True)
def wanted_place(rings: Int, ring: int, row: int, image: int) -> int:
    """The place of a row over the whole run, -1 if the ring does not take it."""
    if row < rings[ring, R_FIRST] or row > rings[ring, R_LAST]:
        return -1
    turn = (row - rings[ring, R_FIRST]) // rings[ring, R_PERIOD]
    offset = (row - rings[ring, R_FIRST]) % rings[ring, R_PERIOD]
    if offset >= rings[ring, R_ADVANCE]:
        return -1
    return image * rings[ring, R_PLACES] + turn * rings[ring, R_ADVANCE] + offset


@numba.njit(cache=True)
def _row_of(code: Int, strides: Int, counters: Int, pc: int, context: int) -> int:
    row = code[pc, BASE]
    stride = code[pc, STRIDE]
    if stride:
        for level in range(strides.shape[1]):
            row += strides[stride, level] * counters[context, level]
    return row


@numba.njit(cache=True)
def _wake(contexts: Int, head: int, ready: Int, top: int) -> int:
    """Make all contexts of a list ready; the new height of the stack."""
    while head >= 0:
        contexts[head, C_STATE] = READY
        ready[top] = head
        top += 1
        head = contexts[head, C_LINK]
    return top


@numba.njit(cache=True)
def _widen(
    code: Int,
    strides: Int,
    rings: Int,
    route_sets: Int,
    routes: Int,
    contexts: Int,
    counters: Int,
    growth: Int,
) -> int:
    """One slot more for a ring that blocks a send, the one that has then grown least in bytes; -1 if none does."""
    best = -1
    least = 0
    for context in range(len(contexts)):
        if contexts[context, C_STATE] != ON_ROOM:
            continue
        pc = contexts[context, C_PC]
        row = _row_of(code, strides, counters, pc, context)
        image = counters[context, 0] if code[pc, LEVEL] else 0
        first = route_sets[code[pc, TARGET], 0]
        for route in range(first, first + route_sets[code[pc, TARGET], 1]):
            ring = routes[route, 0]
            place = wanted_place(rings, ring, row, image)
            if place < rings[ring, R_FREED] + rings[ring, R_SLOTS]:
                continue
            grown = (growth[ring] + 1) * rings[ring, R_BYTES]
            if best < 0 or grown < least or (grown == least and ring < best):
                best = ring
                least = grown
    if best >= 0:
        growth[best] += 1
        rings[best, R_SLOTS] += 1
    return best


@numba.njit(cache=True)
def _run(
    code: Int,
    source: Int,
    strides: Int,
    rings: Int,
    route_sets: Int,
    routes: Int,
    contexts: Int,
    counters: Int,
    filled: Int,
    events: Int,
    images: int,
    grow: bool,
) -> tuple[int, int, int]:
    count = len(contexts)
    growth = np.zeros(len(rings), np.int64)
    ready = np.empty(count, np.int64)
    top = 0
    # The last context begins: consumers first keeps few rows in flight.
    for context in range(count):
        if contexts[context, C_STATE] == READY:
            ready[top] = context
            top += 1
    left = count
    while True:
        if top == 0:
            if left == 0:
                return DONE, -1, -1
            ring = -1
            if grow:
                ring = _widen(code, strides, rings, route_sets, routes, contexts, counters, growth)
            if ring < 0:
                return STUCK, -1, -1
            head = rings[ring, R_SENDERS]
            rings[ring, R_SENDERS] = -1
            top = _wake(contexts, head, ready, top)
            continue
        top -= 1
        context = ready[top]
        pc = contexts[context, C_PC]
        while True:
            op = code[pc, OP]
            target = code[pc, TARGET]
            n = code[pc, N]
            if op == _LOOP:
                counters[context, code[pc, LEVEL]] = 0
            elif op == _END:
                begin = code[pc, JUMP]
                trips = code[begin, N]
                if trips < 0:
                    trips = images
                level = code[pc, LEVEL]
                counters[context, level] += 1
                if counters[context, level] < trips:
                    pc = begin
                else:
                    counters[context, level] = 0
            elif op == _RECV:
                begin = rings[target, R_RECEIVED]
                length = rings[target, R_PLACES]
                full = True
                for place in range(begin, begin + n):
                    local = place % length
                    if local < rings[target, R_TOP] or local >= length - rings[target, R_BOTTOM]:
                        continue
                    if (
                        place >= length * images
                        or filled[rings[target, R_BASE] + place] < rings[target, R_FILL]
                    ):
                        full = False
                        break
                if not full:
                    contexts[context, C_STATE] = ON_RECV
                    rings[target, R_CONSUMER] = context
                    break
                rings[target, R_RECEIVED] = begin + n
            elif op == _FREE:
                if n > 0:
                    rings[target, R_FREED] += n
                    head = rings[target, R_SENDERS]
                    rings[target, R_SENDERS] = -1
                    top = _wake(contexts, head, ready, top)
            elif op == _SEND:
                row = _row_of(code, strides, counters, pc, context)
                image = counters[context, 0] if code[pc, LEVEL] else 0
                first = route_sets[target, 0]
                last = first + route_sets[target, 1]
                blocker = -1
                for route in range(first, last):
                    ring = routes[route, 0]
                    place = wanted_place(rings, ring, row, image)
                    if place >= rings[ring, R_FREED] + rings[ring, R_SLOTS]:
                        blocker = ring
                        break
                if blocker >= 0:
                    contexts[context, C_STATE] = ON_ROOM
                    contexts[context, C_LINK] = rings[blocker, R_SENDERS]
                    rings[blocker, R_SENDERS] = context
                    break
                for route in range(first, last):
                    ring = routes[route, 0]
                    place = wanted_place(rings, ring, row, image)
                    if place < 0:
                        continue
                    at = rings[ring, R_BASE] + place
                    filled[at] += routes[route, 1]
                    if filled[at] > rings[ring, R_FILL] or place < rings[ring, R_RECEIVED]:
                        contexts[context, C_PC] = pc
                        return TWICE, context, ring
                    consumer = rings[ring, R_CONSUMER]
                    if filled[at] == rings[ring, R_FILL] and consumer >= 0:
                        rings[ring, R_CONSUMER] = -1
                        contexts[consumer, C_STATE] = READY
                        ready[top] = consumer
                        top += 1
            elif op == _SIGNAL:
                events[target, 0] += n
                head = events[target, 1]
                events[target, 1] = -1
                top = _wake(contexts, head, ready, top)
            elif op == _WAIT:
                if events[target, 0] < n:
                    contexts[context, C_STATE] = ON_EVENT
                    contexts[context, C_LINK] = events[target, 1]
                    events[target, 1] = context
                    break
                events[target, 0] -= n
            else:
                contexts[context, C_STATE] = HALTED
                left -= 1
                follower = contexts[context, C_FOLLOWER]
                if follower >= 0:
                    contexts[follower, C_STATE] = READY
                    ready[top] = follower
                    top += 1
                break
            pc += 1
        contexts[context, C_PC] = pc
