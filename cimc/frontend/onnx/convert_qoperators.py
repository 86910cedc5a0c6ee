"""QOperator models: each operator on codes becomes the real operator between conversions.

That is level 1's form of quantised models (docs/numerics.md section 0 rule 10); the passes of the stage
``quantise`` bring the operators onto codes again. Converters may raise :class:`ToHost` after they have
added operations: those are dead then, and ``graph-canonicalise`` removes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from onnx import AttributeProto, NodeProto

from cimc.diagnostics import UnsupportedError
from cimc.dialects.graph import QuantizeOp
from cimc.frontend.onnx.builder import Builder, Constant
from cimc.frontend.onnx.code_parameters import activation_type, parameters, stored_codes
from cimc.frontend.onnx.convert_quantised import (
    coded_as,
    dequantize_linear,
    quantize_linear,
    real_value,
)
from cimc.frontend.onnx.node import Node, ToHost
from cimc.frontend.onnx.stored_codes import Storage, StoredCodes

_INT32 = Storage(32, True)


def _real_input(build: Builder, node: Node, position: int) -> str:
    """The tensor at ``position``, dequantised by the scale and zero point that follow it; its real name."""
    name = node.input(position)
    if name in build.constants:
        codes = stored_codes(build, name, node.input(position + 1), node.input(position + 2), 0)
        return _constant(build, f"{name}/real", codes)
    found = parameters(build, node.input(position + 1), node.input(position + 2))
    source = coded_as(build, node, name, found)
    known = name if build.coded.get(name) is source else f"{node.output}/{name}/codes"
    return real_value(build, node, source, known)


def _constant(build: Builder, name: str, codes: StoredCodes) -> str:
    build.constants[name] = Constant.coded(codes)
    return name


def _bias(build: Builder, node: Node, position: int, x_scale: int, weight: StoredCodes) -> str:
    """The int32 bias at ``position``, in units of ``sx * sw``; empty when there is none."""
    name = node.input(position)
    if not name:
        return ""
    integers = build.constant(name)
    if integers is None:
        raise ToHost("its bias is computed at run time, the arrays hold constants")
    if integers.dtype != np.int32:
        raise UnsupportedError(f"bias {name!r} has elements {integers.dtype}, the operator takes int32")
    scale = parameters(build, node.input(x_scale), "").scale * weight.scale
    axis = None if scale.size == 1 else integers.ndim - 1
    codes = StoredCodes(integers, _INT32, scale, np.zeros(scale.shape, np.int64), axis)
    return _constant(build, f"{node.output}/{name}/real", codes)


def _expand(
    build: Builder,
    node: Node,
    op_type: str,
    inputs: Sequence[str],
    attributes: Sequence[str] = (),
) -> None:
    """Append the real operator ``op_type`` on ``inputs``; its result is called like the node's."""
    # The table of real operators stands in the module that imports this one.
    from cimc.frontend.onnx.importer import CONVERTERS

    kept: list[AttributeProto] = [a for a in node.proto.attribute if a.name in attributes]
    proto = NodeProto(name=node.proto.name, op_type=op_type, input=inputs, output=[node.output])
    proto.attribute.extend(kept)
    CONVERTERS[op_type](build, Node.of(proto, node.index, node.name, node.opset, [node.output]))


def _code_result(build: Builder, node: Node, scale: str, zero: str) -> None:
    """Quantise the node's result by the constants named."""
    codes = activation_type(parameters(build, scale, zero), None)
    real = build.values.pop(node.output)
    build.add_coded(QuantizeOp(real, codes, tensors=[node.output]), node, node.output)


def qlinear_conv(build: Builder, node: Node) -> None:
    """``QLinearConv``: constant weights, per tensor or per output channel."""
    _channels_first(node)
    activation_type(parameters(build, node.input(6), node.input(7)), None)
    weight = stored_codes(build, node.input(3), node.input(4), node.input(5), 0)
    inputs = [
        _real_input(build, node, 0),
        _constant(build, f"{node.output}/{node.input(3)}/real", weight),
        _bias(build, node, 8, 1, weight),
    ]
    kept = ("auto_pad", "dilations", "group", "pads", "strides", "kernel_shape")
    _expand(build, node, "Conv", inputs, kept)
    _code_result(build, node, node.input(6), node.input(7))


def qlinear_matmul(build: Builder, node: Node) -> None:
    """``QLinearMatMul`` by a constant matrix, per tensor or per column."""
    activation_type(parameters(build, node.input(6), node.input(7)), None)
    weight = stored_codes(build, node.input(3), node.input(4), node.input(5), -1)
    inputs = [
        _real_input(build, node, 0),
        _constant(build, f"{node.output}/{node.input(3)}/real", weight),
    ]
    _expand(build, node, "MatMul", inputs)
    _code_result(build, node, node.input(6), node.input(7))


def qgemm(build: Builder, node: Node) -> None:
    """com.microsoft's ``QGemm``; without an output scale the result is float32."""
    transposed = bool(node.integer("transB", 0))
    weight = stored_codes(build, node.input(3), node.input(4), node.input(5), 0 if transposed else 1)
    inputs = [
        _real_input(build, node, 0),
        _constant(build, f"{node.output}/{node.input(3)}/real", weight),
        _bias(build, node, 6, 1, weight),
    ]
    if node.input(6) and node.number("alpha", 1.0) != 1:
        raise ToHost(f"alpha {node.number('alpha', 1.0)} beside an integer bias")
    if node.input(7):
        activation_type(parameters(build, node.input(7), node.input(8)), None)
    _expand(build, node, "Gemm", inputs, ("alpha", "transA", "transB"))
    if node.input(7):
        _code_result(build, node, node.input(7), node.input(8))


def qlinear_add(build: Builder, node: Node) -> None:
    """com.microsoft's ``QLinearAdd`` of two values of one shape (docs/numerics.md section 0 rule 10)."""
    inputs = [_real_input(build, node, 0), _real_input(build, node, 3)]
    activation_type(parameters(build, node.input(6), node.input(7)), None)
    _expand(build, node, "Add", inputs)
    _code_result(build, node, node.input(6), node.input(7))


def qlinear_average_pool(build: Builder, node: Node) -> None:
    """com.microsoft's ``QLinearAveragePool``, channels first (docs/numerics.md section 0 rule 9)."""
    _channels_first(node)
    activation_type(parameters(build, node.input(3), node.input(4)), None)
    kept = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
    _expand(build, node, "AveragePool", [_real_input(build, node, 0)], kept)
    _code_result(build, node, node.input(3), node.input(4))


def qlinear_global_average_pool(build: Builder, node: Node) -> None:
    """com.microsoft's ``QLinearGlobalAveragePool``, channels first."""
    _channels_first(node)
    activation_type(parameters(build, node.input(3), node.input(4)), None)
    inputs = [_real_input(build, node, 0)]
    _expand(build, node, "GlobalAveragePool", inputs)
    _code_result(build, node, node.input(3), node.input(4))


def _channels_first(node: Node) -> None:
    if node.integer("channels_last", 0):
        raise ToHost("channels_last = 1: images have their channels first here")


def qlinear_concat(build: Builder, node: Node) -> None:
    """com.microsoft's ``QLinearConcat``: output scale and zero point, then three inputs an operand."""
    activation_type(parameters(build, node.input(0), node.input(1)), None)
    operands = [_real_input(build, node, position) for position in range(2, len(node.proto.input), 3)]
    _expand(build, node, "Concat", operands, ("axis",))
    _code_result(build, node, node.input(0), node.input(1))


QUANTISED_CONVERTERS: Mapping[str, Callable[[Builder, Node], None]] = MappingProxyType(
    {
        "QuantizeLinear": quantize_linear,
        "DequantizeLinear": dequantize_linear,
        "QLinearConv": qlinear_conv,
        "QLinearMatMul": qlinear_matmul,
        "QGemm": qgemm,
        "QLinearAdd": qlinear_add,
        "QLinearAveragePool": qlinear_average_pool,
        "QLinearGlobalAveragePool": qlinear_global_average_pool,
        "QLinearConcat": qlinear_concat,
    }
)
"""Operators on codes, of the standard domain and of com.microsoft, which has the two conversions too."""
