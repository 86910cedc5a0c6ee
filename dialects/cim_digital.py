"""Digital functions on rows of codes, and of sums that become codes or reals (``cim_real.py`` has those on reals)."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import I64, FloatData, IntegerAttr, TensorType, i64
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
from cimc.dialects.cim_types import Function, FunctionAttr, WindowAttr
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.weights import WeightRefAttr


@irdl_op_definition
class RequantiseOp(CimOperation):
    """Sums to codes (numerics 0.5) or, with a float32 result, to reals (0.6).

    ``constant`` (int64 [N]) holds bias, zero points and the encoding's constant in units of 2^-F, ``multiplier``
    (float32 [N]) ``m * 2^-F``; ``lo`` and ``hi`` clamp the codes.

    ```mlir
    %q = cim.requantise %acc constant #graph.ref<"c1.const"> multiplier #graph.ref<"c1.m"> lo 0 hi 255
         : tensor<56x56x64xi32> -> tensor<56x56x64x!graph.quant<u8, 0.02, 0>>
    ```
    """

    name = "cim.requantise"

    acc = operand_def(TensorType)
    constant = prop_def(WeightRefAttr)
    multiplier = prop_def(WeightRefAttr)
    lo = opt_prop_def(IntegerAttr[I64])
    hi = opt_prop_def(IntegerAttr[I64])
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "$acc `constant` $constant `multiplier` $multiplier (`lo` $lo^)? (`hi` $hi^)? attr-dict "
        "`:` type($acc) `->` type($result)"
    )

    def __init__(
        self,
        acc: SSAValue,
        constant: str,
        multiplier: str,
        clamp: tuple[int, int] | None,
        result: Attribute,
    ):
        super().__init__(
            operands=[acc],
            properties={
                "constant": WeightRefAttr.of(constant),
                "multiplier": WeightRefAttr.of(multiplier),
                "lo": IntegerAttr(clamp[0], i64) if clamp is not None else None,
                "hi": IntegerAttr(clamp[1], i64) if clamp is not None else None,
            },
            result_types=[result],
        )

    def verify_(self) -> None:
        if shape_of(self.acc) != shape_of(self.result):
            raise VerifyException("requantising keeps the shape")
        if (quant_of(self.result) is None) != (self.lo is None) or (self.lo is None) != (self.hi is None):
            raise VerifyException("codes are clamped by lo and hi; float results have neither")


@irdl_op_definition
class DcomOp(CimOperation):
    """A digital function on rows (DCOM of CIM-MLC). Scales and zero points are those of the types.

    ``lo``/``hi`` clamp codes, ``fmin``/``fmax`` clip float32 and are absent where there is no bound.

    ```mlir
    %s = cim.dcom add(%a, %b) lo 0 hi 255
         : (tensor<8x8x16x!graph.quant<u8, 0.1, 0>>, tensor<8x8x16x!graph.quant<u8, 0.2, 3>>)
         -> tensor<8x8x16x!graph.quant<u8, 0.2, 0>>
    ```
    """

    name = "cim.dcom"

    function = prop_def(FunctionAttr)
    args = var_operand_def(TensorType)
    window = opt_prop_def(WindowAttr)
    count_include_pad = opt_prop_def(IntegerAttr[I64])
    lo = opt_prop_def(IntegerAttr[I64])
    hi = opt_prop_def(IntegerAttr[I64])
    fmin = opt_prop_def(FloatData)
    fmax = opt_prop_def(FloatData)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "$function `(` $args `)` (`window` $window^)? (`count_include_pad` $count_include_pad^)? (`lo` $lo^)? "
        "(`hi` $hi^)? (`fmin` $fmin^)? (`fmax` $fmax^)? attr-dict `:` functional-type($args, $result)"
    )

    def __init__(
        self,
        function: Function,
        args: Sequence[SSAValue],
        result: Attribute,
        *,
        window: WindowAttr | None = None,
        count_include_pad: bool = False,
        clamp: tuple[int, int] | None = None,
        clip: tuple[float | None, float | None] | None = None,
    ):
        super().__init__(
            operands=[list(args)],
            properties={
                "function": FunctionAttr(function),
                "window": window,
                "count_include_pad": IntegerAttr(1, i64) if count_include_pad else None,
                "lo": IntegerAttr(clamp[0], i64) if clamp is not None else None,
                "hi": IntegerAttr(clamp[1], i64) if clamp is not None else None,
                "fmin": FloatData(clip[0]) if clip is not None and clip[0] is not None else None,
                "fmax": FloatData(clip[1]) if clip is not None and clip[1] is not None else None,
            },
            result_types=[result],
        )

    @property
    def clamp(self) -> tuple[int, int]:
        """The clamp of the result's codes; the whole range of its type unless narrowed."""
        quant = quant_of(self.result)
        assert quant is not None
        lo = self.lo.value.data if self.lo is not None else quant.qmin
        return lo, self.hi.value.data if self.hi is not None else quant.qmax

    def verify_(self) -> None:
        wanted = 2 if self.function.data is Function.ADD else 1
        if len(self.args) != wanted:
            raise VerifyException(f"{self.function.data} takes {wanted} operands, got {len(self.args)}")
        if self.function.data in (Function.MAX_POOL, Function.AVERAGE_POOL) and self.window is None:
            raise VerifyException(f"{self.function.data} needs a window")
        if self.window is not None:
            height, width, channels = shape_of(self.args[0])
            extents = (*self.window.output(height, width), channels)
            if extents != shape_of(self.result):
                raise VerifyException(f"the window gives {extents}, the result has {shape_of(self.result)}")
        if not self.function.data.windowed and any(shape_of(a) != shape_of(self.result) for a in self.args):
            raise VerifyException(f"{self.function.data} keeps the shape of its operands")
