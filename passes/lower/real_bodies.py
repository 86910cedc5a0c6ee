"""Bodies of chip-level contexts on real values: moves by index, products of two activations."""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation, SSAValue

from cimc.diagnostics import UnsupportedError
from cimc.dialects.base import located
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import shape_of
from cimc.dialects.isa import Address, AluOp, CopyOp, FreeOp, LoopOp, RecvOp, SendOp
from cimc.dialects.mem_real import IndexMapOp, MatmulOp
from cimc.passes.lower.chip_bodies import ChipBody, ChipBuffer
from cimc.passes.lower.copy_patterns import RowLoops, row_loops
from cimc.passes.place.tail_plan import element_of
from cimc.runtime.program import BufferKind, Element
from cimc.runtime.program.builder import ProgramBuilder

MAX_INSTRUCTIONS = 4096
"""Rows of code that one move may take; a more irregular one belongs to the host."""

ELEMENTS = "elements"
"""The buffer of a move's constants."""


def index_map_body(op: IndexMapOp, ctx: CimContext, builder: ProgramBuilder, tap: int) -> ChipBody:
    """Collect the operands, make every row of the result by strided copies, send it.

    Raises ``UnsupportedError`` for an index too irregular to write down.
    """
    steps: list[Operation] = []
    before: list[Operation] = []
    buffers: list[ChipBuffer] = []
    for number, value in enumerate(op.args):
        loop, held = _collected(number, value, op.taken[number], builder)
        steps.append(loop)
        buffers.append(held)
    sizes = [prod(taken) for taken in op.taken]
    names = [f"whole{number}" for number in range(len(sizes))]
    if op.constant is not None:
        values = ctx.store.array(op.constant.key.data)
        before.append(constant_op(values, builder))
        buffers.append(ChipBuffer(ELEMENTS, Element.F32, 1, len(values), len(values), BufferKind.WHOLE))
        names.append(ELEMENTS)
        sizes.append(len(values))
    rows, width, depth = shape_of(op.result)
    index = ctx.store.array(op.index.key.data).reshape(rows, width * depth)
    starts = np.cumsum([0, *sizes[:-1]])
    count = 0
    for loops in row_loops(index, starts):
        steps.append(_made_rows(loops, names, (width, depth), builder, tap))
        count += len(loops.copies) + 2 * len(loops.extents) + 1
        if count > MAX_INSTRUCTIONS:
            raise UnsupportedError(
                located(
                    op, f"its elements take more than {MAX_INSTRUCTIONS} copies to move; they have no order"
                )
            )
    buffers.append(ChipBuffer("row", element_of(op.result.type), 2, width * depth, depth))
    return ChipBody([*before, LoopOp(None, steps)], buffers)


def _collected(
    number: int, value: SSAValue, extents: tuple[int, int, int], builder: ProgramBuilder
) -> tuple[LoopOp, ChipBuffer]:
    """All rows of operand ``number``, of these extents, into a whole buffer, one after the other."""
    rows, width, depth = extents
    row, volume = width * depth, rows * width * depth
    name, ring = f"whole{number}", f"in{number}"
    pattern = builder.add_copy(1, 0, 0, row, 1, 1)
    to = Address(name, 0, 0, (), (0, row))
    turn: list[Operation] = [RecvOp(ring, 1), CopyOp(to, Address(ring), pattern), FreeOp(ring, 1)]
    held = ChipBuffer(name, element_of(value.type), 1, volume, volume, BufferKind.WHOLE)
    return LoopOp(rows, turn), held


def constant_op(values: npt.NDArray[np.float32], builder: ProgramBuilder) -> AluOp:
    """The constants of a move into their buffer, once a run."""
    record = builder.add_record([len(values), 0, 0, 1], values)
    return AluOp("constant", Address(ELEMENTS), None, Address(-1), n=len(values), record=record)


def _made_rows(
    loops: RowLoops, names: list[str], extents: tuple[int, int], builder: ProgramBuilder, tap: int
) -> LoopOp:
    """One nest of loops: the copies of a row and its send."""
    width, depth = extents
    inner = len(loops.extents)
    at = Address("row", 0, 0, (0,) * inner + (1,))
    turn: list[Operation] = []
    for copy, base, steps in zip(loops.copies, loops.bases, loops.steps, strict=True):
        pattern = builder.add_copy(
            copy.outer, copy.outer_from, copy.outer_to, copy.inner, copy.inner_from, copy.inner_to
        )
        source = Address(names[copy.source], 0, base, (), (0, *steps))
        turn.append(CopyOp(Address("row", 0, copy.to, at.row_steps), source, pattern))
    number = Address(-1, loops.first, 0, (0, *loops.row_steps))
    turn.append(SendOp(at, number, "routes0", n=depth, m=width, tap=tap))
    *outer, innermost = loops.extents
    nest = LoopOp(innermost, turn)
    for extent in reversed(outer):
        nest = LoopOp(extent, [nest])
    return nest


def matmul_body(op: MatmulOp, builder: ProgramBuilder, tap: int) -> ChipBody:
    """Collect the second operand, then a row of the first at a time through the digital unit."""
    batch, rows, depth, columns = op.extents
    gather, held = _collected(1, op.rhs, (batch * depth, 1, columns), builder)
    record = builder.add_record([depth, columns, 1])
    at = Address("row", 0, 0, (0, 0, 1))
    matrix = Address("whole1", 0, 0, (), (0, depth * columns))
    number = Address(-1, 0, 0, (0, rows, 1))
    turn: list[Operation] = [
        RecvOp("in0", 1),
        AluOp("matmul", at, Address("in0"), matrix, n=columns, record=record),
        FreeOp("in0", 1),
        SendOp(at, number, "routes0", n=columns, m=1, tap=tap),
    ]
    row = ChipBuffer("row", Element.F32, 2, columns, columns)
    return ChipBody([LoopOp(None, [gather, LoopOp(batch, [LoopOp(rows, turn)])])], [held, row])
