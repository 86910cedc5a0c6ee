"""Weights to cells and back (docs/crossbar.md, step 2).

Cells of a product are uint8 (K, N, D): row, logical column, cell of the weight, D = ``cells_per_weight``.
In a physical array the D cells are adjacent columns, ``n * D + d``. Flips are bool (G, N, D), one bit per
physical column and row group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.rows import Bounds, group_of_rows

Cells = npt.NDArray[np.uint8]
Flips = npt.NDArray[np.bool_]


def plane_tops(coding: Coding) -> npt.NDArray[np.int64]:
    """int64 [D]: the largest digit of each plane."""
    return np.array([plane.top for plane in coding.planes], dtype=np.int64)


def encode(w: npt.NDArray[np.integer[Any]], coding: Coding) -> Cells:
    """Digits of the weights ``w`` (K, N): uint8 (K, N, D), before column flip.

    :class:`ValueError` when a weight is outside ``coding.weight_range``.
    """
    low, high = coding.weight_range
    if w.ndim != 2:
        raise ValueError(f"weights are (K, N), got shape {w.shape}")
    if w.size and (w.min() < low or w.max() > high):
        raise ValueError(f"weights must be in {low} … {high} for {coding}, got {w.min()} … {w.max()}")
    wide = w.astype(np.int32)
    if coding.weight_encoding == "differential":
        parts = {1: np.maximum(wide, 0), -1: np.maximum(-wide, 0)}
    else:
        # Masking below gives the two's complement bits of a negative weight.
        parts = {1: wide + coding.weight_offset}
    cells = np.empty((*w.shape, coding.cells_per_weight), dtype=np.uint8)
    for d, plane in enumerate(coding.planes):
        cells[:, :, d] = (parts[plane.polarity] >> plane.shift) & plane.top
    return cells


def flip_bits(cells: Cells, coding: Coding, bounds: Bounds) -> Flips:
    """bool (G, N, D): the physical columns whose digit sum over a group is above half of its maximum.

    The maximum counts the group's used rows only. All false without ``column_flip``.
    """
    groups = len(bounds) - 1
    if not coding.column_flip:
        return np.zeros((groups, *cells.shape[1:]), dtype=np.bool_)
    sums = np.add.reduceat(cells, bounds[:-1], axis=0, dtype=np.int64)
    maximum = np.diff(bounds)[:, None, None] * plane_tops(coding)
    return 2 * sums > maximum


def flipped(cells: Cells, flips: Flips, coding: Coding, bounds: Bounds) -> Cells:
    """``levels - 1 - digit`` where the column's bit is set; its own inverse. uint8 (K, N, D)."""
    if not flips.any():
        return cells
    tops = plane_tops(coding).astype(np.uint8)
    return np.where(flips[group_of_rows(bounds)], tops - cells, cells)


def store(w: npt.NDArray[np.integer[Any]], coding: Coding, bounds: Bounds) -> tuple[Cells, Flips]:
    """What is programmed for the weights ``w`` (K, N): cells uint8 (K, N, D) and flips bool (G, N, D)."""
    digits = encode(w, coding)
    flips = flip_bits(digits, coding, bounds)
    return flipped(digits, flips, coding, bounds), flips


def conversion_levels(cells: Cells, coding: Coding) -> npt.NDArray[np.int16]:
    """int16 (K, N, J): the levels each conversion sees, the difference of the polarities if it is analog."""
    levels = cells.astype(np.int16)
    if not coding.analog:
        return levels
    half = coding.cells_per_weight // 2
    return levels[:, :, :half] - levels[:, :, half:]


def decode(cells: Cells, flips: Flips, coding: Coding, bounds: Bounds) -> npt.NDArray[np.int64]:
    """int64 (K, N): the weights these cells stand for, from cell contents alone.

    Equals the encoded weights for cells made by :func:`store`; for other contents it is what an ideal read
    with a lossless converter would multiply by.
    """
    groups = group_of_rows(bounds)
    w = np.full(cells.shape[:2], -coding.weight_offset, dtype=np.int64)
    for d, plane in enumerate(coding.planes):
        digits = cells[:, :, d].astype(np.int64)
        if flips[:, :, d].any():
            digits = np.where(flips[groups, :, d], plane.top - digits, digits)
        w += plane.coefficient * digits
    return w
