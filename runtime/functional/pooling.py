"""The windowed digital functions: every tap of the windows of a row as one slab, then the library's pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.functional.alu import Access, Action, AluRow
from cimc.runtime.functional.gather import WindowShape, row_taps, window_shape
from cimc.runtime.functional.problems import BoundsError, ExecutionError
from cimc.runtime.numerics import digital as numerics


def _taps(op: AluRow, shape: WindowShape) -> tuple[Access, numerics.Window]:
    """(kh*kw, m, n) cells of all windows, taps in row-major order, and the pool over the first axis."""
    operand = op.frame.a(op.row)
    buffer, counters = operand.buffer, op.frame.counters
    row, col = operand.row.bind(counters), operand.col.bind(counters)
    kh, kw, m, n = shape.kh, shape.kw, op.m, op.n
    kind = buffer.data.dtype

    def access() -> npt.NDArray[Any]:
        at_row, at_col = row(), col()
        taps = np.empty((kh, kw, m, n), kind)
        for i in range(kh):
            taps[i] = row_taps(buffer, at_row + i * shape.row_step, at_col, shape, m, shape.pos_step, n)
        return taps.reshape(kh * kw, m, n)

    return access, numerics.Window((0,), (kh * kw,), (1,), (0,), (0,), (1,))


def bind_max_pool(op: AluRow) -> Action:
    """The greatest code or value of each window; codes are clamped to lo … hi."""
    number, lo, hi = op.constants.take_ints(3)
    taps, pool = _taps(op, window_shape(op.frame.program, number))
    kind, dst = op.kind, op.dst()
    if op.frame.a(op.row).buffer.data.dtype != kind:
        raise BoundsError(f"max_pool keeps the element type, the destination holds {kind}")

    def codes() -> None:
        best = numerics.max_pool_codes(taps(), pool, 0)
        dst()[:] = numerics.clip_codes(best, lo, hi).reshape(-1)

    def floats() -> None:
        dst()[:] = numerics.max_pool_float(taps(), pool).reshape(-1)

    return floats if kind == np.float32 else codes


def bind_average_pool(op: AluRow) -> Action:
    """Rule 9 over each window, padding cells hold the zero point."""
    number, zx, zy, lo, hi = op.constants.take_ints(5)
    sx, sy = op.constants.take_floats(2)
    taps, pool = _taps(op, window_shape(op.frame.program, number))
    counts = _counts(op, 5)
    kind, dst, shape = op.codes(lo, hi), op.dst(), (op.m, op.n)

    def action() -> None:
        sums = numerics.window_sums(taps(), zx, pool).reshape(shape)
        codes = numerics.average_codes(sums, counts(), sx, sy, zy, lo, hi, dtype=kind)
        dst()[:] = codes.reshape(-1)

    return action


def bind_average_pool_float(op: AluRow) -> Action:
    """Rule 11's mean of each window, padding cells hold 0."""
    number = op.constants.take_ints(1)[0]
    taps, _ = _taps(op, window_shape(op.frame.program, number))
    counts = _counts(op, 1)
    op.floats()
    dst = op.dst()

    def action() -> None:
        total = numerics.halving_tree_sum(taps().astype(np.float64), axis=0)
        dst()[:] = (total / counts()).astype(np.float32).reshape(-1)

    return action


def _counts(op: AluRow, skip: int) -> Callable[[], npt.NDArray[np.int64]]:
    """(m, 1) cells counted by the windows of this output row: rows[r] * cols[p], behind ``skip`` integers."""
    high, wide = op.constants.take_ints(skip + 2)[skip:]
    table = op.constants.ints[skip + 2 :]
    if len(table) != high + wide or wide < op.m:
        raise ExecutionError(
            f"counts for {high} rows and {wide} columns are stated, the record has {len(table)}"
        )
    rows, cols = table[:high], table[high : high + op.m, None]
    row = op.frame.b_row(op.row)

    def counts() -> npt.NDArray[np.int64]:
        r = row()
        if not 0 <= r < high:
            raise BoundsError(f"output row {r} of a pool with {high} rows")
        return cols * rows[r]

    return counts
