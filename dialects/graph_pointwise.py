"""Operators without weights that are not pools: activations, Add, Concat, Reshape, Softmax; the host."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    I64,
    Float64Type,
    FloatAttr,
    IntegerAttr,
    StringAttr,
    TensorType,
    UnitAttr,
    f64,
    i64,
)
from xdsl.ir import SSAValue
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    var_operand_def,
    var_result_def,
)
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.graph_base import (
    BoundedOperation,
    GraphOperation,
    check_same_elements,
    check_same_kind,
    int64,
    names,
    ref,
)
from cimc.dialects.graph_types import AnyTensor, is_float, quant_of, shape_of, tensor
from cimc.dialects.weights import WeightRefAttr


def _check_same_shape(values: Sequence[SSAValue]) -> None:
    shapes = {shape_of(value) for value in values}
    if len(shapes) > 1:
        raise VerifyException(f"operands and result have one shape, got {sorted(shapes)}")


@irdl_op_definition
class ReluOp(GraphOperation):
    """``max(x, 0)``; on codes ``max(q, zero_point)``.

    ```mlir
    %y = graph.relu %x tensors ["y"] : (tensor<1x16xf32>) -> tensor<1x16xf32>
    ```
    """

    name = "graph.relu"

    input = operand_def(TensorType)
    result = result_def(TensorType)
    assembly_format = "$input `tensors` $tensors attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue, *, tensors: Sequence[str]):
        super().__init__(operands=[input], result_types=[input.type], properties={"tensors": names(tensors)})

    def verify_operator(self) -> None:
        _check_same_shape([self.input, self.result])
        check_same_elements([self.input, self.result])


@irdl_op_definition
class ClipOp(GraphOperation):
    """``min(max(x, min), max)``; either bound may be absent. On codes the bounds are quantised by rule 1.

    ```mlir
    %y = graph.clip %x min 0.0 max 6.0 tensors ["y"] : (tensor<1x16xf32>) -> tensor<1x16xf32>
    ```
    """

    name = "graph.clip"

    input = operand_def(TensorType)
    min = opt_prop_def(FloatAttr[Float64Type])
    max = opt_prop_def(FloatAttr[Float64Type])
    result = result_def(TensorType)
    assembly_format = (
        "$input (`min` $min^)? (`max` $max^)? `tensors` $tensors attr-dict "
        "`:` functional-type(operands, results)"
    )

    def __init__(self, input: SSAValue, *, min: float | None, max: float | None, tensors: Sequence[str]):
        super().__init__(
            operands=[input],
            result_types=[input.type],
            properties={
                "min": None if min is None else FloatAttr(min, f64),
                "max": None if max is None else FloatAttr(max, f64),
                "tensors": names(tensors),
            },
        )

    def bounds(self) -> tuple[float | None, float | None]:
        """Lower and upper bound, ``None`` where absent."""
        return (
            None if self.min is None else self.min.value.data,
            None if self.max is None else self.max.value.data,
        )

    def verify_operator(self) -> None:
        _check_same_shape([self.input, self.result])
        check_same_elements([self.input, self.result])
        low, high = self.bounds()
        if any(bound is not None and bound != bound for bound in (low, high)):
            raise VerifyException("a bound is not a number")


@irdl_op_definition
class AddOp(BoundedOperation):
    """Sum of two tensors of one shape, each with its own scale at level 2 (rule 10).

    ```mlir
    %y = graph.add %a, %b tensors ["y"] : (tensor<1x16xf32>, tensor<1x16xf32>) -> tensor<1x16xf32>
    ```
    """

    name = "graph.add"

    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    result = result_def(TensorType)
    assembly_format = (
        "$lhs `,` $rhs (`lo` $lo^)? (`hi` $hi^)? `tensors` $tensors attr-dict "
        "`:` functional-type(operands, results)"
    )

    def __init__(
        self,
        lhs: SSAValue,
        rhs: SSAValue,
        result: AnyTensor,
        *,
        tensors: Sequence[str],
        lo: int | None = None,
        hi: int | None = None,
    ):
        super().__init__(
            operands=[lhs, rhs],
            result_types=[result],
            properties={"lo": int64(lo), "hi": int64(hi), "tensors": names(tensors)},
        )

    def verify_operator(self) -> None:
        _check_same_shape([self.lhs, self.rhs, self.result])
        check_same_kind([self.lhs, self.rhs, self.result])


@irdl_op_definition
class ConcatOp(GraphOperation):
    """Operands one after the other along ``axis``; codes pass unchanged.

    ```mlir
    %y = graph.concat %a, %b axis 1 tensors ["y"]
        : (tensor<1x16x8x8xf32>, tensor<1x8x8x8xf32>) -> tensor<1x24x8x8xf32>
    ```
    """

    name = "graph.concat"

    inputs = var_operand_def(TensorType)
    axis = prop_def(IntegerAttr[I64])
    result = result_def(TensorType)
    assembly_format = (
        "$inputs `axis` $axis `tensors` $tensors attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, inputs: Sequence[SSAValue], result: AnyTensor, *, axis: int, tensors: Sequence[str]):
        super().__init__(
            operands=[inputs],
            result_types=[result],
            properties={"axis": IntegerAttr(axis, i64), "tensors": names(tensors)},
        )

    def verify_operator(self) -> None:
        result, axis = shape_of(self.result), self.axis.value.data
        if len(self.inputs) < 2:
            raise VerifyException(f"needs at least two operands, got {len(self.inputs)}")
        if not 0 <= axis < len(result):
            raise VerifyException(f"axis {axis} is not one of {len(result)}")
        shapes = [shape_of(value) for value in self.inputs]
        total = 0
        for shape in shapes:
            if len(shape) != len(result) or (*shape[:axis], *shape[axis + 1 :]) != (
                *result[:axis],
                *result[axis + 1 :],
            ):
                raise VerifyException(f"{shape} does not go into {result} along axis {axis}")
            total += shape[axis]
        if total != result[axis]:
            raise VerifyException(
                f"operands have {total} entries along axis {axis}, the result {result[axis]}"
            )
        check_same_elements([*self.inputs, self.result])


@irdl_op_definition
class ReshapeOp(GraphOperation):
    """The same elements in ONNX order under another shape: Reshape, Flatten, Squeeze, Unsqueeze.

    ```mlir
    %y = graph.reshape %x tensors ["y"] : (tensor<1x16x2x2xf32>) -> tensor<1x64xf32>
    ```
    """

    name = "graph.reshape"

    input = operand_def(TensorType)
    result = result_def(TensorType)
    assembly_format = "$input `tensors` $tensors attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue, result: AnyTensor, *, tensors: Sequence[str]):
        super().__init__(operands=[input], result_types=[result], properties={"tensors": names(tensors)})

    def verify_operator(self) -> None:
        given, result = tensor(self.input), tensor(self.result)
        if given.element_count() != result.element_count():
            raise VerifyException(
                f"{given.get_shape()} has {given.element_count()} elements, "
                f"{result.get_shape()} has {result.element_count()}"
            )
        check_same_elements([self.input, self.result])


@irdl_op_definition
class SoftmaxOp(GraphOperation):
    """``exp(x - max) / sum`` along one axis, always in float32.

    ```mlir
    %y = graph.softmax %x axis 1 tensors ["y"] : (tensor<1x10xf32>) -> tensor<1x10xf32>
    ```
    """

    name = "graph.softmax"

    input = operand_def(TensorType)
    axis = prop_def(IntegerAttr[I64])
    result = result_def(TensorType)
    assembly_format = (
        "$input `axis` $axis `tensors` $tensors attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, input: SSAValue, *, axis: int, tensors: Sequence[str]):
        super().__init__(
            operands=[input],
            result_types=[input.type],
            properties={"axis": IntegerAttr(axis, i64), "tensors": names(tensors)},
        )

    def verify_operator(self) -> None:
        _check_same_shape([self.input, self.result])
        if not is_float(self.input) or not is_float(self.result):
            raise VerifyException("softmax is computed in f32")
        if not 0 <= self.axis.value.data < len(shape_of(self.input)):
            raise VerifyException(f"axis {self.axis.value.data} is not one of {len(shape_of(self.input))}")


@irdl_op_definition
class HostOp(GraphOperation):
    """An operator that runs on the host, through onnxruntime.

    ``model`` names the bytes (uint8) of a one-node ONNX model whose graph inputs are the operands in
    order; ``reason`` names the constraint that keeps the operator off the arrays; ``batch_parallel``
    says that entry ``i`` of every result along axis 0 depends on entry ``i`` of every operand only.

    ```mlir
    %y = graph.host "Sigmoid"(%x) model <"node3.onnx"> reason "no mapping to the arrays" batch_parallel
        tensors ["y"] : (tensor<1x10xf32>) -> tensor<1x10xf32>
    ```
    """

    name = "graph.host"

    inputs = var_operand_def(TensorType)
    op_type = prop_def(StringAttr)
    model = prop_def(WeightRefAttr)
    reason = prop_def(StringAttr)
    batch_parallel = opt_prop_def(UnitAttr)
    outputs = var_result_def(TensorType)
    assembly_format = (
        "$op_type `(` $inputs `)` `model` $model `reason` $reason (`batch_parallel` $batch_parallel^)? "
        "`tensors` $tensors attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        inputs: Sequence[SSAValue],
        results: Sequence[AnyTensor],
        *,
        op_type: str,
        model: str,
        reason: str,
        batch_parallel: bool,
        tensors: Sequence[str],
    ):
        super().__init__(
            operands=[inputs],
            result_types=[results],
            properties={
                "op_type": StringAttr(op_type),
                "model": ref(model),
                "reason": StringAttr(reason),
                "batch_parallel": UnitAttr() if batch_parallel else None,
                "tensors": names(tensors),
            },
        )

    def verify_operator(self) -> None:
        if not self.outputs:
            raise VerifyException("needs at least one result")
        for value in (*self.inputs, *self.outputs):
            if quant_of(value) is not None:
                raise VerifyException("the host computes on real values; dequantise its operands first")
