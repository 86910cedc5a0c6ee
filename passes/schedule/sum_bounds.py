"""How large the sums of an array operator can become, and so how wide its accumulators are (numerics 0.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.rows import group_bounds


def accumulator_bits(largest: int) -> int:
    """32 when sums of magnitude ``largest`` fit an int32, otherwise 64."""
    return 32 if largest < 1 << 31 else 64


def largest_sum(
    matrix: npt.NDArray[Any], coding: Coding, tile_rows: int, steps: npt.NDArray[np.int64] | None = None
) -> int:
    """Largest magnitude of a sum over all rows of ``matrix`` (K, N), in units of 2^-F.

    Exact sums are bounded by the weights. A converter that can lose information is bounded by its codes times its
    ``steps`` (one per phase and conversion, absent: 1), since its errors may all point the same way.
    """
    h = np.ones(coding.step_count, np.int64) if steps is None else steps
    lossless = coding.always_lossless(len(matrix)) and coding.frac_bits == 0 and bool((h == 1).all())
    total = 0
    for start in range(0, len(matrix), tile_rows):
        tile = matrix[start : start + tile_rows].astype(np.int64)
        exact = _drive(coding) * int(np.abs(tile).sum(axis=0).max()) << coding.frac_bits
        total += exact if lossless else max(exact, _converted(len(tile), coding, h))
    return total


def _drive(coding: Coding) -> int:
    """Largest value an input code stands for."""
    offset = coding.input_offset
    return max(abs(coding.input_max - offset), abs(coding.input_min - offset))


def _converted(rows: int, coding: Coding, h: npt.NDArray[np.int64]) -> int:
    """Largest read of one tile of ``rows`` wordlines, whatever its cells: every conversion at its end."""
    codes = max(coding.converter_hi - coding.converter_zero, coding.converter_zero - coding.converter_lo)
    groups = len(group_bounds([(rows, 0)], coding.parallel_rows)) - 1
    digits = np.array([abs(phase.coefficient) for phase in coding.phases], np.int64)
    planes = np.array([abs(p.coefficient) for p in coding.conversions], np.int64)
    worth = int(digits @ h.reshape(len(digits), -1) @ planes)
    # What offset weights and flipped columns add back digitally: known sums of the inputs.
    back = coding.weight_offset
    if coding.column_flip:
        back += sum(abs(p.coefficient) * p.top for p in coding.planes)
    return worth * codes * groups + (back * _drive(coding) * rows << coding.frac_bits)
