"""Products that must not, or cannot, go to the arrays become host operators."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from cimc.dialects.context import CimContext
from cimc.dialects.graph import ConvOp, HostOp, ProductOperation, tensor_names
from cimc.dialects.graph_types import shape_of, tensor
from cimc.dialects.locations import short_name

OPSET, CONTAINER = 13, 8
"""Operator set and IR version of the models made here: old enough for every onnxruntime."""


@dataclass(frozen=True)
class KeepOffArrays(ModulePass):
    """Take products off the arrays that the mapping file (``on_array: false``) or the backend's rules exclude.

    They run on the host, in float32, and the report names the reason.

    ```mlir
    %y = graph.conv %x weight <"conv1.weight"> ...                                        // before
    %y = graph.host "Conv"(%x) model <"conv1.host"> reason "on_array: false" ...          // after
    ```
    """

    name = "graph-keep-off-arrays"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite in place."""
        assert isinstance(ctx, CimContext)
        for inner in list(op.walk()):
            if isinstance(inner, ProductOperation) and (reason := why_not(inner, ctx)):
                _to_host(inner, reason, ctx)


def why_not(op: ProductOperation, ctx: CimContext) -> str | None:
    """Why ``op`` is kept off the arrays; ``None`` when it is not."""
    if ctx.mapping is not None and not ctx.mapping.for_node(short_name(op.location)).on_array:
        return "the mapping file says on_array: false"
    return ctx.legality(op) if ctx.legality is not None else None


def _to_host(op: ProductOperation, reason: str, ctx: CimContext) -> None:
    names = tensor_names(op)
    key = ctx.store.fresh(f"{names[0]}.host")
    ctx.store.put(key, np.frombuffer(_model(op, ctx), np.uint8))
    host = HostOp(
        [op.input],
        [tensor(op.result)],
        op_type="Conv" if isinstance(op, ConvOp) else "MatMul",
        model=key,
        reason=reason,
        batch_parallel=True,
        tensors=names,
    )
    host.location = op.location
    rewriter = Rewriter()
    rewriter.insert_op(host, InsertPoint.before(op))
    op.result.replace_all_uses_with(host.outputs[0])
    Rewriter.erase_op(op)


def _model(op: ProductOperation, ctx: CimContext) -> bytes:
    """The product as an ONNX model, its weights inside and its batch open."""
    from onnx import TensorProto, helper, numpy_helper

    weights = [numpy_helper.from_array(np.array(ctx.store.array(op.weight.key.data)), "w")]
    if op.bias is not None:
        weights.append(numpy_helper.from_array(np.array(ctx.store.array(op.bias.key.data)), "b"))
    if isinstance(op, ConvOp):
        node = helper.make_node(
            "Conv",
            ["x", *(w.name for w in weights)],
            ["y"],
            kernel_shape=op.kernel.data,
            strides=op.strides.data,
            pads=op.pads.data,
            dilations=op.dilations.data,
            group=op.group.value.data,
        )
        nodes = [node]
    elif op.bias is None:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    else:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape_of(value)[1:]])
        for name, value in (("x", op.input), ("y", op.result))
    ]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=CONTAINER)
    return model.SerializeToString(deterministic=True)
