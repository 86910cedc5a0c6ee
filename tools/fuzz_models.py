"""Small valid ONNX models that between them meet every converter of the front end, and structured damage to them.

Damage keeps the protobuf readable, so that it reaches what stands behind the parser: extents, attributes, operands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

node = helper.make_node

ABSURD = (
    0, -1, 1, 2, 3, 5, 100, 1 << 12, 1 << 16, 1 << 20, 1 << 27, (1 << 31) - 1, 1 << 31, 1 << 33, 1 << 45,
    (1 << 62) + 1, -(1 << 31), -(1 << 63),
)  # fmt: skip
"""Integers that a damaged file states: off by one, of gigabytes, beyond every element type."""

FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"), 0.5)


def _drawn(*shape: int) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(sum(shape)).normal(size=shape) / 3).astype(np.float32)


def _model(
    nodes: Sequence[NodeProto],
    shape: Sequence[int],
    outputs: Sequence[str],
    constants: Mapping[str, Any],
    opset: int,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "seed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)])


def _images() -> ModelProto:
    """Products and windows on an image, and the arithmetic of shapes that exporters write around them."""
    nodes = [
        node("Pad", ["x", "pads"], ["xp"]),
        node("Conv", ["xp", "w", "b"], ["c"], strides=[1, 1], dilations=[1, 1], kernel_shape=[3, 3], name="conv"),
        node("BatchNormalization", ["c", "b", "b", "b", "v"], ["n"], epsilon=1e-3),
        node("Clip", ["n", "low", "high"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0], ceil_mode=1),
        node("ConvTranspose", ["p", "tw"], ["t"], strides=[2, 2], output_padding=[1, 1], pads=[0, 0, 1, 1], group=1),
        node("AveragePool", ["t"], ["a"], kernel_shape=[2, 2], strides=[1, 1], pads=[1, 0, 0, 1], count_include_pad=1),
        node("Conv", ["a", "dw"], ["d"], group=4, auto_pad="SAME_UPPER"),
        node("Shape", ["d"], ["s"]),
        node("Gather", ["s", "zero"], ["s0"]),
        node("Concat", ["s0", "rest"], ["to"], axis=0),
        node("Reshape", ["d", "to"], ["f"]),
        node("ReduceMean", ["d"], ["z"], axes=[2, 3], keepdims=0),
        node("Gemm", ["z", "fw", "fb"], ["y"], transB=1, alpha=0.5, beta=2.0),
        node("Softmax", ["f"], ["q"], axis=-1),
    ]  # fmt: skip
    constants = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": _drawn(4, 3, 3, 3), "b": _drawn(4), "v": _drawn(4) ** 2,
        "low": np.float32(0), "high": np.float32(2), "tw": _drawn(4, 4, 3, 3), "dw": _drawn(4, 1, 3, 3),
        "zero": np.array([0]), "rest": np.array([-1]), "fw": _drawn(5, 4), "fb": _drawn(5),
    }  # fmt: skip
    return _model(nodes, [1, 3, 6, 6], ["y", "q"], constants, 17)


def _moves() -> ModelProto:
    """Operators whose results have the extents that a constant states."""
    nodes = [
        node("Tile", ["x", "repeats"], ["t"]),
        node("Slice", ["t", "starts", "ends", "axes", "steps"], ["s"]),
        node("Resize", ["s", "", "scales"], ["r"], mode="nearest"),
        node("Expand", ["one", "extents"], ["e"]),
        node("ConstantOfShape", ["extents"], ["k"], value=numpy_helper.from_array(np.array([0.5], np.float32))),
        node("Range", ["begin", "end", "step"], ["i"]),
        node("Gather", ["r", "i"], ["g"], axis=2),
        node("SpaceToDepth", ["r"], ["sd"], blocksize=2),
        node("DepthToSpace", ["sd"], ["ds"], blocksize=2),
        node("Add", ["ds", "e"], ["m"]),
        node("Mul", ["m", "k"], ["n"]),
        node("Split", ["n", "parts"], ["n0", "n1"], axis=2),
        node("Transpose", ["n0"], ["u"], perm=[0, 2, 3, 1]),
        node("MatMul", ["u", "w"], ["y"]),
        node("Trilu", ["n1"], ["tri"], upper=1),
        node("OneHot", ["i", "depth", "values"], ["hot"]),
        node("MatMul", ["g", "hot2"], ["z"]),
        node("ReduceSum", ["tri", "axis"], ["q"]),
    ]  # fmt: skip
    constants = {
        "repeats": np.array([1, 1, 2, 1]), "starts": np.array([0, 1]), "ends": np.array([8, 5]),
        "axes": np.array([2, 3]),
        "steps": np.array([1, 1]), "scales": np.array([1, 1, 1, 2], np.float32), "one": np.ones(1, np.float32),
        "extents": np.array([1, 3, 8, 8]), "begin": np.array(0), "end": np.array(4), "step": np.array(1),
        "parts": np.array([4, 4]), "w": _drawn(3, 5), "depth": np.array(4), "values": np.array([0, 1], np.float32),
        "hot2": _drawn(8, 3), "axis": np.array([3]),
    }  # fmt: skip
    return _model(nodes, [1, 3, 6, 6], ["y", "z", "q"], constants, 18)


def _tokens() -> ModelProto:
    """One block of a transformer on three tokens."""
    nodes = [
        node("LayerNormalization", ["x", "g", "b"], ["n"], axis=-1, epsilon=1e-5),
        *(node("MatMul", ["n", w], [t]) for w, t in (("wq", "q"), ("wk", "k"), ("wv", "v"))),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"]),
        node("Mul", ["s", "scale"], ["ss"]),
        node("Softmax", ["ss"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["a"]),
        node("Add", ["a", "x"], ["h"]),
        node("MatMul", ["h", "wf"], ["f"]),
        node("Gelu", ["f"], ["e"]),
        node("ReduceMax", ["e", "axis"], ["y"], keepdims=0),
    ]
    constants = {
        "g": 1 + _drawn(8), "b": _drawn(8), "wq": _drawn(8, 8), "wk": _drawn(8, 8), "wv": _drawn(8, 8),
        "scale": np.float32(0.3), "wf": _drawn(8, 6), "axis": np.array([1]),
    }  # fmt: skip
    return _model(nodes, [1, 3, 8], ["y"], constants, 20)


def _codes() -> ModelProto:
    """A quantised convolution and a product, as exporters write them."""
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        node("DequantizeLinear", ["xq", "xs", "xz"], ["xr"]),
        node("DequantizeLinear", ["wq", "ws", "wz"], ["wr"], axis=0),
        node("Conv", ["xr", "wr"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("QuantizeLinear", ["r", "xs", "xz"], ["rq"]),
        node("DequantizeLinear", ["rq", "xs", "xz"], ["rr"]),
        node("GlobalAveragePool", ["rr"], ["p"]),
        node("Flatten", ["p"], ["f"], axis=1),
        node("QuantizeLinear", ["f", "xs", "xz"], ["fq"]),
        node("QLinearMatMul", ["fq", "xs", "xz", "mq", "xs", "mz", "xs", "xz"], ["yq"]),
        node("DequantizeLinear", ["yq", "xs", "xz"], ["y"]),
    ]
    generator = np.random.default_rng(5)
    constants = {
        "xs": np.float32(0.02), "xz": np.uint8(120), "wq": generator.integers(-99, 99, (4, 3, 3, 3)).astype(np.int8),
        "ws": np.full(4, 0.01, np.float32), "wz": np.zeros(4, np.int8),
        "mq": generator.integers(-99, 99, (4, 5)).astype(np.int8), "mz": np.int8(3),
    }  # fmt: skip
    return _model(nodes, [1, 3, 6, 6], ["y"], constants, 17)


def seed_models() -> list[ModelProto]:
    """All of them; the input is called ``x``."""
    return [_images(), _moves(), _tokens(), _codes()]


def input_shape(model: ModelProto) -> tuple[int, ...]:
    """Extents of ``x``."""
    return tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)


def _attribute(model: ModelProto, generator: np.random.Generator) -> None:
    """Another number, one more, one fewer, or no attribute at all."""
    holders = [n for n in model.graph.node if n.attribute]
    holder = holders[int(generator.integers(len(holders)))]
    at = int(generator.integers(len(holder.attribute)))
    attribute = holder.attribute[at]
    number = ABSURD[int(generator.integers(len(ABSURD)))]
    if generator.integers(8) == 0:
        del holder.attribute[at]
    elif attribute.type == AttributeProto.INT:
        attribute.i = number
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = FLOATS[int(generator.integers(len(FLOATS)))]
    elif attribute.type == AttributeProto.STRING:
        attribute.s = bytes(attribute.s[:-1]) + b"?"
    elif attribute.type == AttributeProto.INTS and attribute.ints:
        place = int(generator.integers(len(attribute.ints)))
        match int(generator.integers(6)):
            case 0:
                attribute.ints.append(number)
            case 1:
                del attribute.ints[place]
            case _:
                attribute.ints[place] = number


def _constant(model: ModelProto, generator: np.random.Generator) -> None:
    """One element of a stored tensor, its extents, or its element type."""
    stored = model.graph.initializer[int(generator.integers(len(model.graph.initializer)))]
    array = numpy_helper.to_array(stored).copy()
    kind = int(generator.integers(6))
    if kind == 0:
        array = array.reshape((array.size, 1) if generator.integers(2) else (1, array.size))
    elif kind == 1:
        array = array.reshape(-1)[: array.size // 2]
    elif kind == 2:
        array = array.astype(
            str(generator.choice(["float32", "float64", "int64", "int32", "uint8", "float16"]))
        )
    elif array.size and array.dtype.kind == "f":
        array.reshape(-1)[int(generator.integers(array.size))] = FLOATS[int(generator.integers(len(FLOATS)))]
    elif array.size:
        bounds = np.iinfo(array.dtype)
        number = ABSURD[int(generator.integers(len(ABSURD)))]
        array.reshape(-1)[int(generator.integers(array.size))] = min(max(number, bounds.min), bounds.max)
    stored.CopyFrom(numpy_helper.from_array(array, stored.name))


def _wiring(model: ModelProto, generator: np.random.Generator) -> None:
    """An operand taken from elsewhere, lost, or one too many."""
    names = [name for n in model.graph.node for name in n.output] + [t.name for t in model.graph.initializer]
    changed = model.graph.node[int(generator.integers(len(model.graph.node)))]
    other = str(generator.choice([*names, "", "x"]))
    if generator.integers(4) == 0:
        changed.input.append(other)
    elif changed.input:
        changed.input[int(generator.integers(len(changed.input)))] = other


def _operator(model: ModelProto, generator: np.random.Generator) -> None:
    """A node of another type, twice, or gone."""
    at = int(generator.integers(len(model.graph.node)))
    others = (
        "NonZero",
        "Relu",
        "Flatten",
        "Unique",
        "EyeLike",
        "Loop",
        "TopK",
        "CumSum",
        "Einsum",
        "Conv",
        "Squeeze",
    )
    match int(generator.integers(4)):
        case 0:
            del model.graph.node[at]
        case 1:
            model.graph.node.add().CopyFrom(model.graph.node[at])
        case 2:
            model.graph.node[at].op_type = str(generator.choice(others))
        case _:
            model.graph.node[at].op_type = model.graph.node[
                int(generator.integers(len(model.graph.node)))
            ].op_type


def _input(model: ModelProto, generator: np.random.Generator) -> None:
    """Another extent, rank or element type of the input."""
    kind = model.graph.input[0].type.tensor_type
    dims = kind.shape.dim
    match int(generator.integers(4)):
        case 0:
            kind.elem_type = int(generator.integers(0, 24))
        case 1 if len(dims) > 1:
            del dims[int(generator.integers(len(dims)))]
        case _:
            if not dims:
                return
            dims[int(generator.integers(len(dims)))].dim_value = ABSURD[int(generator.integers(len(ABSURD)))]


def _version(model: ModelProto, generator: np.random.Generator) -> None:
    """Another version of the operator set, of the container, or another domain."""
    match int(generator.integers(3)):
        case 0:
            model.opset_import[0].version = int(generator.integers(0, 30))
        case 1:
            model.ir_version = int(generator.integers(0, 20))
        case _:
            model.graph.node[0].domain = "com.microsoft"


DAMAGE: tuple[Callable[[ModelProto, np.random.Generator], None], ...] = (
    *(_attribute,) * 5, *(_constant,) * 5, _wiring, _operator, *(_input,) * 2, _version,
)  # fmt: skip


def damaged(model: ModelProto, generator: np.random.Generator) -> ModelProto:
    """A copy of ``model`` with one or two of its fields changed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for _ in range(int(generator.integers(1, 3))):
        if copy.graph.node and copy.graph.initializer:
            DAMAGE[int(generator.integers(len(DAMAGE)))](copy, generator)
    return copy
