"""Weights from a counter-based seed, some rows at a time: a network too large for memory, never all in it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

ROWS = 64
"""Rows that share a stream. Any request for rows gives the same numbers, however it is cut."""


@dataclass(frozen=True)
class DrawnWeights:
    """``weights(name, shape, first, last)``: rows of a parameter, float32, drawn from (seed, name, row).

    Matrices and kernels are normal of variance 1 / fan-in; vectors that end in ``weight`` (norms) are normal around
    1 by 0.1, other vectors around 0. Philox keyed by seed and name, its counter set to the rows' number (Salmon et al.,
    SC 2011).
    """

    seed: int = 0

    def __call__(self, name: str, shape: tuple[int, ...], first: int, last: int) -> Tensor:
        """float32 (last - first, *shape[1:])."""
        inner = prod(shape[1:])
        parts: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []
        for group in range(first // ROWS, -(-last // ROWS)):
            start = group * ROWS
            stop = min(start + ROWS, shape[0])
            bits = np.random.Philox(counter=[0, 0, 0, group], key=[self.seed, zlib.crc32(name.encode())])
            drawn = np.random.Generator(bits).standard_normal((stop - start, inner), dtype=np.float32)
            parts.append(drawn[max(first - start, 0) : last - start])
        rows = np.concatenate(parts)
        if len(shape) > 1:
            rows *= np.float32(inner**-0.5)
        else:
            rows *= np.float32(0.1)
            rows += np.float32(name.endswith("weight"))
        return torch.from_numpy(rows.reshape(last - first, *shape[1:]))
