"""Operators of the digital unit on real values, by ONNX operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from cimc.dialects.graph import SoftmaxOp
from cimc.dialects.graph_types import shape_of
from cimc.frontend.onnx import (
    convert_attention,
    convert_elementwise,
    convert_flags,
    convert_moves,
    convert_pointwise,
    convert_resize,
    convert_rows,
    convert_shapes,
)
from cimc.frontend.onnx.builder import Builder
from cimc.frontend.onnx.convert_elementwise import binary, function
from cimc.frontend.onnx.convert_flags import moved
from cimc.frontend.onnx.node import Node, ToHost, axis_of

Converter = Callable[[Builder, Node], None]


def _either(first: Converter, second: Converter) -> Converter:
    """``first``, and where it has no place for the node ``second``."""

    def convert(build: Builder, node: Node) -> None:
        try:
            first(build, node)
        except ToHost:
            second(build, node)

    return convert


def _softmax(build: Builder, node: Node) -> None:
    """Softmax over the last axis or the channels of images; over others with a move before and after."""
    x = build.image_or_vector(node.input(0))
    rank = len(shape_of(x))
    axis = axis_of(node.integer("axis", -1 if node.opset >= 13 else 1), rank)
    if node.opset < 13 or axis == rank - 1 or (rank == 4 and axis == 1):
        convert_pointwise.softmax(build, node)
        return
    turned = convert_moves.rearrange(
        build, node, x, lambda i: np.moveaxis(i, axis, -1), f"{node.output}/turned_input"
    )
    soft = SoftmaxOp(turned, axis=rank - 1, tensors=[f"{node.output}/turned"])
    build.add(soft, node, f"{node.output}/turned")
    build.values[node.output] = convert_moves.rearrange(
        build, node, soft.result, lambda i: np.moveaxis(i, -1, axis), node.output
    )


REAL_CONVERTERS: Mapping[str, Converter] = MappingProxyType(
    {
        **dict.fromkeys(convert_moves.MOVES, moved(convert_moves.move)),
        **dict.fromkeys(("Resize", "Upsample"), convert_resize.resize),
        **{
            name: function(name.lower())
            for name in (
                *("Neg", "Abs", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Exp", "Log", "Erf"),
                *("Tanh", "Sigmoid", "Softplus", "Sin", "Cos"),
            )
        },
        "LeakyRelu": function("leaky_relu", ("alpha", 0.01)),
        "Elu": function("elu", ("alpha", 1.0)),
        "HardSigmoid": function("hard_sigmoid", ("alpha", 0.2), ("beta", 0.5)),
        "HardSwish": function("hard_swish"),
        "Gelu": convert_elementwise.gelu,
        "Add": binary("add", folds=True),
        "Sub": binary("sub", folds=True),
        "Mul": binary("mul", folds=True),
        "Div": binary("div", folds=True),
        "Pow": binary("pow"),
        "Max": convert_elementwise.several("max"),
        "Min": convert_elementwise.several("min"),
        "PRelu": convert_elementwise.prelu,
        "Greater": convert_flags.compare("less", turned=True),
        "Less": convert_flags.compare("less"),
        "GreaterOrEqual": convert_flags.compare("less_equal", turned=True),
        "LessOrEqual": convert_flags.compare("less_equal"),
        "Equal": convert_flags.compare("equal"),
        "And": convert_flags.logic("min"),
        "Or": convert_flags.logic("max"),
        "Xor": convert_flags.exclusive_or,
        "Not": convert_flags.negation,
        "Where": convert_flags.where,
        "Cast": convert_flags.cast,
        "CastLike": convert_flags.cast_like,
        "IsNaN": convert_elementwise.is_nan,
        "LayerNormalization": convert_rows.layer_norm,
        "RMSNormalization": convert_rows.rms_norm,
        "LRN": convert_rows.local_response_norm,
        "ReduceMean": convert_rows.reduce("reduce_mean"),
        "ReduceSum": convert_rows.reduce("reduce_sum"),
        "ReduceMax": convert_rows.reduce("reduce_max"),
        "ReduceMin": convert_rows.reduce("reduce_min"),
        "ReduceL1": convert_rows.reduce("reduce_sum", before="abs"),
        "ReduceL2": convert_rows.reduce("reduce_sum", before="square", after="sqrt"),
        "ReduceSumSquare": convert_rows.reduce("reduce_sum", before="square"),
        "ReduceLogSum": convert_rows.reduce("reduce_sum", after="log"),
        "Mean": convert_elementwise.mean,
        "Sum": convert_elementwise.several("add"),
        "InstanceNormalization": convert_rows.grouped_norm,
        "GroupNormalization": convert_rows.grouped_norm,
        "MatMul": convert_rows.matmul,
        "Gemm": convert_rows.gemm,
        "Attention": convert_attention.attention,
        "Gather": moved(convert_moves.gather),
        "Softmax": _softmax,
        "Concat": moved(_either(convert_pointwise.concat, convert_moves.move)),
        "Pad": _either(convert_shapes.pad, convert_moves.move),
    }
)
"""Part of the importer's table."""
