"""The state of one physical array: cells, flip bits, and what has been written (docs/crossbar.md, arrays)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UsageError
from cimc.runtime.crossbar.cells import Cells, Flips
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.rows import Bounds, group_bounds


@dataclass(frozen=True)
class Stored:
    """Cells of a product as one array holds them: (K, N, D), (G, N, D), and the row groups (G + 1)."""

    cells: Cells
    flips: Flips
    bounds: Bounds


class CellArray:
    """One crossbar of ``rows`` wordlines x ``cols`` physical columns of ``cell_bits``, empty at first.

    The D cells of a weight are adjacent: logical column n of a tile written at column c has the physical
    columns ``c + n * D + d``. One flip bit belongs to each physical column and group of ``parallel_rows``
    wordlines. ``version`` counts writes, so that a reader knows when what it derived from the cells is stale.
    """

    def __init__(self, rows: int, cols: int, cell_bits: int, parallel_rows: int):
        if min(rows, cols, cell_bits, parallel_rows) < 1:
            raise ValueError(
                f"an array has positive sizes, got {rows} x {cols}, {cell_bits} bits, {parallel_rows}"
            )
        self.rows = rows
        self.cols = cols
        self.cell_bits = cell_bits
        self.parallel_rows = parallel_rows
        self.version = 0
        self._shared = False
        self._cells: Cells = np.zeros((rows, cols), dtype=np.uint8)
        self._used: npt.NDArray[np.bool_] = np.zeros((rows, cols), dtype=np.bool_)
        self._flips: Flips = np.zeros((-(-rows // parallel_rows), cols), dtype=np.bool_)

    def write_like(self, twin: CellArray) -> None:
        """Program an empty array as ``twin``, of the same sizes, is programmed; they share cells until one is written.

        :class:`ValueError` for an array that was written or that has other sizes.
        """
        sizes = (self.rows, self.cols, self.cell_bits, self.parallel_rows)
        if self.version or sizes != (twin.rows, twin.cols, twin.cell_bits, twin.parallel_rows):
            raise ValueError("only an empty array of the same sizes is programmed like another one")
        self._cells, self._used, self._flips = twin._cells, twin._used, twin._flips
        self._shared = twin._shared = True
        self.version += 1

    def columns_per_tile(self, coding: Coding) -> int:
        """Logical columns of ``coding`` that fit side by side."""
        return self.cols // coding.cells_per_weight

    @property
    def used_wordlines(self) -> npt.NDArray[np.bool_]:
        """bool [rows]: wordlines with at least one written cell."""
        return np.asarray(self._used.any(axis=1))

    @property
    def used_columns(self) -> npt.NDArray[np.bool_]:
        """bool [cols]: physical columns with at least one written cell."""
        return np.asarray(self._used.any(axis=0))

    def write(self, cells: Cells, flips: Flips, first_row: int = 0, first_col: int = 0) -> None:
        """Program ``cells`` (K, N, D) on the wordlines from ``first_row`` and columns from ``first_col``.

        ``flips`` (G, N, D) are the bits of the groups the rows fall into. A column has one bit per group:
        where it changes, cells of that group outside this write lose their meaning and read as not written.
        :class:`UsageError` when the block leaves the array, a cell holds more than ``cell_bits``, or the
        flips have another number of groups.
        """
        block = cells.reshape(cells.shape[0], -1)
        wordlines, columns = self._window(block.shape[0], block.shape[1], first_row, first_col)
        if block.size and int(block.max()) >= 1 << self.cell_bits:
            raise UsageError(f"a cell of {self.cell_bits} bits cannot hold {int(block.max())}", where="write")
        groups = slice(first_row // self.parallel_rows, -(-wordlines.stop // self.parallel_rows))
        bits = flips.reshape(flips.shape[0], -1)
        if bits.shape != (groups.stop - groups.start, block.shape[1]):
            raise UsageError(
                f"wordlines {first_row} … {wordlines.stop - 1} are {groups.stop - groups.start} groups of "
                f"{self.parallel_rows}, got flip bits {bits.shape} for {block.shape[1]} columns",
                where="write",
            )
        if self._shared:
            self._cells, self._used, self._flips = self._cells.copy(), self._used.copy(), self._flips.copy()
            self._shared = False
        changed = np.repeat(self._flips[groups, columns] != bits, self.parallel_rows, axis=0)
        span = slice(groups.start * self.parallel_rows, min(groups.stop * self.parallel_rows, self.rows))
        self._used[span, columns] &= ~changed[: span.stop - span.start]
        self._flips[groups, columns] = bits
        self._cells[wordlines, columns] = block
        self._used[wordlines, columns] = True
        self.version += 1

    def read_back(
        self, coding: Coding, rows: int, columns: int, first_row: int = 0, first_col: int = 0
    ) -> Stored:
        """What a read of ``rows`` wordlines and ``columns`` logical columns sees, from cell contents alone.

        :class:`UsageError` when the block leaves the array, ``coding`` is of another kind of array, or a cell
        was never written.
        """
        if (coding.cell_bits, coding.parallel_rows) != (self.cell_bits, self.parallel_rows):
            raise UsageError(
                f"an array of {self.cell_bits}-bit cells, {self.parallel_rows} rows at once, cannot serve a "
                f"coding of {coding.cell_bits} bits and {coding.parallel_rows} rows",
                where="read",
            )
        depth = coding.cells_per_weight
        wordlines, physical = self._window(rows, columns * depth, first_row, first_col)
        if not self._used[wordlines, physical].all():
            row, column = np.argwhere(~self._used[wordlines, physical])[0].tolist()
            raise UsageError(
                f"cell ({first_row + row}, {first_col + column}) is read but was never written", where="read"
            )
        groups = slice(first_row // self.parallel_rows, -(-wordlines.stop // self.parallel_rows))
        return Stored(
            self._cells[wordlines, physical].reshape(rows, columns, depth).copy(),
            self._flips[groups, physical].reshape(-1, columns, depth).copy(),
            group_bounds([(rows, first_row)], self.parallel_rows),
        )

    def _window(self, rows: int, cols: int, first_row: int, first_col: int) -> tuple[slice, slice]:
        """Wordlines and physical columns of a block; :class:`UsageError` unless it lies in the array."""
        wordlines, columns = slice(first_row, first_row + rows), slice(first_col, first_col + cols)
        inside = (
            0 <= first_row and 0 <= first_col and wordlines.stop <= self.rows and columns.stop <= self.cols
        )
        if rows < 1 or cols < 1 or not inside:
            raise UsageError(
                f"wordlines {first_row} … {wordlines.stop - 1}, columns {first_col} … {columns.stop - 1} are "
                f"not a part of an array of {self.rows} x {self.cols}",
                where="array",
            )
        return wordlines, columns


def join(tiles: list[Stored]) -> Stored:
    """Row tiles of one column tile, in order, as one product: their groups stay apart."""
    return Stored(
        np.concatenate([tile.cells for tile in tiles]),
        np.concatenate([tile.flips for tile in tiles]),
        np.concatenate(
            [tiles[0].bounds[:1]]
            + [tile.bounds[1:] + sum(len(t.cells) for t in tiles[:i]) for i, tile in enumerate(tiles)]
        ),
    )
