"""The same network through the opsets and containers that exporters have written since 2018."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

Make = Callable[..., ModelProto]
Check = Callable[..., Any]


def random(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def small_network(opset: int) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Conv, BatchNorm, Clip, pools, Dropout, Reshape, Gemm, Softmax as ``opset`` writes them."""
    make = helper.make_node
    constants: dict[str, np.ndarray] = {"w": random(4, 3, 3, 3), "fw": random(4, 5), "fb": random(5)}
    constants |= {k: np.abs(random(4, seed=i)) + np.float32(0.1) for i, k in enumerate("ghmv", 2)}
    constants["t"] = np.array([0, -1], np.int64)
    clip = make("Clip", ["n"], ["r"], min=0.0, max=6.0)
    if opset >= 11:
        constants |= {"lo": np.zeros((), np.float32), "hi": np.full((), 6, np.float32)}
        clip = make("Clip", ["n", "lo", "hi"], ["r"])
    nodes = [
        make("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        make("BatchNormalization", ["c", "g", "h", "m", "v"], ["n"]),
        clip,
        make("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        make("Dropout", ["p"], ["d"]),
        make("GlobalAveragePool", ["d"], ["q"]),
        make("Reshape", ["q", "t"], ["f"]),
        make("Gemm", ["f", "fw", "fb"], ["z"]),
        make("Softmax", ["z"], ["y"]),
    ]
    return nodes, constants


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 20, 21, 22, 23, 25, 26])
def test_every_opset_from_7_gives_the_same_operations(model: Make, check: Check, opset: int) -> None:
    """Attributes that became operands, and defaults that changed, are read as the opset says."""
    nodes, constants = small_network(opset)
    made = check(model(nodes, {"x": ["N", 3, 8, 8]}, ["y"], constants, opset=opset), {"x": (2, 3, 8, 8)})
    expected = ["conv", "clip", "max_pool", "global_average_pool", "reshape", "gemm", "softmax"]
    assert made.operations == expected


@pytest.mark.parametrize("ir_version", [3, 4, 7, 9, 10, 12, 13])
def test_containers_from_ir_3(model: Make, check: Check, ir_version: int) -> None:
    """IR version 3 lists every initializer among the inputs; those are weights, not inputs."""
    nodes, constants = small_network(9)
    made = model(nodes, {"x": [1, 3, 8, 8]}, ["y"], constants, opset=9)
    made.ir_version = ir_version
    for name, array in constants.items():
        info = helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        made.graph.input.append(info)
    assert "conv" in check(made).operations


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_constant_subgraphs_are_folded(model: Make, check: Check, opset: int) -> None:
    """Weights made by ConstantOfShape, Transpose, Cast and Mul of constants are weights."""
    make = helper.make_node
    nodes = [
        make("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([4, 3, 3, 3], np.int64))),
        make(
            "ConstantOfShape", ["shape"], ["flat"], value=numpy_helper.from_array(np.array([0.5], np.float32))
        ),
        make("Transpose", ["stored"], ["turned"], perm=[3, 2, 0, 1]),
        make("Cast", ["turned"], ["cast"], to=1),
        make("Mul", ["cast", "flat"], ["w"]),
        make("Conv", ["x", "w"], ["y"]),
    ]
    stored = {"stored": random(3, 3, 3, 4).astype(np.float64)}
    assert check(model(nodes, {"x": [1, 3, 6, 6]}, ["y"], stored, opset=opset)).operations == ["conv"]


def test_shape_arithmetic_is_folded(model: Make, check: Check) -> None:
    """x.view(x.size(0), -1) as TorchScript writes it: Shape, Gather, Unsqueeze, Concat, Reshape."""
    make = helper.make_node
    nodes = [
        make("Shape", ["x"], ["s"]),
        make("Gather", ["s", "zero"], ["n"]),
        make("Unsqueeze", ["n", "axis"], ["n1"]),
        make("Slice", ["s", "one", "four"], ["rest"]),
        make("ReduceProd", ["rest"], ["all"], keepdims=1),
        make("Concat", ["n1", "all"], ["t"], axis=0),
        make("Reshape", ["x", "t"], ["f"]),
        make("Gemm", ["f", "w"], ["y"]),
    ]
    constants = {
        "zero": np.int64(0).reshape(()),
        "axis": np.array([0]),
        "one": np.array([1]),
        "four": np.array([4]),
    }
    made = check(model(nodes, {"x": [2, 3, 2, 2]}, ["y"], {**constants, "w": random(12, 5)}))
    assert made.operations == ["reshape", "gemm"]


def test_a_constant_output_is_handed_out_by_the_host(model: Make, check: Check) -> None:
    """An output that does not depend on the input is no array operator, and still an output."""
    make = helper.make_node
    nodes = [make("Relu", ["x"], ["y"]), make("Mul", ["k", "k"], ["z"])]
    made = check(model(nodes, {"x": [2, 3]}, ["y", "z"], {"k": random(4)}))
    assert made.operations == ["relu", "host"]
    assert made.reasons == ["its value is known at compile time"]


def test_an_output_that_is_an_input(model: Make, check: Check) -> None:
    """Identity from input to output leaves no operation."""
    make = helper.make_node
    made = check(model([make("Identity", ["x"], ["y"])], {"x": [2, 3]}, ["y"]))
    assert made.operations == []


def test_nodes_out_of_order_are_sorted(model: Make, check: Check) -> None:
    """onnxruntime runs such graphs, so they import; locations keep the index in the file."""
    make = helper.make_node
    made = check(model([make("Sigmoid", ["r"], ["y"]), make("Relu", ["x"], ["r"])], {"x": [2, 3]}, ["y"]))
    assert made.operations == ["relu", "unary"]


def test_dead_branches_are_dropped(model: Make, check: Check) -> None:
    """A node no output depends on is not imported, even where it could not be."""
    make = helper.make_node
    nodes = [make("Relu", ["x"], ["y"]), make("NonZero", ["x"], ["unused"])]
    assert check(model(nodes, {"x": [2, 3]}, ["y"])).operations == ["relu"]


def test_sparse_initializers_are_stored_in_full(model: Make, check: Check) -> None:
    """A weight given by its non-zero elements is the same weight."""
    dense = random(6, 5)
    dense[dense < 0.3] = 0
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [2, 6]}, ["y"])
    places = np.flatnonzero(dense).astype(np.int64)
    values = numpy_helper.from_array(dense.reshape(-1)[places], "w")
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(places, "w_places"), [6, 5])
    )
    result = check(made)
    assert result.operations == ["gemm"]
    np.testing.assert_array_equal(result.store.array(result.store.keys()[0]), dense)


def test_local_functions_are_inlined(model: Make, check: Check) -> None:
    """A model-local function is its nodes."""
    body = [helper.make_node("Relu", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("local", "Block", ["a"], ["b"], body, opsets)
    made = model(
        [helper.make_node("Block", ["x"], ["y"], domain="local")], {"x": [2, 3]}, ["y"], domains={"local": 1}
    )
    made.functions.append(function)
    assert check(made).operations == ["relu"]
