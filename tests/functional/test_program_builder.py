"""The assembler of programs: what it appends, what it shares, what it resolves."""

from __future__ import annotations

import numpy as np

from cimc.runtime.program import SCHEMAS, AluFunction, Element, Opcode
from cimc.runtime.program.builder import ProgramBuilder, Route, Tile, float_bits
from cimc.runtime.program.geometry import ring_geometry
from cimc.runtime.program.rows import At, alu, end, halt, loop, loop_images, read_xb, send


def test_every_table_has_its_schema() -> None:
    """A built program holds every column of every table with the type the schema names."""
    program = ProgramBuilder().build({})
    for table, columns in SCHEMAS.items():
        assert set(program[table]) == set(columns)
        for name, spec in columns.items():
            dtype, _, width = spec.partition(":")
            column = program[table][name]
            assert column.dtype == np.dtype(dtype)
            assert column.shape[1:] == ((int(width),) if width else ())


def test_shared_rows_are_kept_once() -> None:
    """Strides, windows, copies, codings, records, steps and names do not repeat; stride 0 is all zero."""
    b = ProgramBuilder()
    coding = range(int(SCHEMAS["codings"]["fields"].partition(":")[2]))
    assert b.add_stride([0, 0]) == 0
    assert b.add_stride([0, 1], [0, 0, 8]) == b.add_stride([0, 1], [0, 0, 8]) == 1
    assert b.add_window(c=4) == b.add_window(c=4, hi=4)
    assert b.add_window(c=4, lo=1) != b.add_window(c=4)
    assert b.add_copy(1, 0, 0, 4, 1, 1) == b.add_copy(1, 0, 0, 4, 1, 1)
    assert b.add_coding(coding) == b.add_coding(list(coding)) == 0
    assert b.add_record([1, 2], [0.1]) == b.add_record([1, 2], [float(np.float32(0.1))])
    assert b.add_record([1, 2], [-0.0]) != b.add_record([1, 2], [0.0])
    assert b.add_steps([3, 1]) == b.add_steps([3, 1]) == 0
    assert b.add_steps([3]) == 2
    assert b.name("conv") == b.name("conv")
    program = b.build({})
    assert program.count("records") == 3
    assert program["const_f"]["value"].tolist() == [np.float32(0.1), 0.0, 0.0]
    assert program["strides"]["col"].tolist()[1] == [0, 0, 8, 0, 0, 0]


def test_rows_land_in_their_columns() -> None:
    """Bodies, contexts, rings, routes and sets of a small program stand where docs/isa.md puts them."""
    b = ProgramBuilder()
    rows = [loop_images(), loop(3), alu(AluFunction.FILL, At(0, 1, 2, 3), n=5, m=6, record=7), end(), end()]
    rows += [
        read_xb(At(1), At(0, col=4), 0, 2, 8, 0, 1, add=1),
        send(At(0), 0, n=4, m=2, row=9, row_st=1),
        halt(),
    ]
    body = b.add_body("conv", rows)
    first = b.add_context(0, body, [5, 6, 7])
    second = b.add_context(1, body)
    b.set_params(second, [8])
    local = b.add_buffer(0, Element.I32, 2, 10, context=first)
    ring = b.add_ring(
        0, Element.U8, 4, 12, ring_geometry(3, 1, 1, 1, 8, 8), channels=3, fill=6, pad=128, context=first
    )
    other = b.add_buffer(1, Element.U8, 1, 1)
    routes = b.add_route_set([Route(ring, 0, 0, 0, 2, 3, 1, 0)])
    xb = b.add_array_set(first, 0, 0, b.weight("w"), (0, 27, 0, 8), [Tile(3, 0, 27, 0, 8)])
    program = b.build({"name": "m"}, frames=2, total_macs=3)

    assert (program.frames, program.total_macs, program.machine["name"]) == (2, 3, "m")
    ins = program["instructions"]
    assert ins["opcode"].tolist()[:3] == [Opcode.LOOP, Opcode.LOOP, Opcode.ALU]
    assert [ins[c][2] for c in ("func", "dst", "dst_row", "dst_col", "dst_st", "n", "m", "imm")] == [
        0,
        0,
        1,
        2,
        3,
        5,
        6,
        7,
    ]
    assert [ins[c][5] for c in ("func", "dst", "a_col", "xb", "imm", "n", "b_row", "b_col")] == [
        1,
        1,
        4,
        0,
        2,
        8,
        0,
        1,
    ]
    assert [ins[c][6] for c in ("b_row", "b_st", "a", "m", "dst")] == [9, 1, 0, 2, -1]
    assert program["contexts"]["param_first"].tolist() == [0, 3]
    assert program["contexts"]["param_count"].tolist() == [3, 1]
    assert program["params"]["value"].tolist() == [5, 6, 7, 8]
    buffers = program["buffers"]
    assert buffers["base"].tolist() == [0, 2 * 10 * 4, 0]
    assert [buffers[c][ring] for c in ("first", "top", "bottom", "places", "pad", "fill")] == [
        -1,
        1,
        1,
        10,
        128,
        6,
    ]
    assert buffers["channels"][local] == 10
    assert (other, routes, xb) == (2, 0, 0)
    assert program["tiles"]["xbar"].tolist() == [3]
    assert program.weights == ("w",)


def test_float_bits_survive_the_pad_column() -> None:
    """A float32 pad comes back from its bit pattern, negative infinity included."""
    for value in (0.0, -np.inf, 1.5):
        assert np.int64(float_bits(value)).astype(np.int32).view(np.float32) == np.float32(value)
