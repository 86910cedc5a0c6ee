"""Each mapped operator: which operation it becomes, and the same numbers as onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

Make = Callable[..., ModelProto]
Check = Callable[..., Any]


def random(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"the_{op}", **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 1, 1, 1]},
        {"pads": [0, 1, 2, 0], "strides": [2, 1]},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "VALID"},
    ],
)
def test_conv_of_every_padding_becomes_one_conv(
    model: Make, check: Check, attributes: dict[str, Any]
) -> None:
    """Pads, strides, dilations and auto_pad are all stated in graph.conv."""
    made = check(
        model(
            [node("Conv", "x w b", **attributes)],
            {"x": [2, 3, 9, 8]},
            ["y"],
            {"w": random(4, 3, 3, 3), "b": random(4)},
        )
    )
    assert made.operations == ["conv"]


@pytest.mark.parametrize("group", [2, 4])
def test_grouped_conv_keeps_its_groups(model: Make, check: Check, group: int) -> None:
    """Groups, depthwise included, stay one graph.conv; who maps it decides what to do with them."""
    made = check(
        model(
            [node("Conv", "x w", group=group)], {"x": [1, 4, 6, 6]}, ["y"], {"w": random(8, 4 // group, 3, 3)}
        )
    )
    assert made.operations == ["conv"]


@pytest.mark.parametrize(
    ("attributes", "weight", "bias"),
    [
        ({"transB": 1}, (5, 6), (5,)),
        ({}, (6, 5), (1, 5)),
        ({"alpha": 0.5, "beta": 2.0, "transB": 1}, (5, 6), (5,)),
        ({"beta": 0.0}, (6, 5), (5,)),
        ({}, (6, 5), ()),
    ],
)
def test_gemm_folds_its_factors_into_the_weights(
    model: Make, check: Check, attributes: dict[str, Any], weight: tuple[int, ...], bias: tuple[int, ...]
) -> None:
    """transB, alpha, beta and a bias that broadcasts along rows all become a plain graph.gemm."""
    constants = {"w": random(*weight), "b": random(*bias, seed=2).reshape(bias)}
    made = check(model([node("Gemm", "x w b", **attributes)], {"x": [3, 6]}, ["y"], constants))
    assert made.operations == ["gemm"]


@pytest.mark.parametrize("shape", [(3, 6), (2, 3, 6), (2, 2, 3, 6)])
def test_matmul_by_a_constant_takes_any_leading_axes(
    model: Make, check: Check, shape: tuple[int, ...]
) -> None:
    """MatMul by a constant matrix is graph.gemm along the last axis."""
    made = check(model([node("MatMul", "x w")], {"x": list(shape)}, ["y"], {"w": random(6, 5)}))
    assert made.operations == ["gemm"]


def test_bias_added_after_a_product_is_folded(model: Make, check: Check) -> None:
    """Add of a vector after MatMul, as torch exports linear layers, leaves one gemm with a bias."""
    nodes = [node("MatMul", "x w", "p"), node("Add", "b p", "y")]
    made = check(model(nodes, {"x": [2, 3, 6]}, ["y"], {"w": random(6, 5), "b": random(5)}))
    assert made.operations == ["gemm"]


@pytest.mark.parametrize(
    ("op", "order"), [("Add", "c k"), ("Sub", "c k"), ("Sub", "k c"), ("Mul", "c k"), ("Div", "c k")]
)
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), ()])
def test_channel_constants_fold_into_the_conv(
    model: Make, check: Check, op: str, order: str, shape: tuple[int, ...]
) -> None:
    """A constant factor or term per channel, or one for all, is part of the convolution before it."""
    nodes = [node("Conv", "x w", "c"), node(op, order, "y")]
    constants = {"w": random(4, 3, 3, 3), "k": np.abs(random(*shape)).reshape(shape) + np.float32(0.5)}
    assert check(model(nodes, {"x": [1, 3, 6, 6]}, ["y"], constants)).operations == ["conv"]


def test_a_division_of_a_constant_by_a_product_is_no_factor(model: Make, check: Check) -> None:
    """k / c is not c times something: the digital unit divides."""
    nodes = [node("Conv", "x w", "c"), node("Exp", "c", "e"), node("Div", "k e", "y")]
    constants = {"w": 0.1 * random(4, 3, 3, 3), "k": random(4, 1, 1)}
    made = check(model(nodes, {"x": [1, 3, 6, 6]}, ["y"], constants))
    assert made.operations == ["conv", "unary", "binary_constant"]


def test_a_constant_per_column_of_an_image_does_not_fold(model: Make, check: Check) -> None:
    """A constant that varies along the width is no channel constant, though it broadcasts."""
    nodes = [node("Conv", "x w", "c"), node("Add", "c k", "y")]
    made = check(model(nodes, {"x": [1, 3, 6, 6]}, ["y"], {"w": random(4, 3, 3, 3), "k": random(4)}))
    assert made.operations == ["conv", "binary_constant"]


@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_folds_into_the_conv(model: Make, check: Check, bias: bool) -> None:
    """BatchNormalization after a convolution leaves the convolution alone."""
    constants = {"w": random(4, 3, 3, 3), "b": random(4), "g": random(4, seed=3), "h": random(4, seed=4)}
    constants |= {"m": random(4, seed=5), "v": random(4, seed=6) ** 2}
    nodes = [
        node("Conv", "x w b" if bias else "x w", "c"),
        node("BatchNormalization", "c g h m v", epsilon=1e-3),
    ]
    if not bias:
        del constants["b"]
    assert check(model(nodes, {"x": [2, 3, 6, 6]}, ["y"], constants)).operations == ["conv"]


def test_batch_norm_of_a_shared_conv_stays(model: Make, check: Check) -> None:
    """When the convolution's own result is needed too, folding would change it."""
    constants = {"w": random(4, 3, 3, 3), **{k: np.abs(random(4, seed=i)) for i, k in enumerate("ghmv", 2)}}
    nodes = [node("Conv", "x w", "c"), node("BatchNormalization", "c g h m v", "n"), node("Add", "c n", "y")]
    made = check(model(nodes, {"x": [1, 3, 6, 6]}, ["y"], constants))
    assert made.operations == ["conv", "binary_constant", "binary_constant", "add"]


def test_batch_norm_without_a_product_is_digital(model: Make, check: Check) -> None:
    """Nothing to fold into: a factor and a term per channel on the digital unit."""
    constants = {k: np.abs(random(3, seed=i)) for i, k in enumerate("ghmv", 2)}
    made = check(model([node("BatchNormalization", "x g h m v")], {"x": [2, 3, 6, 6]}, ["y"], constants))
    assert made.operations == ["binary_constant", "binary_constant"]


POOLS = [
    {"kernel_shape": [2, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 0, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
]


@pytest.mark.parametrize("attributes", POOLS)
@pytest.mark.parametrize("extent", [7, 8, 9, 10])
def test_max_pool_windows(model: Make, check: Check, attributes: dict[str, Any], extent: int) -> None:
    """Every padding and ceil_mode gives onnxruntime's extents and values."""
    made = check(model([node("MaxPool", "x", **attributes)], {"x": [1, 2, extent, 9]}, ["y"]))
    assert made.operations == ["max_pool"]


@pytest.mark.parametrize("attributes", POOLS)
@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("opset", [17, 22])
def test_average_pool_windows(
    model: Make, check: Check, attributes: dict[str, Any], count: int, opset: int
) -> None:
    """Pads count or do not; a window that hangs over never counts what lies behind the pads, zeros or not."""
    graph = model(
        [node("AveragePool", "x", count_include_pad=count, **attributes)],
        {"x": [1, 2, 8, 9]},
        ["y"],
        opset=opset,
    )
    assert check(graph).operations == ["average_pool"]


@pytest.mark.parametrize(("kernel", "stride", "pads"), [(3, 2, 1), (4, 3, 0), (4, 3, 1), (5, 4, 2)])
def test_pads_that_count_beside_a_window_that_hangs_over(
    model: Make, check: Check, kernel: int, stride: int, pads: int
) -> None:
    """Zeros are put around the image first, so that its pads count and what ceil_mode adds does not."""
    pool = node(
        "AveragePool", "x", kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pads] * 4,
        ceil_mode=1, count_include_pad=1,
    )  # fmt: skip
    made = check(model([pool], {"x": [2, 3, 10, 12]}, ["y"], opset=22))
    assert made.operations == (["index_map"] if pads else []) + ["average_pool"]


@pytest.mark.parametrize("mode", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("extents", [(10, 14), (5, 21), (13, 7), (3, 4), (1, 14)])
def test_linear_interpolation(model: Make, check: Check, mode: str, extents: tuple[int, int]) -> None:
    """Images larger and smaller, by sizes: two neighbours along each axis that changes, as onnxruntime has them."""
    sizes = {"sizes": np.array([2, 3, *extents], np.int64)}
    resize = node("Resize", "x", mode="linear", coordinate_transformation_mode=mode)
    del resize.input[1:]
    resize.input.extend(["", "", "sizes"])
    made = check(model([resize], {"x": [2, 3, 5, 7]}, ["y"], sizes))
    assert set(made.operations) <= {"index_map", "binary_constant", "add"}
    assert made.operations.count("add") == sum(a != b for a, b in zip(extents, (5, 7), strict=True))


def test_linear_upsample_of_old_models(model: Make, check: Check) -> None:
    """Upsample of opset 9 and a scale that is no whole number: positions from the scale, not from the extents."""
    scales = {"scales": np.array([1, 1, 2, 1.7], np.float32)}
    made = check(
        model([node("Upsample", "x scales", mode="linear")], {"x": [1, 2, 5, 7]}, ["y"], scales, opset=9)
    )
    assert "host" not in made.operations


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("heads", [2, 1])
def test_attention_with_a_cache(model: Make, check: Check, causal: int, heads: int) -> None:
    """Keys and values of earlier tokens are inputs, all of them outputs; new tokens see every earlier one."""
    attention = node("Attention", "q k v", "y keys values", is_causal=causal)
    attention.input.extend(["", "past_k", "past_v"])
    new, past = [1, heads, 3, 4], [1, heads, 5, 4]
    inputs = {"q": [1, 2, 3, 4], "k": new, "v": new, "past_k": past, "past_v": past}
    made = check(model([attention], inputs, ["y", "keys", "values"], opset=23))
    assert "host" not in made.operations
    assert made.operations.count("concat") == 2


VOLUMES = [
    {"kernel_shape": [2, 3, 2]},
    {"kernel_shape": [3, 2, 3], "strides": [2, 1, 3], "pads": [1, 0, 2, 1, 1, 0]},
    {"kernel_shape": [2, 2, 3], "strides": [2, 2, 2], "dilations": [2, 1, 2]},
    {"kernel_shape": [3, 3, 3], "strides": [2, 2, 2], "pads": [1] * 6, "ceil_mode": 1},
]


@pytest.mark.parametrize("attributes", VOLUMES)
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool", "AveragePool with pads"])
def test_pools_of_volumes(model: Make, check: Check, attributes: dict[str, Any], kind: str) -> None:
    """A box is pooled along its depth and then over the image; extrema are exact, means round twice."""
    counts = {"count_include_pad": 1} if "with" in kind else {}
    pool = node(kind.split()[0], "x", "y", **attributes, **counts)
    made = check(model([pool], {"x": [2, 3, 8, 7, 9]}, ["y"], opset=22))
    assert "host" not in made.operations
    assert sum(name.endswith("_pool") for name in made.operations) == 2


@pytest.mark.parametrize("kind", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [[2, 3, 9], [2, 3, 5, 7], [2, 3, 4, 5, 6]])
def test_pools_over_everything(model: Make, check: Check, kind: str, shape: list[int]) -> None:
    """Sequences, images and volumes are pooled as one image."""
    made = check(model([node(kind, "x")], {"x": shape}, ["y"]))
    assert [name for name in made.operations if name != "reshape"] == [
        "max_pool" if "Max" in kind else "global_average_pool"
    ]


def test_dilated_max_pool(model: Make, check: Check) -> None:
    """Dilated windows are part of graph.max_pool."""
    made = check(
        model([node("MaxPool", "x", kernel_shape=[2, 3], dilations=[3, 2])], {"x": [1, 2, 8, 9]}, ["y"])
    )
    assert made.operations == ["max_pool"]


@pytest.mark.parametrize(
    ("nodes", "operations"),
    [
        ([node("GlobalAveragePool", "x")], ["global_average_pool"]),
        ([node("GlobalMaxPool", "x")], ["max_pool"]),
        ([node("ReduceMean", "x", axes=[2, 3])], ["global_average_pool"]),
        ([node("ReduceMean", "x", axes=[-1, -2], keepdims=0)], ["global_average_pool", "reshape"]),
        ([node("ReduceMean", "x", axes=[1])], ["index_map", "reduce", "reshape"]),
        ([node("Relu", "x")], ["relu"]),
        ([node("Sum", "x x x")], ["add", "add"]),
        ([node("Sum", "x", "s"), node("Relu", "s")], ["relu"]),
        ([node("Relu", "x", "r"), node("Add", "r x")], ["relu", "add"]),
        ([node("Relu", "x", "r"), node("Concat", "r x", axis=1)], ["relu", "concat"]),
        ([node("Relu", "x", "r"), node("Concat", "r x", axis=-1)], ["relu", "concat"]),
        ([node("Flatten", "x")], ["reshape"]),
        ([node("Flatten", "x", axis=0)], ["reshape"]),
        ([node("Flatten", "x", axis=-1)], ["reshape"]),
        ([node("Softmax", "x", axis=1)], ["softmax"]),
        ([node("Softmax", "x")], ["softmax"]),
        (
            [
                node("Identity", "x", "i"),
                node("Dropout", "i", "d"),
                node("Cast", "d", "c", to=1),
                node("Relu", "c"),
            ],
            ["relu"],
        ),
    ],
)
def test_pointwise_and_shape_operators(
    model: Make, check: Check, nodes: list[Any], operations: list[str]
) -> None:
    """Each becomes the operation of its name; what changes nothing vanishes."""
    assert check(model(nodes, {"x": [2, 3, 4, 5]}, ["y"])).operations == operations


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_before_opset_13_runs_over_all_later_axes(model: Make, check: Check, axis: int) -> None:
    """Opset 7 to 12: axes from ``axis`` on are one; the default axis is 1."""
    made = check(model([node("Softmax", "x", axis=axis)], {"x": [3, 4, 5]}, ["y"], opset=11))
    flattened = axis not in (2, -1)
    assert made.operations == (["reshape", "softmax", "reshape"] if flattened else ["softmax"])


@pytest.mark.parametrize(
    ("bounds", "operation"), [((0.0, 1.0), ["clip"]), ((None, 0.5), ["clip"]), ((-0.5, None), ["clip"])]
)
@pytest.mark.parametrize("opset", [7, 11, 13])
def test_clip_bounds(
    model: Make, check: Check, bounds: tuple[float | None, float | None], operation: list[str], opset: int
) -> None:
    """Bounds are attributes before opset 11 and operands from then on; either may be absent."""
    given: dict[str, Any] = {k: v for k, v in zip(("min", "max"), bounds, strict=True) if v is not None}
    if opset < 11:
        proto = helper.make_node("Clip", ["x"], ["y"], **given)
        made = check(model([proto], {"x": [2, 9]}, ["y"], opset=opset))
    else:
        proto = helper.make_node("Clip", ["x", *(k if k in given else "" for k in ("min", "max"))], ["y"])
        constants = {k: np.float32(v).reshape(()) for k, v in given.items()}
        made = check(model([proto], {"x": [2, 9]}, ["y"], constants, opset=opset))
    assert made.operations == operation


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        ([2, -1], (2, 60)),
        ([0, 0, -1], (2, 3, 20)),
        ([6, 20], (6, 20)),
        ([-1], (120,)),
        ([2, 3, 4, 5], (2, 3, 4, 5)),
    ],
)
def test_reshape_targets(model: Make, check: Check, target: list[int], shape: tuple[int, ...]) -> None:
    """0 copies an extent, -1 takes the rest; a reshape to the same shape is removed."""
    made = check(
        model([node("Reshape", "x t")], {"x": [2, 3, 4, 5]}, ["y"], {"t": np.array(target, np.int64)})
    )
    assert made.outputs["y"].shape == shape
    assert made.operations == ([] if shape == (2, 3, 4, 5) else ["reshape"])


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_and_unsqueeze(model: Make, check: Check, opset: int) -> None:
    """Axes are attributes before opset 13 and operands from then on; consecutive reshapes merge."""
    if opset < 13:
        nodes = [node("Unsqueeze", "x", "u", axes=[0, 3]), node("Squeeze", "u", axes=[0])]
        made = check(model(nodes, {"x": [2, 3, 4]}, ["y"], opset=opset))
    else:
        nodes = [node("Unsqueeze", "x a", "u"), node("Squeeze", "u b")]
        constants = {"a": np.array([0, 3], np.int64), "b": np.array([0], np.int64)}
        made = check(model(nodes, {"x": [2, 3, 4]}, ["y"], constants, opset=opset))
    assert made.outputs["y"].shape == (2, 3, 1, 4)
    assert made.operations == ["reshape"]


@pytest.mark.parametrize(
    ("pads", "attributes", "operations"),
    [
        ([0, 0, 1, 2, 0, 0, 0, 1], {}, ["conv"]),
        ([0, 0, 1, 1, 0, 0, 1, 1], {"pads": [1, 0, 0, 1], "strides": [2, 2]}, ["conv"]),
        ([0, 0, 1, 1, 0, 0, 1, 1], {"auto_pad": "VALID"}, ["conv"]),
        ([0, 0, 1, 1, 0, 0, 1, 1], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, ["index_map", "conv"]),
        ([0, 1, 0, 0, 0, 0, 0, 0], {}, ["index_map", "conv"]),
        ([0, 0, -1, 0, 0, 0, 0, 0], {}, ["index_map", "conv"]),
    ],
)
def test_a_border_of_zeros_belongs_to_the_conv(
    model: Make, check: Check, pads: list[int], attributes: dict[str, Any], operations: list[str]
) -> None:
    """Pad before Conv, as TensorFlow and TorchScript write it, is pads; auto_pad counts from the border."""
    channels = 3 + pads[1]
    nodes = [node("Pad", "x p", "b"), node("Conv", "b w", "y", **attributes)]
    constants = {"p": np.array(pads), "w": random(4, channels, 3, 3)}
    assert check(model(nodes, {"x": [1, 3, 8, 7]}, ["y"], constants)).operations == operations


@pytest.mark.parametrize(
    ("attributes", "operation"), [({"mode": "reflect"}, "index_map"), ({"value": 1.0}, "host")]
)
def test_other_borders_stay(model: Make, check: Check, attributes: dict[str, Any], operation: str) -> None:
    """Reflections and borders of ones are not what a convolution pads with."""
    nodes = [node("Pad", "x", "b", pads=[0, 0, 1, 1, 0, 0, 1, 1], **attributes), node("Conv", "b w", "y")]
    made = check(model(nodes, {"x": [1, 3, 8, 7]}, ["y"], {"w": random(4, 3, 3, 3)}, opset=9))
    assert made.operations == [operation, "conv"]
