"""Read noise of one partial sum as one normal of the summed variance (docs/device.md, read noise).

Independent Gaussian noise of cells, fresh at every read, adds up to a Gaussian of variance ``sum_k x_k^2
sigma_k^2``: sampling the sum is exact in distribution before the converter. Variances are whole steps of 1/255 of
the largest in their column and row group, so that their sums are exact in any order; noise is rounded to the cells'
grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cimc.runtime.device.normals import UNIT_BITS, normal_units
from cimc.runtime.device.random import WORD, Key, philox

VARIANCE_TOP = 255
"""A variance is one byte: what the sum of a column needs, and what dot products are fastest on."""


def variance_grid(sigma: Tensor, grid_bits: int) -> tuple[Tensor, Tensor]:
    """Variances uint8 of the shape of ``sigma`` (rows, N, J; levels, float64), and the scales float32 (N, J) of noise.

    The largest variance of a column is 255, others are rounded to whole steps of it. Noise of a sum of variances S in
    units of 2^-``grid_bits`` is ``sqrt(S) * scale`` times a normal in units of 2^-16.
    """
    largest = sigma.amax(dim=0)
    share = sigma / torch.where(largest > 0, largest, 1.0)
    grid = torch.round(share * share * VARIANCE_TOP).to(torch.uint8)
    scale = largest * (2.0 ** (grid_bits - UNIT_BITS) / VARIANCE_TOP**0.5)
    return grid, scale.to(torch.float32)


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


def noise_units(variance: Tensor, words: Tensor, scale: Tensor) -> Tensor:
    """Noise in units of 2^-e: int64, ``rint((sqrt(f32(variance)) * scale) * f32(normal))``, in this order."""
    spread = torch.sqrt(variance.to(torch.float32)) * scale
    return torch.round(spread * normal_units(words).to(torch.float32)).to(torch.int64)
