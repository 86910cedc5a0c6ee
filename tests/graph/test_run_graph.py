"""The level-1 interpreter: inputs are checked, taps are found, numbers are those of plain loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from cimc.diagnostics import ErrorList, UnsupportedError, UsageError
from cimc.dialects.graph import AveragePoolOp, ConvOp, MaxPoolOp
from cimc.dialects.weights import WeightStore
from cimc.interpreters.graph import run_graph

Parse = Callable[[str], ModuleOp]

NETWORK = """
func.func @main(%x: tensor<1x4x7x6xf32>) -> (tensor<1x6x3x4xf32>, tensor<1x4x3x3xf32>)
    attributes {"graph.inputs" = ["x"], "graph.outputs" = ["conv", "mean"]} {
  %r = graph.relu %x tensors ["positive"] : (tensor<1x4x7x6xf32>) -> tensor<1x4x7x6xf32>
  %c = graph.conv %r weight <"w"> bias <"b"> kernel <3, 2> strides <2, 1> pads <0, 1, 1, 0> dilations <2, 2> group 2
    tensors ["c"] : (tensor<1x4x7x6xf32>) -> tensor<1x6x2x5xf32>
  %p = graph.max_pool %x kernel <3, 3> strides <2, 2> pads <1, 1, 0, 1> dilations <1, 1> tensors ["p"]
    : (tensor<1x4x7x6xf32>) -> tensor<1x4x3x3xf32>
  %m = graph.average_pool %x kernel <3, 3> strides <2, 2> pads <1, 1, 0, 1> dilations <1, 1> count_include_pad false
    tensors ["m"] : (tensor<1x4x7x6xf32>) -> tensor<1x4x3x3xf32>
  func.return %c, %m : tensor<1x6x2x5xf32>, tensor<1x4x3x3xf32>
}
""".replace("(tensor<1x6x3x4xf32>,", "(tensor<1x6x2x5xf32>,")


def windows(x: np.ndarray, op: Any) -> Any:
    """Output position and the pixels of its window that lie in the image, with their places in it."""
    (kh, kw), (sh, sw), (dh, dw) = op.kernel.data, op.strides.data, op.dilations.data
    top, left = op.pads.data[:2]
    _, _, rows, columns = op.result.type.get_shape()
    for r in range(rows):
        for c in range(columns):
            inside = [
                (i, j, r * sh + i * dh - top, c * sw + j * dw - left)
                for i in range(kh)
                for j in range(kw)
                if 0 <= r * sh + i * dh - top < x.shape[2] and 0 <= c * sw + j * dw - left < x.shape[3]
            ]
            yield r, c, inside


def conv_by_loops(x: np.ndarray, op: ConvOp, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    result = np.zeros((1, 6, 2, 5))
    for r, c, inside in windows(x, op):
        for m in range(6):
            first = 0 if m < 3 else 2
            total = sum(
                float(x[0, first + k, y, z]) * float(w[m, k, i, j]) for i, j, y, z in inside for k in range(2)
            )
            result[0, m, r, c] = total + float(b[m])
    return result


def network(parse: Parse) -> tuple[ModuleOp, WeightStore, np.ndarray]:
    rng = np.random.default_rng(0)
    store = WeightStore()
    store.put("w", rng.normal(size=(6, 2, 3, 2)).astype(np.float32))
    store.put("b", rng.normal(size=6).astype(np.float32))
    return parse(NETWORK), store, rng.normal(size=(1, 4, 7, 6)).astype(np.float32)


def test_windows_by_plain_loops(parse: Parse) -> None:
    """Grouped dilated convolution and both pools with uneven pads, against loops in float64."""
    module, store, x = network(parse)
    found = run_graph(module, store, {"x": x}, taps=["p"])
    by_type = {type(op): op for op in module.walk()}
    conv = by_type[ConvOp]
    assert isinstance(conv, ConvOp)
    wanted = conv_by_loops(np.maximum(x, 0), conv, store.array("w"), store.array("b"))
    np.testing.assert_allclose(found["conv"], wanted, rtol=0, atol=1e-5)
    for r, c, inside in windows(x, by_type[MaxPoolOp]):
        pixels = np.stack([x[0, :, y, z] for _, _, y, z in inside])
        np.testing.assert_array_equal(found["p"][0, :, r, c], pixels.max(axis=0))
    for r, c, inside in windows(x, by_type[AveragePoolOp]):
        pixels = np.stack([x[0, :, y, z] for _, _, y, z in inside]).astype(np.float64)
        np.testing.assert_allclose(found["mean"][0, :, r, c], pixels.mean(axis=0), rtol=0, atol=1e-6)


def test_taps_name_inputs_inner_tensors_and_outputs(parse: Parse) -> None:
    """Any tensor by its ONNX name; outputs come anyway."""
    module, store, x = network(parse)
    found = run_graph(module, store, {"x": x}, taps=["x", "positive", "c", "mean"])
    assert set(found) == {"conv", "mean", "x", "positive", "c"}
    np.testing.assert_array_equal(found["positive"], np.maximum(x, 0))
    np.testing.assert_array_equal(found["c"], found["conv"])


def test_unknown_taps_are_listed(parse: Parse) -> None:
    """All of them, with the likely cause."""
    module, store, x = network(parse)
    with pytest.raises(ErrorList) as caught:
        run_graph(module, store, {"x": x}, taps=["bn1", "bn2", "c"])
    assert "no tensor 'bn1' at this level; it may have been folded" in str(caught.value)
    assert "no tensor 'bn2'" in str(caught.value)
    assert "'c'" not in str(caught.value)


X = np.zeros((1, 4, 7, 6), np.float32)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'x' is missing"),
        ({"x": X, "z": X}, "there is no input 'z'; the inputs are x"),
        ({"x": X[0]}, r"input 'x' has shape \(4, 7, 6\), the model takes \(1, 4, 7, 6\)"),
        ({"x": X.astype(np.float64)}, "input 'x' has elements float64, the model takes float32"),
    ],
)
def test_wrong_inputs(parse: Parse, inputs: dict[str, np.ndarray], message: str) -> None:
    """Name, shape and element type; nothing is cast silently."""
    module, store, _ = network(parse)
    with pytest.raises(UsageError, match=message):
        run_graph(module, store, inputs)


def test_all_wrong_inputs_together(parse: Parse) -> None:
    """Shape and type of one input, and a name that does not exist, in one report."""
    module, store, x = network(parse)
    with pytest.raises(ErrorList) as caught:
        run_graph(module, store, {"x": x[0].astype(np.int32), "z": x})
    assert len(caught.value.errors) == 3


def test_conversions_of_a_quantised_model_run(parse: Parse) -> None:
    """quantize rounds half to even and saturates, dequantize gives back the code's real value (rules 1 and 2)."""
    module = parse(
        "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32>"
        ' attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {\n'
        '%q = graph.quantize %x tensors ["q"] : (tensor<4xf32>) -> tensor<4x!graph.quant<u8, 0.5, 3>>\n'
        '%y = graph.dequantize %q tensors ["y"] : (tensor<4x!graph.quant<u8, 0.5, 3>>) -> tensor<4xf32>\n'
        "func.return %y : tensor<4xf32>\n}"
    )  # fmt: skip
    x = np.array([0.25, 0.75, -9.0, 1000.0], np.float32)
    found = run_graph(module, WeightStore(), {"x": x}, taps=["q"])
    assert found["q"].tolist() == [3, 5, 0, 255]
    assert found["y"].tolist() == [0.0, 1.0, -1.5, 126.0]


def test_operators_on_codes_are_not_level_1(parse: Parse) -> None:
    """An operation of level 2 is refused by name and place."""
    module = parse(
        "func.func @main(%x: tensor<2xf32>) -> tensor<2xf32>"
        ' attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {\n'
        '%q = graph.quantize %x tensors ["q"] : (tensor<2xf32>) -> tensor<2x!graph.quant<u8, 0.5, 3>>\n'
        '%r = graph.requantize %q tensors ["r"] : (tensor<2x!graph.quant<u8, 0.5, 3>>)'
        ' -> tensor<2x!graph.quant<u8, 0.25, 3>> loc("in"("m.onnx":0:0))\n'
        '%y = graph.dequantize %r tensors ["y"] : (tensor<2x!graph.quant<u8, 0.25, 3>>) -> tensor<2xf32>\n'
        "func.return %y : tensor<2xf32>\n}"
    )  # fmt: skip
    with pytest.raises(
        UnsupportedError, match=r"^in \(m.onnx:0\): graph.requantize: has no meaning at level 'graph'"
    ):
        run_graph(module, WeightStore(), {"x": np.zeros(2, np.float32)})


def test_a_host_operator_that_fails_is_located(parse: Parse) -> None:
    """Bytes that are no model: the operator, its place, and onnxruntime's reason."""
    store = WeightStore()
    store.put("m", np.frombuffer(b"not a model", np.uint8))
    module = parse(
        "func.func @main(%x: tensor<2xf32>) -> tensor<2xf32>"
        ' attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {\n'
        '%y = graph.host "Exp"(%x) model <"m"> reason "r" tensors ["y"] : (tensor<2xf32>) -> tensor<2xf32>'
        ' loc("e"("m.onnx":4:0))\n'
        "func.return %y : tensor<2xf32>\n}"
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"^e \(m.onnx:4\): graph.host: Exp fails on the host: "):
        run_graph(module, store, {"x": np.zeros(2, np.float32)})
