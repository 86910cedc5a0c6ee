"""The converter on grid values, without a wide division (docs/crossbar.md, step 6; docs/device.md, converter).

``floor((P 2^(F+1) + h 2^e) / (h 2^(e+1)))`` is ``floor(A / h)`` with ``A = ((P << up) + offset) >> down``: dividing
numerator and denominator by a power of two and then taking floors one after the other changes no floor of a quotient of
integers. Clamping A to [(lo - zero) h, (hi - zero) h] clamps the code to [lo, hi] - zero. The quotient is taken as
``floor((A + 1/2) * (1 / h))``: its exact value is at least 1/(2h) away from every integer, and two roundings move it by
less than that while ``|A| + 1/2 < 2^22`` in float32 or 2^51 in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.converter import Steps

FLOAT32_QUOTIENT = 1 << 22


@dataclass(frozen=True)
class Division:
    """Constants of ``floor(clamp(((P << up) + offset) >> down, low, high) / h)``, arrays of the shape of ``h``.

    ``single`` tells that float32 is enough for the quotient.
    """

    up: int
    down: int
    h: Steps
    offset: npt.NDArray[np.int64]
    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    single: bool

    def widest(self, partial: int) -> int:
        """Largest magnitude before the shift down for partial sums up to ``partial``."""
        return (partial << self.up) + int(self.offset.max(initial=0))


def division(h: Steps, coding: Coding, grid_bits: int) -> Division:
    """The converter of ``coding`` at steps ``h * 2^-F`` on partial sums in units of 2^-``grid_bits``."""
    above = grid_bits - coding.frac_bits
    up, down = (0, above) if above > 0 else (1 - above, 1)
    low = (coding.converter_lo - coding.converter_zero) * h
    high = (coding.converter_hi - coding.converter_zero) * h
    largest = max(int(np.abs(low).max(initial=0)), int(high.max(initial=0)))
    return Division(up, down, h, h << (down - 1), low, high, largest + 1 < FLOAT32_QUOTIENT)
