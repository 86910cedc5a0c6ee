"""Standard normals from Philox words, by one table in integers: equal bits on every device (docs/device.md).

The low 31 bits r of a word are the tail probability ``u = (2 r + 1) / 2^33``, in (0, 1/2); bit 31 is the sign. Each
octave of ``2 r + 1`` is cut into 32 equal parts, in which the quantile is interpolated linearly, in units of 2^-16.
The largest |z| is 6.34 (u = 2^-33); the interpolation is off by less than 10^-4 everywhere (tested).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

UNIT_BITS = 16
"""A normal is an integer number of 2^-16."""
LARGEST_NORMAL = 415364
"""Largest magnitude of a normal, in units of 2^-16."""
PART_BITS = 5
"""log2 of the parts of an octave."""
POSITION_BITS = 16
"""Bits of the position inside a part that the interpolation uses."""
STEP_BITS = 12
"""Bits of the fall of |z| over a part, at most 0.025 * 2^16, in a packed entry."""


@cache
def quantile_table() -> npt.NDArray[np.uint32]:
    """uint32 [1024]: per part of ``2 r + 1``, octave after octave, |z| at its lower end << 12 | its fall over the
    part.

    Entry ``32 o + p`` begins at ``u = 2^o (1 + p / 32) / 2^33``; both numbers are in units of 2^-16. At the end of the
    last part u is 1/2 and |z| is 0.
    """
    from scipy.special import ndtri

    octave, part = np.divmod(np.arange(32 << PART_BITS), 1 << PART_BITS)
    u = np.ldexp(1.0 + part / (1 << PART_BITS), octave - 33)
    size = np.rint(np.append(-ndtri(u), 0.0) * (1 << UNIT_BITS)).astype(np.int64)
    return (size[:-1] << STEP_BITS | (size[:-1] - size[1:])).astype(np.uint32)


@cache
def _table_on(device: torch.device) -> Tensor:
    """The table as int64 on a device."""
    return torch.from_numpy(quantile_table().astype(np.int64)).to(device)


def normal_units(words: Tensor) -> Tensor:
    """Standard normals in units of 2^-16 from int64 words: int64 of the same shape."""
    odd = ((words & 0x7FFFFFFF) << 1) | 1
    # An odd number below 2^32 is exact in float64, so its exponent is its octave.
    octave = (odd.to(torch.float64).view(torch.int64) >> 52) - 1023
    aligned = odd << (31 - octave)
    part = (aligned >> (31 - PART_BITS)) & ((1 << PART_BITS) - 1)
    entry = _table_on(words.device)[(octave << PART_BITS) + part]
    position = (aligned >> (31 - PART_BITS - POSITION_BITS)) & ((1 << POSITION_BITS) - 1)
    fall = (entry & ((1 << STEP_BITS) - 1)) * position >> POSITION_BITS
    size = (entry >> STEP_BITS) - fall
    return torch.where(words >> 31 == 1, -size, size)


def normals(words: Tensor) -> Tensor:
    """Standard normals from int64 words: float64 of the same shape, multiples of 2^-16."""
    return normal_units(words).to(torch.float64) * 2.0**-UNIT_BITS
