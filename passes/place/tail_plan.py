"""The local row buffers of a stage: where the sums, the steps of the digital tail and the sent row lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import IntegerType, Signedness, TensorType
from xdsl.ir import Attribute, BlockArgument, SSAValue

from cimc.dialects.cim import DcomOp, RequantiseOp, StageOp, YieldOp
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.cim_real import RealOp
from cimc.dialects.cim_types import Function
from cimc.dialects.graph_types import QuantType, shape_of
from cimc.runtime.program import Element

ACC = "acc"
"""The buffer of a stage's sums."""
FRAME = "frame"
"""The buffer of the frame that a product takes whole."""
SUM = "sum"
"""The buffer of a global pool's sums."""


def element_of(type: Attribute) -> Element:
    """The element type of the buffers that hold rows of a tensor type."""
    assert isinstance(type, TensorType)
    element = type.get_element_type()
    if isinstance(element, QuantType):
        return Element.of(element.dtype)
    if isinstance(element, IntegerType):
        unsigned, bits = element.signedness.data is Signedness.UNSIGNED, max(8, element.width.data)
        if unsigned and bits > 16:  # only hosts compute with these; buffers have no unsigned words
            return Element.I64
        return Element.of(np.dtype(f"{'uint' if unsigned else 'int'}{bits}"))
    return Element.F32


def ring_name(argument: int) -> str:
    """The name of the ring behind a stage's source."""
    return f"in{argument}"


def piece_name(name: str, number: int) -> str:
    """The name of what piece ``number`` of a row has of its own; the first has the plain one."""
    return name if number == 0 else f"{name}.{number}"


def plain_name(name: str) -> str:
    """A name without the number of its piece."""
    return name.partition(".")[0]


@dataclass(frozen=True)
class LocalBuffer:
    """A buffer of output rows: ``slots`` rows of ``positions`` (or the context's block of them) x its channels, or of
    ``depth`` elements a position where that is given."""

    name: str
    element: Element
    positions: int
    slots: int
    depth: int | None = None

    def pitch(self, channels: int, positions: int) -> int:
        """Elements of a slot in a context of ``channels`` output channels and ``positions`` of a row."""
        return min(self.positions, positions) * (channels if self.depth is None else self.depth)

    def bytes(self, channels: int, positions: int) -> int:
        """Size in such a context."""
        return self.slots * self.pitch(channels, positions) * self.element.size_bytes


@dataclass(frozen=True)
class TailStep:
    """One digital function: the names of the buffers or rings it reads, and of the buffer it writes."""

    op: RequantiseOp | DcomOp | RealOp | FrameProductOp
    reads: tuple[str, ...]
    writes: str


@dataclass(frozen=True)
class TailPlan:
    """The tail of a stage on buffers; ``sent`` is the buffer the stage sends from."""

    steps: tuple[TailStep, ...]
    buffers: tuple[LocalBuffer, ...]
    sent: str

    def bytes(self, channels: int, positions: int) -> int:
        """Bytes of all buffers in a context of ``channels`` output channels and ``positions`` of a row."""
        return sum(b.bytes(channels, positions) for b in self.buffers)


def plan_tail(stage: StageOp) -> TailPlan:
    """Lay the tail of ``stage`` out in buffers; steps work in place where the element type stays.

    The buffer the stage sends from has two slots, so that a row is computed while the last one leaves.
    """
    where: dict[SSAValue, str] = {a: ring_name(a.index) for a in stage.body.block.args}
    buffers: dict[str, LocalBuffer] = {}

    def new_buffer(name: str, value: SSAValue) -> str:
        buffers[name] = LocalBuffer(name, element_of(value.type), shape_of(value)[1], 1)
        return name

    read = stage.read
    if read is not None:
        where[read.acc] = new_buffer(ACC, read.acc)
    steps: list[TailStep] = []
    for op in stage.body.block.ops:
        if not isinstance(op, RequantiseOp | DcomOp | RealOp | FrameProductOp):
            continue
        taken = op.operands
        if isinstance(op, FrameProductOp) and op.coding is not None:
            taken = (op.lhs,)  # the frame goes from its ring into cells
        elif isinstance(op, FrameProductOp):
            rows, positions, depth = shape_of(op.frame)
            buffers[FRAME] = LocalBuffer(FRAME, element_of(op.frame.type), positions, 1, rows * depth)
            where[op.frame] = FRAME
        reads = tuple(where[v] for v in taken)
        if isinstance(op, DcomOp) and _accumulates(op):
            buffers[SUM] = LocalBuffer(SUM, Element.I64, 1, 1)
        writes = _in_place(op, reads, buffers) or new_buffer(f"t{len(steps)}", op.result)
        steps.append(TailStep(op, reads, writes))
        where[op.result] = writes
    last = stage.body.block.last_op
    assert isinstance(last, YieldOp)
    sent = where[last.value]
    assert not isinstance(last.value, BlockArgument)
    buffers[sent] = LocalBuffer(sent, buffers[sent].element, buffers[sent].positions, 2)
    return TailPlan(tuple(steps), tuple(buffers.values()), sent)


def _accumulates(op: DcomOp) -> bool:
    """Whether a global pool of codes sums rows as they come, instead of holding the image."""
    return op.function.data is Function.GLOBAL_AVERAGE_POOL and element_of(op.args[0].type) is not Element.F32


def _in_place(
    op: RequantiseOp | DcomOp | RealOp | FrameProductOp,
    reads: tuple[str, ...],
    buffers: dict[str, LocalBuffer],
) -> str | None:
    """The buffer of the first operand, if the result can replace it."""
    if isinstance(op, RequantiseOp | FrameProductOp) or not _keeps_places(op):
        return None
    held = buffers.get(reads[0])
    return reads[0] if held is not None and held.element is element_of(op.result.type) else None


def _keeps_places(op: DcomOp | RealOp) -> bool:
    """Whether the result has the extents of the first operand."""
    return op.keeps_channels if isinstance(op, RealOp) else not op.function.data.windowed
