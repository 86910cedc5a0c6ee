"""A product of two activations on a core: rows of one as they come, the other as a whole frame."""

from __future__ import annotations

from xdsl.dialects.builtin import TensorType, UnitAttr
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, opt_prop_def, result_def, traits_def
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.base import CimOperation
from cimc.dialects.graph_types import shape_of


@irdl_op_definition
class FrameProductOp(CimOperation):
    """Every position of a row by the matrix of that position in ``frame``: a row of it is a row of the matrix or, with
    ``by_columns``, a column. The product of a row begins when the frame is whole; positions are heads of attention.

    ```mlir
    %s = cim.frame_product %q, %k by_columns : tensor<8x2x4xf32>, tensor<9x2x4xf32> -> tensor<8x2x9xf32>
    ```
    """

    name = "cim.frame_product"

    lhs = operand_def(TensorType)
    frame = operand_def(TensorType)
    by_columns = opt_prop_def(UnitAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "$lhs `,` $frame (`by_columns` $by_columns^)? attr-dict "
        "`:` type($lhs) `,` type($frame) `->` type($result)"
    )

    def __init__(self, lhs: SSAValue, frame: SSAValue, result: Attribute, *, by_columns: bool):
        super().__init__(
            operands=[lhs, frame],
            properties={"by_columns": UnitAttr() if by_columns else None},
            result_types=[result],
        )

    @property
    def depth(self) -> int:
        """Terms of a sum."""
        return shape_of(self.lhs)[2]

    def verify_(self) -> None:
        rows, positions, depth = shape_of(self.lhs)
        columns = shape_of(self.result)[2]
        matrix = (columns, positions, depth) if self.by_columns is not None else (depth, positions, columns)
        if shape_of(self.frame) != matrix or shape_of(self.result) != (rows, positions, columns):
            raise VerifyException(
                f"rows {shape_of(self.lhs)} by a frame {shape_of(self.frame)} do not give {shape_of(self.result)}"
            )
