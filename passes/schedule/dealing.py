"""How the windows of an image are dealt to the copies of an array stage: rows in turn, and blocks of each row.

Copy ``(i, j)`` of ``rows`` x ``columns`` computes block ``j`` of the output rows ``i``, ``i + rows``, ... Blocks of
columns keep a row's windows together in time: consumers get whole rows early, and a copy's rings hold a part of a
row only. Rows in turn cost less on the way: a block's turn is short, and its neighbours' columns arrive twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from cimc.dialects.cim import StageOp
from cimc.dialects.graph_types import shape_of

LEAST_BLOCK = 4
"""Windows of a block below which rows are dealt instead where both are as quick: between two turns a copy waits for its
digital tail, 10 to 30 cycles on the machines here (docs/scheduling.md)."""


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


def deal(rows: int, positions: int, copies: int) -> Dealing | None:
    """The quickest dealing of ``rows`` x ``positions`` windows to ``copies``; ``None`` where some copies would idle.

    Among equally quick ones: the most blocks of at least ``LEAST_BLOCK`` windows, else the fewest blocks.
    """
    ways = [
        Dealing(copies // columns, columns)
        for columns in range(1, min(copies, positions) + 1)
        if copies % columns == 0 and copies // columns <= rows
    ]
    if not ways:
        return None
    least = min(way.windows(rows, positions) for way in ways)
    quick = [way for way in ways if way.windows(rows, positions) == least]
    wide = [way for way in quick if way.columns == 1 or positions // way.columns >= LEAST_BLOCK]
    return wide[-1] if wide else quick[0]


def useful_copies(rows: int, positions: int) -> list[tuple[int, int]]:
    """Numbers of copies that are quicker than any fewer, ascending, with the windows of their slowest copy."""
    best: dict[int, int] = {}
    for height in {ceil(rows / n) for n in range(1, rows + 1)}:
        for width in {ceil(positions / n) for n in range(1, positions + 1)}:
            copies = ceil(rows / height) * ceil(positions / width)
            best[copies] = min(best.get(copies, height * width), height * width)
    found: list[tuple[int, int]] = []
    for copies in sorted(best):
        if not found or best[copies] < found[-1][1]:
            found.append((copies, best[copies]))
    return found


def extents(stage: StageOp) -> tuple[int, int]:
    """Rows and positions of a stage's result that can be dealt; one position where rows stay whole.

    They do in digital stages, and where padding is so wide that a block of columns could see none of the image.
    """
    rows, positions, _ = shape_of(stage.result)
    if stage.read is None:
        return rows, 1
    window = stage.read.window
    reach = (window.kernel[1] - 1) * window.dilations[1]
    return rows, 1 if max(window.pads[1], window.pads[3]) > reach else positions


def possible_copies(stage: StageOp, copies: int) -> int:
    """The largest number of copies, up to ``copies``, that all have windows to compute."""
    rows, positions = extents(stage)
    return next(
        n for n in range(min(copies, rows * positions), 0, -1) if deal(rows, positions, n) is not None
    )


def dealing_of(stage: StageOp) -> Dealing:
    """The dealing of a stage's copies. Raises ``ValueError`` where some would have no window."""
    rows, positions = extents(stage)
    dealing = deal(rows, positions, stage.copies.value.data)
    if dealing is None:
        raise ValueError(f"{stage.copies.value.data} copies share {rows} rows of {positions} windows")
    return dealing
