"""Operators with static weights: convolution, matrix product, per-channel affine map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import I64, IntegerAttr, StringAttr, TensorType, i64
from xdsl.ir import SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, opt_prop_def, prop_def, result_def
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.graph_base import (
    BoundedOperation,
    GraphOperation,
    check_window,
    int64,
    names,
    ref,
)
from cimc.dialects.graph_types import (
    MAX_BITS,
    MIN_BITS,
    AnyTensor,
    IntsAttr,
    is_float,
    quant_of,
    shape_of,
)
from cimc.dialects.weights import WeightRefAttr


@dataclass(frozen=True)
class ProductCodes:
    """How a product is quantised: what level 2 adds to ``graph.conv`` and ``graph.gemm``.

    Keys name arrays of the store: ``weight_scale`` float32 of N or 1 elements, ``weight_zero`` int of N,
    ``bias_scale`` float32 of N or 1. At level 1, a model's own codes have no ``acc_bits`` yet; ``bias_scale`` is
    there only, for a bias the model stores as integers.
    """

    weight_bits: int
    weight_scale: str
    acc_bits: int | None = None
    weight_zero: str | None = None
    bias_scale: str | None = None
    lo: int | None = None
    hi: int | None = None


class ProductOperation(BoundedOperation):
    """Base of ``graph.conv`` and ``graph.gemm``.

    At level 1 ``weight`` and ``bias`` are float32, or the integers of a quantised model: ``weight`` codes
    with ``weight_bits``, ``weight_scale`` and ``weight_zero``, ``bias`` with ``bias_scale``; input and result
    are f32. At level 2 the input holds codes, ``weight`` the weights' integer codes in the same layout,
    ``bias`` int64 (docs/numerics.md section 0 rule 4) and ``acc_bits`` is the accumulator's width (rule 3);
    the result is codes (rule 5) or float32 (rule 6).
    """

    input = operand_def(TensorType)
    weight = prop_def(WeightRefAttr)
    bias = opt_prop_def(WeightRefAttr)
    weight_bits = opt_prop_def(IntegerAttr[I64])
    weight_scale = opt_prop_def(WeightRefAttr)
    weight_zero = opt_prop_def(WeightRefAttr)
    bias_scale = opt_prop_def(WeightRefAttr)
    acc_bits = opt_prop_def(IntegerAttr[I64])
    result = result_def(TensorType)

    @property
    def is_quantised(self) -> bool:
        """Whether the input is codes (level 2)."""
        return quant_of(self.input) is not None

    @property
    def has_stored_codes(self) -> bool:
        """Whether ``weight`` holds integer codes: always at level 2, for a quantised model at level 1 too."""
        return self.weight_bits is not None

    def verify_codes(self) -> None:
        """Codes of weights come with width and scale; the accumulator belongs to level 2."""
        if self.weight_bits is None and (self.weight_scale is not None or self.weight_zero is not None):
            raise VerifyException("weight_scale and weight_zero need weight_bits")
        if self.weight_bits is not None:
            if self.weight_scale is None:
                raise VerifyException("weight_bits needs weight_scale")
            if not MIN_BITS <= self.weight_bits.value.data <= MAX_BITS:
                raise VerifyException(
                    f"weights have {MIN_BITS} to {MAX_BITS} bits, not {self.weight_bits.value.data}"
                )
        if self.is_quantised:
            self._verify_integer()
        else:
            self._verify_real()

    def _verify_real(self) -> None:
        if not is_float(self.input) or not is_float(self.result):
            raise VerifyException("a product of float weights takes f32 and gives f32")
        if self.acc_bits is not None:
            raise VerifyException("acc_bits needs quantised input")
        if self.bias_scale is not None and self.bias is None:
            raise VerifyException("bias_scale needs a bias")

    def _verify_integer(self) -> None:
        if self.weight_bits is None or self.acc_bits is None:
            raise VerifyException("quantised input needs weight_bits, weight_scale and acc_bits")
        if self.bias_scale is not None:
            raise VerifyException("with quantised input the bias counts in units of the accumulator")
        if self.acc_bits.value.data not in (32, 64):
            raise VerifyException(f"accumulators have 32 or 64 bits, not {self.acc_bits.value.data}")
        if quant_of(self.result) is None and not is_float(self.result):
            raise VerifyException("the result of a quantised product is codes or f32")


_CODES_FORMAT = (
    "(`weight_bits` $weight_bits^)? (`weight_scale` $weight_scale^)? (`weight_zero` $weight_zero^)? "
    "(`bias_scale` $bias_scale^)? (`acc_bits` $acc_bits^)? (`lo` $lo^)? (`hi` $hi^)? "
    "`tensors` $tensors attr-dict `:` functional-type(operands, results)"
)


@irdl_op_definition
class ConvOp(ProductOperation):
    """Two-dimensional convolution, ``(N, C, H, W)`` to ``(N, M, OH, OW)``.

    ``weight`` has the ONNX layout ``(M, C / group, kH, kW)``, ``bias`` ``(M,)``; pads are top, left,
    bottom, right.

    ```mlir
    %y = graph.conv %x weight <"conv1.weight"> bias <"conv1.bias"> kernel <3, 3> strides <1, 1>
        pads <1, 1, 1, 1> dilations <1, 1> group 1 tensors ["y"]
        : (tensor<1x3x8x8xf32>) -> tensor<1x16x8x8xf32>
    ```
    """

    name = "graph.conv"

    kernel = prop_def(IntsAttr)
    strides = prop_def(IntsAttr)
    pads = prop_def(IntsAttr)
    dilations = prop_def(IntsAttr)
    group = prop_def(IntegerAttr[I64])

    assembly_format = (
        "$input `weight` $weight (`bias` $bias^)? `kernel` $kernel `strides` $strides `pads` $pads "
        "`dilations` $dilations `group` $group " + _CODES_FORMAT
    )

    def __init__(
        self,
        input: SSAValue,
        result: AnyTensor,
        *,
        weight: str,
        bias: str | None,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        group: int,
        tensors: Sequence[str],
        codes: ProductCodes | None = None,
    ):
        super().__init__(
            operands=[input],
            result_types=[result],
            properties={
                "weight": ref(weight),
                "bias": ref(bias),
                "kernel": IntsAttr.of(kernel),
                "strides": IntsAttr.of(strides),
                "pads": IntsAttr.of(pads),
                "dilations": IntsAttr.of(dilations),
                "group": IntegerAttr(group, i64),
                "tensors": names(tensors),
                **_code_properties(codes),
            },
        )

    def weight_shape(self) -> tuple[int, ...]:
        """The shape ``weight`` must have: ``(M, C / group, kH, kW)``."""
        channels = shape_of(self.input)[1] // self.group.value.data
        return (shape_of(self.result)[1], channels, *self.kernel.data)

    def verify_operator(self) -> None:
        given, result = shape_of(self.input), shape_of(self.result)
        check_window(given, result, self.kernel, self.strides, self.pads, self.dilations)
        if given[0] != result[0]:
            raise VerifyException(f"batch {given[0]} becomes {result[0]}")
        group = self.group.value.data
        if group < 1 or given[1] % group or result[1] % group:
            raise VerifyException(
                f"group {group} must divide {given[1]} input and {result[1]} output channels"
            )
        self.verify_codes()


@irdl_op_definition
class GemmOp(ProductOperation):
    """Product with a constant matrix along the last axis: ``(..., K)`` to ``(..., N)``.

    ``weight`` is ``(K, N)``, ``bias`` ``(N,)``. ONNX Gemm (transB, alpha and beta folded) and MatMul
    by a constant both become it.

    ```mlir
    %y = graph.gemm %x weight <"fc.weight"> bias <"fc.bias"> tensors ["logits"]
        : (tensor<1x64xf32>) -> tensor<1x10xf32>
    ```
    """

    name = "graph.gemm"

    assembly_format = "$input `weight` $weight (`bias` $bias^)? " + _CODES_FORMAT

    def __init__(
        self,
        input: SSAValue,
        result: AnyTensor,
        *,
        weight: str,
        bias: str | None,
        tensors: Sequence[str],
        codes: ProductCodes | None = None,
    ):
        super().__init__(
            operands=[input],
            result_types=[result],
            properties={
                "weight": ref(weight),
                "bias": ref(bias),
                "tensors": names(tensors),
                **_code_properties(codes),
            },
        )

    def weight_shape(self) -> tuple[int, int]:
        """The shape ``weight`` must have: ``(K, N)``."""
        return shape_of(self.input)[-1], shape_of(self.result)[-1]

    def verify_operator(self) -> None:
        given, result = shape_of(self.input), shape_of(self.result)
        if len(given) < 1 or given[:-1] != result[:-1]:
            raise VerifyException(f"a product along the last axis keeps the others, got {given} to {result}")
        self.verify_codes()


def _code_properties(codes: ProductCodes | None) -> dict[str, IntegerAttr[I64] | WeightRefAttr | None]:
    if codes is None:
        return {}
    return {
        "weight_bits": int64(codes.weight_bits),
        "weight_scale": ref(codes.weight_scale),
        "weight_zero": ref(codes.weight_zero),
        "bias_scale": ref(codes.bias_scale),
        "acc_bits": int64(codes.acc_bits),
        "lo": int64(codes.lo),
        "hi": int64(codes.hi),
    }


@irdl_op_definition
class AffineOp(GraphOperation):
    """``y = scale[c] * x + shift[c]`` along one axis: BatchNormalization, or a constant factor or term.

    It exists between import and the pass ``graph-fold-batch-norm`` only, which folds it into the product
    before it or makes it a factor and a term of the digital unit. ``op_type`` is the ONNX operator it was.
    ``scale`` and ``shift`` are float64, so that folding rounds once.

    ```mlir
    %y = graph.affine %x scale <"bn1.scale"> shift <"bn1.shift"> axis 1 of "BatchNormalization"
        tensors ["y"] : (tensor<1x16x8x8xf32>) -> tensor<1x16x8x8xf32>
    ```
    """

    name = "graph.affine"

    input = operand_def(TensorType)
    scale = prop_def(WeightRefAttr)
    shift = prop_def(WeightRefAttr)
    axis = prop_def(IntegerAttr[I64])
    op_type = prop_def(StringAttr)
    result = result_def(TensorType)

    assembly_format = (
        "$input `scale` $scale `shift` $shift `axis` $axis `of` $op_type `tensors` $tensors attr-dict "
        "`:` functional-type(operands, results)"
    )

    def __init__(
        self,
        input: SSAValue,
        *,
        scale: str,
        shift: str,
        axis: int,
        op_type: str,
        tensors: Sequence[str],
    ):
        super().__init__(
            operands=[input],
            result_types=[input.type],
            properties={
                "scale": ref(scale),
                "shift": ref(shift),
                "axis": IntegerAttr(axis, i64),
                "op_type": StringAttr(op_type),
                "tensors": names(tensors),
            },
        )

    def verify_operator(self) -> None:
        if self.input.type != self.result.type or not is_float(self.input):
            raise VerifyException(
                f"takes and gives the same f32 tensor, got {self.input.type} to {self.result.type}"
            )
        if not 0 <= self.axis.value.data < len(shape_of(self.input)):
            raise VerifyException(f"axis {self.axis.value.data} is not one of {len(shape_of(self.input))}")
