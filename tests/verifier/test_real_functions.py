"""Wrong records, tables and products of float32 functions are found without data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from cimc.runtime.program import AluFunction, Element, Program
from cimc.runtime.program.builder import BufferKind, ProgramBuilder
from cimc.runtime.program.rows import At, Row, alu, end, halt, loop_images
from cimc.runtime.verifier import verify_program
from tests.verifier.conftest import MACHINE

Make = Callable[[ProgramBuilder], list[Row]]


def program(make: Make) -> Program:
    """One chip-level context that runs what ``make`` returns, once an image."""
    builder = ProgramBuilder()
    body = builder.add_body("body", [loop_images(), *make(builder), end(), halt()])
    builder.add_context(-1, body, [])
    return builder.build(MACHINE)


def local(builder: ProgramBuilder, pitch: int, element: Element = Element.F32) -> At:
    return At(builder.add_buffer(-1, element, 1, pitch, kind=BufferKind.LOCAL))


def constants(builder: ProgramBuilder, size: int, first: int = 0) -> list[Row]:
    """A row of 6 channels x 2 positions of a record of ``size`` constants, from channel ``first``."""
    record = builder.add_record([size, 0, 6, 1], [1.0] * 12)
    return [alu(AluFunction.CONSTANT, local(builder, 12), b=At(-1, 0, first), n=6, m=2, record=record)]


def product(builder: ProgramBuilder, depth: int, columns: int) -> list[Row]:
    """4 rows of 5 by a matrix of 5 x 3; the record says ``depth`` and a step of ``columns``."""
    a, b, y = local(builder, 20), local(builder, 15), local(builder, 12)
    fill = builder.add_record([0])
    record = builder.add_record([depth, columns, 1])
    return [
        alu(AluFunction.FILL, a, n=20, m=1, record=fill),
        alu(AluFunction.FILL, b, n=15, m=1, record=fill),
        alu(AluFunction.MATMUL, y, a, b, n=3, m=4, record=record),
    ]


def table(builder: ProgramBuilder, element: Element, depth: int) -> list[Row]:
    """Two indices into a table of 4 rows of ``depth``, for 3 channels."""
    indices, y = local(builder, 2, element), local(builder, 6)
    fill = builder.add_record([0])
    record = builder.add_record([4, depth], [0.0] * (4 * depth))
    return [
        alu(AluFunction.FILL, indices, n=2, m=1, record=fill),
        alu(AluFunction.LOOKUP, y, indices, n=3, m=2, record=record),
    ]


def norm(builder: ProgramBuilder, channels: int) -> list[Row]:
    """A norm of 5 channels by a record of ``channels``."""
    y = local(builder, 5)
    fill = builder.add_record([0])
    record = builder.add_record([channels], [1e-5, *[1.0] * channels])
    return [
        alu(AluFunction.FILL, y, n=5, m=1, record=fill),
        alu(AluFunction.RMS_NORM, y, y, n=5, m=1, record=record),
    ]


@pytest.mark.parametrize(
    "make",
    [
        partial(constants, size=12),
        partial(product, depth=5, columns=3),
        partial(table, element=Element.I64, depth=3),
        partial(norm, channels=5),
    ],
)
def test_right_ones_are_clean(make: Make) -> None:
    """No finding."""
    assert verify_program(program(make)) == []


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (partial(constants, size=11), "P010"),  # twelve floats where eleven are stated
        (partial(constants, size=12, first=1), "P045"),
        (partial(product, depth=6, columns=3), "P040"),  # a row of six beyond the buffer
        (partial(product, depth=5, columns=4), "P040"),  # a step beyond the matrix
        (partial(table, element=Element.F32, depth=3), "P011"),
        (partial(table, element=Element.I64, depth=4), "P045"),
        (partial(norm, channels=4), "P045"),
    ],
)
def test_wrong_ones_are_found(make: Make, rule: str) -> None:
    """Each by its rule."""
    assert rule in {finding.rule for finding in verify_program(program(make))}
