"""QuantizeLinear and DequantizeLinear: constants keep their integers, edges keep their scales.

A tensor of codes lives in ``Builder.coded``, its plain integers in ``Builder.values``: one is a cast of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper
from xdsl.dialects.builtin import f32
from xdsl.ir import SSAValue

from cimc.diagnostics import UnsupportedError
from cimc.dialects.graph import DequantizeOp, QuantizeOp, StorageCastOp
from cimc.dialects.graph_types import MAX_BITS, quant_of, shape_of, tensor
from cimc.frontend.onnx.builder import Builder, Constant
from cimc.frontend.onnx.code_parameters import (
    Parameters,
    activation_type,
    agreed_storage,
    axis_for,
    check_precision,
    codes_like,
    output_storage,
    parameters,
    stored_codes,
)
from cimc.frontend.onnx.node import Node, ToHost
from cimc.frontend.onnx.stored_codes import Storage, storage_of
from cimc.frontend.onnx.structure import node_inputs
from cimc.frontend.onnx.types import element_code

CONVERSIONS = frozenset(("QuantizeLinear", "DequantizeLinear"))

_MOVES = frozenset(
    (
        "Concat",
        "DepthToSpace",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    )
)
"""Operators that move or select elements: on codes they do what they do on the real values."""


_REORDERS = frozenset(("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
"""Moves that stand between integers of a graph input and who gives them a scale."""


def fold_conversion(build: Builder, node: Node) -> bool:
    """Convert a constant and keep its integers; says whether it did.

    Scales per block, codes that are not integers and real values that are not float32 are left to the general folding.
    """
    if node.op_type not in CONVERSIONS or node.input(0) not in build.constants:
        return False
    # Before opset 13, and per tensor, the axis means nothing.
    axis = node.integer("axis", 1)
    if node.integer("block_size", 0):
        return False
    try:
        if node.op_type == "DequantizeLinear":
            return _fold_dequantize(build, node, axis)
        return _fold_quantize(build, node, axis)
    except ToHost:
        return False


def _fold_dequantize(build: Builder, node: Node, axis: int) -> bool:
    if node.integer("output_dtype", TensorProto.FLOAT) != TensorProto.FLOAT:
        return False
    codes = stored_codes(build, node.input(0), node.input(1), node.input(2), axis)
    build.constants[node.output] = Constant.coded(codes)
    return True


def _fold_quantize(build: Builder, node: Node, axis: int) -> bool:
    found, storage = _quantize_parameters(build, node)
    values = build.float_constant(node.input(0), "input")
    axis_found = axis_for(found, axis, values.shape)
    build.constants[node.output] = Constant.of(codes_like(values, found, storage, axis_found))
    return True


def fold_move(build: Builder, node: Node) -> bool:
    """Transpose and reshapes of dequantised constants keep the integers; says whether it did."""
    constant = build.constants.get(node.input(0))
    codes = None if constant is None else constant.codes
    if codes is None:
        return False
    match node.op_type:
        case "Transpose":
            order = node.integers("perm", range(codes.codes.ndim)[::-1])
            moved = codes.transposed(order)
        case "Identity":
            moved = codes
        case _:
            return False
    build.constants[node.output] = Constant.coded(moved)
    return True


def quantize_linear(build: Builder, node: Node) -> None:
    """``QuantizeLinear`` of a value, one constant scale."""
    found, storage = _quantize_parameters(build, node)
    value = build.image_or_vector(node.input(0))
    axis_for(found, node.integer("axis", 1), shape_of(value))
    _not_per_block(node)
    codes = activation_type(found, storage)
    build.add_coded(QuantizeOp(value, codes, tensors=[node.output]), node, node.output)


def _quantize_parameters(build: Builder, node: Node) -> tuple[Parameters, Storage]:
    found = parameters(build, node.input(1), node.input(2))
    check_precision(node)
    return found, agreed_storage(found, output_storage(node))


def dequantize_linear(build: Builder, node: Node) -> None:
    """``DequantizeLinear`` of a value, one constant scale."""
    found = parameters(build, node.input(1), node.input(2))
    if node.integer("output_dtype", TensorProto.FLOAT) != TensorProto.FLOAT:
        raise ToHost("its real values are not float32")
    value = build.known(node.input(0))
    axis_for(found, node.integer("axis", 1), shape_of(value))
    _not_per_block(node)
    source = coded_as(build, node, node.input(0), found)
    build.add(DequantizeOp(source, tensors=[node.output]), node, node.output)


def _not_per_block(node: Node) -> None:
    if node.integer("block_size", 0):
        raise ToHost(f"its scales are per block of {node.integer('block_size', 0)}")


def coded_as(build: Builder, node: Node, name: str, found: Parameters) -> SSAValue:
    """The tensor ``name`` as codes under the scale its reader states.

    Integers of a graph input or of a host operator, and codes that were made under another scale, are read as they are.
    Raises :class:`ToHost` where the reader's parameters have no place on an edge.
    """
    if name in build.constants:
        raise ToHost("its input is a constant")
    existing = build.coded.get(name)
    if existing is not None:
        made = quant_of(existing)
        assert made is not None, "coded values hold codes"
        if activation_type(found, Storage(made.bits, made.signed)) == made:
            return existing
    dtype = helper.tensor_dtype_to_np_dtype(plain(build, node, name).code)
    wanted = activation_type(found, storage_of(dtype) or _no_integers(dtype))
    # The first scale that a reader states is the tensor's own: whoever reads it after that shares its codes.
    known = f"{node.output}/{name}/codes" if name in build.coded else name
    op = StorageCastOp(build.values[name], wanted, tensors=[known])
    build.add_coded(op, node, known)
    return op.result


def as_whole_numbers(build: Builder, node: Node, name: str) -> SSAValue | None:
    """Integers of 8 or 16 bits as codes of scale 1 and zero point 0, which stand for the same numbers; ``None`` for
    other tensors."""
    value = build.values.get(name)
    if value is None or 0 in shape_of(value):
        return None
    storage = storage_of(helper.tensor_dtype_to_np_dtype(element_code(tensor(value).get_element_type())))
    if storage is None or storage.bits > MAX_BITS:
        return None
    return coded_as(build, node, name, Parameters(np.ones(1, np.float32), np.zeros(1, np.int64), None))


def integers_to_float(build: Builder, node: Node) -> bool:
    """``Cast`` of 8 or 16 bits to float32, which holds all of them; says whether it is one."""
    if node.integer("to", TensorProto.UNDEFINED) != TensorProto.FLOAT:
        return False
    source = as_whole_numbers(build, node, node.input(0))
    if source is None:
        return False
    build.add(DequantizeOp(source, tensors=[node.output]), node, node.output)
    return True


def _no_integers(dtype: np.dtype[Any]) -> Storage:
    raise ToHost(f"its codes have elements {dtype}, the arrays take integers")


def give_codes(build: Builder, node: Node) -> None:
    """Let integers of 8 or 16 bits that a move takes be codes: the digital unit moves those."""
    if node.op_type in _REORDERS and node.input(0) not in build.coded:
        as_whole_numbers(build, node, node.input(0))


def real_value(build: Builder, node: Node, source: SSAValue, name: str) -> str:
    """Dequantise ``source``; returns the name of the real tensor, one per tensor of codes."""
    real = f"{name}/real"
    if real not in build.values:
        build.add(DequantizeOp(source, tensors=[real]), node, real)
    return real


def plain(build: Builder, node: Node, name: str) -> Any:
    """The ONNX type of ``name``, which has become plain integers if it was codes."""
    if name in build.coded and name not in build.values:
        source = build.coded[name]
        codes = quant_of(source)
        assert codes is not None, "coded values hold codes"
        if codes.stored_as is None:
            raise UnsupportedError(f"tensor {name!r}: nobody reads integers of {codes.bits} bits")
        build.add(StorageCastOp(source, codes.stored_as, tensors=[name]), node, name)
    return build.typed(name)


def convert_with_codes(build: Builder, node: Node, convert: Callable[[Builder, Node], None]) -> None:
    """Convert a node of which an input is codes, and which is no operator on codes itself.

    Operators that move elements work on the real values and give codes of the same scale; all others read
    plain integers.
    """
    coded = [name for name in node_inputs(node.proto) if name in build.coded]
    types = {quant_of(build.coded[name]) for name in coded}
    data = list(node.proto.input) if node.op_type == "Concat" else [node.input(0)]
    if node.op_type not in _MOVES or coded != list(dict.fromkeys(data)) or len(types) != 1:
        for name in coded:
            plain(build, node, name)
        convert(build, node)
        return
    codes = quant_of(build.coded[coded[0]])
    assert codes is not None, "coded values hold codes"
    reals = {name: real_value(build, node, build.coded[name], name) for name in coded}
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    proto.input[:] = [reals.get(name, name) for name in node.proto.input]
    convert(build, Node.of(proto, node.index, node.name, node.opset, node.results))
    for name in node.results:
        real = build.values[name]
        if tensor(real).get_element_type() == f32:
            del build.values[name]
            build.add_coded(QuantizeOp(real, codes, tensors=[name]), node, name)
