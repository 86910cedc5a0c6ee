"""Between real values and codes, and between codes of two scales.

Level 1 holds them, but for ``graph.requantize``, only where a quantised model brings them.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import TensorType, f32
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, result_def
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.graph_base import BoundedOperation, GraphOperation, int64, names
from cimc.dialects.graph_types import (
    QuantType,
    check_storage_cast,
    is_float,
    quant_of,
    retyped,
    shape_of,
    tensor,
)


def _check_shapes(given: SSAValue, result: SSAValue) -> None:
    if shape_of(given) != shape_of(result):
        raise VerifyException(f"keeps the shape, got {shape_of(given)} to {shape_of(result)}")


@irdl_op_definition
class QuantizeOp(BoundedOperation):
    """``clamp(rint(x / scale) + zero_point, lo, hi)`` (docs/numerics.md section 0 rule 1).

    ```mlir
    %q = graph.quantize %x tensors ["x"]
        : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 0.5, 128>>
    ```
    """

    name = "graph.quantize"

    input = operand_def(TensorType)
    result = result_def(TensorType)
    assembly_format = (
        "$input (`lo` $lo^)? (`hi` $hi^)? `tensors` $tensors attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        input: SSAValue,
        codes: QuantType,
        *,
        tensors: Sequence[str],
        lo: int | None = None,
        hi: int | None = None,
    ):
        super().__init__(
            operands=[input],
            result_types=[retyped(tensor(input), codes)],
            properties={"lo": int64(lo), "hi": int64(hi), "tensors": names(tensors)},
        )

    def verify_operator(self) -> None:
        _check_shapes(self.input, self.result)
        if not is_float(self.input) or quant_of(self.result) is None:
            raise VerifyException(f"takes f32 and gives codes, got {self.input.type} to {self.result.type}")


@irdl_op_definition
class DequantizeOp(GraphOperation):
    """``f32(q - zero_point) * scale`` (docs/numerics.md section 0 rule 2).

    ```mlir
    %x = graph.dequantize %q tensors ["x"]
        : (tensor<1x4x!graph.quant<u8, 0.5, 128>>) -> tensor<1x4xf32>
    ```
    """

    name = "graph.dequantize"

    input = operand_def(TensorType)
    result = result_def(TensorType)
    assembly_format = "$input `tensors` $tensors attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue, *, tensors: Sequence[str]):
        super().__init__(
            operands=[input],
            result_types=[retyped(tensor(input), f32)],
            properties={"tensors": names(tensors)},
        )

    def verify_operator(self) -> None:
        _check_shapes(self.input, self.result)
        if quant_of(self.input) is None or not is_float(self.result):
            raise VerifyException(f"takes codes and gives f32, got {self.input.type} to {self.result.type}")


@irdl_op_definition
class RequantizeOp(BoundedOperation):
    """Codes under another scale: dequantised by rule 2, then quantised by rule 1.

    ```mlir
    %r = graph.requantize %q tensors ["r"]
        : (tensor<1x4x!graph.quant<u8, 0.5, 128>>) -> tensor<1x4x!graph.quant<i8, 0.25, 0>>
    ```
    """

    name = "graph.requantize"

    input = operand_def(TensorType)
    result = result_def(TensorType)
    assembly_format = (
        "$input (`lo` $lo^)? (`hi` $hi^)? `tensors` $tensors attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        input: SSAValue,
        codes: QuantType,
        *,
        tensors: Sequence[str],
        lo: int | None = None,
        hi: int | None = None,
    ):
        super().__init__(
            operands=[input],
            result_types=[retyped(tensor(input), codes)],
            properties={"lo": int64(lo), "hi": int64(hi), "tensors": names(tensors)},
        )

    def verify_operator(self) -> None:
        _check_shapes(self.input, self.result)
        if quant_of(self.input) is None or quant_of(self.result) is None:
            raise VerifyException(f"takes and gives codes, got {self.input.type} to {self.result.type}")


@irdl_op_definition
class StorageCastOp(GraphOperation):
    """Integers read as codes of a scale, or codes as the integers that store them: no element changes.

    ``quant.scast`` of MLIR's quant dialect. Integers of a graph input or of a host operator become codes so, and codes
    that leave as integers; between codes of two scales stand two.

    ```mlir
    %q = graph.storage_cast %x tensors ["x"]
        : (tensor<1x4xui8>) -> tensor<1x4x!graph.quant<u8, 0.5, 128>>
    ```
    """

    name = "graph.storage_cast"

    input = operand_def(TensorType)
    result = result_def(TensorType)
    assembly_format = "$input `tensors` $tensors attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue, element: Attribute, *, tensors: Sequence[str]):
        super().__init__(
            operands=[input],
            result_types=[retyped(tensor(input), element)],
            properties={"tensors": names(tensors)},
        )

    def verify_operator(self) -> None:
        check_storage_cast(self.input, self.result)
