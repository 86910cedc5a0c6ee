"""Rows in pieces: the same integers, whatever the pieces; a consumer begins with the first of them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import cimc
from cimc.diagnostics import UsageError
from cimc.mapping_options import MappingOptions, Override, replaced
from cimc.passes.place.pieces import cut, in_order
from cimc.runtime.verifier import verify_program
from tests.mapping.small_machine import small_machine

SIDE = 12


def _network(kernels: tuple[int, ...], *, depth: int = 4, branches: bool = False) -> ModelProto:
    """Convolutions of ``depth`` channels behind each other on 4 x 12 x 12 images; ``branches``: an addition, a
    concatenation, a pool with overlapping windows and a strided convolution behind them."""
    rng = np.random.default_rng(3)
    nodes, weights, last = [], [], "x"

    def conv(name: str, source: str, channels: tuple[int, int], kernel: int, stride: int = 1) -> str:
        weights.append(
            numpy_helper.from_array(
                rng.normal(size=(channels[1], channels[0], kernel, kernel)).astype(np.float32), f"{name}.w"
            )
        )
        nodes.append(
            helper.make_node(
                "Conv",
                [source, f"{name}.w"],
                [name],
                name,
                kernel_shape=[kernel] * 2,
                pads=[kernel // 2] * 4,
                strides=[stride] * 2,
            )
        )
        return name

    for number, kernel in enumerate(kernels):
        last = conv(f"c{number}", last, (depth if number else 4, depth), kernel)
    side, channels = SIDE, depth
    if branches:
        nodes.append(helper.make_node("Add", [last, "c0"], ["sum"], "sum"))
        nodes.append(helper.make_node("Concat", ["sum", "c1"], ["both"], "both", axis=1))
        nodes.append(
            helper.make_node("MaxPool", ["both"], ["pooled"], "pool", kernel_shape=[3, 3], pads=[1] * 4)
        )
        last, side, channels = conv("last", "pooled", (2 * depth, 6), 3, 2), SIDE // 2, 6
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, SIDE, SIDE])
    made = helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, channels, side, side])
    graph = helper.make_graph(nodes, "net", [given], [made], weights)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


def _compiled(model: ModelProto, **options: object) -> cimc.Artifact:
    x = np.random.default_rng(5).normal(size=(4, 4, SIDE, SIDE)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cimc.compile(
            model,
            small_machine(cores=64, rows=64, columns=64, adcs=64),
            calibration={"x": x},
            mapping=MappingOptions.model_validate(options),
        )


@pytest.mark.parametrize("copies", [1, 2, 6])
def test_pieces_change_no_integer(copies: int) -> None:
    """Windows, points, residuals, concatenations, pools and strides in pieces of any number, on one copy and on blocks
    of rows: no finding, and the integers of level 2."""
    model = _network((3, 1, 3), branches=True)
    x = {"x": np.random.default_rng(7).normal(size=(2, 4, SIDE, SIDE)).astype(np.float32)}
    for pieces in (2, 5):
        made = _compiled(model, pieces=pieces, copies=copies)
        assert verify_program(made.program) == []
        stream, level_2 = made.run(x), made.run(x, engine="quantised")
        for name, codes in level_2.integer_outputs.items():
            np.testing.assert_array_equal(stream.integer_outputs[name], codes)
        assert stream.array_macs == stream.total_macs


def test_windows_that_see_padding_only_keep_whole_rows() -> None:
    """A transposed convolution with output padding has windows beyond the image: their piece would get no column."""
    rng = np.random.default_rng(3)
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in (("c.w", (4, 4, 1, 1)), ("t.w", (4, 3, 2, 2)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "c.w"], ["c"], "c"),
        helper.make_node(
            "ConvTranspose",
            ["c", "t.w"],
            ["y"],
            "t",
            strides=[2, 2],
            output_padding=[1, 1],
            kernel_shape=[2, 2],
        ),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, SIDE, SIDE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 2 * SIDE + 1, 2 * SIDE + 1])
    graph = helper.make_graph(nodes, "net", [given], [y], weights)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    made = _compiled(model, pieces=13)
    assert verify_program(made.program) == []
    x = {"x": rng.normal(size=(2, 4, SIDE, SIDE)).astype(np.float32)}
    codes = [made.run(x, engine=engine).integer_outputs["y"] for engine in ("program", "quantised")]
    np.testing.assert_array_equal(codes[0], codes[1])
    assert len(np.unique(codes[0])) > 10


def test_a_chain_of_points_in_pieces_ends_earlier() -> None:
    """With whole rows every stage behind another of equal turns T holds the last row back by T, in p pieces by T / p:
    four stages of 12 windows with 8 row groups and 8 digits each save 3 * T * (1 - 1 / p) (closed form), less what the
    pieces themselves cost in the 12 rows of the first."""
    model = _network((1, 1, 1, 1, 1), depth=64)
    whole, pieced = (_compiled(model, copies=1, pieces=pieces) for pieces in (1, 4))
    before, after = (made.simulate(images=1).latency_cycles for made in (whole, pieced))
    turn = 12 * 8 * 8
    saved = 3 * turn * (1 - 1 / 4)
    assert 0.75 * saved < before - after <= saved


def test_neighbouring_blocks_meet_in_time() -> None:
    """Pieces of a block come from its begin in even blocks and from its end in odd ones; they are disjoint, as equal as
    they can be, and all of the block."""
    assert in_order(0, 7, 3, 0) == [(0, 2), (2, 4), (4, 7)]
    assert in_order(7, 14, 3, 1) == [(11, 14), (9, 11), (7, 9)]
    for width in range(1, 20):
        for pieces in range(1, 25):
            found = cut(3, 3 + width, pieces)
            assert [c for a, b in found for c in range(a, b)] == list(range(3, 3 + width))
            assert max(b - a for a, b in found) - min(b - a for a, b in found) <= 1
            assert len(found) == min(pieces, width)


def test_pieces_are_named_for_all_or_for_some() -> None:
    """An override's pieces win over those of all; a number below 1 is refused, with the key and what was given."""
    options = MappingOptions(pieces=2, overrides=(Override(match="c1", pieces=3),))
    assert [options.for_node(name).pieces for name in ("c0", "c1")] == [2, 3]
    with pytest.raises(UsageError, match=r"pieces.*greater than or equal to 1.*0"):
        replaced(MappingOptions(), {"pieces": 0})
