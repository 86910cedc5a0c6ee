"""How the rows of a weight matrix are spread over crossbars that activate a group of wordlines at a time.

An array reads ``parallel_rows`` wordlines at once, so a tile of R rows takes ceil(R / parallel_rows) steps, and all
tiles of a copy work side by side: a window takes the steps of the tallest tile. Packed tiles are as tall as the
crossbar and the last one is short: 576 rows on crossbars of 128 with 8 at once are 128, 128, 128, 128, 64 and take
16 steps. Even tiles take 15 on the same five crossbars, and 12 on six, which is the least of crossbars x steps.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from cimc.runtime.crossbar.coding import Coding


def spreads(coding: Coding, crossbar_rows: int) -> bool:
    """Whether the height of tiles is free: groups of wordlines stay what they are wherever tiles are cut.

    Not where all wordlines work at once, where groups do not fill a crossbar exactly, or where columns are flipped
    tile by tile, which a converter that loses information would see.
    """
    groups, rest = divmod(crossbar_rows, coding.parallel_rows)
    return groups > 1 and rest == 0 and not coding.column_flip


def row_tiles(rows: int, coding: Coding, crossbar_rows: int) -> int:
    """Tiles for ``rows`` rows: the fewest crossbars x steps of a window, and of equal ones the fewest crossbars.

    A copy more and a tile more compete for the same crossbars, so that what counts is the work a crossbar does in a
    cycle: an interval reached with fewer crossbars x steps leaves crossbars for copies elsewhere. At most twice the
    tiles that packed rows need.
    """
    packed = ceil(rows / crossbar_rows)
    if not spreads(coding, crossbar_rows):
        return packed
    groups = ceil(rows / coding.parallel_rows)
    return min(range(packed, 2 * packed + 1), key=lambda tiles: (tiles * ceil(groups / tiles), tiles))


def useful_row_tiles(rows: int, coding: Coding, crossbar_rows: int, core_crossbars: int) -> list[int]:
    """Numbers of tiles that take fewer steps than any smaller number, ascending: what a scheduler may choose from.

    From packed to twice that; no number needs more cores for a column of tiles than packed rows do, so that no partial
    sums are added that would not be added anyway.
    """
    packed = ceil(rows / crossbar_rows)
    if not spreads(coding, crossbar_rows):
        return [packed]
    groups = ceil(rows / coding.parallel_rows)
    most = min(2 * packed, core_crossbars * ceil(packed / core_crossbars), groups)
    return [
        tiles
        for tiles in range(packed, most + 1)
        if tiles == packed or ceil(groups / tiles) < ceil(groups / (tiles - 1))
    ]


def tile_height(rows: int, tiles: int, coding: Coding, crossbar_rows: int) -> int:
    """Rows of all tiles but the last, a whole number of groups where the height is free.

    Raises ``ValueError`` for fewer tiles than the rows need.
    """
    if tiles * crossbar_rows < rows:
        raise ValueError(f"{rows} rows do not fit {tiles} crossbars of {crossbar_rows}")
    if not spreads(coding, crossbar_rows):
        return crossbar_rows
    return coding.parallel_rows * ceil(ceil(rows / coding.parallel_rows) / tiles)


def stage_tile_height(write: Any, arch: Any, coding: Coding) -> int:
    """The tile height of a stage's weights: its matrix over the row tiles of its grid."""
    return tile_height(write.arrays.type.shape.data[0], write.grid.data[0], coding, arch.crossbar.rows)
