"""Whole integer sums of convolutions and matrix products (docs/numerics.md section 0 rule 3).

Untiled: one sum a column. A sum runs through float64 BLAS only where every partial sum is provably
below 2^53, hence exact in any order; otherwise in int64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.dialects.graph import ConvOp, ProductOperation
from cimc.dialects.weights import WeightStore

_EXACT_FLOAT64 = 1 << 53


@dataclass(frozen=True)
class ProductWeights:
    """A product's integers: ``matrix`` (K, N) is ``qw - zw``, ``bias`` (N,)."""

    matrix: npt.NDArray[np.int64]
    bias: npt.NDArray[np.int64]


def product_weights(op: ProductOperation, store: WeightStore) -> ProductWeights:
    """The weights of a level-2 product as (K, N); a convolution's K runs over (C, kH, kW)."""
    codes = store.array(op.weight.key.data).astype(np.int64)
    matrix = codes.reshape(codes.shape[0], -1).T if isinstance(op, ConvOp) else codes
    if op.weight_zero is not None:
        matrix = matrix - store.array(op.weight_zero.key.data).astype(np.int64)
    columns = matrix.shape[1]
    bias = np.zeros(columns, np.int64) if op.bias is None else store.array(op.bias.key.data).astype(np.int64)
    return ProductWeights(matrix, bias)


def accumulate_gemm(shifted: npt.NDArray[np.int64], weights: ProductWeights, reach: int) -> npt.NDArray[Any]:
    """``acc[..., n] = sum_k shifted[..., k] * w[k, n] + b[n]``: integers, held in float64 when exact there.

    ``shifted``: (..., K), codes less their zero point, of magnitude at most ``reach``.
    """
    bound = reach * np.abs(weights.matrix).sum(axis=0) + np.abs(weights.bias)
    if int(bound.max()) < _EXACT_FLOAT64:
        acc = shifted.astype(np.float64) @ weights.matrix.astype(np.float64)
        acc += weights.bias
        return acc
    return shifted @ weights.matrix + weights.bias


def accumulate_conv(
    op: ConvOp, shifted: npt.NDArray[np.int64], weights: ProductWeights, reach: int
) -> npt.NDArray[Any]:
    """The accumulators of a convolution, channels last: (N, OH, OW, M).

    ``shifted``: (N, C, H, W), codes less their zero point; a pixel outside the image is therefore 0.
    """
    top, left, bottom, right = op.pads.data
    padded = np.pad(shifted, ((0, 0), (0, 0), (top, bottom), (left, right)))
    frames = [accumulate_gemm(_windows(op, frame), weights, reach) for frame in padded]
    return np.stack(frames)


def _windows(op: ConvOp, frame: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Every window of one padded image: (OH, OW, C * kH * kW)."""
    (kernel_h, kernel_w), (step_h, step_w), (gap_h, gap_w) = (
        op.kernel.data,
        op.strides.data,
        op.dilations.data,
    )
    reach = ((kernel_h - 1) * gap_h + 1, (kernel_w - 1) * gap_w + 1)
    windows = np.lib.stride_tricks.sliding_window_view(frame, reach, axis=(1, 2))  # C, OH, OW, kH, kW
    taps = windows[:, ::step_h, ::step_w, ::gap_h, ::gap_w]
    channels, height, width = taps.shape[:3]
    return taps.transpose(1, 2, 0, 3, 4).reshape(height, width, channels * kernel_h * kernel_w)
