"""Integer products in the narrowest float type that holds every intermediate sum exactly."""

from __future__ import annotations

import torch
from torch import Tensor

PIECE = 1 << 16
"""Elements added at once: a sum in int64 first copies what it adds."""
FLOAT32_EXACT = 1 << 24
FLOAT64_EXACT = 1 << 53


def exact_type(largest: int) -> torch.dtype:
    """Type in which integer sums of magnitudes up to ``largest`` are exact in any order of addition.

    :class:`ValueError` beyond 2^53.
    """
    if largest < FLOAT32_EXACT:
        return torch.float32
    if largest < FLOAT64_EXACT:
        return torch.float64
    raise ValueError(f"sums up to {largest} are not exact in float64")


def largest_sum(magnitude: int, weights: Tensor) -> int:
    """Largest ``sum_k |x_k w_kn|`` of factors up to ``magnitude`` with the columns of ``weights`` (K, N)."""
    if not weights.numel():
        return 0
    return magnitude * int(column_sums(weights, magnitudes=True).max())


def column_sums(matrix: Tensor, *, magnitudes: bool = False) -> Tensor:
    """int64 (N): sums of the columns of integers (K, N), or of their magnitudes, a piece at a time."""
    total = torch.zeros(matrix.shape[1], dtype=torch.int64, device=matrix.device)
    rows = max(1, PIECE // max(1, matrix.shape[1]))
    for start in range(0, len(matrix), rows):
        part = matrix[start : start + rows]
        total += (part.abs() if magnitudes else part).sum(dim=0, dtype=torch.int64)
    return total


def largest_magnitude(values: Tensor) -> int:
    """Largest magnitude of integers, without a copy of them."""
    least, most = (int(v) for v in torch.aminmax(values))
    return max(-least, most)


def product(x: Tensor, weights: Tensor) -> Tensor:
    """``x @ weights`` of one float type. On a GPU float32 must be float32: :class:`RuntimeError` when TF32 is on."""
    if x.is_cuda and x.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
        raise RuntimeError(
            "TF32 is on: integer sums would be rounded; set torch.backends.cuda.matmul.allow_tf32 = False"
        )
    return x @ weights
