"""Whatever onnxruntime runs, imports: as host operators, with the reason, and exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cimc.dialects.graph import HostOp

Make = Callable[..., ModelProto]
Check = Callable[..., Any]
node = helper.make_node


def random(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("nodes", "constants", "shape", "reason"),
    [
        ([node("Tan", ["x"], ["y"])], {}, (2, 3, 4, 4), "Tan is not an operator"),
        (
            [node("ConvTranspose", ["x", "w"], ["y"], strides=[4, 4])],
            {"w": random(3, 2, 3, 3)}, (1, 3, 4, 4), "the bias alone: 3 taps of dilation 1 at stride 4",
        ),
        (
            [node("ConvTranspose", ["x", "w"], ["y"])],
            {"w": random(3, 2, 2, 2, 2)}, (1, 3, 4, 4, 4), "1 or 2 spatial dimensions",
        ),
        ([node("MatMul", ["w", "x"], ["y"])], {"w": random(2, 2, 4)}, (2, 4, 3), "is not one matrix"),
        ([node("Gemm", ["x", "w", "b"], ["y"])], {"w": random(3, 2), "b": random(4, 2)}, (4, 3), "row to row"),
        (
            [node("Resize", ["x", "", "s"], ["y"], mode="cubic")],
            {"s": np.array([1, 1, 2, 2], np.float32)}, (1, 2, 3, 4), "it interpolates",
        ),
        (
            [node("IsInf", "x", ["c"]), node("Where", "cxk", ["s"]), node("Add", "sx", ["y"])],
            {"k": random(1)}, (2, 3), "'c' is booleans of the host",
        ),
        (
            [node("MaxPool", ["x"], ["p", "i"], kernel_shape=[2, 2]), node("Cast", ["i"], ["y"], to=1)],
            {}, (1, 2, 6, 6), "its output Indices is used",
        ),
        ([node("Cast", ["x"], ["d"], to=11), node("Relu", ["d"], ["y"])], {}, (2, 3), "elements f64"),
    ],
)  # fmt: skip
def test_the_reason_names_the_constraint(
    model: Make,
    check: Check,
    nodes: list[Any],
    constants: dict[str, Any],
    shape: tuple[int, ...],
    reason: str,
) -> None:
    """Every host operator says what keeps it off the arrays, and computes what onnxruntime does."""
    made = check(model(nodes, {"x": list(shape)}, ["y"], constants))
    assert "host" in made.operations
    assert any(reason in text for text in made.reasons), made.reasons


def test_a_conv_with_a_computed_weight(model: Make, check: Check) -> None:
    """A weight that is a graph input cannot be in cells."""
    made = check(model([node("Conv", ["x", "w"], ["y"])], {"x": [1, 3, 6, 6], "w": [4, 3, 3, 3]}, ["y"]))
    assert made.operations == ["host"]
    assert "computed at run time" in made.reasons[0]


def test_top_k_has_two_results(model: Make, check: Check) -> None:
    """A host operator returns all the results somebody uses."""
    nodes = [
        node("TopK", ["x", "k"], ["a", "i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Add", ["a", "f"], ["y"]),
    ]
    made = check(model(nodes, {"x": [2, 6]}, ["y"], {"k": np.array([3])}))
    assert made.operations == ["host", "host", "add"]
    best, _ = [op for op in made.module.walk() if isinstance(op, HostOp)]
    assert [name.data for name in best.tensors] == ["a", "i"]


def test_operators_of_other_domains(model: Make, check: Check) -> None:
    """onnxruntime's own operators run on the host like any other."""
    made = check(
        model(
            [node("Gelu", ["x"], ["y"], domain="com.microsoft")],
            {"x": [2, 3]},
            ["y"],
            domains={"com.microsoft": 1},
        )
    )
    assert made.operations == ["host"]


def test_an_interpolation_of_more_than_two_neighbours(model: Make, check: Check) -> None:
    """With antialias a linear Resize weighs more elements: onnxruntime's result says so, and the host does it."""
    resize = node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1)
    constants = {"s": np.array([1, 1, 0.5, 0.5], np.float32)}
    made = check(model([resize], {"x": [1, 2, 8, 10]}, ["y"], constants, opset=18))
    assert made.operations == ["host"]
    assert "of another form" in made.reasons[0]


def test_a_branch_of_run_time_is_one_host_operator(model: Make, check: Check) -> None:
    """If, with sub-graphs that take tensors from outside, is a single host operator."""
    then = helper.make_graph(
        [node("Add", ["x", "k"], ["t"])], "then", [], [helper.make_empty_tensor_value_info("t")]
    )
    other = helper.make_graph(
        [node("Mul", ["x", "k"], ["e"])], "else", [], [helper.make_empty_tensor_value_info("e")]
    )
    for graph, name in ((then, "t"), (other, "e")):
        graph.output[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]))
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["c"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    made = check(model(nodes, {"x": [2, 3]}, ["y"], {"k": random(2, 3), "zero": np.float32(0).reshape(())}))
    assert made.operations == ["reshape", "reduce", "reshape", "binary_constant", "host", "host"]


def test_a_mask_of_infinities_after_a_product(model: Make, check: Check) -> None:
    """Masks hold -inf on purpose: no damaged weight, and nothing an array could add; the digital unit does."""
    mask = np.array([0, 0, -np.inf, 0, 0], np.float32)
    nodes = [node("MatMul", ["x", "w"], ["p"]), node("Add", ["p", "k"], ["s"]), node("Softmax", ["s"], ["y"])]
    made = check(model(nodes, {"x": [2, 6]}, ["y"], {"w": random(6, 5), "k": mask}))
    assert made.operations == ["gemm", "binary_constant", "softmax"]


def test_token_numbers_are_looked_up(model: Make, check: Check) -> None:
    """Token numbers pick rows of an embedding; the product after it is a gemm."""
    nodes = [node("Gather", ["e", "x"], ["g"]), node("MatMul", ["g", "w"], ["y"])]
    constants = {"e": random(4, 6), "w": random(6, 5)}
    made = check(model(nodes, {"x": [2, 3]}, ["y"], constants, input_type=TensorProto.INT64))
    assert made.operations == ["lookup", "gemm"]


def test_quantised_models_compute_the_same(model: Make, check: Check) -> None:
    """QuantizeLinear and DequantizeLinear of values become conversions; those of weights are kept as codes."""
    constants = {"s": np.float32(0.05).reshape(()), "z": np.uint8(128).reshape(())}
    constants |= {"w": np.random.default_rng(0).integers(-9, 9, (4, 3, 3, 3)).astype(np.int8)}
    constants |= {"ws": np.float32(0.1).reshape(()), "wz": np.int8(0).reshape(())}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        node("Conv", ["d", "wd"], ["y"]),
    ]
    made = check(model(nodes, {"x": [1, 3, 6, 6]}, ["y"], constants))
    assert made.operations == ["quantize", "dequantize", "conv"]


def test_the_stored_model_names_nothing_of_the_exporting_machine(model: Make, check: Check) -> None:
    """Stack traces of torch's exporter hold file paths; they do not reach the weight store."""
    proto = node("Tan", ["x"], ["y"], name="gate", doc_string="written at /home/someone")
    proto.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/someone/model.py")
    made = check(model([proto], {"x": [2, 3]}, ["y"]))
    raw = made.store.array("gate.onnx").tobytes()
    assert b"/home/someone" not in raw
    stored = ModelProto.FromString(raw)
    assert stored.ir_version == 10
    assert stored.opset_import[0].version == 17


def test_constants_of_a_host_operator_are_inside_its_model(model: Make, check: Check) -> None:
    """The one-node model is complete: operands are its inputs, constants its initializers."""
    nodes = [node("Mod", ["x", "k"], ["y"], fmod=1)]
    made = check(model(nodes, {"x": [2, 4, 3]}, ["y"], {"k": random(3)}))
    (op,) = [op for op in made.module.walk() if isinstance(op, HostOp)]
    stored = ModelProto.FromString(made.store.array(op.model.key.data).tobytes())
    assert [i.name for i in stored.graph.input] == ["x"]
    assert numpy_helper.to_array(stored.graph.initializer[0]).tolist() == random(3).tolist()


def test_booleans_are_made_only_for_those_who_read_them(model: Make, check: Check) -> None:
    """A comparison stays flags on the digital unit; the host makes booleans of them for its own operators, once."""
    nodes = [
        node("Greater", ["x", "k"], ["c"]),
        node("Cast", ["c"], ["n"], to=TensorProto.INT32),
        node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        node("Where", ["c", "x", "f"], ["y"]),
    ]
    made = check(model(nodes, {"x": [2, 3]}, ["y"], {"k": random(1)}))
    hosts = [op.op_type.data for op in made.module.walk() if isinstance(op, HostOp)]
    assert hosts == ["Cast", "Cast", "Cast"]
    assert "its booleans are read by the host" in made.reasons[0]


def test_a_scalar_stays_a_scalar(model: Make, check: Check) -> None:
    """A mean of everything has no extents, a comparison of it neither, and Where takes the extents of its operands."""
    nodes = [
        node("ReduceMean", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "k"], ["c"]),
        node("Where", ["c", "x", "m"], ["y"]),
    ]
    made = check(model(nodes, {"x": [2, 3]}, ["y"], {"k": np.float32(-9).reshape(())}))
    assert "host" not in made.operations
