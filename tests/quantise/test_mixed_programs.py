"""Programs in which codes meet operators of the host, and what cannot be quantised."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from cimc.calibration import collect_ranges, load_samples
from cimc.diagnostics import CimError, UnsupportedError
from cimc.dialects.context import CimContext
from cimc.dialects.graph import ConvOp, HostOp, main_function
from cimc.dialects.graph_types import is_float
from cimc.dialects.levels import check_level
from cimc.frontend.onnx import import_onnx
from cimc.interpreters.quantised import execute_quantised
from cimc.passes.quantise.options import QuantOptions
from cimc.passes.quantise.ranges import put_ranges


def gated_model(folder: Path) -> Path:
    """Conv, Atan (which only the host has), Conv, Softmax."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(4, 2, 3, 3)).astype(np.float32),
        "w2": 0.8 * rng.normal(size=(6, 4, 1, 1)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Atan", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w2"], ["c"]),
            helper.make_node("Softmax", ["c"], ["y"], axis=1),
        ],
        "gated",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, 6, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 6, 6, 6))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = folder / "gated.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize(("mode", "conversions"), [("all", (2, 2)), ("arrays", (2, 0))])
def test_the_host_computes_on_real_values(tmp_path: Path, mode: str, conversions: tuple[int, int]) -> None:
    """Codes are dequantised before Atan and Softmax and quantised behind; outputs stay near float."""
    path = gated_model(tmp_path)
    context = CimContext()
    module = import_onnx(path, store=context.store)
    images = np.random.default_rng(1).normal(size=(5, 2, 6, 6)).astype(np.float32)
    put_ranges(context.store, collect_ranges(module, context.store, load_samples({"x": images}, module)))
    for step in QuantOptions(mode).passes():
        step.apply(context, module)
    check_level(module, "quantised")
    ops = list(main_function(module).body.block.ops)
    names = [op.name for op in ops]
    assert (names.count("graph.quantize"), names.count("graph.dequantize")) == conversions
    (host,) = (op for op in ops if isinstance(op, HostOp))
    assert is_float(host.inputs[0])
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for image in images[:, np.newaxis]:
        real: npt.NDArray[Any] = np.asarray(session.run(None, {"x": image})[0])
        mine = execute_quantised(module, context.store, {"x": image}).outputs["y"]
        np.testing.assert_allclose(mine, real, atol=0.05)
        assert real.max() > 0.4


GEMM = """
func.func @main(%x: tensor<1x4xf32>) -> tensor<1x2xf32>
    attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
  %y = graph.gemm %x weight <"w"> tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x2xf32> loc("fc"("m.onnx":3:0))
  func.return %y : tensor<1x2xf32>
}"""
GROUPED = """
func.func @main(%x: tensor<1x4x2x2xf32>) -> tensor<1x4x2x2xf32>
    attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
  %y = graph.conv %x weight <"w"> kernel <1, 1> strides <1, 1> pads <0, 0, 0, 0> dilations <1, 1> group 2
      tensors ["y"] : (tensor<1x4x2x2xf32>) -> tensor<1x4x2x2xf32> loc("dw"("m.onnx":5:0))
  func.return %y : tensor<1x4x2x2xf32>
}"""


def parse(text: str) -> tuple[CimContext, ModuleOp]:
    context = CimContext()
    context.store.put("w", np.ones((4, 2, 1, 1) if "conv" in text else (4, 2), np.float32))
    return context, Parser(context, f"builtin.module {{ {text} }}").parse_module()


def test_a_tensor_without_a_range_is_named_with_its_operator() -> None:
    """All tensors that lack a range are reported together, each at the operator that makes it."""
    context, module = parse(GEMM)
    with pytest.raises(CimError) as caught:
        QuantOptions("all").passes()[0].apply(context, module)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("tensor 'x' has no calibrated range")
    assert lines[1].startswith("fc (m.onnx:3): tensor 'y' has no calibrated range")


def test_a_grouped_convolution_becomes_integer_as_any_other() -> None:
    """Its groups stay, its weights are codes."""
    context, module = parse(GROUPED)
    put_ranges(context.store, {name: np.array([-1, 1], np.float32) for name in ("x", "y")})
    activations, _, products, *_ = QuantOptions("all").passes()
    activations.apply(context, module)
    products.apply(context, module)
    (conv,) = [op for op in module.walk() if isinstance(op, ConvOp)]
    assert (conv.group.value.data, conv.is_quantised) == (2, True)


def test_a_product_without_codes_says_which_pass_is_missing() -> None:
    """quantise-products alone cannot invent a scale."""
    context, module = parse(GEMM)
    with pytest.raises(UnsupportedError, match=r"^fc \(m\.onnx:3\): .*run quantise-activations first"):
        QuantOptions("all").passes()[2].apply(context, module)


def test_nan_in_the_input_names_the_tensor() -> None:
    """docs/numerics.md section 0 rule 1: NaN has no code."""
    context, module = parse(GEMM)
    put_ranges(context.store, {name: np.array([-1, 1], np.float32) for name in ("x", "y")})
    for step in QuantOptions("all").passes():
        step.apply(context, module)
    with pytest.raises(UnsupportedError, match=r"tensor 'x': a value is not a number"):
        execute_quantised(module, context.store, {"x": np.array([[0, np.nan, 0, 0]], np.float32)})
