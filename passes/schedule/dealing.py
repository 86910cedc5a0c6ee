"""How the windows of an image are dealt to the copies of a stage: rows in turn, and blocks of each row.

Copy ``(i, j)`` of ``rows`` x ``columns`` computes block ``j`` of the output rows ``i``, ``i + rows``, ... Blocks of
columns keep a row's windows together in time: consumers get whole rows early, and a copy's rings hold a part of a
row only. What they cost: columns under the overlap of two blocks' windows are sent to both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import ceil
from typing import Any

from cimc.dialects.cim import ConcatOp, StageOp
from cimc.dialects.cim_rows import uncast
from cimc.dialects.graph_types import shape_of
from cimc.passes.place.pieces import divisible
from cimc.passes.place.source_rows import head_window, shares_rows
from cimc.passes.place.tail_plan import element_of

MORE = 0.1
"""Share of a row's cycles at the global buffer's port that blocks of it with columns of their own may add."""


@dataclass(frozen=True)
class Dealing:
    """Output rows are dealt to ``rows`` copies in turn, each row in ``columns`` blocks."""

    rows: int
    columns: int

    @property
    def copies(self) -> int:
        """Copies of the weights."""
        return self.rows * self.columns

    def windows(self, rows: int, positions: int) -> int:
        """Windows that the slowest copy computes for an image of ``rows`` x ``positions``."""
        return ceil(rows / self.rows) * ceil(positions / self.columns)

    def blocks(self, positions: int) -> list[tuple[int, int]]:
        """The blocks [first, last) of a row, of equal width up to one window."""
        return list(pairwise(j * positions // self.columns for j in range(self.columns + 1)))


@lru_cache(maxsize=1 << 14)
def deal(rows: int, positions: int, copies: int, finest: int | None = None) -> Dealing | None:
    """The quickest dealing of ``rows`` x ``positions`` windows to ``copies``; ``None`` where some copies would idle.

    In no more blocks than ``finest`` (absent: any number) if that can be; among equally quick ones in the most.
    """
    ways = [
        Dealing(copies // columns, columns)
        for columns in range(1, min(copies, positions) + 1)
        if copies % columns == 0 and copies // columns <= rows
    ]
    ways = [way for way in ways if finest is None or way.columns <= finest] or ways[:1]
    return min(ways, key=lambda way: (way.windows(rows, positions), -way.columns), default=None)


@lru_cache(maxsize=256)
def useful_copies(rows: int, positions: int, finest: int | None = None) -> tuple[tuple[int, int], ...]:
    """Numbers of copies in up to ``finest`` blocks of a row that are quicker than any fewer, ascending, with the
    windows of their slowest copy."""
    best: dict[int, int] = {}
    blocks = positions if finest is None else min(positions, finest)
    for height in {ceil(rows / n) for n in range(1, rows + 1)}:
        for width in {ceil(positions / n) for n in range(1, blocks + 1)}:
            copies = ceil(rows / height) * ceil(positions / width)
            best[copies] = min(best.get(copies, height * width), height * width)
    found: list[tuple[int, int]] = []
    for copies in sorted(best):
        if not found or best[copies] < found[-1][1]:
            found.append((copies, best[copies]))
    return tuple(found)


def extents(stage: StageOp) -> tuple[int, int]:
    """Rows and positions of a stage's result that can be dealt; one position where rows stay whole.

    They do where a function needs all of a row, or the whole image, and where padding is so wide that a block of
    columns could see none of the image.
    """
    rows, positions, _ = shape_of(stage.result)
    return rows, positions if divisible(stage) else 1


def finest_blocks(stage: StageOp, arch: Any) -> int | None:
    """Blocks of a row beyond which the global buffer is busy too long with them; ``None`` where cores are the source
    or all blocks take whole rows.

    Neighbouring blocks share the columns under their windows' overlap, every block takes whole cycles of the port, and
    the port is the chip's narrowest.
    """
    if isinstance(uncast(stage.sources[0]).owner, StageOp | ConcatOp) or shares_rows(stage, arch):
        return None
    window, source = head_window(stage), stage.sources[0]
    if window is None:
        return 1
    _, columns, channels = shape_of(source)
    reach = (window.kernel[1] - 1) * window.dilations[1] + 1
    pixel = channels * element_of(source.type).size_bytes / arch.chip.global_buffer_bytes_per_cycle
    positions = extents(stage)[1]

    def cycles(blocks: int) -> int:
        wide = (ceil(positions / blocks) - 1) * window.strides[1] + reach
        return blocks * ceil(min(wide, columns) * pixel)

    most = (1 + MORE) * cycles(1)
    return max(blocks for blocks in range(1, positions + 1) if blocks == 1 or cycles(blocks) <= most)


def possible_copies(stage: StageOp, copies: int, arch: Any) -> int:
    """The largest number of copies, up to ``copies``, that all have windows to compute."""
    (rows, positions), finest = extents(stage), finest_blocks(stage, arch)
    return next(n for n in range(min(copies, rows * positions), 0, -1) if deal(rows, positions, n, finest))


def dealt(rows: int, positions: int, copies: int, finest: int | None = None) -> Dealing:
    """:func:`deal`; raises ``ValueError`` where some copies would have no window."""
    dealing = deal(rows, positions, copies, finest)
    if dealing is None:
        raise ValueError(f"{copies} copies share {rows} rows of {positions} windows")
    return dealing


def dealing_of(stage: StageOp, arch: Any) -> Dealing:
    """The dealing of a stage's copies. Raises ``ValueError`` where some would have no window."""
    return dealt(*extents(stage), stage.copies.value.data, finest_blocks(stage, arch))
