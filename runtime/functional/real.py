"""Digital functions on real values bound to one context; arithmetic from ``runtime.numerics``.

Constants of a record lie along rows, positions and channels with a stride each, 0 where they do not vary:
element (p, q) of row ``b_row`` takes ``f[b_row*row_step + p*pos_step + (b_col + q)*chan_step]``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cimc.runtime.functional.alu import Access, Action, AluRow
from cimc.runtime.functional.problems import BoundsError, ExecutionError
from cimc.runtime.numerics import digital as numerics
from cimc.runtime.program.opcodes import AluFunction

Binder = Callable[[AluRow], Action]

SUFFIX = "_constant"
"""Ends the names of functions whose second operand stands in the record."""


def bind_unary(op: AluRow) -> Action:
    """A function of each element; its parameters are the record's floats."""
    name = AluFunction(op.row.func).name.lower()
    wanted = numerics.UNARY_PARAMETERS[name]
    parameters = tuple(float(v) for v in op.constants.take_floats(wanted))
    op.floats()
    a, dst = op.a(), op.dst()

    def action() -> None:
        dst()[:] = numerics.unary(name, a(), parameters)

    return action


def bind_binary(op: AluRow) -> Action:
    """A function of the elements of two buffers."""
    name = AluFunction(op.row.func).name.lower()
    op.floats()
    a, b, dst = op.a(), op.b(), op.dst()

    def action() -> None:
        dst()[:] = numerics.binary(name, a(), b())

    return action


def bind_with_constant(op: AluRow) -> Action:
    """A function of a buffer's elements and the record's; ``swapped``: the record's come first."""
    name = AluFunction(op.row.func).name.lower().removesuffix(SUFFIX)
    swapped = bool(op.constants.take_ints(5)[4])
    op.floats()
    values, a, dst, shape = _row_constants(op), op.a(), op.dst(), (op.m, op.n)

    def action() -> None:
        pair = (a().reshape(shape), values())
        dst()[:] = numerics.binary(name, *(pair[::-1] if swapped else pair)).reshape(-1)

    return action


def bind_constant(op: AluRow) -> Action:
    """The record's elements themselves."""
    op.floats()
    values, dst, shape = _row_constants(op), op.dst(), (op.m, op.n)

    def action() -> None:
        dst()[:] = np.broadcast_to(values(), shape).reshape(-1)

    return action


def _row_constants(op: AluRow) -> Access:
    """The record's floats for the row at hand, (positions, channels) or an extent of 1 where they do not vary."""
    size, row_step, pos_step, chan_step = op.constants.take_ints(4)
    floats = op.constants.floats
    if len(floats) != size or min(row_step, pos_step, chan_step) < 0 or size < 1:
        raise ExecutionError(f"{size} constants are stated with steps, the record has {len(floats)}")
    row, first = op.frame.b_row(op.row), op.frame.b_col(op.row)
    m, n = op.m if pos_step else 1, op.n if chan_step else 1
    span = (m - 1) * pos_step + (n - 1) * chan_step + 1
    strides = (pos_step * floats.itemsize, chan_step * floats.itemsize)

    def values() -> npt.NDArray[np.float32]:
        start = row() * row_step + first() * chan_step
        if start < 0 or start + span > size:
            raise BoundsError(f"constants {start} … {start + span - 1} of {size} are used")
        return np.ndarray(
            (m, n), floats.dtype, np.ascontiguousarray(floats[start : start + span]), 0, strides
        )

    return values


def _channel_vectors(op: AluRow, count: int) -> list[npt.NDArray[np.float32]]:
    """``count`` vectors over all channels behind the record's first float."""
    (channels,) = op.constants.take_ints(1)
    floats = op.constants.floats
    if channels != op.n or len(floats) != 1 + count * channels:
        raise ExecutionError(
            f"{op.n} channels are normalised, the record has {channels} and {len(floats)} floats"
        )
    return [floats[1 + i * channels : 1 + (i + 1) * channels] for i in range(count)]


def bind_layer_norm(op: AluRow) -> Action:
    """Layer norm over the channels of each position."""
    scale, bias = _channel_vectors(op, 2)
    epsilon = float(op.constants.floats[0])
    op.floats()
    a, dst, shape = op.a(), op.dst(), (op.m, op.n)

    def action() -> None:
        dst()[:] = numerics.layer_norm(a().reshape(shape), scale, bias, epsilon).reshape(-1)

    return action


def bind_rms_norm(op: AluRow) -> Action:
    """RMS norm over the channels of each position."""
    (scale,) = _channel_vectors(op, 1)
    epsilon = float(op.constants.floats[0])
    op.floats()
    a, dst, shape = op.a(), op.dst(), (op.m, op.n)

    def action() -> None:
        dst()[:] = numerics.rms_norm(a().reshape(shape), scale, epsilon).reshape(-1)

    return action


def bind_local_response_norm(op: AluRow) -> Action:
    """LRN over the channels of each position."""
    (size,) = op.constants.take_ints(1)
    alpha, beta, bias = (float(v) for v in op.constants.take_floats(3))
    op.floats()
    a, dst, shape = op.a(), op.dst(), (op.m, op.n)

    def action() -> None:
        dst()[:] = numerics.local_response_norm(a().reshape(shape), size, alpha, beta, bias).reshape(-1)

    return action


def bind_reduce(op: AluRow) -> Action:
    """The channels of each position to one value."""
    name = AluFunction(op.row.func).name.lower()
    op.floats()
    a, dst, shape = op.a(), op.dst(op.m), (op.m, op.n)

    def action() -> None:
        dst()[:] = numerics.reduce_row(name, a().reshape(shape)).reshape(-1)

    return action


def bind_lookup(op: AluRow) -> Action:
    """A row of the record's table for each position's index."""
    rows, channels = op.constants.take_ints(2)
    if channels != op.n or len(op.constants.floats) != rows * channels:
        raise ExecutionError(
            f"a table of {rows} x {channels} is stated for {op.n} channels, the record has "
            f"{len(op.constants.floats)} floats"
        )
    table = op.constants.floats.reshape(rows, channels)
    op.floats()
    a, dst = op.a(op.m), op.dst()

    def action() -> None:
        try:
            dst()[:] = numerics.lookup(table, a()).reshape(-1)
        except ValueError as error:
            raise ExecutionError(str(error)) from error

    return action


def bind_matmul(op: AluRow) -> Action:
    """Rows of a by a matrix of b, element (k, q) at ``col + k*row_step + q*col_step``."""
    depth, row_step, col_step = op.constants.take_ints(3)
    if depth < 1 or min(row_step, col_step) < 0:
        raise ExecutionError(f"a matrix of {depth} rows with the steps {row_step}, {col_step}")
    op.floats()
    span = (depth - 1) * row_step + (op.n - 1) * col_step + 1
    a, b, dst, m, n = op.a(op.m * depth), op.b(span), op.dst(), op.m, op.n

    def action() -> None:
        held = np.ascontiguousarray(b())
        strides = (row_step * held.itemsize, col_step * held.itemsize)
        matrix = np.ndarray((depth, n), held.dtype, held, 0, strides)
        dst()[:] = numerics.matmul_float(a().reshape(m, depth), matrix).reshape(-1)

    return action


def _named(names: list[str], binder: Binder) -> dict[AluFunction, Binder]:
    return dict.fromkeys((AluFunction[name.upper()] for name in names), binder)


BINDERS: dict[AluFunction, Binder] = {
    **_named(list(numerics.UNARY_PARAMETERS), bind_unary),
    **_named([name for name in numerics.BINARY if name != "add"], bind_binary),
    **_named([name + SUFFIX for name in numerics.BINARY], bind_with_constant),
    **_named(list(numerics.REDUCTIONS), bind_reduce),
    AluFunction.CONSTANT: bind_constant,
    AluFunction.LAYER_NORM: bind_layer_norm,
    AluFunction.RMS_NORM: bind_rms_norm,
    AluFunction.LOCAL_RESPONSE_NORM: bind_local_response_norm,
    AluFunction.LOOKUP: bind_lookup,
    AluFunction.MATMUL: bind_matmul,
}
"""By digital function."""
