"""What a node is called in messages and locations."""

from __future__ import annotations

import ast

from onnx import NodeProto

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata of torch's exporter: module path of the node, outermost first, then the node itself.

Its neighbour ``stack_trace`` holds file paths of the exporting machine and is never read.
"""


def node_name(node: NodeProto, index: int) -> str:
    """The torch module when the exporter wrote it, else the node's name, else type and index."""
    return _module_scope(node) or node.name or f"{node.op_type}_{index}"


def _module_scope(node: NodeProto) -> str:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            return _innermost(entry.value, node.name)
    return ""


def _innermost(text: str, name: str) -> str:
    """``['', 'layer1', 'layer1.conv', 'conv2d_3']`` and ``node_conv2d_3`` to ``layer1.conv/node_conv2d_3``."""
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return ""
    if not isinstance(scopes, list) or len(scopes) < 2 or not isinstance(scopes[-2], str):
        return ""
    return f"{scopes[-2]}/{name}" if scopes[-2] and name else scopes[-2] or name
