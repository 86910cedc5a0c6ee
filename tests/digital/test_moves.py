"""Moves: chains compose to one index, and an index becomes copies that make exactly its rows."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cimc.dialects.context import CimContext
from cimc.dialects.row_layout import row_layout, token_layout
from cimc.frontend.onnx import import_onnx
from cimc.interpreters.graph import run_graph
from cimc.passes.graph.compose_moves import ComposeMoves
from cimc.passes.lower.copy_patterns import MAX_LOOPS, row_loops
from cimc.passes.schedule.moves import flat_numbers, row_index, used_channels

Ints = npt.NDArray[np.int64]


def rebuilt(rows: Ints, starts: Ints) -> tuple[Ints, int]:
    """The rows that the loops and copies make, element by element as docs/isa.md defines a copy; how many copies."""
    made = np.full(rows.shape, -1, np.int64)
    count = 0
    for loops in row_loops(rows, starts):
        assert len(loops.extents) <= MAX_LOOPS
        count += len(loops.copies)
        for counters in product(*(range(n) for n in loops.extents)):
            row = loops.first + sum(c * s for c, s in zip(counters, loops.row_steps, strict=True))
            for copy, base, steps in zip(loops.copies, loops.bases, loops.steps, strict=True):
                begin = (
                    int(starts[copy.source]) + base + sum(c * s for c, s in zip(counters, steps, strict=True))
                )
                for i, j in product(range(copy.outer), range(copy.inner)):
                    at = copy.to + i * copy.outer_to + j * copy.inner_to
                    assert made[row, at] == -1  # no element is written twice
                    made[row, at] = begin + i * copy.outer_from + j * copy.inner_from
    return made, count


@pytest.mark.parametrize(
    ("index", "copies"),
    [
        (np.arange(60).reshape(5, 12), 1),
        (np.arange(60).reshape(3, 4, 5).transpose(1, 0, 2).reshape(4, 15), 1),
        (np.arange(60).reshape(3, 4, 5).transpose(2, 1, 0).reshape(5, 12), 1),
        (np.arange(60).reshape(3, 4, 5).transpose(1, 2, 0).reshape(20, 3), 1),  # rows of two loops
        (np.arange(60).reshape(5, 12)[::2, 3:9], 1),
        (np.broadcast_to(np.arange(6)[:, None], (6, 7)), 1),
        (np.repeat(np.repeat(np.arange(12).reshape(3, 4), 2, 0), 2, 1), 1),
    ],
)
def test_regular_moves_take_a_copy_a_row(index: Ints, copies: int) -> None:
    """Transposes, slices, repeats: one strided copy in a nest of loops, whatever the extents."""
    made, count = rebuilt(np.ascontiguousarray(index), np.array([0]))
    np.testing.assert_array_equal(made, index)
    assert count == copies


@given(st.data())
@settings(max_examples=60)
def test_any_index_is_made(data: st.DataObject) -> None:
    """Irregular ones too, from several sources: every element once and right."""
    starts = np.cumsum([0, *data.draw(st.lists(st.integers(1, 9), max_size=2))])
    size = int(starts[-1]) + 9
    shape = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    rows = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=49, max_size=49)))
    index = np.resize(rows, shape).astype(np.int64)
    np.testing.assert_array_equal(rebuilt(index, starts)[0], index)


def test_an_index_over_rows_is_the_index_over_onnx_order() -> None:
    """Sources and target in any layout: the element found in rows is the one ONNX's order names."""
    rng = np.random.default_rng(0)
    frames = [(2, 3, 4), (5, 6)]
    sources = [row_layout(frames[0]), token_layout(frames[1])]
    values = [rng.normal(size=f) for f in frames]
    index = rng.integers(0, 54 + 2, (3, 4, 5))
    constant = rng.normal(size=2)
    wanted = np.concatenate([*(v.reshape(-1) for v in values), constant])[index]
    rows = [v.reshape(-1)[flat_numbers(lay)].reshape(-1) for v, lay in zip(values, sources, strict=True)]
    for target in (row_layout((3, 4, 5)), token_layout((3, 4, 5))):
        found = np.concatenate([*rows, constant])[row_index(index, sources, target)]
        np.testing.assert_array_equal(found, wanted.reshape(-1)[flat_numbers(target)])


def test_only_the_channels_used_are_taken() -> None:
    """A slice of one source and the constants beside it, numbered over what is left of each source."""
    sources = [token_layout((5, 6)), token_layout((4, 3))]
    values = [np.arange(30).reshape(5, 6), 100 + np.arange(12).reshape(4, 3)]
    constant = np.array([7, 8])
    rows = np.array([[2, 3, 9], [26, 27, 30 + 1], [30 + 4, 42, 43]])
    wanted = np.concatenate([*(v.reshape(-1) for v in values), constant])[rows]
    renumbered, ranges = used_channels(rows, sources)
    assert ranges == [(2, 4), (1, 2)]
    left = [v[:, begin:end].reshape(-1) for v, (begin, end) in zip(values, ranges, strict=True)]
    np.testing.assert_array_equal(np.concatenate([*left, constant])[renumbered], wanted)


def chain(kinds: list[str]) -> tuple[ModelProto, str]:
    """A model of moves one after the other on (1, 4, 6), the result flattened."""
    nodes: list[Any] = []
    constants: dict[str, Any] = {}
    given = "x"
    for number, kind in enumerate(kinds):
        out, name = f"v{number}", f"k{number}"
        match kind:
            case "transpose":
                nodes.append(helper.make_node("Transpose", [given], [out], perm=[0, 2, 1]))
            case "pad":
                constants[name] = np.array([0, 1, 0, 0, 0, 2])
                nodes.append(helper.make_node("Pad", [given, name], [out]))
            case "reshape":
                constants[name] = np.array([1, -1, 1])
                nodes.append(helper.make_node("Reshape", [given, name], [out]))
            case _:
                constants[name] = np.full((1, 1, 1), 1.5, np.float32)
                nodes.append(helper.make_node("Flatten", [given], [f"{out}.f"]))
                constants[f"{name}.s"] = np.array([1, 1, -1])
                nodes.append(helper.make_node("Reshape", [f"{out}.f", f"{name}.s"], [f"{out}.r"]))
                nodes.append(helper.make_node("Concat", [f"{out}.r", name, f"{out}.r"], [out], axis=2))
        given = out
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 6))],
        [helper.make_empty_tensor_value_info(given)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), given


@given(st.lists(st.sampled_from(["transpose", "pad", "reshape", "join"]), min_size=1, max_size=5))
@settings(max_examples=40)
def test_chains_of_moves_become_one(kinds: list[str]) -> None:
    """Whatever follows whatever: at most one operation is left, and the result is the same."""
    model, output = chain(kinds)
    ctx = CimContext()
    module = import_onnx(model, store=ctx.store)
    x = np.random.default_rng(1).normal(size=(1, 4, 6)).astype(np.float32)
    before = run_graph(module, ctx.store, {"x": x})[output]
    ComposeMoves().apply(ctx, module)
    module.verify()
    np.testing.assert_array_equal(run_graph(module, ctx.store, {"x": x})[output], before)
    assert sum(op.name.startswith("graph.") for op in module.walk()) <= 1
