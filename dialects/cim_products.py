"""A product of two activations on a core: rows of one as they come, the other as a whole frame."""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerType, TensorType, UnitAttr
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, opt_prop_def, result_def, traits_def
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.base import CimOperation
from cimc.dialects.cim_types import CodingAttr
from cimc.dialects.graph_types import quant_of, shape_of


@irdl_op_definition
class FrameProductOp(CimOperation):
    """Every position of a row by the matrix of that position in ``frame``: a row of it is a row of the matrix or, with
    ``by_columns``, a column. The product of a row begins when the frame is whole; positions are heads of attention.

    ```mlir
    %s = cim.frame_product %q, %k by_columns : tensor<8x2x4xf32>, tensor<9x2x4xf32> -> tensor<8x2x9xf32>
    %acc = cim.frame_product %p, %v on_arrays coding #cim.coding<weight_bits 8, weight_encoding twos_complement>
         : tensor<8x2x9x!graph.quant<u8, 0.004, 0>>, tensor<9x2x4x!graph.quant<i8, 0.1, 0>> -> tensor<8x2x4xi32>
    ```

    ``on_arrays``: rows of the frame are written into arrays of the context's own core as they come, then rows of the
    first operand are read through them; the result is the sums of docs/crossbar.md, without a constant correction.
    """

    name = "cim.frame_product"

    lhs = operand_def(TensorType)
    frame = operand_def(TensorType)
    by_columns = opt_prop_def(UnitAttr)
    coding = opt_prop_def(CodingAttr)
    """How codes become digits and cells, where arrays multiply."""
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "$lhs `,` $frame (`by_columns` $by_columns^)? (`on_arrays` `coding` $coding^)? attr-dict "
        "`:` type($lhs) `,` type($frame) `->` type($result)"
    )

    def __init__(
        self,
        lhs: SSAValue,
        frame: SSAValue,
        result: Attribute,
        *,
        by_columns: bool,
        coding: CodingAttr | None = None,
    ):
        super().__init__(
            operands=[lhs, frame],
            properties={"by_columns": UnitAttr() if by_columns else None, "coding": coding},
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
        if self.coding is not None:
            self._verify_arrays(self.coding)

    def _verify_arrays(self, coding: CodingAttr) -> None:
        given, frame = quant_of(self.lhs), quant_of(self.frame)
        assert isinstance(self.result.type, TensorType)
        element = self.result.type.get_element_type()
        if given is None or frame is None or not frame.signed or frame.zero_point:
            raise VerifyException("arrays take codes, and hold signed ones with zero point 0")
        if self.by_columns is not None:
            raise VerifyException("a row of the frame is a row of cells, not a column")
        if not isinstance(element, IntegerType) or element.width.data not in (32, 64):
            raise VerifyException(f"arrays deliver i32 or i64 sums, not {element}")
        wanted = {"weight_bits": frame.bits, "input_bits": given.bits, "input_min": given.qmin}
        for name, value in wanted.items():
            if dict(coding.fields).get(name, value) != value:
                raise VerifyException(
                    f"the coding has {name} {dict(coding.fields)[name]}, the codes ask for {value}"
                )
