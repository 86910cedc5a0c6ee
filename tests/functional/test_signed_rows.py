"""Digital rows executed together keep the signs of signed codes: the stream equals the walk and the mapped level."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import cimc
from cimc.mapping_options import MappingOptions


def test_signed_codes_become_real_values() -> None:
    """Symmetric codes are int8; what the digital unit makes of them is negative where they are."""
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(6, 5)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Softmax", ["t"], ["y"])],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 5])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = rng.normal(size=(3, 4, 6)).astype(np.float32)
    options = MappingOptions(symmetric=True, activations="all")
    artifact = cimc.compile(model, "isaac", calibration={"x": x}, mapping=options)
    fast = artifact.run({"x": x}).outputs["y"]
    np.testing.assert_array_equal(fast, artifact.run({"x": x}, walk=True).outputs["y"])
    np.testing.assert_array_equal(fast, artifact.run({"x": x}, engine="mapped").outputs["y"])
    logits = x @ weight
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    assert np.abs(fast - powers / powers.sum(axis=-1, keepdims=True)).max() < 0.05
