"""Float32 functions executed from a program, against numpy written out here from docs/isa.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from cimc.runtime.functional import ExecutionError
from cimc.runtime.program import AluFunction, Element
from cimc.runtime.program.rows import At, Row, alu

if TYPE_CHECKING:
    from tests.functional.conftest import Micro

NewMicro = Callable[..., "Micro"]
Array = npt.NDArray[Any]

ROWS, COLS, CHANNELS = 3, 4, 5


def stage(
    m: Micro,
    x: Array,
    rows: Callable[[At, At], list[Row]],
    channels: int = CHANNELS,
    element: Element = Element.F32,
) -> Array:
    """One digital stage over the rows of ``x`` (frames, rows, cols, channels); the result alike."""
    _, high, wide, given = x.shape
    out = m.sink("y", high, wide, channels, element)
    ring = m.plain_ring(0, high, wide, given, Element.of(x.dtype))
    m.source("x", high, wide, given, [m.route(ring, wide, given)], Element.of(x.dtype))
    target = At(m.local(0, element, 1, wide * channels))
    inner = rows(target, At(ring))
    m.stage("stage", 0, high, inner, [ring], target, [m.route(out, wide, channels)], channels, wide)
    return np.moveaxis(m.run({"x": x}).outputs["y"], 1, -1)


def image(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    """Random rows (2, ROWS, COLS, CHANNELS) unless a shape is given."""
    return rng.normal(size=shape or (2, ROWS, COLS, CHANNELS)).astype(np.float32)


@pytest.mark.parametrize("varies", [(1, 1, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 0, 1), (0, 0, 0)])
def test_constants_broadcast_by_row_position_and_channel(
    new_micro: NewMicro, rng: np.random.Generator, varies: Sequence[int]
) -> None:
    """Each step of the record is the constant's own, or 0; the row is that of the loop around."""
    m = new_micro()
    x = image(rng)
    shape = tuple(n if v else 1 for n, v in zip((ROWS, COLS, CHANNELS), varies, strict=True))
    constant = image(rng, *shape)
    steps = [s // 4 if n > 1 else 0 for s, n in zip(constant.strides, shape, strict=True)]
    record = m.builder.add_record([constant.size, *steps, 1], constant.reshape(-1))
    number = At(-1, 0, 0, m.builder.add_stride((0, 1)))

    def rows(dst: At, a: At) -> list[Row]:
        return [
            alu(AluFunction.SUB_CONSTANT, dst, a, number, n=CHANNELS, m=COLS, record=record),
        ]

    np.testing.assert_array_equal(stage(m, x, rows), constant - x)


def test_constants_outside_the_record_are_found(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """A channel offset that leaves the record names the constants used."""
    m = new_micro()
    record = m.builder.add_record([CHANNELS, 0, 0, 1, 0], np.ones(CHANNELS))

    def rows(dst: At, a: At) -> list[Row]:
        return [alu(AluFunction.MUL_CONSTANT, dst, a, At(-1, 0, 1), n=CHANNELS, m=COLS, record=record)]

    with pytest.raises(ExecutionError, match=r"constants 1 … 5 of 5 are used"):
        stage(m, image(rng), rows)


def test_reductions_give_one_channel(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """``reduce_max``: n channels of each of m positions become m elements."""
    m = new_micro()
    x = image(rng)

    def rows(dst: At, a: At) -> list[Row]:
        return [alu(AluFunction.REDUCE_MAX, dst, a, n=CHANNELS, m=COLS)]

    np.testing.assert_array_equal(stage(m, x, rows, channels=1), x.max(axis=-1, keepdims=True))


def test_a_layer_norm_needs_all_its_channels(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """Scale and bias of another number of channels than the row's are refused with both numbers."""
    m = new_micro()
    record = m.builder.add_record([4], np.ones(9))

    def rows(dst: At, a: At) -> list[Row]:
        return [alu(AluFunction.LAYER_NORM, dst, a, n=CHANNELS, m=COLS, record=record)]

    with pytest.raises(ExecutionError, match="5 channels are normalised, the record has 4 and 9 floats"):
        stage(m, image(rng), rows)


def test_look_ups(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """Rows of the record's table by index, from the end below 0; outside is an error with its range."""
    table = image(rng, 6, CHANNELS)
    for indices, problem in (([[0, 5, -1, -6]] * ROWS, ""), ([[0, 6, 0, 0]] * ROWS, "indices 0 … 6")):
        m = new_micro()
        record = m.builder.add_record([6, CHANNELS], table.reshape(-1))
        x = np.array(indices, np.int64).reshape(1, ROWS, COLS, 1)

        def rows(dst: At, a: At, record: int = record) -> list[Row]:
            return [alu(AluFunction.LOOKUP, dst, a, n=CHANNELS, m=COLS, record=record)]

        if problem:
            with pytest.raises(ExecutionError, match=problem):
                stage(m, x, rows)
        else:
            np.testing.assert_array_equal(stage(m, x, rows), table[x[..., 0]])


@pytest.mark.parametrize("turned", [False, True])
def test_products_of_two_buffers(new_micro: NewMicro, rng: np.random.Generator, turned: bool) -> None:
    """Each position's channels by a matrix in a buffer, stored by rows or by columns."""
    m = new_micro()
    x, matrix = image(rng), image(rng, CHANNELS, 3)
    stored = np.ascontiguousarray(matrix.T if turned else matrix)
    held = At(m.local(0, Element.F32, 1, matrix.size))
    constant = m.builder.add_record([matrix.size, 0, 0, 1], stored.reshape(-1))
    steps = (1, CHANNELS) if turned else (3, 1)
    record = m.builder.add_record([CHANNELS, *steps])

    def rows(dst: At, a: At) -> list[Row]:
        return [
            alu(AluFunction.CONSTANT, held, n=matrix.size, m=1, record=constant),
            alu(AluFunction.MATMUL, dst, a, held, n=3, m=COLS, record=record),
        ]

    exact = (x.astype(np.float64) @ matrix.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(stage(m, x, rows, channels=3), exact, rtol=1e-6)
