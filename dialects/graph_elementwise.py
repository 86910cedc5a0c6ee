"""Float32 functions of one element: of a value, of two values, of a value and a constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, Float64Type, FloatAttr, StringAttr, TensorType, UnitAttr, f64
from xdsl.ir import SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, opt_prop_def, prop_def, result_def
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.graph_base import GraphOperation, names, ref
from cimc.dialects.graph_types import is_float, shape_of
from cimc.dialects.weights import WeightRefAttr

UNARY: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(
            "neg abs sqrt reciprocal floor ceil round sign exp log erf tanh sigmoid silu gelu gelu_tanh "
            "hard_swish softplus sin cos".split(),
            0,
        ),
        **{"leaky_relu": 1, "elu": 1, "hard_sigmoid": 2},
    }
)
"""Functions of one value, and how many parameters each takes; ``runtime.numerics.unary`` defines them."""

BINARY = tuple("add sub mul div pow max min prelu less less_equal equal keep drop".split())
"""Functions of two values; ``runtime.numerics.binary`` defines them."""


def float_list(values: Sequence[float]) -> ArrayAttr[FloatAttr[Float64Type]]:
    """Parameters of a function, each rounded to float32."""
    return ArrayAttr([FloatAttr(float(np.float32(v)), f64) for v in values])


def _check_float(values: Sequence[SSAValue]) -> None:
    if len({shape_of(value) for value in values}) > 1:
        raise VerifyException(f"operands and result have one shape, got {[shape_of(v) for v in values]}")
    if not all(is_float(value) for value in values):
        raise VerifyException("is computed in f32; dequantise codes first")


@irdl_op_definition
class UnaryOp(GraphOperation):
    """A function of each element by name (docs/onnx.md lists them), with float32 parameters.

    ```mlir
    %y = graph.unary "leaky_relu" %x parameters [1.000000e-01 : f64] tensors ["y"]
        : (tensor<1x16xf32>) -> tensor<1x16xf32>
    ```
    """

    name = "graph.unary"

    function = prop_def(StringAttr)
    parameters = prop_def(ArrayAttr[FloatAttr[Float64Type]])
    input = operand_def(TensorType)
    result = result_def(TensorType)
    assembly_format = (
        "$function $input `parameters` $parameters `tensors` $tensors attr-dict "
        "`:` functional-type(operands, results)"
    )

    def __init__(
        self, function: str, input: SSAValue, *, parameters: Sequence[float] = (), tensors: Sequence[str]
    ):
        super().__init__(
            operands=[input],
            result_types=[input.type],
            properties={
                "function": StringAttr(function),
                "parameters": float_list(parameters),
                "tensors": names(tensors),
            },
        )

    @property
    def values(self) -> tuple[float, ...]:
        """The parameters."""
        return tuple(p.value.data for p in self.parameters)

    def verify_operator(self) -> None:
        _check_float([self.input, self.result])
        wanted = UNARY.get(self.function.data)
        if wanted is None:
            raise VerifyException(f"no function {self.function.data!r}; there are {', '.join(UNARY)}")
        if len(self.parameters) != wanted:
            raise VerifyException(
                f"{self.function.data} takes {wanted} parameters, got {len(self.parameters)}"
            )


@irdl_op_definition
class BinaryOp(GraphOperation):
    """A function of the elements of two tensors of one shape, by name.

    ```mlir
    %y = graph.binary "mul" %a, %b tensors ["y"] : (tensor<1x16xf32>, tensor<1x16xf32>) -> tensor<1x16xf32>
    ```
    """

    name = "graph.binary"

    function = prop_def(StringAttr)
    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    result = result_def(TensorType)
    assembly_format = (
        "$function $lhs `,` $rhs `tensors` $tensors attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, function: str, lhs: SSAValue, rhs: SSAValue, *, tensors: Sequence[str]):
        super().__init__(
            operands=[lhs, rhs],
            result_types=[lhs.type],
            properties={"function": StringAttr(function), "tensors": names(tensors)},
        )

    def verify_operator(self) -> None:
        _check_float([self.lhs, self.rhs, self.result])
        _check_binary(self.function.data)


@irdl_op_definition
class BinaryConstantOp(GraphOperation):
    """A function of a tensor and a constant that broadcasts to it; ``swapped``: the constant comes first.

    ```mlir
    %y = graph.binary_constant "mul" %x constant <"scale"> tensors ["y"] : (tensor<1x16xf32>) -> tensor<1x16xf32>
    ```
    """

    name = "graph.binary_constant"

    function = prop_def(StringAttr)
    input = operand_def(TensorType)
    constant = prop_def(WeightRefAttr)
    """float32, the rank of the input, each extent 1 or the input's."""
    swapped = opt_prop_def(UnitAttr)
    per_frame = opt_prop_def(UnitAttr)
    """The constant is the same for every entry of axis 0."""
    result = result_def(TensorType)
    assembly_format = (
        "$function $input `constant` $constant (`swapped` $swapped^)? (`per_frame` $per_frame^)? "
        "`tensors` $tensors attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        function: str,
        input: SSAValue,
        *,
        constant: str,
        swapped: bool = False,
        per_frame: bool = False,
        tensors: Sequence[str],
    ):
        super().__init__(
            operands=[input],
            result_types=[input.type],
            properties={
                "function": StringAttr(function),
                "constant": ref(constant),
                "swapped": UnitAttr() if swapped else None,
                "per_frame": UnitAttr() if per_frame else None,
                "tensors": names(tensors),
            },
        )

    def verify_operator(self) -> None:
        _check_float([self.input, self.result])
        _check_binary(self.function.data)


def _check_binary(function: str) -> None:
    if function not in BINARY:
        raise VerifyException(f"no function {function!r}; there are {', '.join(BINARY)}")
