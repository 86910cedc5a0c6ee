"""The digital functions bound to one context: operands by address, arithmetic from ``runtime.numerics``.

Each binder takes the row apart once and returns an action over whole row slices. Positions and
channels are contiguous: element (p, q) at ``col + p*n + q``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.functional.alu import Action, AluRow, record_constants
from cimc.runtime.functional.fields import Frame
from cimc.runtime.functional.pooling import bind_average_pool, bind_average_pool_float, bind_max_pool
from cimc.runtime.functional.problems import BoundsError, ExecutionError, OverflowingError
from cimc.runtime.functional.real import BINDERS as REAL_BINDERS
from cimc.runtime.numerics import digital as numerics
from cimc.runtime.program.opcodes import AluFunction
from cimc.runtime.program.rows import Row


def bind_alu(frame: Frame, row: Row) -> Action:
    """The action of an ``alu`` row. ExecutionError for an unknown function or a record that does not fit."""
    try:
        binder = _BINDERS[AluFunction(row.func)]
    except ValueError as error:
        raise ExecutionError(f"digital function {row.func} does not exist") from error
    if row.n < 1 or row.m < 1:
        raise BoundsError(f"a digital function covers {row.n} channels x {row.m} positions")
    return binder(
        AluRow(frame, row, record_constants(frame.program, row.imm), frame.program.name_of(row.node))
    )


def _fill(op: AluRow) -> Action:
    (value,) = op.constants.take_ints(1)
    kind, dst = op.kind, op.dst()
    if kind == np.float32:  # a float stands as its bit pattern, as the pad of a ring
        number: Any = np.array(value, np.int64).astype(np.int32).view(np.float32)[()]
    else:
        op.codes(value, value)
        number = value

    def action() -> None:
        dst()[:] = number

    return action


def _add_int(op: AluRow) -> Action:
    a, b, dst, kind = op.a(), op.b(), op.dst(), op.kind
    if kind.kind not in "iu":
        raise BoundsError(f"an integer sum is written to a buffer of {kind}")
    limits = np.iinfo(kind)

    def action() -> None:
        total = np.add(a(), b(), dtype=np.int64)
        if kind.itemsize < 8 and (total.min() < limits.min or total.max() > limits.max):
            raise OverflowingError(f"sums of {total.min()} … {total.max()} do not fit {kind}")
        dst()[:] = total

    return action


def _column_constants(
    op: AluRow, skip: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], Callable[[], int]]:
    """const[N], m[N] and q0 of ``requantise`` and ``acc_to_float``; N is integer number ``skip`` - 1."""
    size = op.constants.take_ints(skip)[-1]
    const, factor = op.constants.ints[skip:], op.constants.floats
    if size < 1 or len(const) != size or len(factor) != size:
        raise ExecutionError(
            f"{size} columns are stated, the record has {len(const)} constants, {len(factor)} factors"
        )
    first = op.frame.b_col(op.row)

    def start() -> int:
        q0 = first()
        if q0 < 0 or q0 + op.n > size:
            raise BoundsError(f"columns {q0} … {q0 + op.n - 1} of {size} are used")
        return q0

    return const, factor, start


def _requantise(op: AluRow) -> Action:
    zero, lo, hi, _ = op.constants.take_ints(4)
    const, factor, start = _column_constants(op, 4)
    a, dst, kind, shape, n = op.a(), op.dst(), op.codes(lo, hi), (op.m, op.n), op.n

    def action() -> None:
        q0 = start()
        total = a().reshape(shape) + const[q0 : q0 + n]
        codes = numerics.requantise_acc(total, factor[q0 : q0 + n], zero, lo, hi, dtype=kind)
        dst()[:] = codes.reshape(-1)

    return action


def _acc_to_float(op: AluRow) -> Action:
    const, factor, start = _column_constants(op, 1)
    op.floats()
    a, dst, shape, n = op.a(), op.dst(), (op.m, op.n), op.n

    def action() -> None:
        q0 = start()
        total = a().reshape(shape) + const[q0 : q0 + n]
        dst()[:] = numerics.acc_to_float(total, factor[q0 : q0 + n]).reshape(-1)

    return action


def _add_codes(op: AluRow) -> Action:
    za, zb, zy, lo, hi = op.constants.take_ints(5)
    sa, sb, sy = op.constants.take_floats(3)
    a, b, dst, kind = op.a(), op.b(), op.dst(), op.codes(lo, hi)

    def action() -> None:
        dst()[:] = numerics.add_codes(a(), sa, za, b(), sb, zb, sy, zy, lo, hi, dtype=kind)

    return action


def _bounds(op: AluRow) -> tuple[float | None, float | None]:
    """The bounds of a clip; an infinite one is none."""
    lo, hi = (float(v) for v in op.constants.take_floats(2))
    return (None if math.isinf(lo) else lo), (None if math.isinf(hi) else hi)


def _add_float(op: AluRow) -> Action:
    lo, hi = _bounds(op)
    op.floats()
    a, b, dst = op.a(), op.b(), op.dst()

    def add() -> None:
        dst()[:] = numerics.add_float(a(), b())

    def add_and_clip() -> None:
        dst()[:] = numerics.clip_float(numerics.add_float(a(), b()), lo, hi)

    return add if lo is None and hi is None else add_and_clip


def _clamp_codes(op: AluRow) -> Action:
    lo, hi = op.constants.take_ints(2)
    op.codes(lo, hi)
    a, dst = op.a(), op.dst()

    def action() -> None:
        dst()[:] = numerics.clip_codes(a(), lo, hi)

    return action


def _clip_float(op: AluRow) -> Action:
    lo, hi = _bounds(op)
    op.floats()
    a, dst = op.a(), op.dst()

    def action() -> None:
        dst()[:] = numerics.clip_float(a(), lo, hi)

    return action


def _quantise(op: AluRow) -> Action:
    zero, lo, hi = op.constants.take_ints(3)
    (scale,) = op.constants.take_floats(1)
    a, dst, kind, name = op.a(), op.dst(), op.codes(lo, hi), op.name

    def action() -> None:
        dst()[:] = numerics.quantise(a(), scale, zero, lo, hi, dtype=kind, tensor=name)

    return action


def _dequantise(op: AluRow) -> Action:
    (zero,) = op.constants.take_ints(1)
    (scale,) = op.constants.take_floats(1)
    op.floats()
    a, dst = op.a(), op.dst()

    def action() -> None:
        dst()[:] = numerics.dequantise(a(), scale, zero)

    return action


def _requantise_codes(op: AluRow) -> Action:
    za, zy, lo, hi = op.constants.take_ints(4)
    sa, sy = op.constants.take_floats(2)
    a, dst, kind = op.a(), op.dst(), op.codes(lo, hi)

    def action() -> None:
        dst()[:] = numerics.requantise_codes(a(), sa, za, sy, zy, lo, hi, dtype=kind)

    return action


def _mean_codes(op: AluRow) -> Action:
    count, zero, lo, hi = op.constants.take_ints(4)
    sx, sy = op.constants.take_floats(2)
    a, dst, kind = op.a(), op.dst(), op.codes(lo, hi)

    def action() -> None:
        dst()[:] = numerics.average_codes(a(), count, sx, sy, zero, lo, hi, dtype=kind)

    return action


def _sum_positions(op: AluRow) -> Action:
    (zero,) = op.constants.take_ints(1)
    if op.kind != np.int64:
        raise BoundsError(f"positions are summed in int64, the destination holds {op.kind}")
    a, old, dst, shape = op.a(), op.old_dst(), op.dst(op.n), (op.m, op.n)
    offset = zero * op.m

    def action() -> None:
        total = a().reshape(shape).sum(axis=0, dtype=np.int64)
        total += old()
        total -= offset
        dst()[:] = total

    return action


def _softmax(op: AluRow) -> Action:
    op.floats()
    a, dst, shape = op.a(), op.dst(), (op.m, op.n)

    def action() -> None:
        dst()[:] = numerics.softmax(a().reshape(shape)).reshape(-1)

    return action


_BINDERS: dict[AluFunction, Callable[[AluRow], Action]] = {
    AluFunction.FILL: _fill,
    AluFunction.ADD_INT: _add_int,
    AluFunction.REQUANTISE: _requantise,
    AluFunction.ACC_TO_FLOAT: _acc_to_float,
    AluFunction.ADD_CODES: _add_codes,
    AluFunction.ADD_FLOAT: _add_float,
    AluFunction.CLAMP_CODES: _clamp_codes,
    AluFunction.CLIP_FLOAT: _clip_float,
    AluFunction.QUANTISE: _quantise,
    AluFunction.DEQUANTISE: _dequantise,
    AluFunction.REQUANTISE_CODES: _requantise_codes,
    AluFunction.MAX_POOL: bind_max_pool,
    AluFunction.AVERAGE_POOL: bind_average_pool,
    AluFunction.AVERAGE_POOL_FLOAT: bind_average_pool_float,
    AluFunction.SUM_POSITIONS: _sum_positions,
    AluFunction.MEAN_CODES: _mean_codes,
    AluFunction.SOFTMAX: _softmax,
    **REAL_BINDERS,
}
