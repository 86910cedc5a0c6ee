"""How windows are dealt to copies: against enumeration, and blocks of rows against the integers of level 2."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import cimc
from cimc.dialects.cim_real import RealOp
from cimc.mapping_options import MappingOptions
from cimc.passes.place.network import COLUMNS
from cimc.passes.schedule.copies.stage_costs import stages_of
from cimc.passes.schedule.dealing import Dealing, deal, useful_copies
from cimc.runtime.verifier import verify_program
from tests.mapping.small_machine import small_machine

SIZES = st.integers(1, 14)


def ways(rows: int, positions: int, copies: int) -> list[Dealing]:
    """All dealings to so many copies in which every copy has a window."""
    pairs = ((r, c) for r in range(1, rows + 1) for c in range(1, positions + 1))
    return [Dealing(r, c) for r, c in pairs if r * c == copies]


def within(known: list[Dealing], finest: int | None) -> list[Dealing]:
    """Those with no more blocks than the finest; where there are none, the one with the fewest."""
    return [way for way in known if finest is None or way.columns <= finest] or [
        min(known, key=lambda way: way.columns)
    ]


@given(SIZES, SIZES, st.integers(1, 60), st.none() | st.integers(1, 6))
def test_a_dealing_is_the_quickest_there_is(
    rows: int, positions: int, copies: int, finest: int | None
) -> None:
    """The fewest windows for the slowest copy in no more blocks than the finest; of equally quick ones the most."""
    found, known = deal(rows, positions, copies, finest), ways(rows, positions, copies)
    if not known:
        assert found is None
        return
    allowed = within(known, finest)
    assert found in allowed
    least = min(way.windows(rows, positions) for way in allowed)
    assert found.windows(rows, positions) == least
    assert found.columns == max(way.columns for way in allowed if way.windows(rows, positions) == least)


@given(SIZES, SIZES, st.integers(1, 60))
def test_every_window_belongs_to_one_copy(rows: int, positions: int, copies: int) -> None:
    """Rows in turn and blocks of them cover the image once, and no copy has more windows than the dealing says."""
    for way in ways(rows, positions, copies):
        held = np.zeros((rows, positions), np.int64)
        most = 0
        for copy in range(way.rows):
            for first, last in way.blocks(positions):
                held[copy :: way.rows, first:last] += 1
                most = max(most, len(range(copy, rows, way.rows)) * (last - first))
        assert (held == 1).all()
        assert most == way.windows(rows, positions) == ceil(rows / way.rows) * ceil(positions / way.columns)


@given(SIZES, SIZES, st.none() | st.integers(1, 6))
def test_useful_copies_are_those_quicker_than_any_fewer(
    rows: int, positions: int, finest: int | None
) -> None:
    """Against all numbers of copies in turn that can be dealt within the finest blocks."""
    expected: list[tuple[int, int]] = []
    for copies in range(1, rows * positions + 1):
        known = [w for w in ways(rows, positions, copies) if finest is None or w.columns <= finest]
        windows = min((way.windows(rows, positions) for way in known), default=rows * positions + 1)
        if not expected or windows < expected[-1][1]:
            expected.append((copies, windows))
    assert useful_copies(rows, positions, finest) == tuple(expected)


def branches(width: int) -> onnx.ModelProto:
    """A strided convolution with padding, branches that join in an Add, constants along rows, a Concat."""
    rng = np.random.default_rng(3)
    weights = {
        "w1": rng.normal(size=(8, 3, 3, 3)),
        "w2": rng.normal(size=(8, 8, 3, 3)),
        "w3": rng.normal(size=(8, 8, 1, 1)),
        "w5": rng.normal(size=(8, 8, 1, 1)),
        "w4": rng.normal(size=(6, 16, 3, 3)),
        "along": rng.normal(size=(1, 1, 1, ceil(width / 2))),
    }
    same: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    down: dict[str, Any] = {**same, "strides": [2, 2]}
    far: dict[str, Any] = {"pads": [2, 2, 2, 2], "dilations": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "c1", **down),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], "c2", **same),
        helper.make_node("Conv", ["b", "w3"], ["d"], "c3"),
        helper.make_node("Add", ["c", "d"], ["e"]),
        helper.make_node("Conv", ["b", "w5"], ["g"], "c5"),
        helper.make_node("Mul", ["g", "along"], ["m"]),
        helper.make_node("Concat", ["e", "b"], ["f"], axis=1),
        helper.make_node("Conv", ["f", "w4"], ["y"], "c4", **far),
    ]
    side = ceil(width / 2)
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 10, width])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 5, side]),
            helper.make_tensor_value_info("m", TensorProto.FLOAT, [1, 8, 5, side]),
        ],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


@pytest.mark.parametrize("copies", [2, 3, 4])
def test_blocks_of_rows_give_the_integers_of_level_2(copies: int) -> None:
    """Blocks of unequal width, row chunks in several cores, constants along a row: stream, level 3 and level 2 agree,
    and the verifier has nothing to say."""
    x = np.random.default_rng(1).normal(size=(2, 3, 10, 18)).astype(np.float32)
    arch = small_machine(cores=400, crossbars=3, contexts=8, rows=16, columns=32, parallel_rows=8)
    made = cimc.compile(branches(18), arch, calibration={"x": x}, mapping=MappingOptions(copies=copies))
    assert verify_program(made.program, weights=dict(made.weights)) == []
    reference = made.run({"x": x}, engine="quantised")
    for engine in ("program", "mapped"):
        found = made.run({"x": x}, engine=engine)
        for name, codes in reference.integer_outputs.items():
            np.testing.assert_array_equal(found.integer_outputs[name], codes)
        for name, values in reference.outputs.items():
            np.testing.assert_array_equal(found.outputs[name], values)
    module, ctx = made.level("mapped")
    placed = [s.placement for s in stages_of(module) if s.read is not None]
    tables = [ctx.store.array(p.key.data) for p in placed if p is not None]
    widths = {tuple(np.unique(t[:, COLUMNS.index("p1")] - t[:, COLUMNS.index("p0")])) for t in tables}
    assert any(max(w) < 9 for w in widths)
    fused = [
        op
        for s in stages_of(module)
        if s.read is not None
        for op in s.body.block.ops
        if isinstance(op, RealOp)
    ]
    assert any(o.constant is not None and ctx.store.array(o.constant.key.data).shape[1] > 1 for o in fused)
