"""Level 2's products equal QLinearConv, QLinearMatMul and QGemm, code for code, over random parameters.

docs/numerics.md section 0 rules 3, 5 and 6. The reference runs unfused, with exact u8 x s8 products.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from xdsl.parser import Parser

from cimc.dialects.context import CimContext
from cimc.dialects.graph import QuantType
from cimc.dialects.levels import check_level
from cimc.interpreters.integer_products import ProductWeights, accumulate_gemm, exact_type
from cimc.interpreters.quantised import execute_quantised
from cimc.runtime.numerics import digital


def run_node(
    op_type: str, inputs: Mapping[str, Any], *, domain: str = "", **attributes: Any
) -> npt.NDArray[Any]:
    """One node through onnxruntime; every input but the first is an initializer."""
    first, *rest = inputs
    x = np.asarray(inputs[first])
    graph = helper.make_graph(
        [helper.make_node(op_type, list(inputs), ["y"], domain=domain, **attributes)],
        "one_node",
        [helper.make_tensor_value_info(first, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(inputs[name]), name) for name in rest],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {first: x})[0])


def extents(array: npt.NDArray[Any]) -> str:
    return "x".join(map(str, array.shape))


def run_product(
    operator: str,
    codes: npt.NDArray[Any],
    x: QuantType,
    y: QuantType | None,
    shape: tuple[int, ...],
    weights: Mapping[str, npt.NDArray[Any]],
    *,
    clamp: tuple[int, int] | None = None,
    acc_bits: int = 32,
    weight_bits: int = 8,
) -> npt.NDArray[Any]:
    """A level-2 program of one product on ``codes``; its codes, or its real result when ``y`` is ``None``.

    ``operator``: the operation's own text, between operand and quantisation properties.
    """
    context = CimContext()
    for key, array in weights.items():
        context.store.put(key, array)
    size, out = extents(codes), "x".join(map(str, shape))
    result = f"tensor<{out}x{y or 'f32'}>"
    zero = 'weight_zero <"zw">' if "zw" in weights else ""
    bounds = "" if clamp is None else f"lo {clamp[0]} hi {clamp[1]}"
    tail = (
        f'%z = graph.dequantize %y tensors ["y"] : ({result}) -> tensor<{out}xf32>'
        if y
        else f'%z = graph.reshape %y tensors ["z"] : ({result}) -> tensor<{out}xf32>'
    )
    text = f"""
    func.func @main(%x: tensor<{size}xf32>) -> tensor<{out}xf32>
        attributes {{"graph.inputs" = ["x"], "graph.outputs" = ["y"]}} {{
      %q = graph.quantize %x tensors ["x"] : (tensor<{size}xf32>) -> tensor<{size}x{x}>
      %y = {operator.replace("%x", "%q")} weight_bits {weight_bits} weight_scale <"sw"> {zero}
          acc_bits {acc_bits} {bounds} tensors ["y"] : (tensor<{size}x{x}>) -> {result}
      {tail}
      func.return %z : tensor<{out}xf32>
    }}"""
    module = Parser(context, f"builtin.module {{ {text} }}").parse_module()
    check_level(module, "quantised")
    real = digital.dequantise(codes, x.scale, x.zero_point)
    run = execute_quantised(module, context.store, {"x": real})
    return run.integer_outputs["y"] if y else run.outputs["y"]


def random_type(rng: np.random.Generator, signed: bool, low: float, high: float) -> QuantType:
    least, most = digital.code_range(8, signed)
    return QuantType.of(8, signed, rng.uniform(low, high), int(rng.integers(least, most + 1)))


CONVOLUTIONS = [
    # channels, filters, size, kernel, strides, pads, dilations
    (1, 1, (5, 5), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    (3, 8, (9, 11), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (4, 5, (8, 8), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    (2, 6, (10, 7), (5, 3), (2, 1), (2, 0, 1, 2), (1, 1)),
    (5, 3, (12, 12), (3, 2), (1, 3), (2, 1, 2, 0), (2, 3)),
]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("case", range(len(CONVOLUTIONS)))
def test_conv_equals_qlinearconv(case: int, per_channel: bool, signed: bool) -> None:
    """Rules 3 and 5: strides, uneven pads filled with the zero point, dilations, zero points, scales per channel."""
    channels, filters, size, kernel, strides, pads, dilations = CONVOLUTIONS[case]
    rng = np.random.default_rng([case, per_channel, signed])
    seen: set[int] = set()
    for _ in range(6):
        x, y = random_type(rng, signed, 0.01, 0.05), random_type(rng, signed, 0.02, 0.3)
        codes = rng.integers(x.qmin, x.qmax + 1, (2, channels, *size)).astype(x.dtype)
        w = rng.integers(-127, 128, (filters, channels, *kernel)).astype(np.int8)
        sw = rng.uniform(0.001, 0.02, filters if per_channel else 1).astype(np.float32)
        bias = rng.integers(-5000, 5000, filters).astype(np.int32)
        inputs = {
            "x": codes, "sx": x.scale, "zx": np.array(x.zero_point, x.dtype),
            "w": w, "sw": sw if per_channel else sw[0], "zw": np.zeros_like(sw, np.int8) if per_channel else np.int8(0),
            "sy": y.scale, "zy": np.array(y.zero_point, y.dtype), "b": bias,
        }  # fmt: skip
        expected = run_node("QLinearConv", inputs, strides=strides, pads=pads, dilations=dilations)
        text = (
            f'graph.conv %x weight <"w"> bias <"b"> kernel <{kernel[0]}, {kernel[1]}> '
            f"strides <{strides[0]}, {strides[1]}> pads <{', '.join(map(str, pads))}> "
            f"dilations <{dilations[0]}, {dilations[1]}> group 1"
        )
        weights = {"w": w, "sw": sw, "b": bias.astype(np.int64)}
        mine = run_product(text, codes, x, y, expected.shape, weights)
        np.testing.assert_array_equal(mine, expected)
        seen.update(expected.ravel().tolist())
    assert len(seen) > 12


@pytest.mark.parametrize("signed", [False, True])
def test_gemm_equals_qlinearmatmul(signed: bool) -> None:
    """Rules 3 and 5 on rows of tokens, with zero points of the weights per column."""
    rng = np.random.default_rng(int(signed))
    for _ in range(20):
        x, y = random_type(rng, signed, 0.01, 0.05), random_type(rng, signed, 0.1, 0.4)
        codes = rng.integers(x.qmin, x.qmax + 1, (3, 7, 33)).astype(x.dtype)
        w = rng.integers(-128, 128, (33, 12)).astype(np.int8)
        sw = rng.uniform(0.001, 0.02, 12).astype(np.float32)
        zw = rng.integers(-20, 20, 12).astype(np.int8)
        inputs = {
            "x": codes, "sx": x.scale, "zx": np.array(x.zero_point, x.dtype),
            "w": w, "sw": sw, "zw": zw, "sy": y.scale, "zy": np.array(y.zero_point, y.dtype),
        }  # fmt: skip
        expected = run_node("QLinearMatMul", inputs)
        weights = {"w": w, "sw": sw, "zw": zw}
        mine = run_product('graph.gemm %x weight <"w">', codes, x, y, expected.shape, weights)
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("real", [False, True])
def test_gemm_equals_qgemm(real: bool) -> None:
    """Rules 5 and 6: codes when the output has a scale, otherwise float32 from the accumulator."""
    rng = np.random.default_rng(7)
    for _ in range(20):
        x, y = random_type(rng, False, 0.01, 0.05), random_type(rng, False, 0.05, 0.4)
        codes = rng.integers(0, 256, (4, 50)).astype(np.uint8)
        w = rng.integers(-127, 128, (50, 9)).astype(np.int8)
        sw = rng.uniform(0.001, 0.02, 9).astype(np.float32)
        bias = rng.integers(-9000, 9000, 9).astype(np.int32)
        inputs: dict[str, Any] = {
            "x": codes, "sx": x.scale, "zx": np.array(x.zero_point, np.uint8),
            "w": w, "sw": sw, "zw": np.zeros(9, np.int8), "b": bias,
        }  # fmt: skip
        if not real:
            inputs |= {"sy": y.scale, "zy": np.array(y.zero_point, np.uint8)}
        expected = run_node("QGemm", inputs, domain="com.microsoft")
        weights = {"w": w, "sw": sw, "b": bias.astype(np.int64)}
        text = 'graph.gemm %x weight <"w"> bias <"b">'
        mine = run_product(text, codes, x, None if real else y, expected.shape, weights)
        np.testing.assert_array_equal(mine, expected)


def test_clamp_equals_a_relu_behind_the_product() -> None:
    """Rule 5: ``lo`` at the zero point is Relu on the codes, ``hi`` cuts a Clip's upper end."""
    rng = np.random.default_rng(8)
    x, y = QuantType.of(8, False, 0.02, 100), QuantType.of(8, False, 0.1, 90)
    codes = rng.integers(0, 256, (5, 20)).astype(np.uint8)
    weights = {"w": rng.integers(-127, 128, (20, 6)).astype(np.int8), "sw": np.array([0.01], np.float32)}
    plain = run_product('graph.gemm %x weight <"w">', codes, x, y, (5, 6), weights)
    clamped = run_product('graph.gemm %x weight <"w">', codes, x, y, (5, 6), weights, clamp=(90, 150))
    assert plain.min() < 90
    assert plain.max() > 150
    np.testing.assert_array_equal(clamped, np.clip(plain, 90, 150))


@pytest.mark.parametrize("length", [40, 70000])
def test_sixteen_bit_operands_against_python_integers(length: int) -> None:
    """Rule 3 is exact at 16 bits, where float64 sums stay exact and where int32 accumulators would not."""
    rng = np.random.default_rng(length)
    x, y = QuantType.of(16, False, 0.001, 65535), QuantType.of(16, True, np.float32(length * 1e-3), 0)
    codes = rng.integers(0, 2000, (1, length)).astype(np.uint16)
    w = np.full((length, 2), 32767, np.int16)
    w[:, 1] = rng.integers(-32767, 32768, length)
    bias = np.array([123456789, -5], np.int64)
    weights = {"w": w, "sw": np.array([1e-5, 3e-5], np.float32), "b": bias}
    text = 'graph.gemm %x weight <"w"> bias <"b">'
    mine = run_product(text, codes, x, y, (1, 2), weights, acc_bits=64, weight_bits=16)
    exact = [
        sum((int(q) - 65535) * int(v) for q, v in zip(codes[0], w[:, n], strict=True)) + int(bias[n])
        for n in range(2)
    ]
    assert abs(exact[0]) > 1 << 31
    m = (x.scale * weights["sw"]) / y.scale
    expected = [np.clip(np.rint(np.float32(np.int64(exact[n])) * m[n]), -32768, 32767) for n in range(2)]
    np.testing.assert_array_equal(mine[0], expected)


@pytest.mark.parametrize(
    ("reach", "kind"),
    [
        (1, np.float32),
        ((1 << 19) - 1, np.float32),
        (1 << 19, np.float64),
        ((1 << 48) - 1, np.float64),
        (1 << 48, np.int64),
    ],
)
def test_sums_run_in_a_type_that_is_exact(reach: int, kind: type) -> None:
    """Rule 3: 32 weights of 1 reach 2^24 and 2^53 exactly at these inputs; below, the float type is exact."""
    weights = ProductWeights(np.ones((32, 1), np.int64), np.array([3]))
    assert exact_type(weights, reach) is kind
    shifted = np.full((1, 32), reach)
    shifted[0, 0] = reach - 1
    assert accumulate_gemm(shifted, weights, reach).tolist() == [[32 * reach - 1 + 3]]


def test_sums_beyond_float64_are_integers_too() -> None:
    """Rule 3 where a float64 sum could lose bits: then the sum runs in int64."""
    rng = np.random.default_rng(9)
    shifted = rng.integers(-(1 << 44), 1 << 44, (3, 40))
    matrix = rng.integers(-(1 << 12), 1 << 12, (40, 2))
    bias = np.array([1, -(1 << 50)], np.int64)
    acc = accumulate_gemm(shifted, ProductWeights(matrix, bias), 1 << 44)
    exact = [
        [
            sum(int(a) * int(b) for a, b in zip(row, matrix[:, n], strict=True)) + int(bias[n])
            for n in range(2)
        ]
        for row in shifted
    ]
    assert acc.tolist() == exact
    assert (shifted.astype(np.float64) @ matrix.astype(np.float64) + bias).astype(np.int64).tolist() != exact
