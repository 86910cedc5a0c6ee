"""Is axis 0 a batch through the whole graph? Then a program for one image serves any batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from cimc.diagnostics import UnsupportedError
from cimc.dialects.base import located
from cimc.dialects.graph import (
    AddOp,
    AffineOp,
    AveragePoolOp,
    BinaryConstantOp,
    BinaryOp,
    ClipOp,
    ConcatOp,
    ConvOp,
    DequantizeOp,
    GemmOp,
    GlobalAveragePoolOp,
    HostOp,
    IndexMapOp,
    LookupOp,
    MatmulOp,
    MaxPoolOp,
    NormOp,
    QuantizeOp,
    ReduceOp,
    ReluOp,
    RequantizeOp,
    ReshapeOp,
    SoftmaxOp,
    StorageCastOp,
    UnaryOp,
    main_function,
    refresh_main_type,
)
from cimc.dialects.graph_types import shape_of, tensor


def _always(op: Operation) -> bool:
    return True


def _axis_behind_batch(op: Any) -> bool:
    return op.axis.value.data != 0


_RULES: Mapping[type[Operation], Callable[[Any], bool]] = MappingProxyType(
    {
        **dict.fromkeys(
            (ConvOp, MaxPoolOp, AveragePoolOp, GlobalAveragePoolOp, ReluOp, ClipOp, AddOp), _always
        ),
        **dict.fromkeys(
            (QuantizeOp, DequantizeOp, RequantizeOp, StorageCastOp, ReshapeOp, ReturnOp), _always
        ),
        **dict.fromkeys((ConcatOp, SoftmaxOp, AffineOp), _axis_behind_batch),
        GemmOp: lambda op: len(shape_of(op.input)) > 1,
        **dict.fromkeys((UnaryOp, BinaryOp), _always),
        BinaryConstantOp: lambda op: op.per_frame is not None,
        **dict.fromkeys((NormOp, ReduceOp), lambda op: len(shape_of(op.input)) > 1),
        LookupOp: _always,
        MatmulOp: lambda op: len(shape_of(op.lhs)) > 2,
        IndexMapOp: lambda op: op.per_frame is not None,
        HostOp: lambda op: op.batch_parallel is not None,
    }
)
"""Whether an operator keeps the entries along axis 0 apart, given that its operands and results all
have the batch as their first extent (which makes a reshape keep them apart too)."""


def mixing_operation(module: ModuleOp) -> str | None:
    """What stands against treating axis 0 as the batch, with its place; ``None`` when nothing does."""
    main = main_function(module)
    extents = {shape_of(argument)[:1] for argument in main.args}
    if len(extents) != 1 or extents == {()}:
        return f"the inputs have the first extents {sorted(extents)}, not one batch"
    (batch,) = extents
    for op in main.body.block.ops:
        rule = _RULES.get(type(op))
        if rule is None or not rule(op):
            return located(op, "mixes entries along axis 0")
        for value in (*op.operands, *op.results):
            if shape_of(value)[:1] != batch:
                return located(
                    op, f"a tensor of shape {shape_of(value)} does not begin with the batch {batch[0]}"
                )
    return None


def is_batch_parallel(module: ModuleOp) -> bool:
    """Whether entry ``i`` of every output along axis 0 depends on entry ``i`` of every input only."""
    return mixing_operation(module) is None


@dataclass(frozen=True)
class RebindBatch(ModulePass):
    """Gives axis 0 of every tensor the extent ``batch``; the weights do not change.

    Raises ``UnsupportedError`` that names the operation which mixes the entries of a batch, if one does.

    ```mlir
    %y = graph.relu %x tensors ["y"] : (tensor<8x16xf32>) -> tensor<8x16xf32>
    ```

    becomes, by ``graph-rebind-batch{batch=1}``,

    ```mlir
    %y = graph.relu %x tensors ["y"] : (tensor<1x16xf32>) -> tensor<1x16xf32>
    ```
    """

    name = "graph-rebind-batch"

    batch: int = 1

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        obstacle = mixing_operation(op)
        if obstacle is not None:
            raise UnsupportedError(f"the batch cannot be rebound to {self.batch}: {obstacle}")
        main = main_function(op)
        for argument in tuple(main.args):
            _rebind(argument, self.batch)
        for inner in main.body.block.ops:
            for result in tuple(inner.results):
                _rebind(result, self.batch)
        refresh_main_type(op)


def _rebind(value: SSAValue, batch: int) -> None:
    old = tensor(value)
    Rewriter.replace_value_with_new_type(
        value, TensorType(old.get_element_type(), (batch, *old.get_shape()[1:]))
    )
