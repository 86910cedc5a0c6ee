"""Attention on rows of tokens: heads are positions, and what would move them is a cut of the same rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation, SSAValue

from cimc.dialects import graph
from cimc.dialects.cim import StageOp
from cimc.dialects.graph_types import shape_of
from cimc.dialects.mem import HostCallOp, RelayoutOp
from cimc.dialects.mem_real import IndexMapOp, MatmulOp
from cimc.dialects.row_layout import RowLayout, columns_layout, frame_shape, heads_layout
from cimc.passes.schedule.dynamic_products import DynamicProduct, cores_are_quicker
from cimc.passes.schedule.stages import ELEMENTWISE
from cimc.runtime.program import Element

LHS, RHS, OTHER = "lhs", "rhs", "other"
"""Who takes a value in the end: a product's rows, a product's frame, anything else."""

LINES = 3
"""Rows under way in a context: received, computed, sent."""


def products_on_cores(ops: Sequence[Operation], arch: Any) -> set[graph.MatmulOp]:
    """The products of two activations that cores take: a context a head, which holds the frame in local memory.

    Where the frame of a head with the rows that come with it and wait needs more than a core's memory, or the chip's
    digital unit is quicker than all cores together, that has the product.
    """
    if arch is None:
        return set()
    found: set[graph.MatmulOp] = set()
    for op in ops:
        if not isinstance(op, graph.MatmulOp):
            continue
        if op.is_quantised:  # chosen for arrays of cores before there were codes
            found.add(op)
            continue
        *heads, rows, _ = frame_shape(shape_of(op.lhs))
        *others, depth, columns = frame_shape(shape_of(op.rhs))
        waiting = waiting_lines(op)
        size = (depth * (waiting + columns) + LINES * columns) * Element.F32.size_bytes
        product = DynamicProduct(prod(heads), rows, depth, columns)
        fits = prod(heads) == prod(others) and size <= arch.core.local_buffer_bytes
        if fits and cores_are_quicker(product, arch):
            found.add(op)
    return found


def waiting_lines(op: graph.MatmulOp) -> int:
    """Rows of the first operand that a context holds: all of them, where they come with those of the frame."""
    return LINES if _follows_a_product(op.lhs) else shape_of(op.lhs)[-2] + LINES


def _follows_a_product(value: SSAValue) -> bool:
    """Whether rows of ``value`` come behind another product's, and so behind those of a frame made beside that."""
    owner = value.owner
    if isinstance(owner, (graph.SoftmaxOp, *ELEMENTWISE)):
        return any(_follows_a_product(v) for v in owner.operands)
    return isinstance(owner, graph.MatmulOp)


def takers(value: SSAValue, products: Collection[graph.MatmulOp]) -> set[str]:
    """Who takes ``value``, maybe after functions of each element: ``LHS``, ``RHS`` of products on cores, ``OTHER``."""
    found: set[str] = set()
    for use in value.uses:
        op = use.operation
        if isinstance(op, graph.MatmulOp) and op in products:
            found.add(LHS if use.index == 0 else RHS)
        elif isinstance(op, ELEMENTWISE):
            found |= takers(op.results[0], products)
        else:
            found.add(OTHER)
    return found


def layouts_by_heads(value: SSAValue, products: Collection[graph.MatmulOp]) -> list[RowLayout]:
    """The layouts in which ``value`` can go to products on cores; none if something else takes it too."""
    who, frame = takers(value, products), frame_shape(shape_of(value))
    if not who or OTHER in who or len(frame) < 2:
        return []
    return [heads_layout(frame)] if LHS in who else [heads_layout(frame), columns_layout(frame)]


def row_starts(rows: npt.NDArray[np.int64], source: RowLayout, target: RowLayout) -> tuple[int, ...] | None:
    """Where in a row of ``source`` each position of ``target`` begins, if a move takes every row from its own.

    ``rows``: elements by number, row by row on both sides (``moves.row_index``).
    """
    if source.rows != target.rows:
        return None
    row = source.positions * source.channels
    starts = rows[0, :, 0]
    wanted = (
        (np.arange(target.rows) * row)[:, np.newaxis, np.newaxis]
        + starts[:, np.newaxis]
        + np.arange(target.channels)
    )
    inside = starts.min() >= 0 and starts.max() + target.channels <= row
    return tuple(starts.tolist()) if inside and np.array_equal(rows, wanted) else None


def frames_before(value: SSAValue, known: dict[SSAValue, int]) -> int:
    """How many operations that need a whole frame before they give a row stand on the longest way to ``value``.

    ``known`` keeps the answers.
    """
    if value not in known:
        owner = value.owner
        assert isinstance(owner, Operation)
        frame = isinstance(owner, IndexMapOp | MatmulOp | HostCallOp | RelayoutOp) or (
            isinstance(owner, StageOp) and owner.frame_product is not None
        )
        known[value] = frame + max((frames_before(v, known) for v in owner.operands), default=0)
    return known[value]


def waiting_sources(sources: Sequence[SSAValue], known: dict[SSAValue, int], *, product: bool) -> list[int]:
    """Numbers of the sources of a stage whose rows wait for a whole frame: those whose companions come later and, of a
    ``product`` with a frame, the first where its rows come with those of the frame. The frame itself has a buffer."""
    counts = [frames_before(value, known) + (product and number == 1) for number, value in enumerate(sources)]
    return [
        number for number, count in enumerate(counts) if count < max(counts) and not (product and number == 1)
    ]
