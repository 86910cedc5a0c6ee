"""Row groups: which rows of a product are read together (docs/crossbar.md, step 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Bounds = npt.NDArray[np.int64]
"""int64 [G + 1]: group g of a product holds its rows bounds[g] … bounds[g + 1] - 1, never none."""


def group_bounds(segments: Sequence[tuple[int, int]], parallel_rows: int) -> Bounds:
    """Bounds of the row groups of a product whose rows lie in ``segments`` of (rows, first wordline).

    Each segment is one row tile: ``rows`` consecutive rows of the product on the wordlines from
    ``first wordline`` of an array of its own. A group is the wordlines [gP, (g+1)P) of the physical array as
    placed, so a tile that does not start on a multiple of P has a short first group. Groups without a used
    wordline do not appear. :class:`ValueError` when a segment is empty or starts below 0.
    """
    cuts = [0]
    for rows, first in segments:
        if rows < 1 or first < 0:
            raise ValueError(
                f"a row tile has at least one row and starts at wordline 0 or above: {rows}, {first}"
            )
        start = cuts[-1] - first
        inner = range((first // parallel_rows + 1) * parallel_rows, first + rows, parallel_rows)
        cuts += [start + wordline for wordline in inner]
        cuts.append(start + first + rows)
    if len(cuts) == 1:
        raise ValueError("a product has at least one row tile")
    return np.array(cuts, dtype=np.int64)


def group_of_rows(bounds: Bounds) -> npt.NDArray[np.int64]:
    """int64 [K]: the group of each row."""
    return np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
