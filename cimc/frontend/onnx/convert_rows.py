"""Norms, reductions and products of two activations: operators over whole rows."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from xdsl.ir import SSAValue

from cimc.dialects.graph import MatmulOp, NormOp, ReduceOp, ReshapeOp, SoftmaxOp, UnaryOp
from cimc.dialects.graph_types import shape_of
from cimc.frontend.onnx import convert_pools, convert_products
from cimc.frontend.onnx.builder import Builder, float_type
from cimc.frontend.onnx.convert_elementwise import pair, with_constant
from cimc.frontend.onnx.convert_moves import add_move, common_shape, rearrange
from cimc.frontend.onnx.node import Node, ToHost, axis_of
from cimc.frontend.onnx.product_weights import codes_of, swapped


def reshaped(build: Builder, node: Node, x: SSAValue, shape: tuple[int, ...], name: str) -> SSAValue:
    """``x`` under another shape; ``x`` itself where it has it already."""
    if shape_of(x) == shape:
        return x
    op = ReshapeOp(x, float_type(shape), tensors=[name])
    build.add(op, node, name)
    return op.result


def _add_norm(build: Builder, node: Node, function: str, rows: list[np.ndarray], axis: int) -> None:
    """A norm over the axes from ``axis`` on, as one; ``rows`` are the vectors of its constant."""
    x = build.image_or_vector(node.input(0))
    shape = shape_of(x)
    channels = prod(shape[axis:])
    if any(common_shape(r.shape, shape[axis:]) != shape[axis:] for r in rows):
        raise ToHost(f"its parameters do not fit the axes {shape[axis:]}")
    constant = np.stack([np.broadcast_to(r, shape[axis:]).reshape(-1) for r in rows])
    whole = axis == len(shape) - 1
    flat = reshaped(build, node, x, (*shape[:axis], channels), f"{node.output}/flat_input")
    name = node.output if whole else f"{node.output}/flat"
    op = NormOp(
        function,
        flat,
        constant=build.put(f"{node.name}.constant", constant),
        parameters=[node.number("epsilon", 1e-5)],
        tensors=[name],
    )
    build.add(op, node, name)
    if not whole:
        build.add(ReshapeOp(op.result, float_type(shape), tensors=[node.output]), node, node.output)


def layer_norm(build: Builder, node: Node) -> None:
    """``LayerNormalization`` with constant scale and bias."""
    if node.output_used(1) or node.output_used(2):
        raise ToHost("its mean or deviation is used")
    x = build.image_or_vector(node.input(0))
    axis = axis_of(node.integer("axis", -1), len(shape_of(x)))
    scale = build.float_constant(node.input(1), "scale")
    bias = build.float_constant(node.input(2), "bias") if node.input(2) else np.zeros(1, np.float32)
    _add_norm(build, node, "layer_norm", [scale, bias], axis)


def rms_norm(build: Builder, node: Node) -> None:
    """``RMSNormalization`` with a constant scale."""
    x = build.image_or_vector(node.input(0))
    axis = axis_of(node.integer("axis", -1), len(shape_of(x)))
    _add_norm(build, node, "rms_norm", [build.float_constant(node.input(1), "scale")], axis)


def local_response_norm(build: Builder, node: Node) -> None:
    """``LRN`` over the channels of images."""
    x = build.image_or_vector(node.input(0))
    if len(shape_of(x)) != 4:
        raise ToHost(f"its input of shape {shape_of(x)} is not an image")
    size = node.integer("size", 1)
    factors = [node.number(n, d) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))]
    op = NormOp("local_response_norm", x, constant=None, parameters=[*factors, size], tensors=[node.output])
    build.add(op, node, node.output)


def grouped_norm(build: Builder, node: Node) -> None:
    """``InstanceNormalization`` and ``GroupNormalization``: every group of channels to mean 0 and variance 1.

    A group is a row of the norm; constant scale and bias of every channel follow it.
    """
    x = build.image_or_vector(node.input(0))
    shape = shape_of(x)
    if len(shape) < 3:
        raise ToHost(f"its input of shape {shape} has no pixels")
    groups = node.integer("num_groups", shape[1])
    scale, bias = (build.float_constant(node.input(i), what) for i, what in ((1, "scale"), (2, "bias")))
    if shape[1] % groups or {scale.shape, bias.shape} != {(shape[1],)}:
        raise ToHost(f"{groups} groups, {scale.shape} factors and {bias.shape} terms for {shape[1]} channels")
    row = prod(shape[1:]) // groups
    rows = reshaped(build, node, x, (shape[0], groups, row), f"{node.output}/groups")
    unit = np.stack([np.ones(row, np.float32), np.zeros(row, np.float32)])
    op = NormOp(
        "layer_norm",
        rows,
        constant=build.put(f"{node.name}.constant", unit),
        parameters=[node.number("epsilon", 1e-5)],
        tensors=[f"{node.output}/rows"],
    )
    build.add(op, node, f"{node.output}/rows")
    image = reshaped(build, node, op.result, shape, f"{node.output}/unit")
    per_channel = (1, -1, *[1] * (len(shape) - 2))
    scaled = with_constant(build, node, "mul", image, scale.reshape(per_channel), f"{node.output}/scaled")
    with_constant(build, node, "add", scaled, bias.reshape(per_channel), node.output)


def reduce(name: str, *, before: str = "", after: str = "") -> Callable[[Builder, Node], None]:
    """A converter to ``graph.reduce`` over any constant axes; a mean over an image's pixels is a pool.

    ``before`` and ``after``: functions of every element, ahead of the reduction and behind it.
    """

    def convert(build: Builder, node: Node) -> None:
        if name == "reduce_mean":
            try:
                convert_pools.reduce_mean(build, node)
                return
            except ToHost:
                pass  # not the mean of an image
        x = build.image_or_vector(node.input(0))
        if before == "square":
            x = pair(build, node, "mul", x, x, f"{node.output}/square")
        elif before:
            x = _function(build, node, before, x, f"{node.output}/{before}")
        if not after:
            _reduce(build, node, name, x, node.output)
            return
        total = _reduce(build, node, name, x, f"{node.output}/total")
        _function(build, node, after, total, node.output)

    return convert


def _function(build: Builder, node: Node, name: str, x: SSAValue, output: str) -> SSAValue:
    op = UnaryOp(name, x, tensors=[output])
    build.add(op, node, output)
    return op.result


def _reduce(build: Builder, node: Node, name: str, x: SSAValue, output: str) -> SSAValue:
    shape, given = shape_of(x), node.integers("axes", ())
    if node.input(1):
        constant = build.constant(node.input(1))
        if constant is None:
            raise ToHost("its axes are computed at run time")
        given = tuple(int(a) for a in constant.reshape(-1))
    if not given and node.integer("noop_with_empty_axes", 0):
        build.values[output] = x
        return x
    axes = sorted({axis_of(a, len(shape)) for a in given} if given else set(range(len(shape))))
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    moved = rearrange(build, node, x, lambda i: i.transpose(*kept, *axes), f"{output}/moved")
    extents = tuple(shape[a] for a in kept)
    flat = reshaped(build, node, moved, (*extents, prod(shape[a] for a in axes)), f"{output}/flat_input")
    final = tuple(1 if a in axes else d for a, d in enumerate(shape))
    final = final if node.integer("keepdims", 1) else extents
    done = final == (*extents, 1)
    op = ReduceOp(name, flat, tensors=[output if done else f"{output}/flat"])
    build.add(op, node, output if done else f"{output}/flat")
    return op.result if done else reshaped(build, node, op.result, final, output)


def product(build: Builder, node: Node, a: SSAValue, b: SSAValue, output: str) -> SSAValue:
    """``graph.matmul`` of two values of rank 2 or more; leading axes broadcast."""
    left, right = shape_of(a), shape_of(b)
    if min(len(left), len(right)) < 2 or left[-1] != right[-2]:
        raise ToHost(f"operands of shapes {left} and {right} are no matrices that match")
    lead = common_shape(left[:-2], right[:-2])
    a = rearrange(build, node, a, lambda i: np.broadcast_to(i, (*lead, *left[-2:])), f"{output}/left")
    b = rearrange(build, node, b, lambda i: np.broadcast_to(i, (*lead, *right[-2:])), f"{output}/right")
    op = MatmulOp(a, b, tensors=[output])
    build.add(op, node, output)
    return op.result


def matmul(build: Builder, node: Node) -> None:
    """``MatMul`` by a constant matrix on the arrays; of two activations on the digital unit."""
    if node.input(0) in build.constants:
        _constant_first(build, node)
        return
    if node.input(1) in build.constants:
        _constant_second(build, node)
        return
    a, b = (build.image_or_vector(node.input(i), "operand") for i in (0, 1))
    product(build, node, a, b, node.output)


def _constant_first(build: Builder, node: Node) -> None:
    """A constant matrix times a value: the value's matrices turned, times the turned constant, turned back."""
    x = build.image_or_vector(node.input(1), "right operand")
    weight = build.float_constant(node.input(0), "left operand")
    if weight.ndim != 2 or len(shape_of(x)) < 2 or shape_of(x)[-2] != weight.shape[1]:
        raise ToHost(f"its left operand of shape {weight.shape} is not one matrix for {shape_of(x)}")
    turned = rearrange(build, node, x, lambda i: i.swapaxes(-1, -2), f"{node.output}/turned_input")
    codes = swapped(codes_of(build, node.input(0)))
    made = convert_products.add_gemm(
        build, node, turned, weight.T, None, weight_codes=codes, output=f"{node.output}/turned"
    )
    build.values[node.output] = rearrange(build, node, made, lambda i: i.swapaxes(-1, -2), node.output)


def _constant_second(build: Builder, node: Node) -> None:
    """A value times constants: one matrix, or a stack of them, each with the entries of the value it multiplies."""
    stack = build.float_constant(node.input(1), "right operand")
    if stack.ndim < 3 or stack.size == prod(stack.shape[-2:]):
        convert_products.matmul(build, node)
        return
    x = build.image_or_vector(node.input(0), "left operand")
    if len(shape_of(x)) < 2 or shape_of(x)[-1] != stack.shape[-2]:
        raise ToHost(f"operands of shapes {shape_of(x)} and {stack.shape} are no matrices that match")
    lead = common_shape(shape_of(x)[:-2], stack.shape[:-2])
    matrices = np.broadcast_to(stack, (*lead, *stack.shape[-2:]))
    rows = shape_of(x)[-2:]
    parts: list[SSAValue] = []
    for number, place in enumerate(np.ndindex(*lead)):
        own = rearrange(
            build,
            node,
            x,
            lambda i, at=place: np.broadcast_to(i, (*lead, *rows))[at],
            f"{node.output}/x{number}",
        )
        parts.append(
            convert_products.add_gemm(
                build, node, own, matrices[place], None, output=f"{node.output}/y{number}"
            )
        )
    shape = (*lead, rows[0], stack.shape[-1])
    add_move(build, node, parts, np.arange(prod(shape), dtype=np.int64).reshape(shape), node.output)


def gemm(build: Builder, node: Node) -> None:
    """``Gemm`` by constant weights on the arrays; of two activations on the digital unit."""
    if node.input(0) in build.constants or node.input(1) in build.constants:
        convert_products.gemm(build, node)
        return
    a, b = (build.image_or_vector(node.input(i), "operand") for i in (0, 1))
    if node.integer("transA", 0):
        a = rearrange(build, node, a, np.transpose, f"{node.output}/left_transposed")
    if node.integer("transB", 0):
        b = rearrange(build, node, b, np.transpose, f"{node.output}/right_transposed")
    alpha, beta = (np.float32(node.number(name, 1.0)) for name in ("alpha", "beta"))
    bias = node.input(2) if beta != 0 else ""
    steps = ["product", *(["alpha"] if alpha != 1 else []), *(["bias"] if bias else [])]
    names = {s: node.output if s == steps[-1] else f"{node.output}/{s}" for s in steps}
    total = product(build, node, a, b, names["product"])
    if alpha != 1:
        total = with_constant(build, node, "mul", total, np.array([alpha]), names["alpha"])
    if not bias:
        return
    if bias in build.constants:
        constant = build.float_constant(bias, "bias") * beta
        with_constant(build, node, "add", total, constant, names["bias"])
        return
    other = build.image_or_vector(bias, "bias")
    if beta != 1:
        other = with_constant(build, node, "mul", other, np.array([beta]), f"{node.output}/beta")
    pair(build, node, "add", total, other, names["bias"])


def softmax_last(build: Builder, node: Node, x: SSAValue, output: str) -> SSAValue:
    """Softmax over the last axis."""
    op = SoftmaxOp(x, axis=len(shape_of(x)) - 1, tensors=[output])
    build.add(op, node, output)
    return op.result
