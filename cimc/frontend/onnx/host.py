"""Host operators: a node kept as a one-node ONNX model, with the reason why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import helper

from cimc.diagnostics import UnsupportedError
from cimc.dialects.graph import HostOp
from cimc.frontend.onnx.batch import is_batch_parallel_node
from cimc.frontend.onnx.builder import Builder, Constant
from cimc.frontend.onnx.node import Node
from cimc.frontend.onnx.source import opset_of
from cimc.frontend.onnx.structure import node_inputs
from cimc.frontend.onnx.submodel import Typed, one_node_model, result_types, session_or_error
from cimc.frontend.onnx.types import tensor_type


def host_model(build: Builder, node: Node, operands: Sequence[str], *, any_batch: bool) -> str:
    """Store the one-node model of ``node`` and return its key."""
    types = {name: build.typed(name) for name in operands}
    constants = {
        name: build.constants[name].proto for name in node_inputs(node.proto) if name in build.constants
    }
    model = one_node_model(node, build.model, types, constants, any_batch=any_batch)
    raw = model.SerializeToString(deterministic=True)
    return build.put(f"{node.name}.onnx", np.frombuffer(raw, np.uint8))


def to_host(build: Builder, node: Node, reason: str) -> None:
    """Append ``node`` as a host operator.

    Raises ``UnsupportedError`` when onnxruntime refuses the node, or when the extents of a result are
    only known once it runs.
    """
    operands = [name for name in node_inputs(node.proto) if name not in build.constants]
    types = {name: build.typed(name) for name in operands}
    constants = {
        name: build.constants[name].proto for name in node_inputs(node.proto) if name in build.constants
    }
    model = one_node_model(node, build.model, types, constants)
    found = result_types(model, session_or_error(model))
    outputs = node.results
    unknown = [name for name in outputs if found[name].shape is None]
    if unknown:
        raise UnsupportedError(
            f"the extents of its result {unknown[0]!r} depend on data of run time; "
            "cut the model before this operator or fix its shape operands"
        )
    empty = [name for name in outputs if 0 in _extents(found[name])]
    if empty:
        _without_elements(build, outputs, empty, found)
        return
    parallel = is_batch_parallel_node(
        node,
        {name: typed.shape or () for name, typed in types.items()},
        {name: found[name].shape or () for name in outputs},
        build.constants,
    )
    op = HostOp(
        [build.values[name] for name in operands],
        [tensor_type(found[name].code, _extents(found[name])) for name in outputs],
        op_type=node.op_type,
        model=host_model(build, node, operands, any_batch=parallel),
        reason=reason,
        batch_parallel=parallel,
        tensors=outputs,
    )
    build.add(op, node, *outputs)


def _without_elements(
    build: Builder, outputs: Sequence[str], empty: Sequence[str], found: Mapping[str, Typed]
) -> None:
    """Results without elements are known whatever the data: constants. Raises where only some of them are."""
    if len(empty) < len(outputs):
        raise UnsupportedError(f"its result {empty[0]!r} has no elements, and others have; take it away")
    for name in outputs:
        dtype = helper.tensor_dtype_to_np_dtype(found[name].code)
        build.constants[name] = Constant.of(np.zeros(_extents(found[name]), dtype))


def constant_to_host(build: Builder, name: str) -> None:
    """A graph output that is known at compile time: the host hands it out. Raises where it has no elements."""
    if not build.constants[name].array.size:
        raise UnsupportedError(f"output {name!r} has no elements; take it away", where=build.file)
    proto = helper.make_node("Identity", [name], [name + "/value"], name=name)
    node = Node.of(proto, len(build.model.graph.node), name, opset_of(build.model), proto.output)
    to_host(build, node, "its value is known at compile time")
    build.values[name] = build.values.pop(name + "/value")


def _extents(typed: Typed) -> tuple[int, ...]:
    assert typed.shape is not None, "checked by the caller"
    return typed.shape
