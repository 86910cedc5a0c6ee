"""ONNX to level 1: each node is folded, mapped to an operator of the dialect, or kept for the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from onnx import ModelProto, NodeProto
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region
from xdsl.utils.exceptions import VerifyException

from cimc.diagnostics import CimError, UnsupportedError, raise_all
from cimc.dialects.graph import main_module
from cimc.dialects.levels import check_level
from cimc.dialects.weights import WeightStore
from cimc.frontend.onnx import (
    convert_convolutions,
    convert_pointwise,
    convert_pools,
    convert_products,
    convert_shapes,
    convert_transposed,
)
from cimc.frontend.onnx.bindings import bind_inputs
from cimc.frontend.onnx.builder import Builder, Constant, at_node, value_hint
from cimc.frontend.onnx.convert_flags import as_booleans, moved
from cimc.frontend.onnx.convert_qoperators import QUANTISED_CONVERTERS
from cimc.frontend.onnx.convert_quantised import (
    convert_with_codes,
    fold_conversion,
    fold_move,
    give_codes,
    plain,
)
from cimc.frontend.onnx.definition import definition
from cimc.frontend.onnx.fold import dense, fold
from cimc.frontend.onnx.host import constant_to_host, to_host
from cimc.frontend.onnx.names import node_name
from cimc.frontend.onnx.node import Node, ToHost
from cimc.frontend.onnx.real_converters import REAL_CONVERTERS
from cimc.frontend.onnx.source import STANDARD_DOMAINS, opset_of, read_model
from cimc.frontend.onnx.structure import graph_inputs, node_inputs, ordered_nodes
from cimc.frontend.onnx.types import tensor_type

Converter = Callable[[Builder, Node], None]
"""Appends the operator of a node, or raises :class:`ToHost` with the constraint it breaks."""

CONVERTERS: Mapping[str, Converter] = MappingProxyType(
    {
        "Conv": convert_convolutions.conv,
        "ConvTranspose": convert_transposed.conv_transpose,
        "BatchNormalization": convert_products.batch_norm,
        "Relu": convert_pointwise.relu,
        "Clip": convert_pointwise.clip,
        "MaxPool": convert_pools.max_pool,
        "AveragePool": convert_pools.average_pool,
        "GlobalAveragePool": convert_pools.global_average_pool,
        "GlobalMaxPool": convert_pools.global_max_pool,
        "Reshape": moved(convert_shapes.reshape),
        "Flatten": moved(convert_shapes.flatten),
        "Squeeze": moved(convert_shapes.squeeze),
        "Unsqueeze": moved(convert_shapes.unsqueeze),
        "Identity": moved(convert_shapes.identity),
        "Dropout": convert_shapes.dropout,
        **REAL_CONVERTERS,
    }
)
"""Operators of the standard domain that are more than a host operator."""


def import_onnx(
    source: str | Path | ModelProto,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    store: WeightStore,
) -> ModuleOp:
    """The module of a model at level "imported"; weights go into ``store``.

    ``shapes`` binds open dimensions of inputs by name. Raises ``CimError`` that holds every problem of
    the first stage that has any: file and versions, then structure, then input shapes, then nodes.
    """
    model, file = read_model(source)
    order = ordered_nodes(model, file)
    inputs = bind_inputs(graph_inputs(model.graph), shapes, file)
    block = Block(arg_types=[tensor_type(code, shape) for code, shape in inputs.values()])
    build = Builder(model, file, store, block)
    for name, argument in zip(inputs, block.args, strict=True):
        build.values[name] = argument
        argument.name_hint = value_hint(name)
    for tensor in model.graph.initializer:
        build.constants[tensor.name] = Constant(tensor)
    for sparse in model.graph.sparse_initializer:
        array = dense(sparse.values, sparse.indices, tuple(sparse.dims))
        build.constants[sparse.values.name] = Constant.of(array)
    outputs = [value.name for value in model.graph.output]
    _convert_all(build, _needed(order, outputs), outputs)
    return _finish(build, list(inputs), outputs)


def _needed(order: list[tuple[int, NodeProto]], outputs: list[str]) -> list[tuple[int, NodeProto]]:
    """The nodes that an output depends on, in order."""
    wanted = set(outputs)
    kept: list[tuple[int, NodeProto]] = []
    for index, node in reversed(order):
        if wanted.intersection(node.output):
            wanted.update(node_inputs(node))
            kept.append((index, node))
    return kept[::-1]


def _convert_all(build: Builder, order: list[tuple[int, NodeProto]], outputs: list[str]) -> None:
    used = frozenset(outputs).union(*(node_inputs(node) for _, node in order))
    opset = opset_of(build.model)
    errors: list[CimError] = []
    broken: set[str] = set()
    for index, proto in order:
        if broken.intersection(node_inputs(proto)):
            broken.update(proto.output)
            continue
        node = Node.of(proto, index, node_name(proto, index), opset, used)
        try:
            _convert(build, node)
        except (CimError, VerifyException) as error:
            problem = error if isinstance(error, CimError) else UnsupportedError(str(error))
            errors.append(at_node(problem, node, build.file))
            broken.update(proto.output)
    raise_all(errors)


def _convert(build: Builder, node: Node) -> None:
    if fold_conversion(build, node) or fold_move(build, node) or fold(build, node):
        return
    give_codes(build, node)
    reads_codes = any(name in build.coded for name in node_inputs(node.proto))
    if reads_codes and node.op_type not in QUANTISED_CONVERTERS:
        convert_with_codes(build, node, _place)
        return
    _place(build, node)


def _place(build: Builder, node: Node) -> None:
    """By the operator's converter, by those of the nodes that define it, or on the host with the reason."""
    if node.proto.domain in STANDARD_DOMAINS and (body := definition(build, node)):
        for part in body:
            _convert(build, part)
        return
    try:
        _converter(node)(build, node)
    except ToHost as constraint:
        for name in node_inputs(node.proto):
            if name in build.coded:
                plain(build, node, name)
            as_booleans(build, node, name)
        to_host(build, node, str(constraint))


def _converter(node: Node) -> Converter:
    known: Mapping[str, Converter] = {}
    if node.proto.domain in STANDARD_DOMAINS:
        known = {**CONVERTERS, **QUANTISED_CONVERTERS}
    elif node.proto.domain == "com.microsoft":
        known = QUANTISED_CONVERTERS
    if node.op_type not in known:
        raise ToHost(f"{node.op_type} is not an operator of the arrays or of the digital unit")
    return known[node.op_type]


def _finish(build: Builder, inputs: list[str], outputs: list[str]) -> ModuleOp:
    for name in outputs:
        if name in build.constants:
            constant_to_host(build, name)
        elif name in build.coded or name in build.flags:
            last = NodeProto(name=f"{name}/output")
            node = Node.of(last, len(build.model.graph.node), last.name, opset_of(build.model), ())
            (plain if name in build.coded else as_booleans)(build, node, name)
    build.block.add_op(ReturnOp(*(build.values[name] for name in outputs)))
    arguments = [argument.type for argument in build.block.args]
    main = FuncOp("main", (arguments, [build.values[name].type for name in outputs]), Region(build.block))
    module = main_module(main, inputs, outputs)
    check_level(module, "imported")
    return module
