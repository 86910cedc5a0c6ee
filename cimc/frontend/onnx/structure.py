"""Is the graph well formed? Names, definitions, operators; and its nodes in an order that runs."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import GraphProto, ModelProto, NodeProto

from cimc.diagnostics import CimError, UnsupportedError, raise_all
from cimc.frontend.onnx.names import node_name
from cimc.frontend.onnx.source import STANDARD_DOMAINS, opset_of


def graph_inputs(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs a caller gives. An initializer that is also an input has its value already."""
    stored = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in stored]


def node_inputs(node: NodeProto) -> tuple[str, ...]:
    """Names a node reads: its inputs, then what its sub-graphs take from outside; each once."""
    wanted = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            wanted.extend(_captured(graph))
    return tuple(dict.fromkeys(wanted))


def _captured(graph: GraphProto) -> Iterator[str]:
    inside = {value.name for value in graph.input}
    inside.update(t.name for t in graph.initializer)
    inside.update(s.values.name for s in graph.sparse_initializer)
    for node in graph.node:
        yield from (name for name in node_inputs(node) if name not in inside)
        inside.update(node.output)
    yield from (value.name for value in graph.output if value.name not in inside)


def ordered_nodes(model: ModelProto, file: str) -> list[tuple[int, NodeProto]]:
    """Nodes with their index in the file, producers first; the file's order where it runs already.

    Raises ``UnsupportedError`` for duplicate or undefined names, unknown operators and cycles, all
    problems together.
    """
    graph = model.graph
    raise_all(list(_unreadable_names(graph, file)))
    errors = [*_duplicates(graph, file), *_undefined(graph, file), *_unknown_operators(model, file)]
    raise_all(errors)
    available = {value.name for value in graph.input} | {t.name for t in graph.initializer}
    available |= {s.values.name for s in graph.sparse_initializer}
    waiting = list(enumerate(graph.node))
    ordered: list[tuple[int, NodeProto]] = []
    while waiting:
        later: list[tuple[int, NodeProto]] = []
        for index, node in waiting:
            if available.issuperset(node_inputs(node)):
                ordered.append((index, node))
                available.update(node.output)
            else:
                later.append((index, node))
        if len(later) == len(waiting):
            names = ", ".join(node_name(node, index) for index, node in later[:4])
            raise UnsupportedError(f"the graph has a cycle through {names}", where=file)
        waiting = later
    return ordered


def _unreadable_names(graph: GraphProto, file: str) -> Iterator[CimError]:
    for index, node in enumerate(graph.node):
        attributes = (attribute.name for attribute in node.attribute)
        if not all(
            map(_is_text, (node.op_type, node.domain, node.name, *node.input, *node.output, *attributes))
        ):
            where = f"node {index} ({file}:{index})"
            yield UnsupportedError("a name is not UTF-8 text; the file is damaged", where=where)
    for what, entries in (
        ("input", graph.input),
        ("output", graph.output),
        ("initializer", graph.initializer),
    ):
        for index, entry in enumerate(entries):
            if not _is_text(entry.name):
                yield UnsupportedError(
                    f"the name of {what} {index} is not UTF-8 text; the file is damaged", where=file
                )


def _is_text(name: str | bytes) -> bool:
    """protobuf hands out bytes, or lone surrogates, where a string field is not UTF-8."""
    try:
        return isinstance(name, str) and bool(name.encode() or not name)
    except UnicodeEncodeError:
        return False


def _duplicates(graph: GraphProto, file: str) -> Iterator[CimError]:
    for what, names in (
        ("inputs", [value.name for value in graph.input]),
        ("initializers", [t.name for t in graph.initializer]),
        ("outputs", [value.name for value in graph.output]),
    ):
        for name in sorted({n for n in names if names.count(n) > 1} if len(set(names)) < len(names) else ()):
            yield UnsupportedError(f"two {what} of the graph are called {name!r}", where=file)
    makers = {value.name: "an input" for value in graph.input}
    makers.update({t.name: "an initializer" for t in graph.initializer})
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            here = f"{node_name(node, index)} ({file}:{index})"
            if name in makers:
                yield UnsupportedError(f"tensor {name!r} is defined already, by {makers[name]}", where=here)
            makers[name] = here


def _undefined(graph: GraphProto, file: str) -> Iterator[CimError]:
    defined = {value.name for value in graph.input} | {t.name for t in graph.initializer}
    defined |= {s.values.name for s in graph.sparse_initializer}
    for node in graph.node:
        defined.update(node.output)
    for index, node in enumerate(graph.node):
        for name in node_inputs(node):
            if name not in defined:
                where = f"{node_name(node, index)} ({file}:{index})"
                yield UnsupportedError(f"input {name!r} is produced by nothing in the graph", where=where)
    for value in graph.output:
        if value.name not in defined:
            yield UnsupportedError(f"output {value.name!r} is produced by nothing in the graph", where=file)


def _unknown_operators(model: ModelProto, file: str) -> Iterator[CimError]:
    opset = opset_of(model)
    imported = {o.domain for o in model.opset_import} | set(STANDARD_DOMAINS)
    context = _checker_context(model)
    for index, node in enumerate(model.graph.node):
        where = f"{node_name(node, index)} ({file}:{index})"
        if node.domain not in imported:
            yield UnsupportedError(f"domain {node.domain!r} of {node.op_type} is not imported", where=where)
        elif node.domain not in STANDARD_DOMAINS:
            continue
        elif not onnx.defs.has(node.op_type, opset, ""):
            yield UnsupportedError(f"opset {opset} has no operator {node.op_type!r}", where=where)
        elif problem := _malformed(node, context):
            yield UnsupportedError(f"{node.op_type}: {problem}", where=where)


def _checker_context(model: ModelProto) -> onnx.checker.C.CheckerContext:
    context = onnx.checker.C.CheckerContext()
    context.ir_version = model.ir_version
    context.opset_imports = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    return context


def _malformed(node: NodeProto, context: onnx.checker.C.CheckerContext) -> str:
    """What onnx's checker says of the node's attributes and operands; empty when all is well.

    Nodes with sub-graphs are left to onnxruntime: the checker wants to know names from outside.
    """
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        return ""
    try:
        onnx.checker.check_node(node, context)
    except onnx.checker.ValidationError as error:
        return str(error).strip().split("\n")[0]
    return ""
