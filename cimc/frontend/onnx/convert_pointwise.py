"""Relu, Clip, Concat, Softmax."""

from __future__ import annotations

import math

from cimc.dialects.graph import ClipOp, ConcatOp, ReluOp, ReshapeOp, SoftmaxOp
from cimc.dialects.graph_types import shape_of
from cimc.frontend.onnx.builder import Builder, float_type
from cimc.frontend.onnx.node import Node, ToHost, axis_of


def relu(build: Builder, node: Node) -> None:
    """``Relu``."""
    x = build.image_or_vector(node.input(0))
    build.add(ReluOp(x, tensors=[node.output]), node, node.output)


def clip(build: Builder, node: Node) -> None:
    """``Clip``: bounds are attributes before opset 11, operands from then on."""
    x = build.image_or_vector(node.input(0))
    low = _bound(build, node, "min", 1)
    high = _bound(build, node, "max", 2)
    if low is None and high is None:
        build.alias(node.output, node.input(0))
        return
    build.add(ClipOp(x, min=low, max=high, tensors=[node.output]), node, node.output)


def _bound(build: Builder, node: Node, name: str, position: int) -> float | None:
    if node.opset < 11:
        value = node.number(name, math.inf)
    elif not node.input(position):
        return None
    else:
        array = build.constant(node.input(position))
        if array is None or array.size != 1:
            raise ToHost(f"its bound {name} is computed at run time")
        value = float(array.reshape(-1)[0])
    if math.isnan(value):
        raise ToHost(f"its bound {name} is not a number")
    # The least and the greatest float32 are the defaults before opset 11: no bound at all.
    unbounded = math.isinf(value) or abs(value) >= 3.4028234e38
    return None if unbounded else value


def concat(build: Builder, node: Node) -> None:
    """``Concat`` of values; one operand alone is the result."""
    operands = [build.image_or_vector(name, "operand") for name in node.proto.input]
    shapes = [shape_of(x) for x in operands]
    axis = axis_of(node.integer("axis", 1), len(shapes[0]))
    if len(operands) == 1:
        build.alias(node.output, node.input(0))
        return
    if len({(*s[:axis], *s[axis + 1 :]) for s in shapes}) > 1:
        raise ToHost(f"operands of shapes {shapes} do not fit along axis {axis}")
    extents = (*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1 :])
    op = ConcatOp(operands, float_type(extents), axis=axis, tensors=[node.output])
    build.add(op, node, node.output)


def softmax(build: Builder, node: Node) -> None:
    """``Softmax``. Before opset 13 it runs over all axes from ``axis`` on, as if they were one."""
    x = build.image_or_vector(node.input(0))
    shape = shape_of(x)
    axis = axis_of(node.integer("axis", -1 if node.opset >= 13 else 1), len(shape))
    if node.opset >= 13 or axis == len(shape) - 1:
        build.add(SoftmaxOp(x, axis=axis, tensors=[node.output]), node, node.output)
        return
    flat = (*shape[:axis], math.prod(shape[axis:]))
    flattened = ReshapeOp(x, float_type(flat), tensors=[f"{node.output}/flat_input"])
    build.add(flattened, node, f"{node.output}/flat_input")
    soft = SoftmaxOp(flattened.result, axis=axis, tensors=[f"{node.output}/flat"])
    build.add(soft, node, f"{node.output}/flat")
    build.add(ReshapeOp(soft.result, float_type(shape), tensors=[node.output]), node, node.output)
