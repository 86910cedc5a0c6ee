"""Quantised models whose convolutions are grouped, one-dimensional or transposed keep their own integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cimc.compiler import CompileOptions, build
from cimc.dialects.graph import ConvOp, IndexMapOp
from cimc.dialects.graph_types import quant_of
from cimc.interpreters.mapped import execute_mapped
from cimc.interpreters.quantised import execute_quantised
from cimc.runtime.functional import run_program
from tests.convolutions.models_and_checks import MACHINES, Array

FORMS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], int, dict[str, Any]]] = {
    # operator, input, weight, axis of the weight's scales, attributes
    "depthwise": ("Conv", (1, 6, 7, 6), (6, 1, 3, 3), 0, {"group": 6, "pads": [1, 1, 1, 1]}),
    "1-D": ("Conv", (1, 6, 15), (4, 3, 3), 0, {"group": 2, "strides": [2]}),
    "transposed": ("ConvTranspose", (1, 5, 6, 4), (5, 4, 3, 3), 1, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "transposed 1-D": ("ConvTranspose", (1, 5, 9), (5, 4, 4), 1, {"strides": [2]}),
}


def quantised(form: str, per_channel: bool) -> onnx.ModelProto:
    """x to codes, the operator on dequantised codes and weights, its result to codes and back."""
    op_type, x, shape, axis, attributes = FORMS[form]
    rng = np.random.default_rng(7)
    channels = shape[axis]
    scale = (
        rng.uniform(0.005, 0.02, channels).astype(np.float32) if per_channel else np.array(0.01, np.float32)
    )
    stored: dict[str, Array] = {
        "sx": np.array(0.02, np.float32),
        "zx": np.array(120, np.uint8),
        "w": rng.integers(-128, 128, shape).astype(np.int8),
        "sw": scale,
        "zw": np.zeros(scale.shape, np.int8),
        "sy": np.array(0.06, np.float32),
        "zy": np.array(131, np.uint8),
    }
    along: dict[str, Any] = {"axis": axis} if per_channel else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"], "d"),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], "dw", **along),
        helper.make_node(op_type, ["xd", "wd"], ["c"], "product", **attributes),
        helper.make_node("QuantizeLinear", ["c", "sy", "zy"], ["cq"], "qc"),
        helper.make_node("DequantizeLinear", ["cq", "sy", "zy"], ["y"], "dc"),
    ]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_models_integers_reach_the_arrays(form: str, per_channel: bool) -> None:
    """Weights are the file's, edges have its scales, no real value is moved; outputs are onnxruntime's to one code."""
    model = quantised(form, per_channel)
    x = np.random.default_rng(8).normal(size=(2, *FORMS[form][1][1:])).astype(np.float32)
    made = build(model, MACHINES["odd"], None, CompileOptions())
    store = made.store
    ops = [op for op in made.modules["quantised"].walk() if isinstance(op, ConvOp | IndexMapOp)]
    codes = np.concatenate(
        [store.array(op.weight.key.data).reshape(-1) for op in ops if isinstance(op, ConvOp)]
    )
    weight = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w")
    np.testing.assert_array_equal(np.sort(codes), np.sort(weight.reshape(-1)))
    for op in ops:
        kind = quant_of(op.result)
        assert kind is not None
        assert (kind.scale, kind.zero_point) == (np.float32(0.06), 131)
    assert made.linked is not None
    program = made.linked.program
    run = run_program(program, {key: store.array(key) for key in program.weights}, {"x": x})
    mapped = execute_mapped(made.modules["mapped"], store, {"x": x}, arch=MACHINES["odd"])
    np.testing.assert_array_equal(run.outputs["y"], mapped.integer_outputs["y"])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for index, frame in enumerate(x):
        level_2 = execute_quantised(made.modules["quantised"], store, {"x": frame[None]})
        np.testing.assert_array_equal(level_2.integer_outputs["y"][0], run.outputs["y"][index])
        wanted = np.asarray(session.run(None, {"x": frame[None]})[0])
        # Sums of real products may round to the neighbouring code.
        assert np.abs(level_2.outputs["y"] - wanted).max() <= 0.0601
        assert (level_2.outputs["y"] == wanted).mean() > 0.98
