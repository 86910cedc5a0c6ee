"""One context's body as a list of steps: a step executes its row and says which is next.

Loops become two steps that keep a counter; everything else is bound by the module of its instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cimc.runtime.functional.digital import bind_alu
from cimc.runtime.functional.fields import Frame
from cimc.runtime.functional.hosts import HostSessions
from cimc.runtime.functional.moves import (
    Switchboard,
    Waiter,
    bind_copy,
    bind_dma,
    bind_free,
    bind_recv,
    bind_send,
    bind_signal,
    bind_wait,
)
from cimc.runtime.functional.problems import ExecutionError
from cimc.runtime.functional.reads import ReadBinder, read_loop, read_once, read_walking
from cimc.runtime.functional.tensors import HostTensor
from cimc.runtime.program.opcodes import READS, Opcode
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import IMAGES, LEVELS

Step = Callable[[], int]
"""Executes and returns the number of the next step, BLOCKED to be tried again, or HALTED."""

BLOCKED = -1
HALTED = -2

_WINDOW_READS = frozenset((Opcode.READ_XB, Opcode.READ_ROW))
"""Reads of one window, whose loops over positions become one step."""


@dataclass(frozen=True)
class Tally:
    """What one execution of a step counts for a node."""

    node: int
    instructions: int
    macs: int


@dataclass(frozen=True)
class Machinery:
    """What all contexts of a run share."""

    board: Switchboard
    reads: ReadBinder
    hosts: HostSessions
    tensors: list[HostTensor]
    taps: dict[int, HostTensor]
    frames: int
    walk: bool


@dataclass(frozen=True)
class Code:
    """A decoded body: steps by row number, and what an execution of each counts."""

    rows: list[Row]
    steps: list[Step]
    tallies: list[tuple[Tally, ...]]


@dataclass(frozen=True)
class _Loop:
    start: int
    count: int


def decode(rows: list[Row], frame: Frame, shared: Machinery, waiter: Waiter) -> Code:
    """Bind all rows. ExecutionError, with the row's number, when one cannot be executed."""
    steps: list[Step] = []
    tallies: list[tuple[Tally, ...]] = []
    loops: list[_Loop] = []
    for number, row in enumerate(rows):
        try:
            step, tally = _bind(number, rows, frame, shared, waiter, loops)
        except ExecutionError as error:
            raise error.at(error.where or place(frame.program.name_of(row.node), number, row)) from error
        steps.append(step)
        tallies.append(tally)
    if loops:
        raise ExecutionError(f"the loop of instruction {loops[-1].start} has no end")
    if not rows or rows[-1].opcode != Opcode.HALT:
        raise ExecutionError("the body does not end in halt")
    return Code(rows, steps, tallies)


def bind_alone(
    number: int, rows: list[Row], frame: Frame, shared: Machinery, waiter: Waiter
) -> tuple[Step, tuple[Tally, ...]]:
    """Row ``number`` of a body whose loops are known to nest; ``frame`` stands at its depth."""
    return _bind(number, rows, frame, shared, waiter, [])


def place(name: str, number: int, row: Row) -> str:
    """How messages name an instruction."""
    return f"node '{name}', instruction {number} ({Opcode(row.opcode).name.lower()})"


def _bind(
    number: int, rows: list[Row], frame: Frame, shared: Machinery, waiter: Waiter, loops: list[_Loop]
) -> tuple[Step, tuple[Tally, ...]]:
    row = rows[number]
    opcode = Opcode(row.opcode)
    following = number + 1
    if opcode is Opcode.HALT:
        return (lambda: HALTED), ()
    if opcode is Opcode.LOOP:
        return _bind_loop(number, rows, frame, shared, loops)
    if opcode is Opcode.END:
        if not loops:
            raise ExecutionError("end without a loop")
        frame.depth -= 1
        return _end(loops.pop(), frame.depth, frame.counters, following), ()
    board = shared.board
    if opcode is Opcode.SEND:
        return _attempt(bind_send(frame, row, board, waiter, shared.taps), following), _tally(row)
    if opcode is Opcode.RECV:
        return _attempt(bind_recv(frame, row, board, waiter), following), _tally(row)
    if opcode is Opcode.WAIT:
        return _attempt(bind_wait(row, board, waiter), following), ()
    if opcode in READS:
        read = shared.reads.read(frame, row)
        action = read_walking(read, frame.counters) if shared.walk else read_once(read, frame.counters)
        return _always(action, following), (
            Tally(row.node, read.positions, read.positions * read.reader.macs),
        )
    return _always(_bind_action(opcode, frame, row, shared), following), _tally(row)


def _bind_action(opcode: Opcode, frame: Frame, row: Row, shared: Machinery) -> Callable[[], None]:
    """Rows that never block."""
    if opcode is Opcode.ALU:
        return bind_alu(frame, row)
    if opcode is Opcode.COPY:
        return bind_copy(frame, row)
    if opcode is Opcode.FREE:
        return bind_free(frame, row, shared.board)
    if opcode is Opcode.SIGNAL:
        return bind_signal(row, shared.board)
    if opcode in (Opcode.DMA_IN, Opcode.DMA_OUT):
        return bind_dma(frame, row, shared.tensors, inward=opcode is Opcode.DMA_IN)
    if opcode is Opcode.HOST:
        return shared.hosts.bind(frame, row)
    if opcode is Opcode.WRITE_LOCAL:
        return shared.reads.write_local(frame, row)
    return shared.reads.write(row)


def _bind_loop(
    number: int, rows: list[Row], frame: Frame, shared: Machinery, loops: list[_Loop]
) -> tuple[Step, tuple[Tally, ...]]:
    row = rows[number]
    level = frame.depth
    if level == LEVELS:
        raise ExecutionError(f"loops nest deeper than {LEVELS}")
    count = shared.frames if row.func == IMAGES else row.n
    if count < 0:
        raise ExecutionError(f"a loop of {count} iterations")
    if level == 0:
        frame.image_loop = row.func == IMAGES
    frame.depth += 1
    loops.append(_Loop(number, count))
    end = _matching_end(rows, number)
    if not count:
        return (lambda: end + 1), ()
    if not shared.walk:
        fused = _fuse(rows[number + 1 : end], frame, shared, level, count)
        if fused:
            action, tally = fused
            return _always(action, end + 1), tally
    counters, body = frame.counters, number + 1

    def step() -> int:
        counters[level] = 0
        return body

    return step, ()


def _fuse(
    body: list[Row], frame: Frame, shared: Machinery, level: int, count: int
) -> tuple[Callable[[], None], tuple[Tally, ...]] | None:
    """The loop as one step if its body is reads only and its iterations do not depend on each other."""
    if not body or any(row.opcode not in _WINDOW_READS for row in body):
        return None
    reads = [shared.reads.read(frame, row) for row in body]
    action = read_loop(reads, frame.counters, level, count)
    if action is None:
        return None
    pairs = zip(body, reads, strict=True)
    return action, tuple(Tally(row.node, count, count * read.reader.macs) for row, read in pairs)


def _matching_end(rows: list[Row], start: int) -> int:
    depth = 0
    for number in range(start, len(rows)):
        if rows[number].opcode == Opcode.LOOP:
            depth += 1
        if rows[number].opcode == Opcode.END:
            depth -= 1
            if not depth:
                return number
    raise ExecutionError("the loop has no end")


def _end(loop: _Loop, level: int, counters: list[int], following: int) -> Step:
    count, body = loop.count, loop.start + 1

    def step() -> int:
        counters[level] += 1
        if counters[level] < count:
            return body
        counters[level] = 0
        return following

    return step


def _always(action: Callable[[], None], following: int) -> Step:
    def step() -> int:
        action()
        return following

    return step


def _attempt(attempt: Callable[[], bool], following: int) -> Step:
    return lambda: following if attempt() else BLOCKED


def _tally(row: Row) -> tuple[Tally, ...]:
    return (Tally(row.node, 1, 0),)
