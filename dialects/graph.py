"""The ``graph`` dialect: operators of a network on tensors in ONNX layout (levels 1 and 2).

Both levels share the operations; the types tell them apart. At level 1 every array operator works
on ``f32``; at level 2 tensors may hold codes, ``tensor<1x4x!graph.quant<u8, 0.5, 128>>``.

```mlir
func.func @main(%x: tensor<1x4xf32>) -> tensor<1x2xf32>
    attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
  %y = graph.gemm %x weight <"fc.weight"> tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x2xf32>
  func.return %y : tensor<1x2xf32>
}
```
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ArrayAttr, FunctionType, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Dialect, SSAValue

from cimc.dialects.graph_base import GraphOperation, names, tensor_names
from cimc.dialects.graph_codes import DequantizeOp, QuantizeOp, RequantizeOp, StorageCastOp
from cimc.dialects.graph_elementwise import BinaryConstantOp, BinaryOp, UnaryOp
from cimc.dialects.graph_moves import IndexMapOp
from cimc.dialects.graph_pointwise import AddOp, ClipOp, ConcatOp, HostOp, ReluOp, ReshapeOp, SoftmaxOp
from cimc.dialects.graph_pools import AveragePoolOp, GlobalAveragePoolOp, MaxPoolOp
from cimc.dialects.graph_products import AffineOp, ConvOp, GemmOp, ProductCodes, ProductOperation
from cimc.dialects.graph_rows import LookupOp, MatmulOp, NormOp, ReduceOp
from cimc.dialects.graph_types import IntsAttr, QuantType
from cimc.dialects.weights import WeightRefAttr

__all__ = [
    "INPUTS",
    "NAMED",
    "OUTPUTS",
    "AddOp",
    "AffineOp",
    "AveragePoolOp",
    "BinaryConstantOp",
    "BinaryOp",
    "ClipOp",
    "ConcatOp",
    "ConvOp",
    "DequantizeOp",
    "GemmOp",
    "GlobalAveragePoolOp",
    "Graph",
    "GraphOperation",
    "HostOp",
    "IndexMapOp",
    "IntsAttr",
    "LookupOp",
    "MatmulOp",
    "MaxPoolOp",
    "NormOp",
    "ProductCodes",
    "ProductOperation",
    "QuantType",
    "QuantizeOp",
    "ReduceOp",
    "ReluOp",
    "RequantizeOp",
    "ReshapeOp",
    "SoftmaxOp",
    "StorageCastOp",
    "UnaryOp",
    "main_function",
    "main_module",
    "main_names",
    "main_return",
    "names",
    "refresh_main_type",
    "tensor_names",
]

NAMED = (ProductOperation, MaxPoolOp, AveragePoolOp, GlobalAveragePoolOp)
"""Operations that begin a stage of their own on every machine, so that options may name them."""

INPUTS, OUTPUTS = "graph.inputs", "graph.outputs"
"""Attributes of ``@main`` that hold the ONNX names of arguments and returned values."""


def main_function(module: ModuleOp) -> FuncOp:
    """``@main`` of a module. Raises ``ValueError`` when there is none."""
    for op in module.ops:
        if isinstance(op, FuncOp) and op.sym_name.data == "main":
            return op
    raise ValueError("the module has no function @main")


def main_return(module: ModuleOp) -> ReturnOp:
    """The ``func.return`` of ``@main``. Raises ``ValueError`` when the body does not end in one."""
    last = main_function(module).body.block.last_op
    if not isinstance(last, ReturnOp):
        raise ValueError("@main does not end in func.return")
    return last


def main_names(module: ModuleOp, which: str) -> tuple[str, ...]:
    """The ONNX names under :data:`INPUTS` or :data:`OUTPUTS`. Raises ``ValueError`` when absent."""
    found = main_function(module).attributes.get(which)
    if not isinstance(found, ArrayAttr):
        raise ValueError(f"@main has no attribute {which}")
    return tuple(name.data for name in found if isinstance(name, StringAttr))


def main_module(main: FuncOp, inputs: Sequence[str], outputs: Sequence[str]) -> ModuleOp:
    """A module that holds ``main`` alone, with the ONNX names of its arguments and results."""
    main.attributes[INPUTS] = names(inputs)
    main.attributes[OUTPUTS] = names(outputs)
    return ModuleOp([main])


def refresh_main_type(module: ModuleOp) -> None:
    """Make the function type of ``@main`` that of its arguments and returned values again."""
    main = main_function(module)
    returned: Sequence[SSAValue] = main_return(module).operands
    main.function_type = FunctionType.from_lists(
        [argument.type for argument in main.args], [value.type for value in returned]
    )


Graph = Dialect(
    "graph",
    [
        ConvOp,
        GemmOp,
        AffineOp,
        ReluOp,
        ClipOp,
        MaxPoolOp,
        AveragePoolOp,
        GlobalAveragePoolOp,
        AddOp,
        ConcatOp,
        ReshapeOp,
        SoftmaxOp,
        BinaryConstantOp,
        BinaryOp,
        UnaryOp,
        IndexMapOp,
        LookupOp,
        MatmulOp,
        NormOp,
        ReduceOp,
        HostOp,
        QuantizeOp,
        DequantizeOp,
        RequantizeOp,
        StorageCastOp,
    ],
    [QuantType, IntsAttr, WeightRefAttr],
)
