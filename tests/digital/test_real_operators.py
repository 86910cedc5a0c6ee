"""Operators of the digital units on their way through the compiler: same bits on every level, near onnxruntime."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import cimc
from cimc.mapping_options import MappingOptions
from cimc.runtime.verifier import verify_program
from tests.fewer_cores import with_fewer_cores

node = helper.make_node


def random(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reals(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


IMAGE, TOKENS = (1, 4, 6, 8), (1, 6, 8)
CONVOLUTION = node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])
LINEAR = node("MatMul", ["x", "w"], ["c"])

ON_IMAGES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("hard_swish", [node("HardSwish", ["c"], ["y"])], {}),
    ("silu", [node("Sigmoid", ["c"], ["s"]), node("Mul", ["c", "s"], ["y"])], {}),
    ("leaky", [node("LeakyRelu", ["c"], ["y"], alpha=0.2)], {}),
    ("prelu", [node("PRelu", ["c", "k"], ["y"])], {"k": random(4, 1, 1)}),
    ("lrn", [node("LRN", ["c"], ["y"], size=3, alpha=0.1)], {}),
    ("image term", [node("Add", ["c", "k"], ["y"])], {"k": random(4, 6, 8)}),
    ("row factor", [node("Mul", ["c", "k"], ["y"])], {"k": random(6, 1)}),
    ("column power", [node("Abs", ["c"], ["a"]), node("Pow", ["a", "k"], ["y"])], {"k": np.abs(random(1, 8))}),
    ("one minus", [node("Sub", ["k", "c"], ["y"])], {"k": random(1)}),
    ("max of three", [node("Max", ["c", "k", "x"], ["y"])], {"k": random(1)}),
    ("squeeze and excite",
     [node("GlobalAveragePool", ["c"], ["p"]), node("Sigmoid", ["p"], ["g"]), node("Mul", ["c", "g"], ["y"])], {}),
    ("pad", [node("Pad", ["c", "p"], ["y"])], {"p": ints(0, 0, 1, 2, 0, 0, 0, 1)}),
    ("reflected", [node("Pad", ["c", "p"], ["y"], mode="reflect")], {"p": ints(0, 0, 1, 2, 0, 0, 0, 1)}),
    ("upsampled", [node("Resize", ["c", "", "s"], ["y"], mode="nearest")],
     {"s": np.array([1, 1, 2, 1.5], np.float32)}),
    ("shuffled",
     [node("Reshape", ["c", "a"], ["r"]), node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3, 4]),
      node("Reshape", ["t", "b"], ["y"])],
     {"a": ints(1, 2, 2, 6, 8), "b": ints(1, 4, 6, 8)}),
    ("sliced", [node("Slice", ["c", "a", "b", "d", "e"], ["y"])],
     {"a": ints(1, 6), "b": ints(4, -9), "d": ints(1, 3), "e": ints(1, -2)}),
    ("split", [node("Split", ["c", "s"], ["l", "r"], axis=1), node("Mul", ["l", "r"], ["y"])], {"s": ints(2, 2)}),
    ("joined by rows", [node("Concat", ["c", "x"], ["y"], axis=2)], {}),
    ("joined with a constant", [node("Concat", ["k", "c"], ["y"], axis=3)], {"k": random(1, 4, 6, 2)}),
    ("depth to space", [node("DepthToSpace", ["c"], ["y"], blocksize=2)], {}),
    ("space to depth", [node("SpaceToDepth", ["c"], ["y"], blocksize=2)], {}),
    ("mean of channels", [node("ReduceMean", ["c", "a"], ["y"])], {"a": ints(1)}),
    ("lesser of two by a comparison", [node("Less", ["c", "x"], ["m"]), node("Where", ["m", "c", "x"], ["y"])], {}),
    ("lesser by a constant", [node("LessOrEqual", ["k", "c"], ["m"]), node("Where", ["m", "k", "c"], ["y"])],
     {"k": random(4, 1, 1)}),
    ("relu by a comparison", [node("Greater", ["c", "k"], ["m"]), node("Where", ["m", "c", "k"], ["y"])],
     {"k": reals(0)}),
    ("clamped by comparisons",
     [node("GreaterOrEqual", ["c", "l"], ["a"]), node("Greater", ["c", "h"], ["b"]), node("Not", ["b"], ["n"]),
      node("And", ["a", "n"], ["i"]), node("Where", ["b", "h", "l"], ["e"]), node("Where", ["i", "c", "e"], ["y"])],
     {"l": reals(-2), "h": reals(2.5)}),
    ("flags that cancel",
     [node("Greater", ["c", "k"], ["a"]), node("Not", ["a"], ["n"]), node("Xor", ["a", "n"], ["o"]),
      node("Or", ["a", "o"], ["p"]), node("Equal", ["c", "c"], ["q"]), node("And", ["p", "q"], ["r"]),
      node("Cast", ["r"], ["f"], to=1), node("Mul", ["f", "c"], ["y"])], {"k": reals(0)}),
    ("relu by a boolean",
     [node("Relu", ["c"], ["p"]), node("Cast", ["p"], ["b"], to=9), node("Cast", ["b"], ["f"], to=1),
      node("Mul", ["f", "c"], ["y"])], {}),
    ("mean of three", [node("Mean", ["c", "k", "x"], ["y"])], {"k": random(4, 6, 8)}),
    ("sum with a row", [node("ReduceSum", ["c", "a"], ["r"]), node("Sum", ["c", "r"], ["y"])], {"a": ints(3)}),
    ("length", [node("ReduceL2", ["c", "a"], ["y"])], {"a": ints(1)}),
    ("selu", [node("Selu", ["c"], ["y"])], {}),
    ("mish", [node("Mish", ["c"], ["y"])], {}),
    ("soft shrink", [node("Shrink", ["c"], ["y"], lambd=0.25, bias=0.25)], {}),
    ("log softmax", [node("LogSoftmax", ["c"], ["y"], axis=1)], {}),
    ("instance norm", [node("InstanceNormalization", ["c", "g", "b"], ["y"])],
     {"g": random(4), "b": random(4, seed=3)}),
    ("group norm", [node("GroupNormalization", ["c", "g", "b"], ["y"], num_groups=2)],
     {"g": random(4), "b": random(4, seed=3)}),
    ("gathered", [node("Gather", ["c", "i"], ["y"], axis=3)], {"i": ints(5, 0, 0, 7)}),
]  # fmt: skip
"""What follows a convolution ``c`` of an image."""

ON_TOKENS: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("gelu", [node("Gelu", ["c"], ["y"])], {}),
    ("erf form", [node("Div", ["c", "r"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["e", "one"], ["f"]),
                  node("Mul", ["c", "f"], ["g"]), node("Mul", ["g", "h"], ["y"])],
     {"r": reals(1.4142135), "one": reals(1), "h": reals(0.5)}),
    ("layer norm", [node("LayerNormalization", ["c", "g", "b"], ["y"])], {"g": random(8), "b": random(8, seed=2)}),
    ("rms norm", [node("RMSNormalization", ["c", "g"], ["y"])], {"g": random(8)}),
    ("rms norm in parts",
     [node("Pow", ["c", "two"], ["p"]), node("ReduceMean", ["p", "a"], ["m"]), node("Add", ["m", "e"], ["v"]),
      node("Sqrt", ["v"], ["s"]), node("Reciprocal", ["s"], ["r"]), node("Mul", ["c", "r"], ["y"])],
     {"two": reals(2), "a": ints(-1), "e": reals(1e-5)}),
    ("norm of all", [node("LayerNormalization", ["c", "g"], ["y"], axis=1)], {"g": random(6, 8)}),
    ("greatest and sum",
     [node("ReduceMax", ["c", "a"], ["m"]), node("Sub", ["c", "m"], ["d"]), node("Exp", ["d"], ["e"]),
      node("ReduceSum", ["e", "a"], ["s"]), node("Div", ["e", "s"], ["y"])], {"a": ints(-1)}),
    ("sum of tokens", [node("ReduceSum", ["c", "a"], ["y"], keepdims=0)], {"a": ints(1)}),
    ("one of two constants", [node("Greater", ["c", "z"], ["m"]), node("Where", ["m", "k", "k"], ["s"]),
                              node("Add", ["s", "c"], ["y"])], {"z": reals(0), "k": reals(-7)}),
    ("masked", [node("Where", ["m", "c", "k"], ["y"])], {"m": np.tri(6, 8) > 0, "k": reals(-7)}),
    ("one of two", [node("Where", ["m", "c", "x"], ["y"])], {"m": np.tri(6, 8) > 0}),
    ("rotated",
     [node("Split", ["c"], ["l", "r"], axis=-1, num_outputs=2), node("Neg", ["r"], ["n"]),
      node("Concat", ["n", "l"], ["t"], axis=-1), node("Mul", ["t", "k"], ["y"])], {"k": np.cos(random(6, 8))}),
    ("product with itself", [node("Transpose", ["c"], ["t"], perm=[0, 2, 1]), node("MatMul", ["c", "t"], ["s"]),
                             node("Softmax", ["s"], ["a"]), node("MatMul", ["a", "c"], ["y"])], {}),
    ("guarded softmax",
     [node("Softmax", ["c"], ["s"]), node("IsNaN", ["s"], ["n"]), node("Where", ["n", "k", "s"], ["y"])],
     {"k": reals(0)}),
    ("masked at run time, moved and with infinities",
     [node("ReduceMax", ["c", "a"], ["t"]), node("Sub", ["c", "t"], ["d"]), node("Less", ["d", "one"], ["m"]),
      node("Transpose", ["m"], ["n"], perm=[0, 2, 1]), node("Transpose", ["n"], ["o"], perm=[0, 2, 1]),
      node("Unsqueeze", ["o", "z"], ["p"]), node("Squeeze", ["p", "z"], ["q"]), node("Not", ["q"], ["r"]),
      node("Mul", ["d", "eight"], ["e"]), node("Where", ["r", "e", "k"], ["s"]), node("Softmax", ["s"], ["y"])],
     {"a": ints(-1), "z": ints(1), "k": reals(-np.inf), "one": reals(-1), "eight": reals(8)}),
    ("constant first", [node("MatMul", ["k", "c"], ["y"])], {"k": random(5, 6)}),
    ("a matrix for every head", [node("Unsqueeze", ["c", "a"], ["h"]), node("MatMul", ["h", "k"], ["y"])],
     {"a": ints(1), "k": random(3, 8, 5)}),
    ("softmax of tokens", [node("Softmax", ["c"], ["y"], axis=1)], {}),
    ("repeated", [node("Expand", ["c", "s"], ["y"])], {"s": ints(1, 3, 6, 8)}),
    ("tiled", [node("Tile", ["c", "s"], ["y"])], {"s": ints(1, 2, 1)}),
    ("heads", [node("Attention", ["c", "c", "c"], ["y"], q_num_heads=4, kv_num_heads=4, is_causal=1)], {}),
]  # fmt: skip
"""What follows a product ``c`` of tokens."""


def build(nodes: list[Any], constants: dict[str, np.ndarray], shape: tuple[int, ...]) -> ModelProto:
    """The model of ``nodes`` behind a convolution or a product of the input."""
    image = len(shape) == 4
    weights = {"w": random(4, 4, 3, 3) / 3 if image else random(8, 8) / 2, **constants}
    graph = helper.make_graph(
        [CONVOLUTION if image else LINEAR, *nodes],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def cases() -> list[Any]:
    found = [(IMAGE, *case) for case in ON_IMAGES] + [(TOKENS, *case) for case in ON_TOKENS]
    return [pytest.param(shape, nodes, constants, id=name) for shape, name, nodes, constants in found]


@pytest.mark.parametrize("activations", ["arrays", "all"])
@pytest.mark.parametrize(("shape", "nodes", "constants"), cases())
def test_every_level_computes_the_same(
    shape: tuple[int, ...],
    nodes: list[Any],
    constants: dict[str, np.ndarray],
    activations: Literal["arrays", "all"],
) -> None:
    """No host operator; level 2, mapped level and program agree to the bit, onnxruntime to 8 bits; verified."""
    model = build(nodes, constants, shape)
    x = random(*shape, seed=5)
    options = MappingOptions(activations=activations)
    calibration = {"x": np.concatenate([x, random(4, *shape[1:], seed=6)])}
    artifact = cimc.compile(model, arch=with_fewer_cores("isaac"), calibration=calibration, mapping=options)
    assert artifact.program.hosts == ()
    runs = [artifact.run({"x": x}, engine=e).outputs["y"] for e in ("quantised", "mapped", "program")]
    np.testing.assert_array_equal(runs[1], runs[0])
    np.testing.assert_array_equal(runs[2], runs[0])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    real = np.asarray(session.run(None, {"x": x})[0])
    assert runs[0].shape == real.shape
    assert np.abs(runs[0] - real).max() < 0.05 * np.abs(real).max()
    assert verify_program(artifact.program, weights=artifact.weights) == []
