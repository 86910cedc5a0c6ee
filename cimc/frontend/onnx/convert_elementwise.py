"""Float32 functions of one element, of two, of one and a constant; Where and IsNaN by constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from onnx import NodeProto
from xdsl.ir import SSAValue

from cimc.dialects.graph import AddOp, BinaryConstantOp, BinaryOp, IndexMapOp, ReshapeOp, SoftmaxOp, UnaryOp
from cimc.dialects.graph_types import shape_of
from cimc.frontend.onnx.builder import Builder, Constant, float_type
from cimc.frontend.onnx.convert_moves import common_shape, move, rearrange
from cimc.frontend.onnx.convert_products import channel_constant
from cimc.frontend.onnx.node import Node, ToHost

Converter = Callable[[Builder, Node], None]


def function(name: str, *parameters: tuple[str, float]) -> Converter:
    """A converter to ``graph.unary``; ``parameters`` are attributes with their defaults."""

    def convert(build: Builder, node: Node) -> None:
        x = build.image_or_vector(node.input(0))
        values = [node.number(attribute, default) for attribute, default in parameters]
        build.add(UnaryOp(name, x, parameters=values, tensors=[node.output]), node, node.output)

    return convert


def gelu(build: Builder, node: Node) -> None:
    """``Gelu``: by the error function, or approximated by tanh."""
    name = "gelu_tanh" if node.text("approximate", "none") == "tanh" else "gelu"
    x = build.image_or_vector(node.input(0))
    build.add(UnaryOp(name, x, tensors=[node.output]), node, node.output)


def binary(name: str, *, folds: bool = False) -> Converter:
    """A converter to ``graph.binary`` or ``graph.binary_constant``.

    ``folds``: a constant per channel behind a product is tried as a part of its weights first.
    """

    def convert(build: Builder, node: Node) -> None:
        names = [n for n in (node.input(0), node.input(1)) if n in build.constants]
        if not names:
            a, b = (build.image_or_vector(node.input(i), "operand") for i in (0, 1))
            pair(build, node, name, a, b, node.output)
            return
        if folds and _folded(build, node):
            return
        swapped = node.input(0) in build.constants
        x = build.image_or_vector(node.input(1 if swapped else 0))
        constant = build.any_float_constant(names[0], "other operand")
        with_constant(build, node, name, x, constant, node.output, swapped=swapped)

    return convert


def _folded(build: Builder, node: Node) -> bool:
    """Whether the constant may go into the product before the node; then it is an affine map from now on."""
    try:
        channel_constant(build, node)
    except ToHost:
        return False
    return True


def pair(build: Builder, node: Node, name: str, a: SSAValue, b: SSAValue, output: str) -> SSAValue:
    """A function of two values, each expanded to their common shape."""
    shape = common_shape(shape_of(a), shape_of(b))
    a, b = (
        expanded(build, node, a, shape, f"{output}/left"),
        expanded(build, node, b, shape, f"{output}/right"),
    )
    # Only what enters the block may be built: an operation keeps its operands in use.
    op: BinaryOp | AddOp
    if name == "add":
        op = AddOp(a, b, float_type(shape), tensors=[output])
    else:
        op = BinaryOp(name, a, b, tensors=[output])
    build.add(op, node, output)
    return op.result


def expanded(build: Builder, node: Node, x: SSAValue, shape: tuple[int, ...], name: str) -> SSAValue:
    """``x`` broadcast to ``shape``."""
    return rearrange(build, node, x, lambda i: np.broadcast_to(i, shape), name)


def with_constant(
    build: Builder,
    node: Node,
    name: str,
    x: SSAValue,
    constant: npt.NDArray[np.float32],
    output: str,
    *,
    swapped: bool = False,
) -> SSAValue:
    """A function of ``x`` and ``constant``, which broadcast to each other."""
    shape = common_shape(shape_of(x), constant.shape)
    x = expanded(build, node, x, shape, f"{output}/operand")
    full = constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
    stored = build.put(f"{node.name}.operand", full)
    framed = len(shape) > 1 and full.shape[0] == 1
    op = BinaryConstantOp(name, x, constant=stored, swapped=swapped, per_frame=framed, tensors=[output])
    build.add(op, node, output)
    return op.result


def mean(build: Builder, node: Node) -> None:
    """``Mean`` of one or more values and constants: their sum over their number."""
    total = f"{node.output}/sum"
    several("add")(build, replace(node, proto=renamed(node.proto, total)))
    share = np.full(1, 1 / len(node.proto.input), np.float32)
    with_constant(build, node, "mul", build.values[total], share, node.output)


def renamed(proto: NodeProto, output: str) -> NodeProto:
    """The same node with its one result called ``output``."""
    copy = NodeProto()
    copy.CopyFrom(proto)
    copy.output[:] = [output]
    return copy


def several(name: str) -> Converter:
    """``Sum``, ``Max`` and ``Min`` of one or more values and constants, left to right."""

    def convert(build: Builder, node: Node) -> None:
        values = [n for n in node.proto.input if n not in build.constants]
        constants = [build.any_float_constant(n, "operand") for n in node.proto.input if n in build.constants]
        total = build.image_or_vector(values[0], "operand")
        steps = len(values) - 1 + len(constants)
        if not steps:
            build.alias(node.output, values[0])
            return
        for number in range(steps):
            output = node.output if number == steps - 1 else f"{node.output}/partial{number}"
            if number < len(values) - 1:
                other = build.image_or_vector(values[number + 1], "operand")
                total = pair(build, node, name, total, other, output)
            else:
                total = with_constant(build, node, name, total, constants[number - len(values) + 1], output)

    return convert


def prelu(build: Builder, node: Node) -> None:
    """``PRelu`` by constant slopes that broadcast to the value."""
    x = build.image_or_vector(node.input(0))
    slope = build.float_constant(node.input(1), "slope")
    if common_shape(shape_of(x), slope.shape) != shape_of(x):
        raise ToHost(f"slopes of shape {slope.shape} do not match {shape_of(x)}")
    with_constant(build, node, "prelu", x, slope, node.output)


def where_constant(build: Builder, node: Node) -> None:
    """``Where`` by a constant condition: of a value and a constant two bounds, else a move.

    ``min(max(x, low), high)`` with the bounds open where the value is taken, and both the constant where not.
    """
    condition = build.constants[node.input(0)].array
    fixed = [position for position in (1, 2) if node.input(position) in build.constants]
    if len(fixed) != 1:
        move(build, node)
        return
    (position,) = fixed
    x = build.image_or_vector(node.input(3 - position))
    constant = build.any_float_constant(node.input(position), "operand")
    shape = common_shape(condition.shape, constant.shape, shape_of(x))
    x = expanded(build, node, x, shape, f"{node.output}/operand")
    taken = np.asarray(condition, np.bool_) if position == 1 else ~np.asarray(condition, np.bool_)
    if not taken.any():
        build.values[node.output] = x
        return
    if np.isnan(constant).any():
        raise ToHost("its constant is not a number")
    low, high = (np.where(taken, constant, np.float32(end)).astype(np.float32) for end in (-np.inf, np.inf))
    bounded = with_constant(build, node, "max", x, low, f"{node.output}/low")
    with_constant(build, node, "min", bounded, high, node.output)


def is_nan(build: Builder, node: Node) -> None:
    """``IsNaN`` of a softmax none of whose rows can be masked in full: never, which exporters do not know."""
    x = build.image_or_vector(node.input(0))
    if not isinstance(x.owner, SoftmaxOp) or not _never_all_masked(build, x.owner.input):
        raise ToHost("what it asks for depends on data of run time")
    build.constants[node.output] = Constant.of(np.zeros(shape_of(x), np.bool_))


def _never_all_masked(build: Builder, value: SSAValue) -> bool:
    """Whether every row of the softmax's operand keeps an element that no constant mask takes away."""
    op = value.owner
    match op:
        case BinaryConstantOp(function=kind) if kind.data in ("add", "min"):
            masked = np.isneginf(build.store.array(op.constant.key.data))
            return not masked.all(axis=-1).any() and (not masked.any() or _finite(build, op.input))
        case _:
            return _finite(build, value)


def _finite(build: Builder, value: SSAValue) -> bool:
    """Whether no infinity enters on the way to ``value``: of masks of run time nothing is known."""
    op = value.owner
    match op:
        case BinaryConstantOp():
            return bool(np.isfinite(build.store.array(op.constant.key.data)).all()) and _finite(
                build, op.input
            )
        case UnaryOp() | ReshapeOp():
            return _finite(build, op.input)
        case IndexMapOp():
            return all(_finite(build, v) for v in op.inputs)
        case BinaryOp():
            return False
        case _:
            return True
