"""Nodes whose result is known at compile time: constants, shapes, and arithmetic on them."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from cimc.diagnostics import UnsupportedError
from cimc.dialects.graph_types import shape_of
from cimc.frontend.onnx.builder import Builder, Constant
from cimc.frontend.onnx.node import Node
from cimc.frontend.onnx.structure import node_inputs
from cimc.frontend.onnx.submodel import one_node_model, result_types, run_session, session_or_error

MAX_FOLDED_BYTES = 1 << 30
"""A folded tensor larger than this is an error, found before anything is allocated."""

_RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)


def fold(build: Builder, node: Node) -> bool:
    """Make the outputs of ``node`` constants when they can be known now; say whether it did.

    Raises ``UnsupportedError`` when a result would pass :data:`MAX_FOLDED_BYTES`, or onnxruntime fails.
    """
    if node.op_type == "Constant":
        build.constants[node.output] = _constant(node)
        return True
    if node.op_type in ("Shape", "Size") and node.input(0) not in build.constants:
        build.constants[node.output] = Constant.of(_shape(node, shape_of(build.known(node.input(0)))))
        return True
    inputs = node_inputs(node.proto)
    if node.op_type in _RANDOM or not inputs or not all(name in build.constants for name in inputs):
        return False
    if any(a.HasField("g") for a in node.proto.attribute):
        return False
    model = one_node_model(node, build.model, {}, {n: build.constants[n].proto for n in inputs})
    session = session_or_error(model)
    types = result_types(model, session)
    for name, typed in types.items():
        size = math.prod(typed.shape or ()) * helper.tensor_dtype_to_np_dtype(typed.code).itemsize
        if size > MAX_FOLDED_BYTES:
            raise UnsupportedError(
                f"its constant result {name!r} would take {size} bytes, the limit is {MAX_FOLDED_BYTES}"
            )
    outputs = node.results
    for name, array in zip(outputs, run_session(session, {}, outputs), strict=True):
        build.constants[name] = Constant.of(array)
    return True


def _constant(node: Node) -> Constant:
    (name, value), *_ = node.attributes.items()
    match name:
        case "value":
            return Constant(value)
        case "value_float" | "value_floats":
            return Constant.of(np.asarray(value, np.float32))
        case "value_int" | "value_ints":
            return Constant.of(np.asarray(value, np.int64))
        case "sparse_value":
            return Constant.of(dense(value.values, value.indices, tuple(value.dims)))
        case _:
            raise UnsupportedError("it holds text; only numeric tensors have a place here")


def dense(values: TensorProto, indices: TensorProto, shape: tuple[int, ...]) -> np.ndarray:
    """A sparse tensor in full; indices are linear or one row of coordinates each."""
    data, places = numpy_helper.to_array(values), numpy_helper.to_array(indices)
    if math.prod(shape) * data.itemsize > MAX_FOLDED_BYTES:
        raise UnsupportedError(
            f"the sparse tensor {values.name!r} of shape {shape} is too large to store in full"
        )
    full = np.zeros(math.prod(shape), data.dtype)
    full[places if places.ndim == 1 else np.ravel_multi_index(tuple(places.T), shape)] = data
    return full.reshape(shape)


def _shape(node: Node, shape: tuple[int, ...]) -> np.ndarray:
    if node.op_type == "Size":
        return np.asarray(math.prod(shape), np.int64)
    start, end = node.integer("start", 0), node.integer("end", len(shape))
    return np.asarray(shape[start:end], np.int64)
