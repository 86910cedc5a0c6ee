"""Where an instruction reads and writes: affine addresses over the loop counters, and their extents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cimc.runtime.program.opcodes import READS, AluFunction, Opcode
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import SCHEMAS, Program
from cimc.runtime.verifier.code import Decoded, Step
from cimc.runtime.verifier.functions import FUNCTIONS


class Affine(NamedTuple):
    """``base + sum over levels of steps[level] * counter[level]``."""

    base: int
    steps: tuple[int, ...]

    def low(self, trips: Sequence[int]) -> int:
        """Least value over all counters."""
        least = self.base
        for step, n in zip(self.steps, trips, strict=True):
            if step < 0 < n:
                least += step * (n - 1)
        return least

    def high(self, trips: Sequence[int]) -> int:
        """Greatest value over all counters."""
        greatest = self.base
        for step, n in zip(self.steps, trips, strict=True):
            if step > 0 < n:
                greatest += step * (n - 1)
        return greatest


class Access(NamedTuple):
    """One operand of a step: elements [col + cols[0], col + cols[1]) of rows row + rows[0] … row + rows[1]."""

    operand: str
    buffer: int
    reads: bool
    writes: bool
    row: Affine
    col: Affine
    rows: tuple[int, int]
    cols: tuple[int, int]


class Window(NamedTuple):
    """One row of ``windows``."""

    kh: int
    row_step: int
    kw: int
    col_step: int
    c: int
    lo: int
    hi: int
    pos_step: int


@dataclass(frozen=True)
class Tables:
    """Small tables as plain integers."""

    row_strides: list[tuple[int, ...]]
    col_strides: list[tuple[int, ...]]
    windows: list[Window]
    copies: list[tuple[int, ...]]
    buffers: dict[str, list[int]]
    records: list[tuple[int, int, int, int]]
    const_i: list[int]
    set_columns: list[int]
    """Logical columns of every array set."""

    @staticmethod
    def of(program: Program) -> Tables:
        """From a program whose references are sound."""

        def rows(table: str) -> list[tuple[int, ...]]:
            columns = [program[table][name].tolist() for name in SCHEMAS[table]]
            return list(zip(*columns, strict=True))

        return Tables(
            [tuple(values) for values in program["strides"]["row"].tolist()],
            [tuple(values) for values in program["strides"]["col"].tolist()],
            [Window(*values) for values in rows("windows")],
            rows("copies"),
            {name: column.tolist() for name, column in program["buffers"].items()},
            [(r[0], r[1], r[2], r[3]) for r in rows("records")],
            program["const_i"]["value"].tolist(),
            (program["array_sets"]["n1"] - program["array_sets"]["n0"]).tolist(),
        )

    def ints(self, record: int) -> list[int]:
        """Integers of a record."""
        first, count, _, _ = self.records[record]
        return self.const_i[first : first + count]

    def row_address(self, step: Step, operand: str) -> Affine:
        """Row of operand ``dst``, ``a`` or ``b`` (of ``b`` also without a buffer)."""
        return _affine(self.row_strides, step, operand, "row")

    def col_address(self, step: Step, operand: str) -> Affine:
        """Column of an operand."""
        return _affine(self.col_strides, step, operand, "col")


def _affine(table: list[tuple[int, ...]], step: Step, operand: str, axis: str) -> Affine:
    row = step.row
    if operand == "dst":
        base, stride = (row.dst_row if axis == "row" else row.dst_col), row.dst_st
    elif operand == "a":
        base, stride = (row.a_row if axis == "row" else row.a_col), row.a_st
    else:
        base, stride = (row.b_row if axis == "row" else row.b_col), row.b_st
    return Affine(base, table[stride][: len(step.trips)])


class _At(Protocol):
    """Makes the access of an operand of the step at hand."""

    def __call__(
        self, operand: str, rows: tuple[int, int], cols: tuple[int, int], *, reads: bool, writes: bool
    ) -> Access: ...


Touched = tuple[Step, list[Access]]
"""A step and what it touches."""


def touched(decoded: Decoded, tables: Tables) -> list[list[Touched]]:
    """Per context, the steps that run with their operands in buffers, for all checks that ask where these are."""
    return [[(step, accesses(tables, step)) for step in steps] for steps in decoded.running]


def accesses(tables: Tables, step: Step) -> list[Access]:
    """The operands in buffers of a step whose fields are sound; host operators and recv, free have none."""
    row = step.row
    plain = (0, 0)
    block = (0, row.n * row.m)

    def at(
        operand: str, rows: tuple[int, int], cols: tuple[int, int], *, reads: bool, writes: bool
    ) -> Access:
        buffer = row.dst if operand == "dst" else row.a if operand == "a" else row.b
        return Access(
            operand,
            buffer,
            reads,
            writes,
            tables.row_address(step, operand),
            tables.col_address(step, operand),
            rows,
            cols,
        )

    if row.opcode in READS:
        window = tables.windows[row.imm]
        positions = row.m if row.opcode == Opcode.READ_CORE else 1
        gathered = _gathered(window, positions, window.pos_step, window.c, cut=True)
        return [
            at("a", *gathered, reads=True, writes=False),
            at("dst", plain, (0, row.n * positions), reads=row.func == 1, writes=True),
        ]
    if row.opcode == Opcode.WRITE_LOCAL:
        return [at("a", plain, (0, row.n * tables.set_columns[row.xb]), reads=True, writes=False)]
    if row.opcode == Opcode.ALU:
        return _alu(tables, row, at)
    if row.opcode == Opcode.COPY:
        n0, s0, d0, n1, s1, d1 = tables.copies[row.imm]
        return [
            at("a", plain, _reach((n0, s0), (n1, s1)), reads=True, writes=False),
            at("dst", plain, _reach((n0, d0), (n1, d1)), reads=False, writes=True),
        ]
    if row.opcode in (Opcode.SEND, Opcode.DMA_OUT):
        return [at("a", plain, block, reads=True, writes=False)]
    if row.opcode == Opcode.DMA_IN:
        return [at("dst", plain, block, reads=False, writes=True)]
    return []


def _alu(tables: Tables, row: Row, at: _At) -> list[Access]:
    function = FUNCTIONS[AluFunction(row.func)]
    plain, ints = (0, 0), tables.ints(row.imm) if function.ints else []

    def block(extent: Callable[[int, int, list[int]], int] | None) -> tuple[int, int]:
        return 0, row.n * row.m if extent is None else extent(row.n, row.m, ints)

    found: list[Access] = []
    if function.windowed:
        window = tables.windows[tables.ints(row.imm)[0]]
        found.append(at("a", *_gathered(window, row.m, window.pos_step, row.n), reads=True, writes=False))
    elif function.a:
        found.append(at("a", plain, block(function.extent_a), reads=True, writes=False))
    if function.b:
        found.append(at("b", plain, block(function.extent_b), reads=True, writes=False))
    summed = row.func == AluFunction.SUM_POSITIONS
    written = (0, row.n) if summed else block(function.extent_dst)
    found.append(at("dst", plain, written, reads=summed, writes=True))
    return found


def _gathered(
    window: Window, positions: int, pos_step: int, channels: int, *, cut: bool = False
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Row offsets and columns a window touches over its positions; ``cut``: [lo, hi) leaves out whole rows."""
    first, last = 0, window.kh - 1
    if cut:
        tap_row = window.kw * window.c
        first, last = window.lo // tap_row, -(-window.hi // tap_row) - 1
    rows = sorted((first * window.row_step, last * window.row_step))
    taps, reach = (window.kw - 1) * window.col_step, (positions - 1) * pos_step
    low = min(0, taps) + min(0, reach)
    high = max(0, taps) + max(0, reach) + channels
    return (rows[0], rows[1]), (low, high)


def _reach(*extents: tuple[int, int]) -> tuple[int, int]:
    low = sum(min(0, (n - 1) * s) for n, s in extents)
    high = sum(max(0, (n - 1) * s) for n, s in extents) + 1
    return low, high


def buffers_of(step: Step) -> list[tuple[str, int]]:
    """Operands that must name a buffer, whatever they name."""
    row = step.row
    if row.opcode in READS or row.opcode == Opcode.COPY:
        return [("dst", row.dst), ("a", row.a)]
    if row.opcode == Opcode.ALU:
        function = FUNCTIONS[AluFunction(row.func)]
        named = [("dst", row.dst), ("a", row.a), ("b", row.b)]
        types = (function.dst, function.a, function.b)
        return [pair for pair, legal in zip(named, types, strict=True) if legal]
    if row.opcode in (Opcode.SEND, Opcode.RECV, Opcode.FREE, Opcode.DMA_OUT, Opcode.WRITE_LOCAL):
        return [("a", row.a)]
    if row.opcode == Opcode.DMA_IN:
        return [("dst", row.dst)]
    return []
