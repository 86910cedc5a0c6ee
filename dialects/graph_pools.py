"""Pooling operators."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import I1, BoolAttr, IntegerAttr, TensorType
from xdsl.ir import SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.graph_base import (
    BoundedOperation,
    check_same_elements,
    check_same_kind,
    check_window,
    int64,
    names,
)
from cimc.dialects.graph_types import AnyTensor, IntsAttr, shape_of


class PoolOperation(BoundedOperation):
    """Base of the pools over windows: ``(N, C, H, W)`` to ``(N, C, OH, OW)``.

    Pads are top, left, bottom, right; ONNX's ceil_mode is folded into them.
    """

    input = operand_def(TensorType)
    kernel = prop_def(IntsAttr)
    strides = prop_def(IntsAttr)
    pads = prop_def(IntsAttr)
    dilations = prop_def(IntsAttr)
    result = result_def(TensorType)

    def verify_operator(self) -> None:
        given, result = shape_of(self.input), shape_of(self.result)
        check_window(given, result, self.kernel, self.strides, self.pads, self.dilations)
        if given[:2] != result[:2]:
            raise VerifyException(f"a pool keeps batch and channels, got {given} to {result}")
        for axis in range(2):
            reach = self.dilations.data[axis] * (self.kernel.data[axis] - 1) + 1
            if max(self.pads.data[axis], self.pads.data[axis + 2]) >= reach:
                raise VerifyException(
                    f"pads {self.pads.data} are not smaller than the window {reach}: it could miss the image"
                )


@irdl_op_definition
class MaxPoolOp(PoolOperation):
    """Greatest value of each window; a pixel outside the image never wins.

    Codes pass unchanged (docs/numerics.md section 0 rule 8).

    ```mlir
    %y = graph.max_pool %x kernel <3, 3> strides <2, 2> pads <1, 1, 1, 1> dilations <1, 1> tensors ["y"]
        : (tensor<1x16x8x8xf32>) -> tensor<1x16x4x4xf32>
    ```
    """

    name = "graph.max_pool"

    assembly_format = (
        "$input `kernel` $kernel `strides` $strides `pads` $pads `dilations` $dilations "
        "(`lo` $lo^)? (`hi` $hi^)? `tensors` $tensors attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        input: SSAValue,
        result: AnyTensor,
        *,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        tensors: Sequence[str],
        lo: int | None = None,
        hi: int | None = None,
    ):
        super().__init__(
            operands=[input],
            result_types=[result],
            properties={
                "kernel": IntsAttr.of(kernel),
                "strides": IntsAttr.of(strides),
                "pads": IntsAttr.of(pads),
                "dilations": IntsAttr.of(dilations),
                "lo": int64(lo),
                "hi": int64(hi),
                "tensors": names(tensors),
            },
        )

    def verify_operator(self) -> None:
        super().verify_operator()
        check_same_elements([self.input, self.result])


@irdl_op_definition
class AveragePoolOp(PoolOperation):
    """Mean of each window over the image's pixels, or with ``count_include_pad`` over all of the window.

    At level 2 by docs/numerics.md section 0 rule 9.

    ```mlir
    %y = graph.average_pool %x kernel <2, 2> strides <2, 2> pads <0, 0, 0, 0> dilations <1, 1>
        count_include_pad false tensors ["y"] : (tensor<1x16x8x8xf32>) -> tensor<1x16x4x4xf32>
    ```
    """

    name = "graph.average_pool"

    count_include_pad = prop_def(IntegerAttr[I1])

    assembly_format = (
        "$input `kernel` $kernel `strides` $strides `pads` $pads `dilations` $dilations "
        "`count_include_pad` $count_include_pad (`lo` $lo^)? (`hi` $hi^)? "
        "`tensors` $tensors attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        input: SSAValue,
        result: AnyTensor,
        *,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        count_include_pad: bool,
        tensors: Sequence[str],
        lo: int | None = None,
        hi: int | None = None,
    ):
        super().__init__(
            operands=[input],
            result_types=[result],
            properties={
                "kernel": IntsAttr.of(kernel),
                "strides": IntsAttr.of(strides),
                "pads": IntsAttr.of(pads),
                "dilations": IntsAttr.of(dilations),
                "count_include_pad": BoolAttr.from_bool(count_include_pad),
                "lo": int64(lo),
                "hi": int64(hi),
                "tensors": names(tensors),
            },
        )

    @property
    def counts_padding(self) -> bool:
        """Whether pixels outside the image count as zeros."""
        return bool(self.count_include_pad.value.data)

    def verify_operator(self) -> None:
        super().verify_operator()
        check_same_kind([self.input, self.result])


@irdl_op_definition
class GlobalAveragePoolOp(BoundedOperation):
    """Mean over height and width: ``(N, C, H, W)`` to ``(N, C, 1, 1)``.

    ```mlir
    %y = graph.global_average_pool %x tensors ["y"] : (tensor<1x16x8x8xf32>) -> tensor<1x16x1x1xf32>
    ```
    """

    name = "graph.global_average_pool"

    input = operand_def(TensorType)
    result = result_def(TensorType)

    assembly_format = (
        "$input (`lo` $lo^)? (`hi` $hi^)? `tensors` $tensors attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        input: SSAValue,
        result: AnyTensor,
        *,
        tensors: Sequence[str],
        lo: int | None = None,
        hi: int | None = None,
    ):
        super().__init__(
            operands=[input],
            result_types=[result],
            properties={"lo": int64(lo), "hi": int64(hi), "tensors": names(tensors)},
        )

    def verify_operator(self) -> None:
        given, result = shape_of(self.input), shape_of(self.result)
        if len(given) != 4 or result != (*given[:2], 1, 1):
            raise VerifyException(f"works on images (N, C, H, W) to (N, C, 1, 1), got {given} to {result}")
        check_same_kind([self.input, self.result])
