"""Parameters, jumps and operands: a program's bodies as rows of their contexts.

Every context gets its own copy of its body's rows with the parameters filled in. Loops stay loops, so
the copy grows with contexts, not with pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.layout import Int
from cimc.runtime.program import IMAGES, NONE, AluFunction, BufferKind, Opcode, Program
from cimc.runtime.program.opcodes import IMAGE_WRITES, READS

OPERANDS = (("a", y.A_MODE, y.A_COLD), ("dst", y.D_MODE, y.D_COLD), ("b", y.B_MODE, y.B_COLD))
WINDOWED = (AluFunction.MAX_POOL, AluFunction.AVERAGE_POOL, AluFunction.AVERAGE_POOL_FLOAT)
_IMMEDIATE = ("opcode", "func", "node", "dst_st", "a_st", "b_st")
_SAME = {int(opcode): y.READ for opcode in READS} | {int(opcode): y.WRITE for opcode in IMAGE_WRITES}


@dataclass(frozen=True)
class Body:
    """Control flow of a body, by offset of the instruction within it."""

    level: tuple[int, ...]
    """Nesting level of a ``loop`` or ``end``, else the number of loops around."""
    jump: tuple[int, ...]
    """Of ``end``: behind its ``loop``; of ``loop``: behind its ``end``."""
    partner: tuple[int, ...]
    """Of ``end``: its ``loop``."""
    around: tuple[tuple[int, ...], ...]
    """Offsets of the loops around, outermost first."""


@dataclass(frozen=True)
class Resolved:
    """Columns of all instructions of all contexts, int64 [rows] each, under the instruction table's names."""

    fields: dict[str, Int]
    context: Int
    core: Int
    first: Int
    """First row of each context."""
    offset: Int
    """Place of each row within its body."""
    bodies: tuple[Body, ...]

    @property
    def rows(self) -> int:
        """Number of resolved instructions."""
        return len(self.context)

    @property
    def windows_read(self) -> Int:
        """Windows that one execution of a row reads: ``m`` of a ``read_core``, 1 of all others."""
        return np.where(self.fields["opcode"] == Opcode.READ_CORE, self.fields["m"], 1)

    def window(self, program: Program) -> Int:
        """Row of ``windows`` that a read or a windowed function gathers, -1 for all others."""
        op, func = self.fields["opcode"], self.fields["func"]
        result = np.where(np.isin(op, sorted(READS)), self.fields["imm"], NONE)
        pools = np.flatnonzero((op == Opcode.ALU) & np.isin(func, WINDOWED))
        if len(pools):
            starts = column(program, "records", "i_first")[self.fields["imm"][pools]]
            result[pools] = column(program, "const_i", "value")[starts]
        return result


def column(program: Program, table: str, name: str) -> Int:
    """A column as int64 in memory."""
    return np.ascontiguousarray(program[table][name], dtype=np.int64)


def resolve(program: Program) -> Resolved:
    """Copy bodies to contexts and fill parameters in."""
    body = column(program, "contexts", "body")
    counts = column(program, "bodies", "count")[body]
    first = np.cumsum(counts) - counts
    context = np.repeat(np.arange(len(body)), counts)
    offset = np.arange(len(context)) - first[context]
    source = column(program, "bodies", "first")[body][context] + offset
    param_first = column(program, "contexts", "param_first")[context]
    params = column(program, "params", "value")
    fields: dict[str, Int] = {}
    for name in program["instructions"]:
        values = column(program, "instructions", name)[source]
        named = values < NONE
        if name not in _IMMEDIATE and named.any():
            values[named] = params[param_first[named] - 2 - values[named]]
        fields[name] = values
    bodies = tuple(_flow(program, index) for index in range(program.count("bodies")))
    core = column(program, "contexts", "core")[context]
    return Resolved(fields, context, core, first, offset, bodies)


def _flow(program: Program, body: int) -> Body:
    first, count = int(program["bodies"]["first"][body]), int(program["bodies"]["count"][body])
    opcodes = program["instructions"]["opcode"][first : first + count].tolist()
    level, jump, partner = [0] * count, [0] * count, [0] * count
    around: list[tuple[int, ...]] = []
    open_loops: list[int] = []
    for at, opcode in enumerate(opcodes):
        around.append(tuple(open_loops))
        level[at] = len(open_loops)
        if opcode == Opcode.LOOP:
            open_loops.append(at)
        if opcode == Opcode.END:
            begin = open_loops.pop()
            level[at] = len(open_loops)
            jump[at], partner[at] = begin + 1, begin
            jump[begin] = at + 1
    return Body(tuple(level), tuple(jump), tuple(partner), tuple(around))


def place_control(program: Program, resolved: Resolved, rows: Int, images: int) -> None:
    """Fill opcode, loops, counts and what recv, free, signal, wait and send name."""
    fields = resolved.fields
    op = fields["opcode"].copy()
    for opcode, kernel in _SAME.items():
        op[fields["opcode"] == opcode] = kernel
    body = column(program, "contexts", "body")
    if len(body):
        rows[:, y.LEVEL] = np.concatenate([resolved.bodies[b].level for b in body])
        jump = np.concatenate([resolved.bodies[b].jump for b in body])
        rows[:, y.JUMP] = jump + resolved.first[resolved.context]
        partner = np.concatenate([resolved.bodies[b].partner for b in body])
        count = np.where((op == y.LOOP) & (fields["func"] == IMAGES), images, fields["n"])
        rows[:, y.N] = np.where(op == y.END, count[partner + resolved.first[resolved.context]], count)
    rows[:, y.OP] = op
    rows[:, y.IMM] = fields["imm"]
    rows[:, y.ROW] = fields["b_row"]
    rows[:, y.ROW_ST] = fields["b_st"]
    rows[:, y.CORE] = resolved.core
    rows[:, y.ADDS] = (op == y.ALU) & (fields["func"] == AluFunction.SUM_POSITIONS)
    rows[:, y.SET] = np.where(np.isin(op, (y.READ, y.WRITE, y.WRITE_LOCAL)), fields["xb"], -1)
    rows[:, y.VARIANT] = -1


def place_operands(program: Program, resolved: Resolved, rows: Int) -> None:
    """Fill the operands; the slots of all buffers are numbered through."""
    slots = column(program, "buffers", "slots")
    base = np.cumsum(slots) - slots
    ring = column(program, "buffers", "kind") == BufferKind.RING
    moving = (column(program, "strides", "row") != 0).any(axis=1)
    window = resolved.window(program)
    op = rows[:, y.OP]
    for name, hot, cold in OPERANDS:
        buffer, row, stride = (resolved.fields[f"{name}{part}"] for part in ("", "_row", "_st"))
        used = buffer >= 0
        if name == "dst":
            used &= op != y.SEND  # there it names a tap
        span, step, row = np.ones_like(row), np.zeros_like(row), row.copy()
        if name == "a":
            at = np.flatnonzero(window >= 0)
            span[at], step[at], skipped = _rows_of_window(program, window[at], op[at] == y.READ)
            row[at] += skipped
        whole = np.where(used, buffer, 0)
        count = slots[whole] if len(slots) else np.ones_like(whole)
        is_ring = used & (ring[whole] if len(slots) else False)
        fixed = used & ~is_ring & ((count == 1) | (~moving[stride] & (span == 1)))
        rows[:, hot] = np.select([is_ring, fixed, used], [y.RING, y.FIXED, y.GENERAL], y.NOTHING)
        first = base[whole] if len(slots) else whole
        rows[:, hot + 1] = np.where(fixed, first + row % np.maximum(count, 1), buffer)
        rows[:, cold + y.COLD_ROW] = row
        rows[:, cold + y.COLD_ST] = np.where(moving[stride], stride, 0)
        rows[:, cold + y.COLD_SPAN] = span
        rows[:, cold + y.COLD_STEP] = step


def _rows_of_window(program: Program, window: Int, cut: Int) -> tuple[Int, Int, Int]:
    """Rows of a window, the step between them, and the rows above the first; ``cut``: only [lo, hi) counts."""
    kh, step, kw, c, lo, hi = (
        column(program, "windows", name)[window] for name in ("kh", "row_step", "kw", "c", "lo", "hi")
    )
    length = np.maximum(kw * c, 1)
    top = np.where(cut, lo // length, 0)
    bottom = np.where(cut, (hi - 1) // length, kh - 1)
    return bottom - top + 1, step, top * step
