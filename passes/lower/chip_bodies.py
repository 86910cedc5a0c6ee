"""Bodies of chip-level contexts: model inputs and outputs, layout changes, host operators."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from xdsl.ir import Operation, SSAValue

from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.isa import (
    Address,
    AluOp,
    CopyOp,
    DmaOp,
    FreeOp,
    HostOp,
    LoopOp,
    RecvOp,
    SendOp,
)
from cimc.dialects.mem import HostCallOp, InputOp, OutputOp, RelayoutOp
from cimc.dialects.row_layout import RowLayout, frame_shape, layout_of, row_layout
from cimc.passes.place.tail_plan import element_of
from cimc.runtime.program import BufferKind, Element, IoTensor
from cimc.runtime.program.builder import ProgramBuilder

ROW = Address(-1, 0, 0, (0, 1))
"""The row number in a loop over the rows of an image."""


@dataclass(frozen=True)
class ChipBuffer:
    """A buffer of a chip-level context in the global buffer."""

    name: str
    element: Element
    slots: int
    pitch: int
    channels: int
    kind: BufferKind = BufferKind.LOCAL


@dataclass(frozen=True)
class ChipBody:
    """Instructions and buffers of a chip-level context."""

    ops: list[Operation]
    buffers: list[ChipBuffer]


def io_tensor(
    name: str,
    direction: str,
    value: SSAValue,
    frame: tuple[int, ...],
    element: Element,
    layout: RowLayout | None = None,
) -> IoTensor:
    """The I/O record of a model input, output or tap whose rows are ``value``; ``layout``: how the frame lies in them,
    where it is not that of its shape."""
    layout = layout or layout_of(shape_of(value), frame)
    codes = quant_of(value) if direction != "in" else None
    return IoTensor(
        name=name,
        direction=direction,
        element=int(element),
        shape=frame,
        rows=layout.rows,
        positions=layout.positions,
        channels=layout.channels,
        row_stride=layout.row_stride,
        pos_stride=layout.pos_stride,
        chan_stride=layout.chan_stride,
        scale=float(codes.scale) if codes is not None else None,
        zero_point=codes.zero_point if codes is not None else 0,
    )


def input_body(op: InputOp, copies: int, builder: ProgramBuilder, tap: int) -> ChipBody:
    """DMA a row, quantise it on the chip's digital unit if the rows are codes, send it.

    Rows are dealt to ``copies`` contexts in turn, so that host link, digital unit and port work on different rows.
    Parameters beside the buffers: ``copy``, ``turns``.
    """
    _, width, depth = shape_of(op.result)
    codes = quant_of(op.result)
    element = element_of(op.result.type)
    given = Element.F32 if codes is not None else element
    io = builder.add_io(io_tensor(op.port.data, "in", op.result, op.frame.data, given))
    number = Address(-1, "copy", 0, (0, copies))
    at = Address("row", 0, 0, (0, 1))
    turn: list[Operation] = [DmaOp(io, number, at, n=depth, m=width, out=False)]
    buffers = [ChipBuffer("row", given, 2, width * depth, depth)]
    if codes is not None:
        record = builder.add_record([codes.zero_point, codes.qmin, codes.qmax], [codes.scale])
        to = Address("codes", 0, 0, (0, 1))
        turn.append(AluOp("quantise", to, at, n=depth, m=width, record=record))
        buffers.append(ChipBuffer("codes", element, 2, width * depth, depth))
        at = to
    turn.append(SendOp(at, number, "routes0", n=depth, m=width, tap=tap))
    return ChipBody([LoopOp(None, [LoopOp("turns", turn)])], buffers)


def output_body(op: OutputOp, builder: ProgramBuilder) -> ChipBody:
    """Receive a row and let it leave over the host link."""
    rows, width, depth = shape_of(op.value)
    io = builder.add_io(io_tensor(op.port.data, "out", op.value, op.frame.data, element_of(op.value.type)))
    turn: list[Operation] = [
        RecvOp("in0", 1),
        DmaOp(io, ROW, Address("in0"), n=depth, m=width, out=True),
        FreeOp("in0", 1),
    ]
    return ChipBody([LoopOp(None, [LoopOp(rows, turn)])], [])


def relayout_body(op: RelayoutOp, builder: ProgramBuilder, tap: int) -> ChipBody:
    """Write the whole frame in ONNX order, read it back in rows of the other shape."""
    gather, held = _gather(0, op.value, row_layout(op.source.data), builder)
    scatter, row = _scatter(0, op.result, row_layout(op.target.data), "whole0", builder, tap)
    return ChipBody([LoopOp(None, [gather, scatter])], [held, row])


def host_body(op: HostCallOp, operator: int, builder: ProgramBuilder, taps: list[int]) -> ChipBody:
    """Collect the operands, run the operator on the host, send the results."""
    steps: list[Operation] = []
    buffers: list[ChipBuffer] = []
    for number, (value, shape) in enumerate(zip(op.args, op.source_shapes, strict=True)):
        loop, held = _gather(number, value, row_layout(frame_shape(shape)), builder)
        steps.append(loop)
        buffers.append(held)
    steps.append(HostOp(operator))
    for number, (value, shape) in enumerate(zip(op.outs, op.target_shapes, strict=True)):
        element = element_of(value.type)
        result = f"result{number}"
        buffers.append(ChipBuffer(result, element, 1, prod(shape), prod(shape), BufferKind.WHOLE))
        loop, row = _scatter(number, value, row_layout(frame_shape(shape)), result, builder, taps[number])
        steps.append(loop)
        buffers.append(row)
    return ChipBody([LoopOp(None, steps)], buffers)


def _gather(
    number: int, value: SSAValue, layout: RowLayout, builder: ProgramBuilder
) -> tuple[LoopOp, ChipBuffer]:
    """Rows of a ring into a whole buffer, in ONNX order."""
    _, width, depth = shape_of(value)
    pattern = builder.add_copy(width, depth, layout.pos_stride, depth, 1, layout.chan_stride)
    name, ring = f"whole{number}", f"in{number}"
    to = Address(name, 0, 0, (), (0, layout.row_stride))
    volume = prod(shape_of(value))
    turn: list[Operation] = [RecvOp(ring, 1), CopyOp(to, Address(ring), pattern), FreeOp(ring, 1)]
    held = ChipBuffer(name, element_of(value.type), 1, volume, volume, BufferKind.WHOLE)
    return LoopOp(layout.rows, turn), held


def _scatter(
    number: int, value: SSAValue, layout: RowLayout, source: str, builder: ProgramBuilder, tap: int
) -> tuple[LoopOp, ChipBuffer]:
    """Rows out of a whole buffer, sent by the routes of result ``number``."""
    _, width, depth = shape_of(value)
    pattern = builder.add_copy(width, layout.pos_stride, depth, depth, layout.chan_stride, 1)
    name = f"row{number}"
    at = Address(name, 0, 0, (0, 1))
    whole = Address(source, 0, 0, (), (0, layout.row_stride))
    turn: list[Operation] = [
        CopyOp(at, whole, pattern),
        SendOp(at, ROW, f"routes{number}", n=depth, m=width, tap=tap),
    ]
    return LoopOp(layout.rows, turn), ChipBuffer(name, element_of(value.type), 2, width * depth, depth)
