"""One constructor an instruction: a row of the instruction table with the unused fields at ``NONE``.

Fields take immediates or parameters (:func:`cimc.runtime.program.parameter`). The definition of each
instruction is ``docs/isa.md``.
"""

from __future__ import annotations

from typing import NamedTuple

from cimc.runtime.program.opcodes import AluFunction, Opcode
from cimc.runtime.program.tables import IMAGES, NONE


class Row(NamedTuple):
    """One instruction; the fields are the columns of the table, in its order."""

    opcode: int
    func: int = 0
    node: int = NONE
    dst: int = NONE
    dst_row: int = 0
    dst_col: int = 0
    dst_st: int = 0
    a: int = NONE
    a_row: int = 0
    a_col: int = 0
    a_st: int = 0
    b: int = NONE
    b_row: int = 0
    b_col: int = 0
    b_st: int = 0
    n: int = 0
    m: int = 0
    xb: int = NONE
    imm: int = NONE


class At(NamedTuple):
    """An operand: buffer, row and column (elements), index into ``strides``."""

    buffer: int
    row: int = 0
    col: int = 0
    st: int = 0


NOWHERE = At(NONE)


def halt() -> Row:
    """The phase of the context ends."""
    return Row(Opcode.HALT)


def loop(n: int) -> Row:
    """Repeat up to the matching ``end`` ``n`` times."""
    return Row(Opcode.LOOP, n=n)


def loop_images() -> Row:
    """Repeat up to the matching ``end`` once per image of the run."""
    return Row(Opcode.LOOP, func=IMAGES, n=NONE)


def end() -> Row:
    """The end of a loop's body."""
    return Row(Opcode.END)


def write_xb(xb: int, first: int, count: int, node: int = NONE, *, again: int = 0) -> Row:
    """Program tiles ``first .. first+count`` of array set ``xb``; ``again``: in every call."""
    return Row(Opcode.WRITE_XB, again, node, b_row=first, b_col=count, xb=xb)


def write_row(xb: int, first: int, count: int, node: int = NONE) -> Row:
    """Program wordlines ``first .. first+count`` of every tile of array set ``xb``."""
    return Row(Opcode.WRITE_ROW, node=node, b_row=first, b_col=count, xb=xb)


def read_xb(
    dst: At, a: At, xb: int, window: int, n: int, first: int, count: int, *, add: int = 0, node: int = NONE
) -> Row:
    """One window at ``a`` times tiles ``first .. first+count`` of ``xb``; ``add``: to what ``dst`` holds."""
    return Row(Opcode.READ_XB, add, node, *dst, *a, NONE, b_row=first, b_col=count, n=n, xb=xb, imm=window)


def read_row(
    dst: At, a: At, xb: int, window: int, n: int, first: int, count: int, *, add: int = 0, node: int = NONE
) -> Row:
    """As :func:`read_xb` for the wordlines ``first .. first+count`` of every tile."""
    return Row(Opcode.READ_ROW, add, node, *dst, *a, NONE, b_row=first, b_col=count, n=n, xb=xb, imm=window)


def write_core(xb: int, first: int, count: int, node: int = NONE) -> Row:
    """Program tiles ``first .. first+count`` of array set ``xb``, those of one core."""
    return Row(Opcode.WRITE_CORE, node=node, b_row=first, b_col=count, xb=xb)


def write_local(a: At, xb: int, row: At, n: int, node: int = NONE) -> Row:
    """Program ``n`` rows of array set ``xb``, from ``row`` on (no buffer), with the codes at ``a``."""
    return Row(Opcode.WRITE_LOCAL, 0, node, *NOWHERE, *a, *row, n=n, xb=xb)


def read_core(
    dst: At,
    a: At,
    xb: int,
    window: int,
    n: int,
    m: int,
    first: int,
    count: int,
    *,
    add: int = 0,
    node: int = NONE,
) -> Row:
    """A whole row: ``m`` windows from ``a`` on, ``windows[window].pos_step`` apart, times the tiles of ``xb``."""
    return Row(
        Opcode.READ_CORE, add, node, *dst, *a, NONE, b_row=first, b_col=count, n=n, m=m, xb=xb, imm=window
    )


def alu(
    func: AluFunction,
    dst: At,
    a: At = NOWHERE,
    b: At = NOWHERE,
    *,
    n: int,
    m: int = 1,
    record: int = NONE,
    node: int = NONE,
) -> Row:
    """A digital function over ``m`` positions x ``n`` channels; ``record`` holds its constants."""
    return Row(Opcode.ALU, func, node, *dst, *a, *b, n=n, m=m, imm=record)


def copy(dst: At, a: At, pattern: int, node: int = NONE) -> Row:
    """Move elements within a slot each by ``copies[pattern]``."""
    return Row(Opcode.COPY, 0, node, *dst, *a, imm=pattern)


def send(
    a: At,
    routes: int,
    *,
    n: int,
    m: int,
    row: int = 0,
    row_st: int = 0,
    tap: int = NONE,
    tap_channel: int = 0,
    node: int = NONE,
) -> Row:
    """Send row number ``row`` (+ strides ``row_st``): ``m`` positions x ``n`` channels at ``a``."""
    return Row(Opcode.SEND, 0, node, tap, 0, tap_channel, 0, *a, NONE, row, 0, row_st, n=n, m=m, imm=routes)


def recv(ring: int, n: int, node: int = NONE) -> Row:
    """Wait until the next ``n`` places of ``ring`` are full."""
    return Row(Opcode.RECV, node=node, a=ring, n=n)


def free(ring: int, n: int, node: int = NONE) -> Row:
    """Give back the ``n`` oldest places held."""
    return Row(Opcode.FREE, node=node, a=ring, n=n)


def dma_in(dst: At, io: int, *, n: int, m: int, row: int = 0, row_st: int = 0, node: int = NONE) -> Row:
    """Row ``row`` (+ strides ``row_st``) of this frame of ``io`` to ``dst``, ``m`` x ``n`` channels."""
    return Row(Opcode.DMA_IN, 0, node, *dst, b_row=row, b_st=row_st, n=n, m=m, imm=io)


def dma_out(a: At, io: int, *, n: int, m: int, row: int = 0, row_st: int = 0, node: int = NONE) -> Row:
    """``m`` positions x ``n`` channels at ``a`` to row ``row`` (+ strides ``row_st``) of this frame."""
    return Row(Opcode.DMA_OUT, 0, node, NONE, 0, 0, 0, *a, NONE, row, 0, row_st, n=n, m=m, imm=io)


def signal(event: int, n: int = 1, node: int = NONE) -> Row:
    """Add ``n`` to the count of ``event``."""
    return Row(Opcode.SIGNAL, node=node, n=n, imm=event)


def wait(event: int, n: int = 1, node: int = NONE) -> Row:
    """Wait until the count of ``event`` is at least ``n``, then subtract it."""
    return Row(Opcode.WAIT, node=node, n=n, imm=event)


def host(operator: int, node: int = NONE) -> Row:
    """Run host operator ``operator`` on its whole buffers."""
    return Row(Opcode.HOST, node=node, imm=operator)
