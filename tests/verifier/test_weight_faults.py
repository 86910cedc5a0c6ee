"""Array sets that do not hold the weights of the image once, and weights that cells or sums cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cimc.runtime.crossbar.coding import ROW_FIELDS
from cimc.runtime.program import Program
from cimc.runtime.verifier import verify_program

Change = Callable[[Program, str, str, int, int], Program]
Shapes = dict[str, tuple[int, int]]


def test_a_block_held_twice_and_one_never(residual_program: Program, change: Change, shapes: Shapes) -> None:
    """Two sets with the same rows of a tensor: the weights are named, the counts of sets too."""
    shifted = change(change(residual_program, "array_sets", "k0", 3, 1), "array_sets", "k1", 3, 2)
    (finding,) = verify_program(shifted, weights_shapes=shapes)
    assert (finding.rule, finding.node) == ("P064", "conv2")
    assert "weights of tensor 'w2' stand in 0 to 2 sets" in finding.message


def test_weights_wider_than_their_cells(residual_program: Program, shapes: Shapes) -> None:
    """16-bit numbers where the coding has 8, in two sets; in one of them a weight of 128, which no cell can hold."""
    kinds = {"w2": np.int16}
    weights = {name: np.zeros(shape, kinds.get(name, np.int8)) for name, shape in shapes.items()}
    weights["w2"][2, 1] = 128
    stored, wide = verify_program(residual_program, weights=weights)
    assert {(found.rule, found.node) for found in (stored, wide)} == {("P066", "conv2")}
    assert "weights int16 of 'w2'; those of 8 bits are stored as int8" in stored.message
    assert "weights 0 … 128 of 'w2'; its coding holds -128 … 127" in wide.message


def test_sums_too_wide_for_their_buffer(residual_program: Program, change: Change, shapes: Shapes) -> None:
    """16-bit operands: 27 products of up to 65535 x 32768 leave int32; the weights that are there may not."""
    program = residual_program
    fields = {"weight_bits": 0, "input_bits": 4, "parallel_rows": 8}
    coding = np.array(program["codings"]["fields"])
    coding[0, fields["weight_bits"]] = coding[0, fields["input_bits"]] = 16
    coding[0, fields["parallel_rows"]] = 1
    tables = {
        **program.tables,
        "codings": {"fields": coding},
        "steps": {"h": np.ones(128, np.int32)},
    }
    wide = Program(
        tables, program.names, program.io, program.hosts, program.weights,
        {**program.machine, "crossbar": {"rows": 16, "columns": 64}},
    )  # fmt: skip
    found = {(f.rule, f.node) for f in verify_program(wide)}
    assert found == {("P065", "conv1"), ("P065", "conv2")}
    small = {name: np.full(shape, 100, np.int16) for name, shape in shapes.items()}
    assert verify_program(wide, weights=small) == []
    large = {name: np.full(shape, 30000, np.int16) for name, shape in shapes.items()}
    assert {(f.rule, f.node) for f in verify_program(wide, weights=large)} == found


def test_weights_that_are_not_used(residual_program: Program, shapes: Shapes) -> None:
    """A larger tensor than the sets cover, one the image lacks, one that no set names."""
    larger = verify_program(residual_program, weights_shapes={**shapes, "w1": (28, 4)})
    assert [(f.rule, f.node) for f in larger] == [("P064", "conv1")]
    smaller = verify_program(residual_program, weights_shapes={**shapes, "w1": (26, 4)})
    assert [(f.rule, f.node) for f in smaller] == [("P064", "conv1")]
    absent = verify_program(residual_program, weights_shapes={"w1": (27, 4)})
    assert [(f.rule, f.node) for f in absent] == [("P064", "conv2")]
    p = residual_program
    more = Program(p.tables, p.names, p.io, p.hosts, (*p.weights, "w3"), p.machine)
    assert [f.message for f in verify_program(more)] == ["no array set holds tensor 'w3'"]


def test_weights_larger_than_their_coding_states(residual_program: Program, shapes: Shapes) -> None:
    """A coding may state the largest weight; one set that holds a larger one is named, others are not."""
    fields = residual_program["codings"]["fields"].copy()
    fields[:, ROW_FIELDS.index("max_abs_weight")] = 5
    stated = replace(residual_program, tables={**residual_program.tables, "codings": {"fields": fields}})
    weights = {name: np.full(shape, -5, np.int8) for name, shape in shapes.items()}
    assert verify_program(stated, weights=weights) == []
    weights["w2"][2, 1] = -6
    assert {(found.rule, found.node) for found in verify_program(stated, weights=weights)} == {
        ("P068", "conv2")
    }
