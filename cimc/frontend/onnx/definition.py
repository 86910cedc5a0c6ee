"""Operators that ONNX itself defines by others: the nodes of that definition, in place of the operator.

The bodies are those of onnx's own schemas (``onnx.defs``), written into the graph by onnx's inliner.
"""

from __future__ import annotations

from onnx import NodeProto, defs, inliner

from cimc.frontend.onnx.builder import Builder
from cimc.frontend.onnx.node import Node
from cimc.frontend.onnx.structure import node_inputs
from cimc.frontend.onnx.submodel import one_node_model

_NEWEST = 22
"""Operator set in which these operators of one value have a body; what they compute has never changed."""

_LATELY_DEFINED = frozenset(("Selu", "Softsign", "ThresholdedRelu", "Shrink"))

DEFINED = frozenset(("Celu", "LogSoftmax", "MeanVarianceNormalization", "Mish", "Swish", *_LATELY_DEFINED))
"""Operators that are taken apart; onnx defines more, of which the digital unit has no part or a better form."""


def definition(build: Builder, node: Node) -> list[Node]:
    """The nodes that ``node`` stands for, in order; empty where onnx has no body for it in the model's operator set."""
    operands = [name for name in node_inputs(node.proto) if name not in build.constants]
    if node.op_type not in DEFINED or any(name not in build.values for name in operands):
        return []
    types = {name: build.typed(name) for name in operands}
    constants = {n: build.constants[n].proto for n in node_inputs(node.proto) if n in build.constants}
    model = one_node_model(node, build.model, types, constants)
    opset = max(node.opset, _NEWEST) if node.op_type in _LATELY_DEFINED else node.opset
    schema = defs.get_schema(node.op_type, opset)
    # The body refers to attributes by name; the inliner knows no defaults.
    (called,) = model.graph.node
    given = {attribute.name for attribute in called.attribute}
    defaults = (a.default_value for name, a in schema.attributes.items() if name not in given)
    called.attribute.extend(value for value in defaults if value.name)
    for imported in model.opset_import:
        imported.version = opset if imported.domain == "" else imported.version
    body = inliner.inline_selected_functions(model, [("", node.op_type)], False, True).graph.node
    if any(part.op_type == node.op_type for part in body):
        return []
    outer = {*node_inputs(node.proto), *node.proto.output, ""}
    return [_part(proto, node, outer, opset) for proto in body]


def _part(proto: NodeProto, node: Node, outer: set[str], opset: int) -> Node:
    """One node of the body, its own tensors named after the result."""
    copy = NodeProto()
    copy.CopyFrom(proto)
    copy.input[:] = [name if name in outer else f"{node.output}/{name}" for name in proto.input]
    copy.output[:] = [name if name in outer else f"{node.output}/{name}" for name in proto.output]
    copy.name = f"{node.name}/{proto.op_type}"
    return Node.of(copy, node.index, copy.name, opset, list(copy.output))
