"""Rules 8 to 11 of docs/numerics.md section 0 against unfused onnxruntime and float64."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from cimc.runtime.numerics import digital
from cimc.runtime.numerics.digital import Window


def run_graph(
    nodes: list[onnx.NodeProto], inputs: dict[str, npt.NDArray[Any]], constants: dict[str, Any]
) -> npt.NDArray[Any]:
    """The last node's output through onnxruntime without any fusion."""
    output = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes,
        "unfused",
        [value_info(n, a.dtype, a.shape) for n, a in inputs.items()],
        [onnx.ValueInfoProto(name=output)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    # onnxruntime's fused QLinearAdd adds the zero point before it rounds and QLinearAveragePool differs
    # from its own unfused graph: the unfused graph is the oracle.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def value_info(name: str, dtype: np.dtype[Any], shape: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)


def quantised_graph(
    node: onnx.NodeProto,
    inputs: dict[str, npt.NDArray[Any]],
    scales: dict[str, tuple[np.float32, npt.NDArray[Any]]],
) -> npt.NDArray[Any]:
    """``node`` between DequantizeLinear on each input and QuantizeLinear on its output."""
    constants = {f"{n}_{k}": v for n, pair in scales.items() for k, v in zip("sz", pair, strict=True)}
    before = [helper.make_node("DequantizeLinear", [f"{n}_q", f"{n}_s", f"{n}_z"], [n]) for n in node.input]
    y = node.output[0]
    after = helper.make_node("QuantizeLinear", [y, f"{y}_s", f"{y}_z"], ["out"])
    return run_graph([*before, node, after], {f"{n}_q": a for n, a in inputs.items()}, constants)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_residual_add_on_all_pairs(dtype: Any) -> None:
    """Rule 10: equal to Dequantize, Add, Quantize on all 65,536 operand pairs, for several scales."""
    info = np.iinfo(dtype)
    a, b = (v.ravel().astype(dtype) for v in np.meshgrid(*[np.arange(info.min, info.max + 1)] * 2))
    node = helper.make_node("Add", ["a", "b"], ["y"])
    cases = [(0.02, 0.03, 0.05, 3, 7, 11), (0.1, 0.05, 0.1, 0, 0, 0), (0.017, 0.0171, 0.0123, -1, 90, 40)]
    for sa, sb, sy, za, zb, zy in cases:
        za = abs(za) if dtype is np.uint8 else za
        scales = {
            "a": (np.float32(sa), np.array(za, dtype)),
            "b": (np.float32(sb), np.array(zb, dtype)),
            "y": (np.float32(sy), np.array(zy, dtype)),
        }
        expected = quantised_graph(node, {"a": a, "b": b}, scales)
        mine = digital.add_codes(
            a, np.float32(sa), za, b, np.float32(sb), zb, np.float32(sy), zy, info.min, info.max, dtype=dtype
        )
        np.testing.assert_array_equal(mine, expected)


POOLS = [
    ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((3, 2), (1, 2), (1, 0, 0, 1), (1, 1)),
    ((5, 5), (3, 3), (2, 1, 0, 2), (1, 1)),
    ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
]


def window(kernel: Any, strides: Any, pads: Any, dilations: Any) -> Window:
    return Window((2, 3), kernel, strides, pads[:2], pads[2:], dilations)


@pytest.mark.parametrize("pool", POOLS)
def test_max_pool_on_codes_and_floats(pool: Any) -> None:
    """Rule 8: codes pass unchanged and padding, being the least code, never wins."""
    kernel, strides, pads, dilations = pool
    codes = np.random.default_rng(1).integers(-128, 128, (2, 3, 13, 11)).astype(np.int8)
    codes[:, 0] = -128
    node = helper.make_node(
        "MaxPool", ["x"], ["y"], kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations
    )
    expected = run_graph([node], {"x": codes}, {})
    np.testing.assert_array_equal(digital.max_pool_codes(codes, window(*pool), -128), expected)
    real = codes.astype(np.float32)
    np.testing.assert_array_equal(
        digital.max_pool_float(real, window(*pool)), run_graph([node], {"x": real}, {})
    )


@pytest.mark.parametrize("include_pad", [False, True])
@pytest.mark.parametrize("pool", POOLS[:4])
def test_average_pool_equals_unfused_graph(pool: Any, include_pad: bool) -> None:
    """Rule 9: exact sums, then three float32 operations, equal to Dequantize, AveragePool, Quantize."""
    kernel, strides, pads, _ = pool
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 256, (2, 8, 14, 15)).astype(np.uint8)
    node = helper.make_node(
        "AveragePool", ["x"], ["y"],
        kernel_shape=kernel, strides=strides, pads=pads, count_include_pad=int(include_pad),
    )  # fmt: skip
    sx, sy = np.float32(0.0235), np.float32(0.0171)
    scales = {"x": (sx, np.array(9, np.uint8)), "y": (sy, np.array(21, np.uint8))}
    expected = quantised_graph(node, {"x": codes}, scales)
    geometry = window(*pool)
    sums = digital.window_sums(codes, 9, geometry)
    counts = digital.window_counts(codes.shape, geometry, include_pad)
    mine = digital.average_codes(sums, counts, sx, sy, 21, 0, 255, dtype=np.uint8)
    np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_average_pool_with_one_scale_differs_at_ties_only(size: int) -> None:
    """Rule 9 where input and output share (s, z): means fall on ties, which a sum of rounded reals may miss."""
    rng = np.random.default_rng(size)
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=(size, size), strides=(size, size))
    codes = rng.integers(0, 256, (1, 16, 28, 28)).astype(np.uint8)
    scale, zero = np.float32(rng.uniform(0.001, 0.1)), np.array(77, np.uint8)
    expected = quantised_graph(node, {"x": codes}, {"x": (scale, zero), "y": (scale, zero)})
    geometry = window((size, size), (size, size), (0, 0, 0, 0), (1, 1))
    sums = digital.window_sums(codes, 77, geometry)
    mine = digital.average_codes(sums, size * size, scale, scale, 77, 0, 255)
    differs = mine != expected
    assert np.abs(mine - expected.astype(int)).max() <= 1
    np.testing.assert_array_equal((2 * sums[differs]) % (size * size), 0)
    assert not differs.any() or size % 2 == 0


def test_global_average_pool_equals_unfused_graph() -> None:
    """Rule 9 over a whole image, with a signed type."""
    codes = np.random.default_rng(3).integers(-128, 128, (2, 200, 7, 7)).astype(np.int8)
    sx, sy = np.float32(0.11), np.float32(0.023)
    scales = {"x": (sx, np.array(-5, np.int8)), "y": (sy, np.array(8, np.int8))}
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    expected = quantised_graph(node, {"x": codes}, scales)
    sums = (codes.astype(np.int64) + 5).sum(axis=(2, 3), keepdims=True)
    np.testing.assert_array_equal(digital.average_codes(sums, 49, sx, sy, 8, -128, 127), expected)


def test_window_rows_equal_the_whole_image() -> None:
    """An engine pools a ring of rows (K, W, C); each gives the row of the whole channel-last image."""
    codes = np.random.default_rng(4).integers(0, 256, (12, 10, 5)).astype(np.uint8)
    whole = Window((0, 1), (3, 3), (2, 2), (0, 1), (0, 1), (1, 1))
    image = digital.max_pool_codes(codes, whole, 0)
    sums = digital.window_sums(codes, 3, whole)
    for row in range(image.shape[0]):
        held = codes[2 * row : 2 * row + 3]
        np.testing.assert_array_equal(digital.max_pool_codes(held, whole, 0)[0], image[row])
        np.testing.assert_array_equal(digital.window_sums(held, 3, whole)[0], sums[row])


def test_float_pools_against_float64() -> None:
    """Rule 11's mean: within one rounding of float64, for windows and for the whole image."""
    x = np.random.default_rng(5).normal(size=(2, 3, 9, 9)).astype(np.float32)
    geometry = window((3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    expected = (views.sum(axis=(4, 5)) / 9).astype(np.float32)
    np.testing.assert_array_almost_equal_nulp(digital.average_pool_float(x, geometry, True), expected, 1)
    whole = x.astype(np.float64).mean(axis=(2, 3), keepdims=True).astype(np.float32)
    np.testing.assert_array_almost_equal_nulp(digital.global_average_float(x, (2, 3)), whole, 1)


def test_halving_tree_adds_upper_half_to_lower() -> None:
    """Rule 11's order, seen where it matters: five terms padded to eight, ((0+4)+2)+(1+3) by position."""
    x = np.array([1e16, 1.0, -1e16, 1.0, 1.0])
    by_hand = ((1e16 + 1.0) + -1e16) + (1.0 + 1.0)
    assert digital.halving_tree_sum(x) == by_hand
    assert by_hand != np.sum([1.0, 1.0, 1.0])


@pytest.mark.parametrize("axis", [-1, 1])
def test_softmax_against_float64(axis: int) -> None:
    """Rule 11: one rounding of the float64 result, hence within 1 ulp of any accurate softmax; axis kept."""
    x = (np.random.default_rng(6).normal(size=(3, 17, 5)) * 8).astype(np.float32)
    wide = np.exp(x.astype(np.float64) - x.max(axis=axis, keepdims=True))
    expected = (wide / wide.sum(axis=axis, keepdims=True)).astype(np.float32)
    np.testing.assert_array_almost_equal_nulp(digital.softmax(x, axis), expected, 1)
    reference = run_graph([helper.make_node("Softmax", ["x"], ["y"], axis=axis)], {"x": x}, {})
    np.testing.assert_allclose(digital.softmax(x, axis), reference, rtol=2e-6)


def test_relu_and_clip_hold_no_negative_zero() -> None:
    """Which zero a maximum of -0 and +0 gives depends on the CPU; ours is always +0."""
    x = np.array([-0.0, 0.0, -1.0, 7.5, np.nan], np.float32)
    np.testing.assert_array_equal(np.signbit(digital.relu_float(x)[:4]), False)
    np.testing.assert_array_equal(digital.clip_float(x, -0.5, 6.0)[:4], np.array([0, 0, -0.5, 6], np.float32))
    assert np.isnan(digital.relu_float(x)[4])
