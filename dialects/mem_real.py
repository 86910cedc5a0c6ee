"""Chip-level operations on whole frames of real values: moves by index, products of two activations."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ArrayAttr, StringAttr, TensorType
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.base import CimOperation
from cimc.dialects.graph_types import IntsAttr, shape_of, tensor
from cimc.dialects.weights import WeightRefAttr


@irdl_op_definition
class IndexMapOp(CimOperation):
    """Rows whose elements are those of other rows, through the global buffer.

    ``index`` (int64, the result's shape) numbers the elements of all operands in the order of their rows, one
    operand after the other, then those of ``constant``. Of every operand only a range of channels takes part:
    ``channels`` holds begin and end of each. ``target`` is the ONNX shape of the result's frame.

    ```mlir
    %y = mem.index_map(%x) channels <0, 4> index <"rows"> to <4, 8> : (tensor<8x1x4xf32>) -> tensor<4x1x8xf32>
    ```
    """

    name = "mem.index_map"

    args = var_operand_def(TensorType)
    channels = prop_def(IntsAttr)
    index = prop_def(WeightRefAttr)
    constant = opt_prop_def(WeightRefAttr)
    target = prop_def(IntsAttr)
    tensors = opt_prop_def(ArrayAttr[StringAttr])
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "`(` $args `)` `channels` $channels `index` $index (`constant` $constant^)? `to` $target "
        "(`tensors` $tensors^)? attr-dict `:` functional-type($args, $result)"
    )

    def __init__(
        self,
        args: Sequence[SSAValue],
        result: Attribute,
        *,
        channels: Sequence[tuple[int, int]],
        index: str,
        constant: str | None,
        target: Sequence[int],
        tensors: ArrayAttr[StringAttr] | None = None,
    ):
        super().__init__(
            operands=[list(args)],
            properties={
                "channels": IntsAttr.of([end for pair in channels for end in pair]),
                "index": WeightRefAttr.of(index),
                "constant": None if constant is None else WeightRefAttr.of(constant),
                "target": IntsAttr.of(target),
                "tensors": tensors,
            },
            result_types=[result],
        )

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The channels [begin, end) of each operand that take part."""
        ends = self.channels.data
        return list(zip(ends[::2], ends[1::2], strict=True))

    @property
    def taken(self) -> list[tuple[int, int, int]]:
        """Rows, positions and channels of each operand that take part."""
        pairs = zip(self.args, self.ranges, strict=True)
        shapes = [(shape_of(value), end - begin) for value, (begin, end) in pairs]
        return [(shape[0], shape[1], width) for shape, width in shapes]

    def verify_(self) -> None:
        if not self.args or len(self.channels.data) != 2 * len(self.args):
            raise VerifyException("needs at least one operand, and a range of channels for each")
        for value, (begin, end) in zip(self.args, self.ranges, strict=True):
            if not 0 <= begin < end <= shape_of(value)[2]:
                raise VerifyException(f"channels {begin} … {end - 1} of {shape_of(value)[2]}")
        if len({tensor(v).get_element_type() for v in (*self.args, self.result)}) > 1:
            raise VerifyException("elements move unchanged, but the element types differ")


@irdl_op_definition
class MatmulOp(CimOperation):
    """``batch`` products of M rows of K by K rows of N on the chip's digital unit; the second waits whole.

    ```mlir
    %y = mem.matmul %a, %b batch <2> : tensor<16x1x4xf32>, tensor<8x1x8xf32> -> tensor<16x1x8xf32>
    ```
    """

    name = "mem.matmul"

    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    batch = prop_def(IntsAttr)
    """One number."""
    target = prop_def(IntsAttr)
    """ONNX shape of the result's frame."""
    tensors = opt_prop_def(ArrayAttr[StringAttr])
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "$lhs `,` $rhs `batch` $batch `to` $target (`tensors` $tensors^)? attr-dict "
        "`:` type($lhs) `,` type($rhs) `->` type($result)"
    )

    def __init__(
        self,
        lhs: SSAValue,
        rhs: SSAValue,
        result: Attribute,
        *,
        batch: int,
        target: Sequence[int],
        tensors: ArrayAttr[StringAttr] | None = None,
    ):
        super().__init__(
            operands=[lhs, rhs],
            properties={"batch": IntsAttr.of([batch]), "target": IntsAttr.of(target), "tensors": tensors},
            result_types=[result],
        )

    @property
    def extents(self) -> tuple[int, int, int, int]:
        """Batch, M, K, N."""
        (batch,) = self.batch.data
        rows, _, depth = shape_of(self.lhs)
        return batch, rows // batch, depth, shape_of(self.rhs)[2]

    def verify_(self) -> None:
        batch, m, k, n = self.extents
        shapes = [shape_of(v) for v in (self.lhs, self.rhs, self.result)]
        if shapes != [(batch * m, 1, k), (batch * k, 1, n), (batch * m, 1, n)]:
            raise VerifyException(f"{batch} products do not take and give rows {shapes}")
