"""The blocks of a stage: which rows and columns of its weights each context holds, and the rules they keep.

Before ``partition-stages`` a stage is one block a copy; after it the blocks are those of the placement table,
so that a table that is wrong either breaks a rule here or gives another result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp

from cimc.backends.schema import Architecture
from cimc.diagnostics import MismatchError
from cimc.dialects.base import located
from cimc.dialects.cim import StageOp
from cimc.dialects.graph_types import shape_of
from cimc.dialects.weights import WeightStore
from cimc.passes.place.network import COLUMNS
from cimc.passes.schedule.array_frames import frame_blocks
from cimc.passes.schedule.array_product import coding_of
from cimc.passes.schedule.dealing import dealing_of
from cimc.passes.schedule.row_tiles import stage_tile_height


@dataclass(frozen=True)
class Block:
    """Weight rows [k0, k1) x columns [n0, n1) for positions [p0, p1) of rows ``copy``, ``copy`` + row copies, ...; core
    and crossbar are -1 until placed."""

    copy: int
    chunk: int
    k0: int
    k1: int
    n0: int
    n1: int
    p0: int
    p1: int
    xbars: int
    phase: int
    core: int
    xbar: int
    stays: int = 0
    """Whether the weights stay in the crossbars for all calls."""

    @staticmethod
    def of(row: npt.NDArray[Any]) -> Block:
        """The block of one row of a placement table."""
        return Block(**dict(zip(COLUMNS, (int(v) for v in row), strict=True)))


def stage_blocks(stage: StageOp, store: WeightStore, arch: Architecture) -> tuple[Block, ...]:
    """The blocks of ``stage``.

    Raises ``MismatchError`` at the stage when copies have no window to compute, windows belong to no copy or to two,
    weights are held by no block or by two of a copy, or a block states another number of crossbars than it needs.
    """
    copies, (rows, positions, _) = stage.copies.value.data, shape_of(stage.result)
    if stage.frame_product is not None:
        copies *= positions  # a context takes one position of its rows
    try:
        dealing = dealing_of(stage, arch)
    except ValueError as error:
        raise _broken(stage, f"{error}: some have none to compute") from error
    k, n = _extents(stage)
    if stage.placement is None:
        return tuple(
            Block(copy, 0, 0, k, 0, n, *block, -1, 0, -1, -1)
            for copy in range(dealing.rows)
            for block in dealing.blocks(positions)
        )
    table = store.array(stage.placement.key.data)
    if table.ndim != 2 or table.shape[1] != len(COLUMNS):
        raise _broken(stage, f"a placement table has the columns {', '.join(COLUMNS)}, got {table.shape}")
    blocks = tuple(Block.of(row) for row in table)
    for problem in (
        *_extent_problems(blocks, rows, k, n),
        *_dealing_problems(blocks, copies, rows, positions),
        *_coverage_problems(blocks, k, n),
        *_crossbar_problems(blocks, stage, arch),
    ):
        raise _broken(stage, problem)
    return blocks


def check_placement(module: ModuleOp, store: WeightStore, arch: Architecture) -> None:
    """No two placed blocks of a phase share a crossbar, nor any two where the weights of one stay, and cores hold what
    they are given.

    Raises ``MismatchError`` at the second stage of the first conflict.
    """
    owners: dict[tuple[int, int, int], str] = {}
    held_by: dict[tuple[int, int], Block] = {}
    contexts: dict[tuple[int, int], int] = {}
    for stage in module.walk():
        if not isinstance(stage, StageOp) or stage.placement is None:
            continue
        for row in store.array(stage.placement.key.data):
            block = Block.of(row)
            if block.core < 0:
                continue
            held = contexts[block.phase, block.core] = contexts.get((block.phase, block.core), 0) + 1
            if block.core >= arch.chip.cores or held > arch.core.contexts:
                raise _broken(
                    stage,
                    f"core {block.core} is given context {held}; {arch.name} has {arch.chip.cores} cores of "
                    f"{arch.core.contexts} contexts",
                )
            for xbar in range(block.xbar, block.xbar + block.xbars):
                if not 0 <= xbar < arch.core.crossbars:
                    raise _broken(
                        stage, f"crossbar {xbar} of core {block.core}: a core has {arch.core.crossbars}"
                    )
                place = block.phase, block.core, xbar
                if place in owners:
                    raise _broken(
                        stage, f"crossbar {xbar} of core {block.core} is held by '{owners[place]}' already"
                    )
                owners[place] = stage.label.data
                other = held_by.setdefault((block.core, xbar), block)
                if other is not block and (block.stays or other.stays):
                    raise _broken(
                        stage,
                        f"crossbar {xbar} of core {block.core} keeps its weights, and is given to two phases",
                    )


def _extents(stage: StageOp) -> tuple[int, int]:
    """Weight rows and columns; a stage without arrays has no weight rows and its channels as columns."""
    if stage.write is None:
        return 0, shape_of(stage.result)[2]
    k, n = stage.write.arrays.type.shape.data
    return k, n


def _extent_problems(blocks: Iterable[Block], rows: int, k: int, n: int) -> Iterator[str]:
    for block in blocks:
        if not 0 <= block.copy < rows:
            yield f"a block begins at output row {block.copy}, the stage has {rows}"
        if not (0 <= block.k0 <= block.k1 <= k and 0 <= block.n0 < block.n1 <= n):
            yield (
                f"rows {block.k0} … {block.k1 - 1}, columns {block.n0} … {block.n1 - 1} are not a block of "
                f"{k} x {n} weights"
            )


def _dealing_problems(blocks: Sequence[Block], copies: int, rows: int, positions: int) -> Iterator[str]:
    """Every window belongs to one copy, and there are as many copies as the stage says."""
    held = {(b.copy, b.p0, b.p1) for b in blocks}
    if len(held) != copies:
        yield f"blocks belong to {len(held)} copies, the stage has {copies}"
    for copy in range(1 + max(b.copy for b in blocks)):
        reached = 0
        for p0, p1 in sorted((b0, b1) for c, b0, b1 in held if c == copy):
            if p0 != reached or p1 <= p0:
                break
            reached = p1
        if reached != positions:
            yield f"positions from {reached} on of output row {copy} belong to no copy or to two"


def _coverage_problems(blocks: tuple[Block, ...], k: int, n: int) -> Iterator[str]:
    """Every weight (or channel) stands in one block of every copy."""
    for copy, p0 in sorted({(b.copy, b.p0) for b in blocks}):
        mine = [b for b in blocks if (b.copy, b.p0) == (copy, p0)]
        row_cuts = sorted({0, k, *(b.k0 for b in mine), *(b.k1 for b in mine)}) if k else [0, 1]
        col_cuts = sorted({0, n, *(b.n0 for b in mine), *(b.n1 for b in mine)})
        held = np.zeros((len(row_cuts) - 1, len(col_cuts) - 1), np.int64)
        for b in mine:
            rows = slice(row_cuts.index(b.k0), row_cuts.index(b.k1)) if k else slice(None)
            held[rows, col_cuts.index(b.n0) : col_cuts.index(b.n1)] += 1
        for i, j in np.argwhere(held != 1).tolist():
            yield (
                f"rows {row_cuts[i]} … {row_cuts[i + 1] - 1}, columns {col_cuts[j]} … {col_cuts[j + 1] - 1} of "
                f"copy {copy} are held by {held[i, j]} blocks instead of one"
            )


def _crossbar_problems(blocks: Iterable[Block], stage: StageOp, arch: Architecture) -> Iterator[str]:
    """A block takes one crossbar a tile, and starts where a tile starts."""
    if stage.frame_product is not None:
        wanted = frame_blocks(stage, arch)
        yield from (
            f"columns {b.n0} … {b.n1 - 1} of position {b.p0} on {b.xbars} crossbars are none of {wanted}"
            for b in blocks
            if (b.n0, b.n1, b.xbars) not in wanted
        )
    if stage.write is None or stage.read is None:
        return
    diagonal = stage.read.diagonal
    coding = coding_of(stage.write.coding)
    rows = stage_tile_height(stage.write, arch, coding)
    columns = arch.crossbar.weight_columns(coding.weight_bits)
    for b in blocks:
        need = ceil((b.k1 - b.k0) / rows) * ceil((b.n1 - b.n0) / columns)
        if b.xbars != need:
            yield (
                f"rows {b.k0} … {b.k1 - 1}, columns {b.n0} … {b.n1 - 1} take {need} crossbars of {rows} x "
                f"{columns} weights, the table says {b.xbars}"
            )
        if diagonal.of_column(b.n0) != diagonal.of_column(b.n1 - 1):
            yield (
                f"columns {b.n0} … {b.n1 - 1} lie in several blocks of {diagonal.columns} columns: a context sees the "
                "channels of one"
            )
        if b.k0 % rows:
            yield f"a block starts at weight row {b.k0}, inside a row tile of {rows}"


def _broken(stage: StageOp, what: str) -> MismatchError:
    return MismatchError(located(stage, what))
