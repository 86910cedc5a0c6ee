"""Pieces of a row: a context computes its block of a row piece by piece and sends each when it is done.

A stage that takes pieces has a ring for each, with the columns that its windows see, so that it begins a row when the
first of them are there, and hands on its own first piece while it works on the next one. Columns under the windows of
two pieces go to both rings. Where a source comes in whole rows one ring serves all pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from xdsl.ir import SSAValue

from cimc.dialects.cim import ConcatOp, DcomOp, StageOp, StorageCastOp, ViewOp
from cimc.dialects.cim_types import Function
from cimc.passes.place.source_rows import (
    has_blind_windows,
    head_window,
    holds_image,
    is_global_pool,
    shares_rows,
)

WHOLE_ROWS = (Function.AVERAGE_POOL, Function.GLOBAL_AVERAGE_POOL)
"""Functions whose constants are those of all columns of a row."""


def divisible(stage: StageOp) -> bool:
    """Whether a stage can compute its rows in pieces, each with columns of its source."""
    if stage.frame_product is not None or is_global_pool(stage) or holds_image(stage):
        return False
    window = head_window(stage)
    if window is not None and has_blind_windows(window):
        return False
    return not any(isinstance(op, DcomOp) and op.function.data in WHOLE_ROWS for op in stage.body.block.ops)


def cut(first: int, last: int, pieces: int) -> list[tuple[int, int]]:
    """Positions [first, last) in as many pieces, equal up to one position; no piece is empty."""
    count = min(pieces, last - first)
    return list(pairwise(first + j * (last - first) // count for j in range(count + 1)))


def in_order(first: int, last: int, pieces: int, block: int) -> list[tuple[int, int]]:
    """The pieces of a block of a row in the order in which they are computed: every other block from its end.

    Neighbouring blocks so begin, or end, where they meet: windows at the border wait for pieces of one time.
    """
    found = cut(first, last, pieces)
    return found[::-1] if block % 2 else found


def pieces_of(stage: StageOp, p0: int, p1: int, block: int) -> list[tuple[int, int]]:
    """The pieces of a context with positions [p0, p1) of a stage's rows, which are block number ``block`` of them."""
    return in_order(p0, p1, stage.pieces.value.data, block)


def splits(stage: StageOp, source: int, arch: Any) -> bool:
    """Whether a stage in pieces has a ring for each of them for source number ``source``."""
    if stage.pieces.value.data == 1 or (source == 0 and shares_rows(stage, arch)):
        return False
    return any(maker.pieces.value.data > 1 for maker in makers(stage.sources[source]))


def makers(value: SSAValue) -> Sequence[StageOp]:
    """The stages that make parts of the rows of ``value``."""
    match value.owner:
        case StageOp():
            return (value.owner,)
        case ConcatOp():
            return [stage for arg in value.owner.args for stage in makers(arg)]
        case ViewOp() | StorageCastOp():
            return makers(value.owner.value)
        case _:
            return ()
