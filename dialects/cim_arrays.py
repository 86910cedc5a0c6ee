"""Meta-operators of the arrays: a write (program weights) for every read (compute), per computing mode."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import IntegerType, TensorType
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, opt_prop_def, prop_def, result_def
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.base import CimOperation
from cimc.dialects.cim_types import ArraysType, CodingAttr, Diagonal, WindowAttr
from cimc.dialects.graph_types import IntsAttr, quant_of, shape_of
from cimc.dialects.weights import WeightRefAttr


class _WriteOp(CimOperation):
    """Shared definition of the write meta-operators."""

    weight = prop_def(WeightRefAttr)
    grid = prop_def(IntsAttr)
    coding = prop_def(CodingAttr)
    arrays = result_def(ArraysType)

    assembly_format = "$weight `grid` $grid `coding` $coding attr-dict `:` type($arrays)"

    def __init__(self, weight: str, grid: Sequence[int], coding: CodingAttr, arrays: ArraysType):
        super().__init__(
            properties={"weight": WeightRefAttr.of(weight), "grid": IntsAttr.of(grid), "coding": coding},
            result_types=[arrays],
        )

    def verify_(self) -> None:
        if len(self.grid.data) != 2 or min(self.grid.data) < 1:
            raise VerifyException(f"a tile grid is row tiles x column tiles, got {self.grid.data}")


@irdl_op_definition
class WriteXbOp(_WriteOp):
    """Program whole crossbars (XBM) with the tiles of a weight matrix; ``grid`` is row x column tiles.

    ```mlir
    %w = cim.write_xb #graph.ref<"conv1.matrix"> grid #graph.ints<5, 2>
         coding #cim.coding<weight_bits 8, weight_encoding offset> : !cim.arrays<576x64>
    ```
    """

    name = "cim.write_xb"


@irdl_op_definition
class WriteRowOp(_WriteOp):
    """Program arrays wordline by wordline (WLM); fields as in :class:`WriteXbOp`.

    ```mlir
    %w = cim.write_row #graph.ref<"conv1.matrix"> grid #graph.ints<5, 2>
         coding #cim.coding<weight_bits 8, weight_encoding offset> : !cim.arrays<576x64>
    ```
    """

    name = "cim.write_row"


@irdl_op_definition
class WriteCoreOp(_WriteOp):
    """Program the arrays of whole cores (CM); fields as in :class:`WriteXbOp`.

    ```mlir
    %w = cim.write_core #graph.ref<"conv1.matrix"> grid #graph.ints<5, 2>
         coding #cim.coding<weight_bits 8, weight_encoding twos_complement> : !cim.arrays<576x64>
    ```
    """

    name = "cim.write_core"


class _ReadOp(CimOperation):
    """Shared definition of the read meta-operators.

    ``block`` (channels, columns, groups) is that of a grouped convolution: the arrays' rows are (tap, channel of
    the block), and every column sees the channels of its own block (:class:`Diagonal`).
    """

    arrays = operand_def(ArraysType)
    source = operand_def(TensorType)
    window = prop_def(WindowAttr)
    block = opt_prop_def(IntsAttr)
    steps = opt_prop_def(WeightRefAttr)
    acc = result_def(TensorType)

    assembly_format = (
        "$arrays `,` $source $window (`block` $block^)? (`steps` $steps^)? attr-dict "
        "`:` type($arrays) `,` type($source) `->` type($acc)"
    )

    def __init__(
        self,
        arrays: SSAValue,
        source: SSAValue,
        window: WindowAttr,
        acc: Attribute,
        *,
        diagonal: Diagonal | None = None,
        steps: str | None = None,
    ):
        block = (diagonal.channels, diagonal.columns, diagonal.groups) if diagonal is not None else None
        super().__init__(
            operands=[arrays, source],
            properties={
                "window": window,
                "block": IntsAttr.of(block) if block is not None else None,
                "steps": WeightRefAttr.of(steps) if steps is not None else None,
            },
            result_types=[acc],
        )

    @property
    def diagonal(self) -> Diagonal:
        """The blocks of the weights; one block where the convolution has no groups."""
        if self.block is not None:
            return Diagonal(*self.block.data)
        return Diagonal(shape_of(self.source)[2], shape_of(self.acc)[2])

    def _verify_block(self, columns: int) -> None:
        if self.block is None:
            return
        block, depth = self.block.data, shape_of(self.source)[2]
        if len(block) != 3 or min(block) < 1:
            raise VerifyException(f"a block is channels, columns and groups, got {block}")
        channels, width, groups = block
        if depth % channels or columns % width or depth // channels != columns // width:
            raise VerifyException(
                f"blocks of {channels} channels and {width} columns do not tile {depth} channels and {columns} columns"
            )
        if channels % groups or width % groups:
            raise VerifyException(
                f"{groups} groups do not share {channels} channels and {width} columns evenly"
            )

    def _verify_codes(self) -> None:
        """The source's codes are those that the arrays' coding cuts into digits."""
        codes = quant_of(self.source)
        if codes is None:
            raise VerifyException("arrays take codes; quantise the source first")
        write = self.arrays.owner
        fields = write.coding.fields if isinstance(write, _WriteOp) else {}
        for name, given in (("input_bits", codes.bits), ("input_min", codes.qmin)):
            if fields.get(name, given) != given:
                raise VerifyException(
                    f"the arrays' coding has {name} {fields[name]}, the source's codes {given}"
                )

    def verify_(self) -> None:
        height, width, _ = shape_of(self.source)
        kh, kw = self.window.kernel
        matrix = self.arrays.type
        assert isinstance(matrix, ArraysType)
        k, n = matrix.shape.data
        self._verify_block(n)
        channels = self.block.data[0] if self.block is not None else shape_of(self.source)[2]
        if k != kh * kw * channels:
            raise VerifyException(
                f"a window of {kh}x{kw}x{channels} is {kh * kw * channels} rows, the arrays have {k}"
            )
        self._verify_codes()
        acc = self.acc.type
        assert isinstance(acc, TensorType)
        if acc.get_shape() != (*self.window.output(height, width), n):
            raise VerifyException(
                f"the window gives {(*self.window.output(height, width), n)} sums, the result has {acc.get_shape()}"
            )
        element = acc.get_element_type()
        if not isinstance(element, IntegerType) or element.width.data not in (32, 64):
            raise VerifyException(f"a read delivers i32 or i64 sums, not {element}")


@irdl_op_definition
class ReadXbOp(_ReadOp):
    """Multiply every window of the source by the arrays, whole crossbars at a time (XBM).

    The result is ``sum_k in_k * w_kn`` in units of 2^-F of the coding (docs/crossbar.md); ``steps`` names
    the converter steps h, one per weight plane.

    ```mlir
    %acc = cim.read_xb %w, %x #cim.window<3 3 stride 1 1 pad 1 1 1 1 dilation 1 1>
         : !cim.arrays<576x64>, tensor<56x56x64x!graph.quant<u8, 0.1, 0>> -> tensor<56x56x64xi32>
    ```
    """

    name = "cim.read_xb"


@irdl_op_definition
class ReadRowOp(_ReadOp):
    """As :class:`ReadXbOp`, a group of wordlines at a time (WLM).

    ```mlir
    %acc = cim.read_row %w, %x #cim.window<1 1 stride 1 1 pad 0 0 0 0 dilation 1 1>
         : !cim.arrays<64x10>, tensor<1x1x64x!graph.quant<u8, 0.1, 0>> -> tensor<1x1x10xi32>
    ```
    """

    name = "cim.read_row"


@irdl_op_definition
class ReadCoreOp(_ReadOp):
    """As :class:`ReadXbOp`, a whole output row at a time: the core slides the window itself (CM).

    ```mlir
    %acc = cim.read_core %w, %x #cim.window<3 3 stride 1 1 pad 1 1 1 1 dilation 1 1>
         : !cim.arrays<576x64>, tensor<56x56x64x!graph.quant<u8, 0.1, 0>> -> tensor<56x56x64xi32>
    ```
    """

    name = "cim.read_core"


Read = ReadXbOp | ReadRowOp | ReadCoreOp
"""The read meta-operators."""
Write = WriteXbOp | WriteRowOp | WriteCoreOp
"""The write meta-operators."""
