"""Float32 functions of a whole row, the last axis: norms, reductions, look-ups; products of two tensors."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    ArrayAttr,
    Float64Type,
    FloatAttr,
    IntegerType,
    StringAttr,
    TensorType,
    UnitAttr,
    f32,
)
from xdsl.ir import SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, opt_prop_def, prop_def, result_def
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.graph_base import GraphOperation, names, ref
from cimc.dialects.graph_elementwise import float_list
from cimc.dialects.graph_types import is_float, quant_of, shape_of, tensor
from cimc.dialects.weights import WeightRefAttr

NORMS = {"layer_norm": 1, "rms_norm": 1, "local_response_norm": 4}
"""Norms by name, and how many parameters each takes: epsilon; or alpha, beta, bias, size."""

REDUCTIONS = ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min")
"""Reductions by name; ``runtime.numerics.rowwise`` defines them."""


@irdl_op_definition
class NormOp(GraphOperation):
    """A norm over the channels: the last axis, or axis 1 of an image for ``local_response_norm``.

    ``constant`` is float32 (2, C), scale and bias, for ``layer_norm``, (1, C) for ``rms_norm``.

    ```mlir
    %y = graph.norm "layer_norm" %x constant <"ln"> parameters [1.000000e-05 : f64] tensors ["y"]
        : (tensor<1x8x16xf32>) -> tensor<1x8x16xf32>
    ```
    """

    name = "graph.norm"

    function = prop_def(StringAttr)
    input = operand_def(TensorType)
    constant = opt_prop_def(WeightRefAttr)
    parameters = prop_def(ArrayAttr[FloatAttr[Float64Type]])
    result = result_def(TensorType)
    assembly_format = (
        "$function $input (`constant` $constant^)? `parameters` $parameters `tensors` $tensors attr-dict "
        "`:` functional-type(operands, results)"
    )

    def __init__(
        self,
        function: str,
        input: SSAValue,
        *,
        constant: str | None,
        parameters: Sequence[float],
        tensors: Sequence[str],
    ):
        super().__init__(
            operands=[input],
            result_types=[input.type],
            properties={
                "function": StringAttr(function),
                "constant": ref(constant),
                "parameters": float_list(parameters),
                "tensors": names(tensors),
            },
        )

    @property
    def values(self) -> tuple[float, ...]:
        """The parameters."""
        return tuple(p.value.data for p in self.parameters)

    def verify_operator(self) -> None:
        function = self.function.data
        if self.input.type != self.result.type or not is_float(self.input):
            raise VerifyException(
                f"takes and gives one f32 tensor, got {self.input.type} to {self.result.type}"
            )
        if NORMS.get(function) != len(self.parameters):
            raise VerifyException(
                f"no norm {function!r} of {len(self.parameters)} parameters; norms: {NORMS}"
            )
        if (function == "local_response_norm") != (self.constant is None):
            raise VerifyException(f"{function} {'needs' if self.constant is None else 'has no'} constant")


@irdl_op_definition
class ReduceOp(GraphOperation):
    """The last axis to the extent 1: ``reduce_mean``, ``reduce_sum``, ``reduce_max``, ``reduce_min``.

    ```mlir
    %y = graph.reduce "reduce_mean" %x tensors ["y"] : (tensor<1x8x16xf32>) -> tensor<1x8x1xf32>
    ```
    """

    name = "graph.reduce"

    function = prop_def(StringAttr)
    input = operand_def(TensorType)
    result = result_def(TensorType)
    assembly_format = "$function $input `tensors` $tensors attr-dict `:` functional-type(operands, results)"

    def __init__(self, function: str, input: SSAValue, *, tensors: Sequence[str]):
        super().__init__(
            operands=[input],
            result_types=[TensorType(f32, [*shape_of(input)[:-1], 1])],
            properties={"function": StringAttr(function), "tensors": names(tensors)},
        )

    def verify_operator(self) -> None:
        if self.function.data not in REDUCTIONS:
            raise VerifyException(f"no reduction {self.function.data!r}; there are {', '.join(REDUCTIONS)}")
        if not is_float(self.input) or not is_float(self.result):
            raise VerifyException("is computed in f32; dequantise codes first")
        if shape_of(self.result) != (*shape_of(self.input)[:-1], 1):
            raise VerifyException(f"{shape_of(self.input)} becomes {shape_of(self.result)}")


@irdl_op_definition
class LookupOp(GraphOperation):
    """Rows of a constant table (V, D) by index: ``(...)`` to ``(..., D)``.

    ```mlir
    %y = graph.lookup %ids table <"embedding"> tensors ["y"] : (tensor<1x8xi64>) -> tensor<1x8x16xf32>
    ```
    """

    name = "graph.lookup"

    input = operand_def(TensorType)
    table = prop_def(WeightRefAttr)
    result = result_def(TensorType)
    assembly_format = (
        "$input `table` $table `tensors` $tensors attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, input: SSAValue, depth: int, *, table: str, tensors: Sequence[str]):
        super().__init__(
            operands=[input],
            result_types=[TensorType(f32, [*shape_of(input), depth])],
            properties={"table": ref(table), "tensors": names(tensors)},
        )

    def verify_operator(self) -> None:
        given, result = shape_of(self.input), shape_of(self.result)
        element = tensor(self.input).get_element_type()
        if not isinstance(element, IntegerType) or element.width.data not in (32, 64):
            raise VerifyException(f"indices are i32 or i64, not {element}")
        if not given or given != result[:-1] or not is_float(self.result):
            raise VerifyException(f"indices {given} give rows of f32 in their place, not {result}")


@irdl_op_definition
class MatmulOp(GraphOperation):
    """Product of two activations: ``(..., M, K)`` by ``(..., K, N)`` with equal leading axes.

    ``on_arrays``: the second one is written into arrays for every image. Both then hold codes at level 2, the second
    with zero point 0, and the result is ``f32(sum) * (sa * sb)`` (docs/numerics.md section 0 rule 13).

    ```mlir
    %y = graph.matmul %a, %b tensors ["y"]
        : (tensor<1x2x8x4xf32>, tensor<1x2x4x8xf32>) -> tensor<1x2x8x8xf32>
    ```
    """

    name = "graph.matmul"

    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    on_arrays = opt_prop_def(UnitAttr)
    result = result_def(TensorType)
    assembly_format = (
        "$lhs `,` $rhs (`on_arrays` $on_arrays^)? `tensors` $tensors attr-dict "
        "`:` functional-type(operands, results)"
    )

    def __init__(self, lhs: SSAValue, rhs: SSAValue, *, tensors: Sequence[str], on_arrays: bool = False):
        super().__init__(
            operands=[lhs, rhs],
            result_types=[TensorType(f32, [*shape_of(lhs)[:-1], shape_of(rhs)[-1]])],
            properties={"tensors": names(tensors), "on_arrays": UnitAttr() if on_arrays else None},
        )

    @property
    def is_quantised(self) -> bool:
        """Whether the operands hold codes, for arrays."""
        return quant_of(self.lhs) is not None

    def verify_operator(self) -> None:
        a, b, y = shape_of(self.lhs), shape_of(self.rhs), shape_of(self.result)
        left, right = quant_of(self.lhs), quant_of(self.rhs)
        if left is not None and right is not None and self.on_arrays is not None:
            if right.zero_point or not right.signed:
                raise VerifyException("arrays hold signed codes with zero point 0")
        elif not all(is_float(v) for v in (self.lhs, self.rhs)):
            raise VerifyException("is computed in f32; dequantise codes first")
        if not is_float(self.result):
            raise VerifyException("gives f32")
        if min(len(a), len(b)) < 2 or a[:-2] != b[:-2] or a[-1] != b[-2] or y != (*a[:-1], b[-1]):
            raise VerifyException(f"{a} times {b} is not {y}")
