"""Rules 1, 2, 5 and 6 of docs/numerics.md section 0, operator by operator against onnxruntime."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from cimc.diagnostics import UnsupportedError
from cimc.runtime.numerics import digital

RNG_SEED = 20240601


def run_node(
    op_type: str,
    inputs: Mapping[str, Any],
    output: npt.DTypeLike,
    *,
    domain: str = "",
    **attributes: Any,
) -> npt.NDArray[Any]:
    """One node through onnxruntime, unfused, with every input but the first as an initializer."""
    first, *rest = inputs
    node = helper.make_node(op_type, list(inputs), ["y"], domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "one_node",
        [value_info(first, inputs[first].dtype, inputs[first].shape)],
        [value_info("y", np.dtype(output), None)],
        [numpy_helper.from_array(inputs[name], name) for name in rest],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return np.asarray(session(model).run(None, {first: inputs[first]})[0])


def value_info(name: str, dtype: np.dtype[Any], shape: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    # Without it, u8 x s8 kernels saturate pairs of products in 16 bits on CPUs that lack VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ties_and_neighbours(scale: np.float32, reach: int) -> npt.NDArray[np.float32]:
    """Values at, just below and just above every half step within ``reach`` steps, and special values."""
    halves = (np.arange(-reach, reach, dtype=np.float64) + 0.5) * np.float64(scale)
    exact = halves.astype(np.float32)
    above, below = np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(-np.inf))
    special = np.array([np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-45], np.float32)
    return np.concatenate([exact, above, below, special])


CODE_TYPES = [
    (8, False, 131),
    (8, True, -7),
    (16, False, 30011),
    (16, True, 1234),
    (8, False, 0),
    (8, True, 0),
]


@pytest.mark.parametrize(("bits", "signed", "zero"), CODE_TYPES)
def test_quantise_equals_quantize_linear(bits: int, signed: bool, zero: int) -> None:
    """Rule 1: a division, ties to even, the zero point after rounding, saturation of what is outside."""
    rng = np.random.default_rng(RNG_SEED)
    lo, hi = digital.code_range(bits, signed)
    dtype = digital.code_dtype(bits, signed)
    for scale in np.array([0.0123, 0.1, 1 / 3, 0.0078125, 1.7e-6], np.float32):
        x = np.concatenate(
            [ties_and_neighbours(scale, 400), rng.normal(0, 60, 5000).astype(np.float32) * scale]
        )
        expected = run_node("QuantizeLinear", {"x": x, "s": scale, "z": np.array(zero, dtype)}, dtype)
        np.testing.assert_array_equal(digital.quantise(x, scale, zero, lo, hi, dtype=dtype), expected)


@pytest.mark.parametrize(("bits", "signed", "zero"), CODE_TYPES)
def test_dequantise_equals_dequantize_linear(bits: int, signed: bool, zero: int) -> None:
    """Rule 2 on every code there is."""
    lo, hi = digital.code_range(bits, signed)
    codes = np.arange(lo, hi + 1).astype(digital.code_dtype(bits, signed))
    for scale in np.array([0.0123, 0.1, 1 / 3], np.float32):
        expected = run_node(
            "DequantizeLinear", {"q": codes, "s": scale, "z": np.array(zero, codes.dtype)}, np.float32
        )
        np.testing.assert_array_equal(digital.dequantise(codes, scale, zero), expected)


def test_quantise_refuses_nan_and_names_the_tensor() -> None:
    """Rule 1: NaN is an error that names the tensor."""
    x = np.zeros((3, 40000), np.float32)
    x[2, 39999] = np.nan
    with pytest.raises(UnsupportedError, match=r"^layer4/out: .*NaN"):
        digital.quantise(x, np.float32(0.1), 0, -128, 127, tensor="layer4/out")


def test_requantise_acc_equals_qlinearmatmul() -> None:
    """Rules 3 and 5 on random products: an asymmetric input, weights and scales per column."""
    rng = np.random.default_rng(RNG_SEED)
    for _ in range(20):
        sx, sy = rng.uniform(0.005, 0.05, 2).astype(np.float32)
        sw = rng.uniform(0.002, 0.02, 16).astype(np.float32)
        zy = int(rng.integers(100, 156))
        x = rng.integers(0, 256, (64, 7)).astype(np.uint8)
        w = rng.integers(-127, 128, (7, 16)).astype(np.int8)
        inputs = {
            "x": x, "sx": sx, "zx": np.array(3, np.uint8),
            "w": w, "sw": sw, "zw": np.zeros(16, np.int8),
            "sy": sy, "zy": np.array(zy, np.uint8),
        }  # fmt: skip
        expected = run_node("QLinearMatMul", inputs, np.uint8)
        acc = (x.astype(np.int64) - 3) @ w.astype(np.int64)
        m = digital.requantise_multiplier(sx, sw, sy)
        np.testing.assert_array_equal(digital.requantise_acc(acc, m, zy, 0, 255, dtype=np.uint8), expected)


def test_requantise_acc_equals_qlinearconv_where_the_forms_differ() -> None:
    """Rule 5 is ``f32(acc) * ((sx*sw)/sy)``, also where its variants, sought out, round otherwise."""
    rng = np.random.default_rng(RNG_SEED)
    wrong = {"float64": 0, "sx*(sw/sy)": 0, "(acc*(sx*sw))/sy": 0}
    every = np.arange(1, 1 << 20, dtype=np.int64)
    for _ in range(12):
        sx, sw, sy = (rng.uniform(1, 2, 3) * [0.01, 0.002, 0.08]).astype(np.float32)
        m = digital.requantise_multiplier(sx, sw.reshape(1), sy)
        variants = {
            "float64": np.rint(every * (float(sx) * float(sw) / float(sy))),
            "sx*(sw/sy)": np.rint(every.astype(np.float32) * (sx * (sw / sy))),
            "(acc*(sx*sw))/sy": np.rint((every.astype(np.float32) * (sx * sw)) / sy),
        }
        mine = digital.requantise_acc(every[:, np.newaxis], m, 0, -(1 << 15), 1 << 15)[:, 0]
        differs = np.logical_or.reduce([v != mine for v in variants.values()]) & (mine < 255)
        for index in np.flatnonzero(differs)[:12]:
            expected = qlinearconv_of_accumulator(int(every[index]), sx, sw, sy)
            assert mine[index] == expected, (every[index], sx, sw, sy)
            for name, values in variants.items():
                wrong[name] += int(values[index] != expected)
    assert min(wrong.values()) >= 5, wrong


def qlinearconv_of_accumulator(acc: int, sx: np.float32, sw: np.float32, sy: np.float32) -> int:
    """One-cell QLinearConv whose int32 accumulator is ``acc``: all of it stands in the bias."""
    inputs = {
        "x": np.zeros((1, 1, 1, 1), np.uint8), "sx": sx, "zx": np.array(0, np.uint8),
        "w": np.ones((1, 1, 1, 1), np.int8), "sw": sw, "zw": np.array(0, np.int8),
        "sy": sy, "zy": np.array(0, np.uint8), "b": np.array([acc], np.int32),
    }  # fmt: skip
    return int(run_node("QLinearConv", inputs, np.uint8)[0, 0, 0, 0])


def test_acc_to_float_equals_matmul_integer_to_float() -> None:
    """Rule 6: one product of the accumulator with the float32 product of the two scales."""
    rng = np.random.default_rng(RNG_SEED)
    x = rng.integers(0, 256, (32, 48)).astype(np.uint8)
    w = rng.integers(-127, 128, (48, 24)).astype(np.int8)
    sx, sw = np.float32(0.0173), rng.uniform(0.001, 0.03, 24).astype(np.float32)
    inputs = {"x": x, "w": w, "sx": sx, "sw": sw, "zx": np.array(17, np.uint8)}
    expected = run_node("MatMulIntegerToFloat", inputs, np.float32, domain="com.microsoft")
    acc = (x.astype(np.int64) - 17) @ w.astype(np.int64)
    np.testing.assert_array_equal(digital.acc_to_float(acc, digital.product_scale(sx, sw)), expected)


def test_requantise_codes_is_dequantise_then_quantise() -> None:
    """Rule 8 with different parameters: DequantizeLinear followed by QuantizeLinear, on every code."""
    codes = np.arange(256).astype(np.uint8)
    sx, sy = np.float32(0.031), np.float32(0.0173)
    real = run_node("DequantizeLinear", {"q": codes, "s": sx, "z": np.array(7, np.uint8)}, np.float32)
    expected = run_node("QuantizeLinear", {"x": real, "s": sy, "z": np.array(-9, np.int8)}, np.int8)
    mine = digital.requantise_codes(codes, sx, 7, sy, -9, -128, 127, dtype=np.int8)
    np.testing.assert_array_equal(mine, expected)


def test_int64_accumulators_round_once_to_float32() -> None:
    """ "f32(i)" is one rounding also above 2^53, where going through float64 would round twice."""
    acc = np.array([[(1 << 60) + (1 << 36) + 1, -(1 << 60) - (1 << 36) - 1]], np.int64)
    scaled = digital.acc_to_float(acc, np.ones(1, np.float32))
    above = np.float32(2.0**60 + 2.0**37)
    np.testing.assert_array_equal(scaled, np.array([[above, -above]], np.float32))
    assert np.float32(np.float64(acc[0, 0])) != above


def test_results_do_not_depend_on_the_cut_into_rows() -> None:
    """A tensor and its rows give the same bits: what lets the stream equal the interpreters."""
    rng = np.random.default_rng(RNG_SEED)
    acc = rng.integers(-(1 << 20), 1 << 20, (33, 57, 40))
    m = rng.uniform(1e-5, 1e-3, 40).astype(np.float32)
    whole = digital.requantise_acc(acc, m, 11, 0, 255)
    rows = np.stack([digital.requantise_acc(row, m, 11, 0, 255) for row in acc])
    np.testing.assert_array_equal(whole, rows)
    x = digital.acc_to_float(acc, m)
    whole_codes = digital.quantise(x, np.float32(0.3), 3, -128, 127)
    np.testing.assert_array_equal(
        whole_codes[5:6, 7:9], digital.quantise(x[5:6, 7:9], np.float32(0.3), 3, -128, 127)
    )
