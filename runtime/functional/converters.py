"""How many conversions a run makes and how many of them the converter's range cuts off.

A collapsed read forms no partial sums, and where it collapses nothing is clipped; elsewhere the sums
are formed again here, group by group, which is why a run counts them only when asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.crossbar.cells import conversion_levels
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.converter import broadcast_steps, convert
from cimc.runtime.crossbar.reference import phase_digits
from cimc.runtime.crossbar.tile import Stored


@dataclass(frozen=True)
class ConverterCount:
    """Conversions made and those whose code was limited by the converter's range."""

    conversions: int = 0
    clipped: int = 0

    def __add__(self, other: ConverterCount) -> ConverterCount:
        return ConverterCount(self.conversions + other.conversions, self.clipped + other.clipped)

    @property
    def clipped_share(self) -> float:
        """Clipped conversions over all, 0 without any."""
        return self.clipped / self.conversions if self.conversions else 0.0


def count_conversions(
    qx: npt.NDArray[Any], stored: Stored, coding: Coding, h: npt.NDArray[np.int64], lossless: bool
) -> ConverterCount:
    """Conversions of the windows ``qx`` (M, K); ``lossless``: it is proven that none is clipped."""
    groups = len(stored.bounds) - 1
    per_window = groups * coding.digit_cycles * len(coding.conversions) * stored.cells.shape[1]
    total = per_window * len(qx)
    if lossless:
        return ConverterCount(total, 0)
    steps = broadcast_steps(h, groups, coding)
    levels = conversion_levels(stored.cells, coding).astype(np.float64)
    values = qx.astype(np.int64) - coding.input_offset
    clipped = 0
    for g, (first, last) in enumerate(pairwise(stored.bounds.tolist())):
        for i, phase in enumerate(coding.phases):
            digits = phase_digits(values[:, first:last], phase).astype(np.float64)
            for j in range(len(coding.conversions)):
                partial = (digits @ levels[first:last, :, j]).astype(np.int64)
                wide = convert(
                    partial,
                    int(steps[g, i, j]),
                    frac_bits=coding.frac_bits,
                    lo=-(1 << 40),
                    hi=1 << 40,
                    zero=coding.converter_zero,
                )
                clipped += int(((wide < coding.converter_lo) | (wide > coding.converter_hi)).sum())
    return ConverterCount(total, clipped)
