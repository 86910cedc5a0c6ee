"""The ``cim`` dialect: meta-operators of crossbar machines, on channel-last rows (H, W, C) of one frame.

A :class:`StageOp` is one array operator with its digital tail, or one digital operator; its body says what
every copy does. Tiles, copies and cores are not operations: a stage names a tile grid, a number of
copies and a placement table in the weight store.

Named after CIM-MLC's meta-operators: a read (compute) for every write (program weights), per computing mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, get_args

from xdsl.dialects.builtin import (
    I64,
    ArrayAttr,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    TensorType,
    i64,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Dialect, Operation, Region, SSAValue
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import IsTerminator, NoTerminator
from xdsl.utils.exceptions import VerifyException

from cimc.dialects.base import CimOperation
from cimc.dialects.cim_arrays import (
    Read,
    ReadCoreOp,
    ReadRowOp,
    ReadXbOp,
    Write,
    WriteCoreOp,
    WriteRowOp,
    WriteXbOp,
)
from cimc.dialects.cim_digital import DcomOp, RequantiseOp
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.cim_real import RealOp
from cimc.dialects.cim_rows import ConcatOp, StorageCastOp, ViewOp
from cimc.dialects.cim_types import ArraysType, CodingAttr, FunctionAttr, WindowAttr
from cimc.dialects.graph_types import IntsAttr, shape_of
from cimc.dialects.levels import Level, Rule
from cimc.dialects.mem import HostCallOp, InputOp, OutputOp, RelayoutOp
from cimc.dialects.mem_real import IndexMapOp, MatmulOp
from cimc.dialects.row_layout import RowLayout, layout_of
from cimc.dialects.weights import WeightRefAttr


@irdl_op_definition
class YieldOp(CimOperation):
    """Ends a stage with the rows it delivers.

    ```mlir
    cim.yield %q : tensor<56x56x64x!graph.quant<u8, 0.02, 0>>
    ```
    """

    name = "cim.yield"

    value = operand_def(TensorType)

    traits = traits_def(IsTerminator())
    assembly_format = "$value attr-dict `:` type($value)"

    def __init__(self, value: SSAValue):
        super().__init__(operands=[value])


@irdl_op_definition
class StageOp(CimOperation):
    """One array operator with its digital tail, or one digital operator; ``copies`` hold the weights that often.

    Contexts compute and send their rows in ``pieces`` (``passes/place/pieces.py``).

    The body's arguments are the stage's sources: the first feeds the windowed or array operator, the others
    enter the tail row by row. ``placement`` names the table of contexts and crossbars (``passes/place``).

    ```mlir
    %y = cim.stage "conv1" copies 2 (%x) frame <16, 8, 8> placement <"conv1.place">
         : (tensor<8x8x1x!graph.quant<u8, 0.1, 0>>) -> tensor<8x8x16x!graph.quant<u8, 0.2, 0>> {
    ^bb0(%a: tensor<8x8x1x!graph.quant<u8, 0.1, 0>>):
      %w = cim.write_row ...
      %acc = cim.read_row %w, %a ...
      %q = cim.requantise %acc ...
      cim.yield %q : tensor<8x8x16x!graph.quant<u8, 0.2, 0>>
    }
    ```
    """

    name = "cim.stage"

    label = prop_def(StringAttr)
    copies = prop_def(IntegerAttr[I64], default_value=IntegerAttr(1, i64))
    pieces = prop_def(IntegerAttr[I64], default_value=IntegerAttr(1, i64))
    sources = var_operand_def(TensorType)
    placement = opt_prop_def(WeightRefAttr)
    frame = prop_def(IntsAttr)
    """ONNX shape of one frame of the result, without the batch."""
    strides = opt_prop_def(IntsAttr)
    """Steps of row, position and channel in the frame's elements, where they are not those of an image or of tokens."""
    waits = opt_prop_def(IntsAttr)
    """Numbers of the sources whose rows wait while those of another are computed from whole frames."""
    tensors = opt_prop_def(ArrayAttr[StringAttr])
    result = result_def(TensorType)
    body = region_def("single_block")

    traits = traits_def(NoTerminator())
    assembly_format = (
        "$label (`copies` $copies^)? (`pieces` $pieces^)? `(` $sources `)` `frame` $frame (`strides` $strides^)? "
        "(`waits` $waits^)? (`placement` $placement^)? (`tensors` $tensors^)? attr-dict "
        "`:` functional-type($sources, $result) $body"
    )

    def __init__(
        self,
        label: str,
        sources: Sequence[SSAValue],
        result: Attribute,
        block: Block,
        frame: Sequence[int],
        tensors: ArrayAttr[StringAttr] | None = None,
        strides: Sequence[int] | None = None,
        waits: Sequence[int] = (),
    ):
        super().__init__(
            operands=[list(sources)],
            properties={
                "label": StringAttr(label),
                "frame": IntsAttr.of(frame),
                "strides": None if strides is None else IntsAttr.of(strides),
                "waits": IntsAttr.of(waits) if waits else None,
                "tensors": tensors,
            },
            result_types=[result],
            regions=[Region(block)],
        )

    @property
    def layout(self) -> RowLayout:
        """How the frame lies in the result's rows."""
        rows = shape_of(self.result)
        if self.strides is None:
            return layout_of(rows, self.frame.data)
        return RowLayout(*rows, *self.strides.data)

    def waiting_rows(self, number: int) -> int:
        """Rows of source ``number`` that wait for a whole frame of another: all of them, or none."""
        waits = self.waits is not None and number in self.waits.data
        return shape_of(self.sources[number])[0] if waits else 0

    @property
    def frame_product(self) -> FrameProductOp | None:
        """The product with a whole frame that the stage begins with, if it does."""
        first = self.body.block.first_op
        return first if isinstance(first, FrameProductOp) else None

    @property
    def read(self) -> Read | None:
        """The stage's array operator, if it has one."""
        return cast("Read | None", _first_of(_READS, self.regions[0].block))

    @property
    def write(self) -> Write | None:
        """The operation that programs the stage's arrays, if it has any."""
        return cast("Write | None", _first_of(_WRITES, self.regions[0].block))

    def verify_(self) -> None:
        if self.copies.value.data < 1:
            raise VerifyException(f"a stage has at least one copy, got {self.copies.value.data}")
        if self.pieces.value.data < 1:
            raise VerifyException(f"a row has at least one piece, got {self.pieces.value.data}")
        block = self.body.block
        if [a.type for a in block.args] != [s.type for s in self.sources]:
            raise VerifyException("the body's arguments and the stage's sources differ in type")
        last = block.last_op
        if not isinstance(last, YieldOp) or last.value.type != self.result.type:
            raise VerifyException("a stage ends in a cim.yield of its result's type")


_READS, _WRITES = get_args(Read), get_args(Write)


def _first_of(kinds: tuple[type[Operation], ...], block: Block) -> Operation | None:
    """The first operation of a block that is of one of ``kinds``. Passes ask a stage for its array operator thousands
    of times, so this looks at types, and at regions without their names: an ``isinstance`` of abstract classes and the
    look-up of a region by name take most of a microsecond each."""
    op = block.first_op
    while op is not None and type(op) not in kinds:
        op = op.next_op
    return op


Cim = Dialect(
    "cim",
    [
        WriteXbOp,
        WriteRowOp,
        WriteCoreOp,
        ReadXbOp,
        ReadRowOp,
        ReadCoreOp,
        RequantiseOp,
        DcomOp,
        RealOp,
        FrameProductOp,
        YieldOp,
        StageOp,
        ConcatOp,
        ViewOp,
        StorageCastOp,
    ],
    [FunctionAttr, WindowAttr, CodingAttr, ArraysType],
)

MAPPED_LEVEL = Level(
    "mapped",
    "level 3: stages of meta-operators on channel-last rows of one frame; tiles and cores in tables by name",
    {
        ModuleOp: (),
        FuncOp: (),
        ReturnOp: (),
        **{
            op: ()
            for op in (
                InputOp,
                OutputOp,
                RelayoutOp,
                HostCallOp,
                IndexMapOp,
                MatmulOp,
                ConcatOp,
                ViewOp,
                StorageCastOp,
            )
        },
        StageOp: (
            Rule(
                "a stage programs the arrays it reads",
                lambda op: isinstance(op, StageOp) and (op.read is None) == (op.write is None),
            ),
        ),
        **{
            op: (Rule("meta-operators stand in a stage", lambda op: isinstance(op.parent_op(), StageOp)),)
            for op in (
                WriteXbOp,
                WriteRowOp,
                WriteCoreOp,
                ReadXbOp,
                ReadRowOp,
                ReadCoreOp,
                RequantiseOp,
                DcomOp,
                RealOp,
                FrameProductOp,
                YieldOp,
            )
        },
    },
)
