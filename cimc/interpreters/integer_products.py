"""Whole integer sums of convolutions and matrix products (docs/numerics.md section 0 rule 3).

Untiled: one sum a column. A sum runs through float BLAS only where every partial sum, in any order, is
provably an integer the type holds exactly (below 2^24 or 2^53); otherwise in int64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.dialects.graph import ConvOp, ProductOperation
from cimc.dialects.graph_types import shape_of
from cimc.dialects.weights import WeightStore

_EXACT = ((1 << 24, np.float32), (1 << 53, np.float64))
"""Below each bound, sums of integers are exact in the type."""


_WEIGHTS_AT_ONCE = 1 << 22
"""Weights of which magnitudes are summed at once, in 64 bits."""


@dataclass(frozen=True)
class ProductWeights:
    """A product's integers: ``matrix`` (K, N) is ``qw - zw``, ``bias`` (N,). K counts the inputs of one group.

    The matrix is as narrow as it is stored: a fully connected layer of 100 million weights is no rarity.
    """

    matrix: npt.NDArray[np.integer[Any]]
    bias: npt.NDArray[np.int64]


def product_weights(op: ProductOperation, store: WeightStore) -> ProductWeights:
    """The weights of a level-2 product as (K, N); a convolution's K runs over (C, kH, kW)."""
    codes = store.array(op.weight.key.data)
    matrix = codes.reshape(codes.shape[0], -1).T if isinstance(op, ConvOp) else codes
    if op.weight_zero is not None:
        matrix = matrix.astype(np.int64) - store.array(op.weight_zero.key.data).astype(np.int64)
    columns = matrix.shape[1]
    bias = np.zeros(columns, np.int64) if op.bias is None else store.array(op.bias.key.data).astype(np.int64)
    return ProductWeights(matrix, bias)


def exact_type(weights: ProductWeights, reach: int) -> type[np.float32 | np.float64 | np.int64]:
    """The fastest type in which ``sum_k x[k] * w[k, n]`` is exact in any order for ``|x| <= reach``."""
    matrix, step = weights.matrix, max(1, _WEIGHTS_AT_ONCE // weights.matrix.shape[1])
    parts = (matrix[first : first + step].astype(np.int64) for first in range(0, len(matrix), step))
    reached = np.zeros(matrix.shape[1], np.int64)
    for part in parts:
        reached += np.abs(part).sum(axis=0)
    bound = reach * int(reached.max())
    return next((kind for limit, kind in _EXACT if bound < limit), np.int64)


def accumulate_gemm(shifted: npt.NDArray[Any], weights: ProductWeights, reach: int) -> npt.NDArray[np.int64]:
    """``acc[..., n] = sum_k shifted[..., k] * w[k, n] + b[n]``, exact.

    ``shifted``: (..., K), codes less their zero point in any type that holds them, of magnitude at most ``reach``.
    """
    kind = exact_type(weights, reach)
    total = shifted.astype(kind, copy=False) @ weights.matrix.astype(kind)
    acc = total.astype(np.int64, copy=False)
    acc += weights.bias
    return acc


def accumulate_frames(
    a: npt.NDArray[Any], b: npt.NDArray[Any], reach: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """``acc[..., m, n] = sum_k a[..., m, k] * b[..., k, n]``, exact, for integers of magnitude at most ``reach``."""
    bound = a.shape[-1] * reach[0] * reach[1]
    kind = next((kind for limit, kind in _EXACT if bound < limit), np.int64)
    return (a.astype(kind) @ b.astype(kind)).astype(np.int64)


def accumulate_conv(
    op: ConvOp, shifted: npt.NDArray[Any], weights: ProductWeights, reach: int
) -> npt.NDArray[np.int64]:
    """The accumulators of a convolution, channels last: (N, OH, OW, M).

    ``shifted``: (N, C, H, W), codes less their zero point; a pixel outside the image is therefore 0.
    """
    top, left, bottom, right = op.pads.data
    padded = np.pad(shifted, ((0, 0), (0, 0), (top, bottom), (left, right)))
    padded = padded.astype(exact_type(weights, reach))
    groups = op.group.value.data
    if groups == 1:
        return np.stack([accumulate_gemm(_windows(op, frame), weights, reach) for frame in padded])
    return np.stack([_accumulate_groups(op, frame, weights, groups) for frame in padded])


def _accumulate_groups(
    op: ConvOp, frame: npt.NDArray[Any], weights: ProductWeights, groups: int
) -> npt.NDArray[np.int64]:
    """One padded image (C, H, W), in the type its sums are exact in: (OH, OW, M), a group at a time."""
    depth, columns = weights.matrix.shape
    channels, width = len(frame) // groups, columns // groups
    _, _, height, span = shape_of(op.result)
    acc = np.empty((height, span, columns), np.int64)
    for group in range(groups):
        mine = slice(group * width, (group + 1) * width)
        windows = _windows(op, frame[group * channels : (group + 1) * channels])
        assert windows.shape[-1] == depth
        acc[..., mine] = windows @ weights.matrix[:, mine].astype(frame.dtype)
    return acc + weights.bias


def _windows(op: ConvOp, frame: npt.NDArray[Any]) -> npt.NDArray[Any]:
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
