"""The ``mem`` dialect: how tensors enter, leave and are re-laid in the chip's memory tiers.

At the mapped level a tensor is one frame of channel-last rows, ``tensor<H x W x C>``: an image, or
a vector or token sequence with W = 1. ``mem`` operations run on the chip itself: its global buffer,
host link and digital unit.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ArrayAttr, StringAttr, TensorType
from xdsl.ir import Attribute, Dialect, SSAValue
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.base import CimOperation
from cimc.dialects.graph_types import IntsAttr, quant_of, shape_of
from cimc.dialects.mem_real import IndexMapOp, MatmulOp
from cimc.dialects.weights import WeightRefAttr


def _check_rows(value: SSAValue, what: str) -> None:
    if len(shape_of(value)) != 3:
        raise VerifyException(f"{what} is rows of a frame, rank 3 (H, W, C), got shape {shape_of(value)}")


def _volume(shape: Sequence[int]) -> int:
    product = 1
    for extent in shape:
        product *= extent
    return product


@irdl_op_definition
class InputOp(CimOperation):
    """A model input: the host link's DMA delivers rows, the chip's digital unit quantises them.

    ``frame`` is the ONNX shape of one frame without the batch dimension.

    ```mlir
    %x = mem.input "image" frame <3, 8, 8> : tensor<8x8x3x!graph.quant<u8, 0.0123, 0>>
    ```
    """

    name = "mem.input"

    port = prop_def(StringAttr)
    frame = prop_def(IntsAttr)
    tensors = opt_prop_def(ArrayAttr[StringAttr])
    result = result_def(TensorType)

    assembly_format = "$port `frame` $frame (`tensors` $tensors^)? attr-dict `:` type($result)"

    def __init__(
        self, port: str, frame: Sequence[int], result: Attribute, tensors: ArrayAttr[StringAttr] | None = None
    ):
        super().__init__(
            properties={"port": StringAttr(port), "frame": IntsAttr.of(frame), "tensors": tensors},
            result_types=[result],
        )

    def verify_(self) -> None:
        _check_rows(self.result, "an input")
        if _volume(self.frame.data) != _volume(shape_of(self.result)):
            raise VerifyException(f"frame {self.frame.data} and rows {shape_of(self.result)} differ in size")


@irdl_op_definition
class OutputOp(CimOperation):
    """A model output: rows leave over the host link; codes carry their scale in the I/O table.

    ```mlir
    mem.output "logits" frame <10> %y : tensor<1x1x10x!graph.quant<u8, 0.05, 128>>
    ```
    """

    name = "mem.output"

    port = prop_def(StringAttr)
    frame = prop_def(IntsAttr)
    value = operand_def(TensorType)

    assembly_format = "$port `frame` $frame $value attr-dict `:` type($value)"

    def __init__(self, port: str, frame: Sequence[int], value: SSAValue):
        super().__init__(operands=[value], properties={"port": StringAttr(port), "frame": IntsAttr.of(frame)})

    def verify_(self) -> None:
        _check_rows(self.value, "an output")
        if _volume(self.frame.data) != _volume(shape_of(self.value)):
            raise VerifyException(f"frame {self.frame.data} and rows {shape_of(self.value)} differ in size")


@irdl_op_definition
class RelayoutOp(CimOperation):
    """Reshape through the global buffer: the whole frame is written in ONNX order and read back as other rows.

    ``source`` and ``target`` are the ONNX shapes of the frame on both sides, without the batch dimension.

    ```mlir
    %y = mem.relayout %x from <16, 4, 4> to <256> : tensor<4x4x16xf32> -> tensor<1x1x256xf32>
    ```
    """

    name = "mem.relayout"

    value = operand_def(TensorType)
    source = prop_def(IntsAttr)
    target = prop_def(IntsAttr)
    tensors = opt_prop_def(ArrayAttr[StringAttr])
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "$value `from` $source `to` $target (`tensors` $tensors^)? attr-dict "
        "`:` type($value) `->` type($result)"
    )

    def __init__(
        self,
        value: SSAValue,
        source: Sequence[int],
        target: Sequence[int],
        result: Attribute,
        tensors: ArrayAttr[StringAttr] | None = None,
    ):
        super().__init__(
            operands=[value],
            properties={"source": IntsAttr.of(source), "target": IntsAttr.of(target), "tensors": tensors},
            result_types=[result],
        )

    def verify_(self) -> None:
        sizes = {_volume(s) for s in (self.source.data, self.target.data)}
        sizes |= {_volume(shape_of(v)) for v in (self.value, self.result)}
        if len(sizes) != 1:
            raise VerifyException("source, target and both row shapes must hold the same number of elements")
        if quant_of(self.value) != quant_of(self.result):
            raise VerifyException("a relayout moves elements unchanged, but the element types differ")


@irdl_op_definition
class HostCallOp(CimOperation):
    """An operator that runs on the host, on whole frames in the global buffer, through onnxruntime.

    ``sources`` and ``targets`` are the ONNX shapes (batch 1 included) the sub-model sees, flattened in
    one list with the ranks in ``source_ranks`` and ``target_ranks``.

    ```mlir
    %y = mem.host_call "Erf" <"erf.model"> (%x) sources <1, 8> ranks <2> targets <1, 8> ranks <2>
         : (tensor<1x1x8xf32>) -> tensor<1x1x8xf32>
    ```
    """

    name = "mem.host_call"

    op_type = prop_def(StringAttr)
    model = prop_def(WeightRefAttr)
    args = var_operand_def(TensorType)
    sources = prop_def(IntsAttr)
    source_ranks = prop_def(IntsAttr)
    targets = prop_def(IntsAttr)
    target_ranks = prop_def(IntsAttr)
    tensors = opt_prop_def(ArrayAttr[StringAttr])
    outs = var_result_def(TensorType)

    assembly_format = (
        "$op_type $model `(` $args `)` `sources` $sources `ranks` $source_ranks "
        "`targets` $targets `ranks` $target_ranks (`tensors` $tensors^)? attr-dict `:` functional-type($args, $outs)"
    )

    def __init__(
        self,
        op_type: str,
        model: WeightRefAttr,
        args: Sequence[SSAValue],
        sources: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        results: Sequence[Attribute],
        tensors: ArrayAttr[StringAttr] | None = None,
    ):
        super().__init__(
            operands=[list(args)],
            properties={
                "op_type": StringAttr(op_type),
                "model": model,
                "sources": IntsAttr.of([e for s in sources for e in s]),
                "source_ranks": IntsAttr.of([len(s) for s in sources]),
                "targets": IntsAttr.of([e for s in targets for e in s]),
                "target_ranks": IntsAttr.of([len(s) for s in targets]),
                "tensors": tensors,
            },
            result_types=[list(results)],
        )

    @property
    def source_shapes(self) -> list[tuple[int, ...]]:
        """ONNX shapes of the arguments."""
        return split_ranks(self.sources.data, self.source_ranks.data)

    @property
    def target_shapes(self) -> list[tuple[int, ...]]:
        """ONNX shapes of the results."""
        return split_ranks(self.targets.data, self.target_ranks.data)

    def verify_(self) -> None:
        for value, shape in zip(
            [*self.args, *self.outs], [*self.source_shapes, *self.target_shapes], strict=True
        ):
            if _volume(shape) != _volume(shape_of(value)):
                raise VerifyException(f"host shape {shape} and rows {shape_of(value)} differ in size")


def split_ranks(flat: Sequence[int], ranks: Sequence[int]) -> list[tuple[int, ...]]:
    """Cut a flat list of extents into shapes of the given ranks."""
    shapes: list[tuple[int, ...]] = []
    start = 0
    for rank in ranks:
        shapes.append(tuple(flat[start : start + rank]))
        start += rank
    return shapes


Mem = Dialect("mem", [InputOp, OutputOp, RelayoutOp, HostCallOp, IndexMapOp, MatmulOp], [])
