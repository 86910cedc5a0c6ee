"""One tile of windows through one block: read, correct, dequantise (docs/numerics.md section 0, rules 3 and 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from cimc.runtime.device.prepared import Prepared
from cimc.runtime.device.product import read
from cimc.runtime.device.recipe import Recipe


def product_tile(
    recipe: Recipe,
    prepared: Prepared,
    codes: Tensor,
    first_window: int,
    call: int,
    read_bytes: int,
    constants: tuple[Tensor, Tensor, Tensor | None],
) -> Tensor:
    """float32 (m, N) from input codes (m, K): ``f32(read + correction) * unit + bias``, constants one per column."""
    correction, unit, bias = constants
    sums = read(recipe, prepared, codes, first_window, read_bytes, call)
    sums += correction
    result = sums.to(torch.float32)
    result *= unit
    if bias is not None:
        result += bias
    return result
