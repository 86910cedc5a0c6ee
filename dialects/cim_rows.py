"""Rows cut, joined and renamed on their way: no element is held or computed, producers send parts of rows to other
places."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

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
from cimc.dialects.graph_types import IntsAttr, check_storage_cast, quant_of, shape_of, tensor


@irdl_op_definition
class ConcatOp(CimOperation):
    """Channels of several row streams side by side. Costs nothing: producers send parts of one row.

    ```mlir
    %y = cim.concat(%a, %b) : (tensor<8x8x4xf32>, tensor<8x8x6xf32>) -> tensor<8x8x10xf32>
    ```
    """

    name = "cim.concat"

    args = var_operand_def(TensorType)
    tensors = opt_prop_def(ArrayAttr[StringAttr])
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "`(` $args `)` (`tensors` $tensors^)? attr-dict `:` functional-type($args, $result)"

    def __init__(
        self, args: Sequence[SSAValue], result: Attribute, tensors: ArrayAttr[StringAttr] | None = None
    ):
        super().__init__(operands=[list(args)], properties={"tensors": tensors}, result_types=[result])

    def verify_(self) -> None:
        height, width, channels = shape_of(self.result)
        if any(shape_of(a)[:2] != (height, width) for a in self.args):
            raise VerifyException("concatenated rows agree in height and width")
        if sum(shape_of(a)[2] for a in self.args) != channels:
            raise VerifyException(f"the parts' channels do not add up to {channels}")
        if any(quant_of(a) != quant_of(self.result) for a in self.args):
            raise VerifyException("concatenated codes share scale and zero point; requantise a part first")


@irdl_op_definition
class ViewOp(CimOperation):
    """Every row cut anew: position p of the result is the C elements of the same row from ``starts[p]`` on, the
    row's positions one behind the other. Costs nothing: it is where parts of a row are sent. Heads of attention are
    positions; the features of a token are all its heads side by side.

    ```mlir
    %q = cim.view %x starts <0, 64, 128> : tensor<197x1x576xf32> -> tensor<197x3x64xf32>
    ```
    """

    name = "cim.view"

    value = operand_def(TensorType)
    starts = prop_def(IntsAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$value `starts` $starts attr-dict `:` type($value) `->` type($result)"

    def __init__(self, value: SSAValue, starts: Sequence[int], result: Attribute):
        super().__init__(operands=[value], properties={"starts": IntsAttr.of(starts)}, result_types=[result])

    def verify_(self) -> None:
        rows, positions, channels = shape_of(self.result)
        held, *row = shape_of(self.value)
        if held != rows or len(self.starts.data) != positions:
            raise VerifyException(
                f"{len(self.starts.data)} starts in {held} rows do not give {rows} x {positions}"
            )
        if any(not 0 <= start <= prod(row) - channels for start in self.starts.data):
            raise VerifyException(f"{channels} elements from each start leave the {prod(row)} of a row")
        if tensor(self.value).get_element_type() != tensor(self.result).get_element_type():
            raise VerifyException("elements move unchanged, but the element types differ")


@irdl_op_definition
class StorageCastOp(CimOperation):
    """Rows of integers read as codes of a scale, or of codes as the integers that store them. Costs nothing: the same
    bytes go the same way.

    ```mlir
    %q = cim.storage_cast %x : tensor<8x8x3xui8> -> tensor<8x8x3x!graph.quant<u8, 0.0123, 128>>
    ```
    """

    name = "cim.storage_cast"

    value = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$value attr-dict `:` type($value) `->` type($result)"

    def __init__(self, value: SSAValue, result: Attribute):
        super().__init__(operands=[value], result_types=[result])

    def verify_(self) -> None:
        check_storage_cast(self.value, self.result)


def uncast(value: SSAValue) -> SSAValue:
    """The rows that ``value`` is, before storage casts gave them another type."""
    while isinstance(value.owner, StorageCastOp):
        value = value.owner.value
    return value
