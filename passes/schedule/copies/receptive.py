"""Which rows of the input a stage's rows need, and how few windows hang together: what any order must respect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cimc.dialects.cim_types import WindowAttr

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Field:
    """Rows [first, last] of the input that every row of a tensor needs."""

    first: Rows
    last: Rows

    @staticmethod
    def of_input(rows: int) -> Field:
        """Every row of an input needs itself."""
        return Field(np.arange(rows, dtype=np.int64), np.arange(rows, dtype=np.int64))

    def through(self, window: WindowAttr | None, rows: int) -> Field | None:
        """The field of ``rows`` rows computed from this tensor; ``None`` where windows leave rows of the tensor out,
        or see padding only."""
        if window is None:
            return Field(self.first, self.last) if rows == len(self.first) else None
        top = np.arange(rows) * window.strides[0] - window.pads[0]
        bottom = top + window.kernel[0] - 1
        if window.dilations[0] > 1 or bottom[0] < 0 or top[-1] >= len(self.first):
            return None
        ends = np.clip(np.stack([top, bottom]), 0, len(self.first) - 1)
        found = Field(self.first[ends[0]], self.last[ends[1]])
        return found if bool((found.first[1:] <= found.last[:-1] + 1).all()) else None

    def late(self, entered: int) -> int:
        """Rows that cannot be computed from any ``entered`` rows of the input, whichever these are.

        Rows that can be computed form runs; fields overlap, so runs pushed together need no more rows of the input, and
        only runs at the two borders need fewer than others: a run from the top and one from the bottom are the most.
        """
        rows = len(self.first)
        if entered > self.last[-1] - self.first[0]:
            return 0
        top = np.concatenate([[0], self.last - self.first[0] + 1])
        bottom = np.concatenate([[0], (self.last[-1] - self.first + 1)[::-1]])
        counts = np.searchsorted(bottom, entered - top[top <= entered], side="right") - 1
        return rows - min(rows, int((np.flatnonzero(top <= entered) + counts).max(initial=0)))


def least_users(window: WindowAttr, sizes: tuple[int, int], results: tuple[int, int]) -> int:
    """Windows that see an element of a source of ``sizes``, at the element that the fewest see; ``results`` windows."""
    least = 1
    for axis in (0, 1):
        seen = np.zeros(sizes[axis], np.int64)
        for tap in range(window.kernel[axis]):
            at = (
                np.arange(results[axis]) * window.strides[axis]
                - window.pads[axis]
                + tap * window.dilations[axis]
            )
            np.add.at(seen, at[(at >= 0) & (at < sizes[axis])], 1)
        least *= int(seen.min())
    return least


def least_columns(window: WindowAttr, columns: int, positions: int) -> int:
    """Columns of the source that a window sees in one row, at the position that sees the fewest."""
    first = np.arange(positions)[:, None] * window.strides[1] - window.pads[1]
    at = first + np.arange(window.kernel[1]) * window.dilations[1]
    return int(((at >= 0) & (at < columns)).sum(axis=1).min())
