"""Products of two activations that go to arrays which are written for every image."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from cimc.dialects.context import CimContext
from cimc.dialects.graph import DequantizeOp, IndexMapOp, MatmulOp, QuantizeOp, ReshapeOp, SoftmaxOp
from cimc.dialects.graph_types import QuantType, shape_of
from cimc.dialects.row_layout import frame_shape
from cimc.passes.schedule.array_frames import frame_coding, frame_columns, tiles_of
from cimc.passes.schedule.dynamic_products import DynamicCost, DynamicProduct, dynamic_cost
from cimc.passes.schedule.heads import LINES, waiting_lines
from cimc.runtime.program import Element


@dataclass(frozen=True)
class ChooseProducts(ModulePass):
    """Mark the products of two activations that arrays multiply: where they can, and the closed form says that they
    are faster than digital units, or the mapping file says ``products: arrays``.

    ```mlir
    %y = graph.matmul %p, %v tensors ["y"] : ...            // before
    %y = graph.matmul %p, %v on_arrays tensors ["y"] : ...  // after
    ```
    """

    name = "graph-choose-products"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set ``on_arrays`` in place."""
        assert isinstance(ctx, CimContext)
        if ctx.arch is None or ctx.mapping is None or ctx.mapping.products == "digital":
            return
        for product in op.walk():
            if not isinstance(product, MatmulOp) or obstacle(product, ctx.arch, ctx.mapping) is not None:
                continue
            if ctx.mapping.products == "arrays" or cost_of(product, ctx.arch, ctx.mapping).arrays_are_quicker:
                product.on_arrays = UnitAttr()


def cost_of(op: MatmulOp, arch: Any, mapping: Any) -> DynamicCost:
    """Cycles of a product on every side."""
    *batch, rows, depth = shape_of(op.lhs)
    product = DynamicProduct(prod(batch), rows, depth, shape_of(op.rhs)[-1])
    return dynamic_cost(
        product, arch, weight_bits=mapping.activation_bits, input_bits=mapping.activation_bits
    )


def frame_tiles_of(op: MatmulOp, arch: Any, mapping: Any) -> int:
    """Crossbars that one matrix of the second operand takes."""
    return len(tiles_of(shape_of(op.rhs)[-2], shape_of(op.rhs)[-1], mapping.activation_bits, arch))


def obstacle(op: MatmulOp, arch: Any, mapping: Any) -> str | None:
    """Why arrays cannot take a product of two activations; ``None`` where they can."""
    bits = mapping.activation_bits
    left, right = frame_shape(shape_of(op.lhs)), frame_shape(shape_of(op.rhs))
    if not arch.chip.allow_writes:
        return "arrays are not written at run time"
    if arch.core.digital_unit is None:
        return "sums have no digital unit on their core"
    if arch.crossbar.column_flip:
        return "flipped columns need all rows at once"
    if mapping.activations == "all" or any(_has_codes(v) for v in op.operands):
        return "the model or the mapping gives its operands codes with zero points"
    if not _never_negative(op.lhs):
        return "its first operand may be negative, and sums of columns are new for every image"
    if not arch.crossbar.weight_columns(bits):
        return f"no value of {bits} bits fits a row of cells"
    coding = frame_coding(arch, bits, QuantType.of(bits, signed=False, scale=1.0, zero_point=0))
    if not coding.always_lossless(min(right[-2], arch.crossbar.rows)):
        return "its converters lose information, and have no steps for values that are new for every image"
    if len(left) < 2 or left[:-2] != right[:-2]:
        return "its heads are not those of both operands"
    if not frame_columns(right[-2], right[-1], bits, arch):
        high = ceil(right[-2] / arch.crossbar.rows)
        return f"a column of a matrix takes {high} crossbars, a core has {arch.core.crossbars}"
    size = (waiting_lines(op) * right[-2] + LINES * right[-1]) * Element.F32.size_bytes
    if size > arch.core.local_buffer_bytes:
        return f"rows that wait take {size} bytes, a core has {arch.core.local_buffer_bytes}"
    return None


def _has_codes(value: SSAValue) -> bool:
    """Whether the model itself gives ``value`` codes."""
    users = (use.operation for use in value.uses)
    return isinstance(value.owner, DequantizeOp) or any(isinstance(user, QuantizeOp) for user in users)


def _never_negative(value: SSAValue) -> bool:
    """Whether ``value`` is what a softmax gives, maybe moved."""
    owner = value.owner
    if isinstance(owner, ReshapeOp):
        return _never_negative(owner.input)
    if isinstance(owner, IndexMapOp):
        return owner.constant is None and all(_never_negative(v) for v in owner.inputs)
    return isinstance(owner, SoftmaxOp)
