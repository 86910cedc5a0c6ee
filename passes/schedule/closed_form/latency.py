"""Closed-form latency of a list of operators, all columns of the published table (docs/scheduling.md).

Cycles. ``r`` is when an operator may begin, ``e`` when it ends, ``g`` and ``q`` its loads over the chip's and the
core's bus, ``m`` its copies. Every ceiling is of the exact rational value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Literal

from cimc.passes.schedule.closed_form.operators import Machine, Operator, ceil_div

Loads = Literal["one", "balanced", "balanced-always", "crossbar", "wordline"]


@dataclass(frozen=True)
class Column:
    """What one pipelined column of the table counts."""

    loads: Loads
    """Bytes an operator loads over the chip's bus before it begins."""
    whole_input: bool
    """Whether the first operator loads its whole input, or its first window's rows."""
    whole_windows: bool
    """Whether the window of a consumer is rounded up and its first result is stored once a copy."""
    wordline: bool = False
    """Exact row groups; one crossbar's columns stored."""
    beta: bool = False
    """The two unexplained terms of the authors' beta: the factor 0.95 and the credit for split inputs."""


CG_PIPELINE = Column("one", whole_input=False, whole_windows=False)
CG_BOTH = Column("balanced", whole_input=True, whole_windows=False)
MVM_DUPLICATION = Column("balanced-always", whole_input=True, whole_windows=True)
MVM_PIPELINE = Column("crossbar", whole_input=True, whole_windows=True)
VVM = Column("wordline", whole_input=True, whole_windows=True, wordline=True, beta=True)
VVM_PLAIN = Column("wordline", whole_input=True, whole_windows=True, wordline=True)


def serial(ops: Sequence[Operator], machine: Machine, copies: Sequence[int] | None = None) -> int:
    """One operator after the other. No ``copies``: one each that loads one window; else each loads its whole input."""
    total, channels, last = 0, (0, 0), 1
    chip, core = machine.chip_bus, machine.core_bus
    for i, op in enumerate(ops):
        n = 1 if copies is None else copies[i]
        if op.is_pool:
            total += ceil_div(channels[0] * last, chip) + ceil_div(op.work, machine.alu)
            total += ceil_div(channels[1], chip)
            continue
        channels, last = (op.inputs, op.outputs), n
        loaded = op.inputs if copies is None else op.height**2 * op.inputs
        total += ceil_div(loaded, chip) + ceil_div(op.depth, core)
        total += ceil_div(op.work, n) * machine.row_groups
        total += ceil_div(op.outputs, core) + ceil_div(op.outputs * n, chip)
    return total


@dataclass(frozen=True)
class _State:
    """An operator in the pipeline."""

    op: Operator
    ready: int
    load: int
    core_load: int
    end: Fraction
    copies: int
    groups: int


def pipelined(
    ops: Sequence[Operator],
    machine: Machine,
    column: Column,
    copies: Sequence[int],
    balanced: Sequence[int] | None = None,
) -> int:
    """Operators overlap: each begins when its first window is there and ends after its producer's last row.

    ``copies``: one entry an operator, those of pools unused. ``balanced``: the copies that loads count in the columns
    that need them (default: ``copies``). Only the factor of :data:`VVM` leaves anything to round, to the nearest cycle.
    """
    balanced = copies if balanced is None else balanced
    form = _Pipeline(machine, column)
    state = form.first(ops[0], copies[0])
    last, fed = state, balanced[0]
    for op, m, b in zip(ops[1:], copies[1:], balanced[1:], strict=True):
        if op.is_pool:
            state = form.pool(op, state, last)
            continue
        state = form.convolution(op, m, state, fed)
        last, fed = state, b
    return round(state.end)


@dataclass(frozen=True)
class _Pipeline:
    """The formulas of a column on a machine."""

    machine: Machine
    column: Column

    def first(self, op: Operator, m: int) -> _State:
        """The convolution that opens the list."""
        pixels = op.height**2 if self.column.whole_input else op.height * (op.kernel - 1) + op.kernel
        load, core = ceil_div(pixels * op.inputs, self.machine.chip_bus), self._core_load(op)
        groups = self._groups(op)
        end = load + core + ceil_div(op.work, m) * groups + self._store(op, m)
        return _State(op, 0, load, core, Fraction(end), m, groups)

    def convolution(self, op: Operator, m: int, before: _State, fed: int) -> _State:
        """A convolution after ``before``; ``fed``: balanced copies of the last convolution."""
        after_pool = before.op.is_pool
        column, groups = self.column, self._groups(op)
        ready = before.ready + (self._after_pool(op, before) if after_pool else self._after(op, before))
        load = self._load(op, fed, after_pool=after_pool)
        core = 0 if after_pool and column.wordline else self._core_load(op)
        body = Fraction(ceil_div(op.work, m) * groups) * (Fraction(95, 100) if column.beta else 1)
        credit = 0
        if column.beta and not after_pool:
            credit = groups - ceil_div(groups, ceil_div(op.inputs, self.machine.columns))
        row = ceil_div(op.work, op.height * m) * groups
        end = max(ready + load + core + body, before.end + row - credit) + self._store(op, m)
        return _State(op, ready, load, core, end, m, groups)

    def pool(self, op: Operator, before: _State, last: _State) -> _State:
        """A pool after ``before``; ``last``: the last convolution."""
        machine, work = self.machine, ceil_div(op.work, self.machine.alu)
        if self.column.loads == "one":
            step = before.load + ceil_div(before.op.work * 4, last.op.height**2) * machine.row_groups
            ready, load = before.ready + step, ceil_div(last.op.inputs, machine.chip_bus)
            end = max(ready + work, before.end + 1) + ceil_div(last.op.outputs, machine.chip_bus)
            return _State(op, ready, load, 0, Fraction(end), last.copies, 0)
        window = (
            Fraction(ceil(Fraction(op.height * (op.kernel - 1), last.copies) + op.kernel))
            if self.column.whole_windows
            else Fraction(op.height * op.kernel, last.copies)
        )
        step = before.load + ceil(before.op.work * window / op.height**2) * before.groups
        ready, load = before.ready + step, ceil_div(op.inputs * last.copies, machine.core_bus)
        row = ceil_div(4 * op.outputs, machine.alu)
        end = max(ready + work, before.end + row) + ceil_div(op.outputs, machine.chip_bus)
        return _State(op, ready, load, 0, Fraction(end), last.copies, 0)

    def _after(self, op: Operator, before: _State) -> int:
        """From the producing convolution's beginning to the first window of ``op``."""
        window = Fraction(op.height * (op.kernel - 1), before.copies) + op.kernel
        stored = 1
        if self.column.whole_windows:
            window, stored = Fraction(ceil(window)), before.copies
        made = ceil(before.op.work * window / op.height**2) * before.groups
        store = ceil_div(self._stored(op) * stored, self.machine.chip_bus)
        return before.load + before.core_load + made + store

    def _after_pool(self, op: Operator, before: _State) -> int:
        pixels = op.height * (op.kernel - 1) + op.kernel
        return before.load + ceil_div(before.op.work * pixels, op.height**2 * self.machine.alu)

    def _load(self, op: Operator, fed: int, *, after_pool: bool) -> int:
        match self.column.loads:
            case "one":
                count = op.inputs
            case "balanced":
                count = op.inputs * (1 if after_pool else fed)
            case "balanced-always":
                count = op.inputs * fed
            case "crossbar":
                count = min(self.machine.rows, op.depth if after_pool else op.inputs)
            case "wordline":
                count = min(self.machine.parallel_rows, op.depth)
        return ceil_div(count, self.machine.chip_bus)

    def _core_load(self, op: Operator) -> int:
        whole = self.machine.rows * self.machine.core_crossbars
        count = min(op.depth, whole) if self.column.whole_windows else op.depth
        return ceil_div(count, self.machine.core_bus)

    def _stored(self, op: Operator) -> int:
        return min(self.machine.columns, op.outputs) if self.column.wordline else op.outputs

    def _store(self, op: Operator, m: int) -> int:
        stored = self._stored(op)
        return ceil_div(stored, self.machine.core_bus) + ceil_div(stored * m, self.machine.chip_bus)

    def _groups(self, op: Operator) -> int:
        if not self.column.wordline:
            return self.machine.row_groups
        return self.machine.exact_row_groups(op)
