"""Fields of an instruction in one context: parameters resolved, addresses as functions of the loop counters.

A body is decoded once per context: what is constant there becomes a constant, so that executing a row
costs a call and not a look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cimc.runtime.functional.memory import Buffer, Ring
from cimc.runtime.functional.problems import BoundsError, ExecutionError
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import LEVELS, NONE, Program, is_parameter, parameter_index

IMMEDIATE = frozenset(("opcode", "func", "node", "dst_st", "a_st", "b_st"))
"""Fields that never name a parameter."""


@dataclass(frozen=True)
class Linear:
    """``base + sum over levels of step * counter``: a row or column of an operand."""

    base: int
    terms: tuple[tuple[int, int], ...] = ()
    """(loop level, step), steps not 0."""

    def bind(self, counters: list[int]) -> Callable[[], int]:
        """A function that gives the value at the present counters."""
        base = self.base
        if not self.terms:
            return lambda: base
        if len(self.terms) == 1:
            ((level, step),) = self.terms
            return lambda: base + step * counters[level]
        terms = self.terms
        return lambda: base + sum(step * counters[level] for level, step in terms)

    def step(self, level: int) -> int:
        """What one iteration of the loop at ``level`` adds."""
        return dict(self.terms).get(level, 0)

    def without(self, level: int) -> Linear:
        """The value at iteration 0 of the loop at ``level``."""
        return Linear(self.base, tuple(t for t in self.terms if t[0] != level))


@dataclass(frozen=True)
class Operand:
    """A buffer and the address in it."""

    buffer: Buffer
    row: Linear
    col: Linear


class ProgramRows:
    """Bodies, strides and parameters of a program as plain integers, read once."""

    def __init__(self, program: Program):
        columns = [program["instructions"][name].tolist() for name in Row._fields]
        self.instructions = [Row(*values) for values in zip(*columns, strict=True)]
        self.first: list[int] = program["bodies"]["first"].tolist()
        self.count: list[int] = program["bodies"]["count"].tolist()
        self.row_strides: list[list[int]] = program["strides"]["row"].tolist()
        self.col_strides: list[list[int]] = program["strides"]["col"].tolist()
        self.params: list[int] = program["params"]["value"].tolist()

    def body(self, number: int) -> list[Row]:
        """The rows of a body."""
        first = self.first[number]
        return self.instructions[first : first + self.count[number]]

    def resolve(self, row: Row, first: int, count: int) -> Row:
        """The row with parameters [first, first + count) put in. ExecutionError for one that does not exist."""
        if min(row) >= NONE:
            return row
        values: dict[str, int] = {}
        for name, value in zip(Row._fields, row, strict=True):
            if name in IMMEDIATE or not is_parameter(value):
                continue
            index = parameter_index(value)
            if index >= count:
                raise ExecutionError(f"field {name} names parameter {index}, the context has {count}")
            values[name] = self.params[first + index]
        return row._replace(**values)

    def row_address(self, base: int, stride: int, depth: int) -> Linear:
        """A row address under ``depth`` loops; strides of loops further inside do not apply."""
        return _linear(base, self.row_strides, stride, depth)

    def col_address(self, base: int, stride: int, depth: int) -> Linear:
        """A column address under ``depth`` loops."""
        return _linear(base, self.col_strides, stride, depth)


def _linear(base: int, table: list[list[int]], stride: int, depth: int) -> Linear:
    if stride == 0:
        return Linear(base)
    if not 0 <= stride < len(table):
        raise BoundsError(f"stride {stride} is named, the table has {len(table)}")
    steps = table[stride]
    return Linear(base, tuple((level, steps[level]) for level in range(min(depth, LEVELS)) if steps[level]))


@dataclass
class Frame:
    """What the rows of one context are bound against; ``depth`` is that of the row being bound."""

    program: Program
    rows: ProgramRows
    buffers: list[Buffer]
    counters: list[int]
    depth: int = 0
    image_loop: bool = False
    """Whether the outermost loop around the row counts images."""

    def dst(self, row: Row) -> Operand:
        """The destination operand."""
        return self._operand(row.dst, row.dst_row, row.dst_col, row.dst_st)

    def a(self, row: Row) -> Operand:
        """The first source operand."""
        return self._operand(row.a, row.a_row, row.a_col, row.a_st)

    def b(self, row: Row) -> Operand:
        """The second source operand."""
        return self._operand(row.b, row.b_row, row.b_col, row.b_st)

    def b_row(self, row: Row) -> Callable[[], int]:
        """``b_row`` as a plain number."""
        return self.rows.row_address(row.b_row, row.b_st, self.depth).bind(self.counters)

    def b_col(self, row: Row) -> Callable[[], int]:
        """``b_col`` as a plain number."""
        return self.rows.col_address(row.b_col, row.b_st, self.depth).bind(self.counters)

    def ring(self, number: int) -> Ring:
        """A ring by number. BoundsError for anything else."""
        buffer = self._buffer(number)
        if not isinstance(buffer, Ring):
            raise BoundsError(f"{buffer.label} is used as a ring")
        return buffer

    def image(self) -> Callable[[], int]:
        """The image index: counter 0 of a context whose outermost loop counts images, 0 outside loops."""
        if self.depth and not self.image_loop:
            raise ExecutionError(
                "send, dma_in and dma_out take the image from counter 0, but the outermost loop counts no images"
            )
        counters = self.counters
        return (lambda: counters[0]) if self.depth else (lambda: 0)

    def _operand(self, buffer: int, row: int, col: int, stride: int) -> Operand:
        rows = self.rows
        return Operand(
            self._buffer(buffer),
            rows.row_address(row, stride, self.depth),
            rows.col_address(col, stride, self.depth),
        )

    def _buffer(self, number: int) -> Buffer:
        if not 0 <= number < len(self.buffers):
            raise BoundsError(f"buffer {number} is named, the program has {len(self.buffers)}")
        return self.buffers[number]
