"""How many multiply-accumulates a model asks for in operators with static weights."""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import ModuleOp

from cimc.dialects.graph import ConvOp, GemmOp, HostOp
from cimc.dialects.graph_types import shape_of
from cimc.dialects.weights import WeightStore

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def total_macs(module: ModuleOp, store: WeightStore) -> int:
    """Multiply-accumulates per run of ``@main`` in Conv, ConvTranspose, Gemm and MatMul by a constant.

    Operators that were left to the host count too: the share done on the arrays is measured against this. Groups
    count their own inputs, a ConvTranspose the taps that an output meets. Windows that are computed and dropped
    count as any others: those between two slices of a volume, and those over a cropped end of a ConvTranspose.
    """
    total = 0
    for op in module.walk():
        if isinstance(op, ConvOp):
            total += prod(shape_of(op.result)) * prod(op.weight_shape()[1:])
        elif isinstance(op, GemmOp):
            total += prod(shape_of(op.result)) * op.weight_shape()[0]
        elif isinstance(op, HostOp) and op.op_type.data in _PRODUCTS:
            total += _host_macs(op, store)
    return total


def _host_macs(op: HostOp, store: WeightStore) -> int:
    """Products of a host operator whose weight is a constant of its one-node model; 0 if it has none."""
    import onnx

    model = onnx.load_model_from_string(store.array(op.model.key.data).tobytes())
    constants = {t.name: tuple(t.dims) for t in model.graph.initializer}
    weight = next((constants[n] for n in model.graph.node[0].input[:2] if n in constants), None)
    if weight is None:
        return 0
    if op.op_type.data == "Conv":
        return prod(shape_of(op.outputs[0])) * prod(weight[1:])
    if op.op_type.data == "ConvTranspose":
        return prod(shape_of(op.inputs[0])) * prod(weight[1:])
    inner = shape_of(op.inputs[0])[-1]
    return prod(shape_of(op.outputs[0])) * inner
