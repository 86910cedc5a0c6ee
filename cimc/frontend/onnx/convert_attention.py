"""``Attention`` of opset 23: two products of activations with a scale, masks and a softmax between them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import SSAValue

from cimc.dialects.graph import ConcatOp, UnaryOp
from cimc.dialects.graph_types import shape_of
from cimc.frontend.onnx.builder import Builder, float_type
from cimc.frontend.onnx.convert_elementwise import pair, with_constant
from cimc.frontend.onnx.convert_moves import rearrange
from cimc.frontend.onnx.convert_rows import product, softmax_last
from cimc.frontend.onnx.node import Node, ToHost


def attention(build: Builder, node: Node) -> None:
    """Query, key and value of (batch, heads, tokens, features), or of (batch, tokens, heads * features)."""
    if node.input(6) or node.output_used(3):
        raise ToHost("it has keys that count at run time only, or gives its scores away")
    flat = len(shape_of(build.image_or_vector(node.input(0)))) == 3
    heads = node.integer("q_num_heads", 0) if flat else 0
    query = _heads(build, node, 0, heads)
    key = _heads(build, node, 1, node.integer("kv_num_heads", heads) if flat else 0)
    value = _heads(build, node, 2, node.integer("kv_num_heads", heads) if flat else 0)
    past = shape_of(build.image_or_vector(node.input(4)))[2] if node.input(4) else 0
    key, value = _present(build, node, key, 0), _present(build, node, value, 1)
    count = shape_of(query)[1]
    if count % shape_of(key)[1]:
        raise ToHost(f"{count} query heads share {shape_of(key)[1]} key heads")
    group = count // shape_of(key)[1]
    turned = rearrange(
        build,
        node,
        key,
        lambda i: np.repeat(i, group, axis=1).transpose(0, 1, 3, 2),
        f"{node.output}/key_transposed",
    )
    value = rearrange(
        build, node, value, lambda i: np.repeat(i, group, axis=1), f"{node.output}/value_repeated"
    )
    scale = node.number("scale", 1.0 / math.sqrt(shape_of(query)[-1]))
    scaled = with_constant(build, node, "mul", query, np.array([scale], np.float32), f"{node.output}/scaled")
    scores = product(build, node, scaled, turned, f"{node.output}/scores")
    scores = _capped(build, node, scores)
    scores = _masked(build, node, scores, past)
    weights = softmax_last(build, node, scores, f"{node.output}/weights")
    if not flat:
        product(build, node, weights, value, node.output)
        return
    joined = product(build, node, weights, value, f"{node.output}/heads")
    batch, _, tokens, _ = shape_of(joined)
    result = rearrange(
        build, node, joined, lambda i: i.transpose(0, 2, 1, 3).reshape(batch, tokens, -1), node.output
    )
    build.values[node.output] = result


def _heads(build: Builder, node: Node, position: int, heads: int) -> SSAValue:
    """An operand as (batch, heads, tokens, features)."""
    x = build.image_or_vector(node.input(position))
    if not heads:
        if len(shape_of(x)) != 4:
            raise ToHost(f"an operand of shape {shape_of(x)} without a number of heads")
        return x
    batch, tokens, features = shape_of(x)
    if features % heads:
        raise ToHost(f"{features} features in {heads} heads")
    name = f"{node.output}/{('query', 'key', 'value')[position]}"
    return rearrange(
        build,
        node,
        x,
        lambda i: i.reshape(batch, tokens, heads, features // heads).transpose(0, 2, 1, 3),
        name,
    )


def _capped(build: Builder, node: Node, scores: SSAValue) -> SSAValue:
    """``softcap``: ``cap * tanh(scores / cap)``."""
    cap = np.array([node.number("softcap", 0.0)], np.float32)
    if not cap[0]:
        return scores
    ratio = with_constant(build, node, "div", scores, cap, f"{node.output}/ratio")
    op = UnaryOp("tanh", ratio, tensors=[f"{node.output}/tanh"])
    build.add(op, node, f"{node.output}/tanh")
    return with_constant(build, node, "mul", op.result, cap, f"{node.output}/capped")


def _present(build: Builder, node: Node, new: SSAValue, number: int) -> SSAValue:
    """Keys (0) or values (1) with those of the cache before them; both go out where somebody keeps the cache."""
    name = node.proto.output[1 + number] if node.output_used(1 + number) else f"{node.output}/all{number}"
    if not node.input(4 + number):
        if node.output_used(1 + number):
            build.values[name] = new
        return new
    past = build.image_or_vector(node.input(4 + number), "cache")
    given, extents = shape_of(past), shape_of(new)
    if len(given) != 4 or (*given[:2], given[3]) != (*extents[:2], extents[3]):
        raise ToHost(f"a cache of shape {given} does not go with {extents}")
    joined = float_type((*given[:2], given[2] + extents[2], given[3]))
    op = ConcatOp([past, new], joined, axis=2, tensors=[name])
    build.add(op, node, name)
    return op.result


def _masked(build: Builder, node: Node, scores: SSAValue, past: int) -> SSAValue:
    """The causal mask, after ``past`` keys that all may see, and the model's own added: constants as one term, a
    float mask of run time as another."""
    total: npt.NDArray[Any] = np.zeros(1, np.float32)
    if node.integer("is_causal", 0):
        rows, columns = shape_of(scores)[-2:]
        total = np.where(np.tri(rows, columns, past, dtype=np.bool_), np.float32(0), np.float32(-np.inf))
    name = node.input(3)
    if name in build.constants:
        given = build.constants[name].array
        if given.dtype == np.bool_:
            given = np.where(given, np.float32(0), np.float32(-np.inf))
        if given.shape[-1] != shape_of(scores)[-1]:
            raise ToHost(f"its mask of shape {given.shape} is shorter than the keys")
        total = total + given.astype(np.float32)
    elif name:
        scores = pair(
            build, node, "add", scores, build.image_or_vector(name, "mask"), f"{node.output}/with_mask"
        )
    if not np.any(total):
        return scores
    return with_constant(build, node, "add", scores, total, f"{node.output}/masked")
