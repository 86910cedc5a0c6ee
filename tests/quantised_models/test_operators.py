"""Small quantised graphs at levels 1 and 2 against onnxruntime, operator by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from xdsl.dialects.builtin import ModuleOp

from cimc.calibration import Samples, collect_ranges
from cimc.diagnostics import CimError, UsageError
from cimc.dialects.context import CimContext
from cimc.dialects.graph import GraphOperation, HostOp, ProductOperation, QuantizeOp
from cimc.dialects.graph_types import quant_of
from cimc.dialects.levels import check_level
from cimc.frontend.onnx import import_onnx
from cimc.frontend.onnx.product_weights import RequantisedWeightWarning
from cimc.interpreters.graph import run_graph
from cimc.interpreters.quantised import execute_quantised
from cimc.passes.graph.canonicalise import Canonicalise
from cimc.passes.graph.fold_batch_norm import FoldBatchNorm
from cimc.passes.quantise.activations import QuantiseActivations
from cimc.passes.quantise.options import QuantOptions
from cimc.passes.quantise.overrides import QuantOverride
from cimc.passes.quantise.ranges import put_ranges
from cimc.passes.quantise.weights import BiasRequantisedWarning
from cimc.passes.schedule.array_product import stored_weights
from tests.quantised_models.conftest import session

Array = npt.NDArray[Any]

MS = "com.microsoft"
U8 = np.uint8


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> NodeProto:
    """A node; com.microsoft's operators get their domain by name."""
    domain = MS if op_type in ("QGemm", "QLinearAdd", "QLinearAveragePool") else attributes.pop("domain", "")
    domain = MS if op_type in ("QLinearGlobalAveragePool", "QLinearConcat") else domain
    return helper.make_node(op_type, inputs, outputs, domain=domain, **attributes)


def model(
    nodes: Sequence[NodeProto],
    shapes: Mapping[str, Sequence[int]],
    outputs: Sequence[str],
    constants: Mapping[str, Array],
    *,
    opset: int = 17,
    element: int = TensorProto.FLOAT,
) -> ModelProto:
    """A model of ``nodes`` on inputs of one element type."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, element, shape) for name, shape in shapes.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def codes(seed: int, shape: Sequence[int], dtype: Any = np.int8) -> Array:
    """Every code of ``dtype`` equally likely."""
    ends = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(ends.min, ends.max + 1, shape).astype(dtype)


def real(seed: int, *shape: int) -> Array:
    """Standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def scalars(**values: Any) -> dict[str, Array]:
    """Scales (floats become float32) and zero points (numpy scalars keep their type)."""
    return {k: np.asarray(v, np.float32 if isinstance(v, float) else None) for k, v in values.items()}


def imported(source: ModelProto) -> tuple[CimContext, ModuleOp]:
    """Level 1."""
    context = CimContext()
    module = import_onnx(source, store=context.store)
    for step in (FoldBatchNorm(), Canonicalise()):
        step.apply(context, module)
    check_level(module, "graph")
    return context, module


def quantised(
    source: ModelProto, ranges: Mapping[str, Array] | None = None, options: QuantOptions | None = None
) -> tuple[CimContext, ModuleOp]:
    """Level 2, with the ranges that are given and no others."""
    context, module = imported(source)
    put_ranges(context.store, ranges or {})
    for step in (options or QuantOptions(activations="all")).passes():
        step.apply(context, module)
    check_level(module, "quantised")
    return context, module


def check(source: ModelProto, inputs: Mapping[str, Array]) -> tuple[list[str], list[str]]:
    """Levels 1 and 2 equal onnxruntime without fusion, to the bit; operations of level 2 and hosts' reasons."""
    expected = session(source, "ORT_DISABLE_ALL").run(None, dict(inputs))
    context, module = imported(source)
    first = run_graph(module, context.store, inputs)
    context, module = quantised(source)
    second = execute_quantised(module, context.store, inputs).outputs
    for value, wanted in zip(source.graph.output, expected, strict=True):
        np.testing.assert_array_equal(first[value.name], np.asarray(wanted), err_msg="level 1")
        np.testing.assert_array_equal(second[value.name], np.asarray(wanted), err_msg="level 2")
    operators = [op for op in module.walk() if isinstance(op, GraphOperation)]
    names = [op.name.removeprefix("graph.") for op in operators]
    return names, [op.reason.data for op in operators if isinstance(op, HostOp)]


SCALES = scalars(xs=0.03125, xz=U8(119), ys=0.25, yz=U8(100), ws=0.0625, wz=np.int8(0))
"""Powers of two: onnxruntime's float products are then exact, so that its unfused graph is an oracle to the bit."""
ENDS = [node("QuantizeLinear", ["x", "xs", "xz"], ["q"]), node("DequantizeLinear", ["r", "ys", "yz"], ["y"])]


def between(*nodes: NodeProto) -> list[NodeProto]:
    """``nodes`` from the codes ``q`` to the codes ``r``."""
    return [ENDS[0], *nodes, ENDS[1]]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_qlinear_conv(per_channel: bool, dtype: Any) -> None:
    """Signed and unsigned weights, one scale or one per output channel, and a bias: one convolution on codes."""
    weight = codes(1, (5, 3, 3, 3), dtype)
    ws = 2.0 ** np.random.default_rng(2).integers(-6, -2, 5) if per_channel else np.array(0.0625)
    wz = np.full(ws.shape, 0 if dtype is np.int8 else 131, dtype)
    constants = SCALES | {"w": weight, "ws": ws.astype(np.float32), "wz": wz}
    constants["b"] = np.random.default_rng(3).integers(-4000, 4000, 5).astype(np.int32)
    inputs = ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    conv = node("QLinearConv", inputs, ["r"], pads=[1, 0, 1, 2], strides=[2, 1])
    source = model(between(conv), {"x": [1, 3, 9, 8]}, ["y"], constants)
    found, _ = check(source, {"x": real(4, 1, 3, 9, 8) * 2})
    assert found == ["quantize", "conv", "dequantize"]


def test_qlinear_matmul() -> None:
    """A matrix with a scale per column."""
    ws = (2.0 ** np.arange(-6, -1)).astype(np.float32)
    constants = SCALES | {"w": codes(1, (6, 5)), "ws": ws, "wz": np.zeros(5, np.int8)}
    product = node("QLinearMatMul", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["r"])
    found, _ = check(model(between(product), {"x": [3, 6]}, ["y"], constants), {"x": real(5, 3, 6)})
    assert found == ["quantize", "gemm", "dequantize"]


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("coded", [True, False])
def test_qgemm(transposed: int, coded: bool) -> None:
    """Either way round, with codes or real numbers as result."""
    constants = SCALES | {"w": codes(1, (5, 6) if transposed else (6, 5))}
    constants["b"] = np.random.default_rng(3).integers(-4000, 4000, 5).astype(np.int32)
    inputs = ["q", "xs", "xz", "w", "ws", "wz", "b", *(["ys", "yz"] if coded else [])]
    gemm = node("QGemm", inputs, ["r" if coded else "y"], transB=transposed)
    nodes = between(gemm) if coded else [ENDS[0], gemm]
    found, _ = check(model(nodes, {"x": [2, 6]}, ["y"], constants), {"x": real(5, 2, 6)})
    assert found == ["quantize", "gemm", *(["dequantize"] if coded else [])]


def test_operators_of_the_digital_unit() -> None:
    """QLinearAdd, QLinearConcat, pools and a MaxPool on codes work on codes, each operand under its own scale.

    The data keeps clear of onnxruntime's fused rounding, which differs at ties (docs/numerics.md section 0
    rules 9 and 10): scales that are no powers of two.
    """
    constants = scalars(xs=0.031, xz=U8(119), ys=0.0673, yz=U8(100), s=0.0517, z=U8(90))
    nodes = [
        ENDS[0],
        node("MaxPool", ["q"], ["m"], kernel_shape=[2, 2], strides=[1, 1]),
        node("QLinearAdd", ["m", "xs", "xz", "m", "xs", "xz", "s", "z"], ["a"]),
        node("QLinearConcat", ["ys", "yz", "a", "s", "z", "m", "xs", "xz"], ["c"], axis=1),
        node(
            "QLinearAveragePool", ["c", "ys", "yz", "s", "z"], ["p"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]
        ),
        node("QLinearGlobalAveragePool", ["p", "s", "z", "ys", "yz"], ["g"]),
        node("Flatten", ["g"], ["r"]),
        ENDS[1],
    ]
    source = model(nodes, {"x": [1, 3, 6, 6]}, ["y"], constants)
    x = real(7, 1, 3, 6, 6)
    expected = np.asarray(session(source, "ORT_DISABLE_ALL").run(None, {"x": x})[0])
    context, module = quantised(source)
    found = execute_quantised(module, context.store, {"x": x}).outputs["y"]
    assert np.abs(found - expected).max() <= 0.0673 * 1.001
    names = [op.name.removeprefix("graph.") for op in module.walk() if isinstance(op, GraphOperation)]
    assert names[0] == "quantize"
    assert names[-1] == "dequantize"
    assert set(names[1:-1]) == {
        "max_pool", "add", "requantize", "concat", "average_pool", "global_average_pool", "reshape",
    }  # fmt: skip


def test_moves_on_codes_keep_the_scale() -> None:
    """Reshape, Transpose and Concat of codes are moves of the real values, and no scale changes."""
    constants = SCALES | {"ys": SCALES["xs"], "yz": SCALES["xz"], "to": np.array([1, 4, 9])}
    nodes = between(
        node("Reshape", ["q", "to"], ["a"]),
        node("Transpose", ["a"], ["t"], perm=[0, 2, 1]),
        node("Concat", ["t", "t"], ["r"], axis=1),
    )
    source = model(nodes, {"x": [1, 4, 3, 3]}, ["y"], constants)
    check(source, {"x": real(6, 1, 4, 3, 3)})
    _, module = quantised(source)
    types = [quant_of(value) for op in module.walk() for value in op.results]
    made = {(t.scale, t.zero_point) for t in types if t is not None}
    assert made == {(np.float32(0.03125), 119)}


def test_integer_inputs_and_outputs() -> None:
    """A model that takes and gives uint8: its integers are the codes at the border, and nothing converts them."""
    constants = SCALES | {"w": codes(1, (4, 3, 1, 1))}
    conv = node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"])
    source = model([conv], {"x": [1, 3, 5, 5]}, ["y"], constants, element=TensorProto.UINT8)
    found, reasons = check(source, {"x": codes(8, (1, 3, 5, 5), np.uint8)})
    assert found == ["storage_cast", "conv", "storage_cast"]
    assert reasons == []


def test_codes_read_under_another_scale() -> None:
    """A DequantizeLinear may state another scale than the QuantizeLinear before it: the integers are kept."""
    nodes = [ENDS[0], node("DequantizeLinear", ["q", "ys", "yz"], ["y"])]
    found, _ = check(model(nodes, {"x": [2, 6]}, ["y"], SCALES), {"x": real(5, 2, 6)})
    assert found == ["quantize", "storage_cast", "storage_cast", "dequantize"]


def test_dynamic_quantisation_runs_on_the_host() -> None:
    """Scales of run time have no place on an edge; the products stay integers on the host, with the reason."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w", "z"], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "s"], ["y"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
    ]
    source = model(nodes, {"x": [2, 6]}, ["y", "d"], {"w": codes(1, (6, 5))})
    found, reasons = check(source, {"x": real(5, 2, 6)})
    assert {"quantize", "gemm"}.isdisjoint(found)
    assert "its scale is computed at run time" in reasons
    assert "MatMulInteger is not an operator of the arrays or of the digital unit" in reasons


@pytest.mark.parametrize("domain", ["", MS])
@pytest.mark.parametrize("element", ["INT4", "UINT4", "INT16", "UINT16"])
def test_widths_of_weights(domain: str, element: str) -> None:
    """4- and 16-bit weights, in onnx's own operators from opset 21 on and in com.microsoft's before."""
    kind = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, element))
    bits = int(element[-2:].replace("T", ""))
    signed = element.startswith("I")
    low = -(1 << (bits - 1)) if signed else 0
    raw = np.random.default_rng(1).integers(low, low + (1 << bits), (6, 5))
    constants = SCALES | {"w": raw.astype(kind), "ws": np.full(5, 2.0**-14, np.float32)}
    constants["wz"] = np.full(5, 0 if signed else 1 << (bits - 1)).astype(kind)
    nodes = [
        ENDS[0],
        node("DequantizeLinear", ["q", "xs", "xz"], ["d"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["v"], axis=1, domain=domain),
        node("MatMul", ["d", "v"], ["m"]),
        node("QuantizeLinear", ["m", "ys", "yz"], ["r"]),
        ENDS[1],
    ]
    source = model(nodes, {"x": [2, 6]}, ["y"], constants, opset=21 if domain == "" else 20)
    found, _ = check(source, {"x": real(5, 2, 6)})
    assert found == ["quantize", "gemm", "dequantize"]
    _, module = quantised(source)
    (product,) = [op for op in module.walk() if isinstance(op, ProductOperation)]
    assert product.weight_bits is not None
    assert product.weight_bits.value.data == bits
    assert product.weight_zero is None


def qdq_gemm(**changed: Any) -> ModelProto:
    """QDQ of one Gemm with an int32 bias; ``changed`` constants replace its own."""
    constants = SCALES | {"w": codes(1, (6, 5)), "b": codes(2, (5,)).astype(np.int32) * 100}
    constants |= scalars(bs=0.03125 * 0.0625, bz=np.int32(0)) | changed
    nodes = [
        ENDS[0],
        node("DequantizeLinear", ["q", "xs", "xz"], ["d"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["v"], axis=1),
        node("DequantizeLinear", ["b", "bs", "bz"], ["c"]),
        node("Gemm", ["d", "v", "c"], ["m"], name="fc"),
        node("QuantizeLinear", ["m", "ys", "yz"], ["r"]),
        ENDS[1],
    ]
    return model(nodes, {"x": [2, 6]}, ["y"], constants)


def stored_bias(source: ModelProto) -> Array:
    """The bias at level 2."""
    context, module = quantised(source)
    (product,) = [op for op in module.walk() if isinstance(op, ProductOperation)]
    assert product.bias is not None
    return context.store.array(product.bias.key.data)


@pytest.mark.parametrize(("ulps", "kept"), [(0, True), (2, True), (3, False)])
def test_an_integer_bias_is_kept_within_two_ulp(ulps: int, kept: bool) -> None:
    """Rule 4: within 2 ulp of sx * sw the integers are taken as they are, without a word."""
    unit = np.float32(0.03125 * 0.0625)
    bias = np.full(5, 2**30, np.int32)
    source = qdq_gemm(bs=np.float32(unit + ulps * np.spacing(unit)), b=bias)
    if kept:
        np.testing.assert_array_equal(stored_bias(source), bias)
        return
    with pytest.warns(BiasRequantisedWarning, match=r"fc .*: the bias of 5 of 5 channels has another scale"):
        found = stored_bias(source)
    exact = 2**30 * (1 + ulps * float(np.spacing(unit)) / float(unit))
    np.testing.assert_array_equal(found, np.full(5, round(exact)))
    assert found[0] != 2**30


def test_weights_that_cannot_be_kept_are_reported() -> None:
    """Scales along the rows of a matrix are not per output channel: quantised again, and said so."""
    source = qdq_gemm(ws=np.full(6, 0.0625, np.float32), wz=np.zeros(6, np.int8))
    source.graph.node[2].attribute[0].i = 0
    with pytest.warns(RequantisedWeightWarning, match="int8 with 6 scales along axis 0"):
        imported(source)


def test_zero_points_take_a_bit_where_they_must() -> None:
    """uint8 weights about 128 stay 8 bits wide; about 20 they reach 235 and take 9, exactly."""
    for zero, bits in ((128, 8), (20, 9)):
        raw = codes(1, (6, 5), np.uint8)
        context, module = quantised(qdq_gemm(w=raw, wz=np.uint8(zero)))
        (product,) = [op for op in module.walk() if isinstance(op, ProductOperation)]
        found, width = stored_weights(product, context.store)
        assert width == bits
        np.testing.assert_array_equal(found, raw.astype(np.int64) - zero)


def test_mixed_models_calibrate_the_rest() -> None:
    """The coded input keeps its scale; the edge between the products and the output have none and are
    calibrated, and nothing else is asked for."""
    nodes = [
        ENDS[0],
        node("DequantizeLinear", ["q", "xs", "xz"], ["d"]),
        node("Gemm", ["d", "w"], ["m"]),
        node("Relu", ["m"], ["h"]),
        node("Gemm", ["h", "v"], ["y"]),
    ]
    source = model(nodes, {"x": [4, 6]}, ["y"], SCALES | {"w": real(1, 6, 5), "v": real(2, 5, 3)})
    context, module = imported(source)
    wanted = QuantiseActivations("all").wanted_ranges(context.store, module)
    assert wanted == ("h", "y")
    x = real(3, 4, 6)
    ranges = collect_ranges(module, context.store, Samples({"x": x}, 1), tensors=wanted)
    assert set(ranges) == {"h", "y"}
    context, module = quantised(source, ranges)
    (first,) = [op for op in module.walk() if isinstance(op, QuantizeOp)]
    made = quant_of(first.result)
    assert made is not None
    assert (made.scale, made.zero_point) == (np.float32(0.03125), 119)
    expected = np.asarray(session(source).run(None, {"x": x})[0])
    found = execute_quantised(module, context.store, {"x": x}).outputs["y"]
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_overrides_do_not_touch_the_models_own_codes() -> None:
    """Widths asked for a layer that brings its codes are an error that names it, not a silent nothing."""
    for override in (QuantOverride("fc", weight_bits=4), QuantOverride("fc", activation_bits=4)):
        with pytest.raises(UsageError, match=r"fc .*override 'fc' changes codes of its (weights|input)"):
            quantised(qdq_gemm(), options=QuantOptions("all", overrides=(override,)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"xs": np.float32(0.0)}, "scale 'xs' holds 0.0; a scale is positive and finite"),
        ({"xs": np.float32(-1.0)}, "scale 'xs' holds -1.0"),
        ({"ws": np.float32(np.nan)}, "scale 'ws' holds nan"),
        ({"ys": np.float32(np.inf)}, "scale 'ys' holds inf"),
        ({"wz": np.uint8(0)}, "the codes are int8, but their zero point is uint8"),
        ({"ws": np.full(4, 0.5, np.float32), "wz": np.zeros(4, np.int8)}, "4 scales for 5 entries along axis 1"),
        ({"ws": np.full(5, 0.5, np.float32)}, "zero point 'wz' has 1 entries, its scale 'ws' has 5"),
    ],
)  # fmt: skip
def test_bad_parameters_are_named(changed: dict[str, Array], message: str) -> None:
    """Scales, zero points and axes that cannot be: the node, the tensor, and what is wrong with it."""
    with pytest.raises(CimError) as caught:
        imported(qdq_gemm(**changed))
    assert message in str(caught.value)
    assert "Linear" in str(caught.value)


def test_an_axis_out_of_range_is_named() -> None:
    """axis 7 of a matrix."""
    source = qdq_gemm(ws=np.full(5, 0.5, np.float32), wz=np.zeros(5, np.int8))
    source.graph.node[2].attribute[0].i = 7
    with pytest.raises(CimError, match="DequantizeLinear: axis 7 does not exist in 2 dimensions"):
        imported(source)
