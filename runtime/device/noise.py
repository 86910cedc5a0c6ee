"""Read noise of one partial sum as one normal of the summed variance (docs/device.md, read noise).

Independent Gaussian noise of cells, fresh at every read, adds up to a Gaussian of variance ``sum_k x_k^2 sigma_k^2``:
sampling the sum is exact in distribution before the converter. Variances lie on a grid of 2^-f levels^2, f per row
group, so that their sums are exact in any order; noise is rounded to the cells' grid.
"""

from __future__ import annotations

from math import floor, log2

import numpy as np
import torch
from torch import Tensor

from cimc.runtime.device.normals import UNIT_BITS, normal_units
from cimc.runtime.device.random import WORD, Key, philox

FINE = 4096
"""Variance levels below which a group gives up sums that float32 holds exactly."""


def variance_grid(sigma: Tensor, rows: int, drive: int) -> tuple[Tensor, int]:
    """Variances int32 of the shape of ``sigma`` (levels, float64) in units of 2^-f, and f.

    Sums of ``rows`` variances times squared digits up to ``drive`` stay below 2^24, or below 2^31 where that would
    leave fewer than 4096 steps; a variance fits 15 bits.
    """
    weight = rows * drive * drive
    most = ((1 << 24) - 1) // weight
    if most < FINE:
        most = ((1 << 31) - 1) // weight
    square = sigma * sigma
    largest = float(square.max()) if square.numel() else 0.0
    if largest == 0.0:
        return torch.zeros_like(square, dtype=torch.int32), 0
    bits = floor(log2(min(most, 32767) / largest))
    return torch.round(square * 2.0**bits).to(torch.int32), bits


def noise_scale(grid_bits: int, variance_bits: int) -> np.float32:
    """What ``sqrt(variance) * normal`` in integers is multiplied by to be noise in units of 2^-e."""
    return np.float32(2.0 ** (grid_bits - UNIT_BITS - variance_bits / 2))


def read_words(key: Key, windows: Tensor, group: int, conversion: int, phases: int, columns: int) -> Tensor:
    """One word a conversion: int64 (phases, windows, columns), ``windows`` int64 numbers in the whole run.

    Phase i of column n is word i % 4 of counter (n, group << 9 | conversion << 3 | i // 4, window).
    """
    n = torch.arange(columns, device=windows.device)[None, :]
    low, high = (windows & WORD)[:, None], (windows >> 32)[:, None]
    found: list[Tensor] = []
    for block in range(-(-phases // 4)):
        place = torch.full_like(n, group << 9 | conversion << 3 | block)
        counter = torch.broadcast_tensors(n, place, low, high)
        found += philox((counter[0], counter[1], counter[2], counter[3]), key)
    return torch.stack(found[:phases])


def noise_units(variance: Tensor, words: Tensor, scale: np.float32) -> Tensor:
    """Noise in units of 2^-e: int64, ``rint((sqrt(f32(variance)) * scale) * f32(normal))``, in this order."""
    spread = torch.sqrt(variance.to(torch.float32)) * float(scale)
    return torch.round(spread * normal_units(words).to(torch.float32)).to(torch.int64)
