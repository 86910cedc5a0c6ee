"""A residual beside attention waits for a whole frame: in rings where they have room, else in the global buffer."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import cimc
from cimc.runtime.verifier import verify_program

WIDTH = 64


def mixing(tokens: int) -> ModelProto:
    """``p`` and its attention to itself added: every row of the sum needs all of ``p``."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["p"]),
        node("Attention", ["p", "p", "p"], ["m"], q_num_heads=2, kv_num_heads=2),
        node("MatMul", ["m", "v"], ["o"]),
        node("Add", ["p", "o"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    weights = {name: (rng.normal(size=(WIDTH, WIDTH)) / 16).astype(np.float32) for name in "wv"}
    shape = (1, tokens, WIDTH)
    graph = helper.make_graph(
        nodes,
        "mixing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


@pytest.mark.parametrize(("tokens", "moves"), [(24, 0), (320, 0), (640, 4)])
def test_a_frame_that_waits_fits(tokens: int, moves: int) -> None:
    """320 rows of 256 bytes fill more than half of a core's memory: two contexts hold half of them each.

    Of 640 rows not even the narrowest has room, nor has a core for Q and K of a head: these and what waits go
    through the global buffer.
    """
    x = np.random.default_rng(1).normal(size=(1, tokens, WIDTH)).astype(np.float32)
    artifact = cimc.compile(mixing(tokens), arch="isaac", calibration={"x": x})
    names = [artifact.program.names[node] for node in artifact.program["contexts"]["node"]]
    assert names.count("index_map") == moves
    assert ("matmul" in names) == (moves > 0)
    runs = [artifact.run({"x": x}, engine=e).outputs["y"] for e in ("quantised", "mapped", "program")]
    np.testing.assert_array_equal(runs[1], runs[0])
    np.testing.assert_array_equal(runs[2], runs[0])
    assert verify_program(artifact.program, weights=artifact.weights) == []
