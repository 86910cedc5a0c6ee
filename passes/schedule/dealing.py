"""How the windows of an image are dealt to the copies of an array stage: rows in turn, and blocks of each row.

Copy ``(i, j)`` of ``rows`` x ``columns`` computes block ``j`` of the output rows ``i``, ``i + rows``, ... Blocks of
columns keep a row's windows together in time: consumers get whole rows early, and a copy's rings hold a part of a
row only. What they cost: columns under the overlap of two blocks' windows are sent to both.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from cimc.dialects.cim import ConcatOp, StageOp
from cimc.dialects.graph_types import shape_of

TWICE = 0.1
"""Share of a row that the global buffer may send twice so that blocks of the row have their columns."""


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


def deal(rows: int, positions: int, copies: int, finest: int | None = None) -> Dealing | None:
    """The quickest dealing of ``rows`` x ``positions`` windows to ``copies``; ``None`` where some copies would idle.

    Among equally quick ones: the most blocks, but no more than ``finest`` (absent: any number) if that can be.
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
    wide = [way for way in quick if finest is None or way.columns <= finest]
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


def finest_blocks(stage: StageOp) -> int | None:
    """Blocks of a row beyond which the global buffer sends too many columns twice; ``None`` where cores are the source.

    Neighbouring blocks share the columns under their windows' overlap, and the buffer's port is the chip's narrowest.
    """
    if stage.read is None or isinstance(stage.sources[0].owner, StageOp | ConcatOp):
        return None
    window = stage.read.window
    shared = max(0, (window.kernel[1] - 1) * window.dilations[1] + 1 - window.strides[1])
    columns = shape_of(stage.sources[0])[1]
    return max(1, int(TWICE * columns / shared)) if shared else None


def possible_copies(stage: StageOp, copies: int) -> int:
    """The largest number of copies, up to ``copies``, that all have windows to compute."""
    rows, positions = extents(stage)
    return next(
        n for n in range(min(copies, rows * positions), 0, -1) if deal(rows, positions, n) is not None
    )


def dealing_of(stage: StageOp) -> Dealing:
    """The dealing of a stage's copies. Raises ``ValueError`` where some would have no window."""
    rows, positions = extents(stage)
    dealing = deal(rows, positions, stage.copies.value.data, finest_blocks(stage))
    if dealing is None:
        raise ValueError(f"{stage.copies.value.data} copies share {rows} rows of {positions} windows")
    return dealing
