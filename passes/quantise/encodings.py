"""From a range of real values to the type of its codes (docs/numerics.md section 0).

Scales are chosen in float64 and stored as float32, so that the same calibration data gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cimc.dialects.graph import QuantType
from cimc.runtime.numerics.digital import code_range

SMALLEST_SCALE = 2.0**-60
"""The product of two scales must stay a normal float32 (2^-126); no tensor of a network is this fine."""


@dataclass(frozen=True)
class Encoding:
    """What is asked of an edge's codes, before its range is known."""

    bits: int = 8
    signed: bool = False
    """Storage of asymmetric codes; symmetric codes are signed always."""
    symmetric: bool = False
    """Zero point 0 and the narrow range: ``-(2^(bits-1) - 1) … 2^(bits-1) - 1``."""

    def type_of(self, low: float, high: float) -> QuantType:
        """Codes for values in ``low … high``; the range is widened to hold 0, which padding needs.

        Raises ValueError for a range that is not finite or is upside down.
        """
        if not (np.isfinite(low) and np.isfinite(high) and low <= high):
            raise ValueError(f"a range has two finite ends in order, not {low} … {high}")
        if self.symmetric:
            reach = max(abs(low), abs(high))
            _, top = code_range(self.bits, signed=True)
            return QuantType.of(self.bits, True, positive_scale(reach / top), 0)
        least, most = code_range(self.bits, self.signed)
        low, high = min(low, 0.0), max(high, 0.0)
        scale = positive_scale((high - low) / (most - least))
        zero = int(np.clip(np.rint(least - low / np.float64(scale)), least, most))
        return QuantType.of(self.bits, self.signed, scale, zero)


def positive_scale(scale: float) -> np.float32:
    """``scale`` as float32, at least :data:`SMALLEST_SCALE`; 1 for a tensor that is all zero."""
    return np.float32(1.0) if scale == 0 else np.float32(max(scale, SMALLEST_SCALE))
