"""Pools over windows (docs/numerics.md section 0, rules 8, 9 and 11).

A pool is a loop over the taps of its kernel, each a strided view of the padded input, so the same
code serves a whole (N, C, H, W) tensor and the ring of rows (K, W, C) an engine holds: the caller
names the axes that the window moves over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.numerics.blocks import row_blocks
from cimc.runtime.numerics.codes import round_to_codes
from cimc.runtime.numerics.reductions import halving_tree_sum


@dataclass(frozen=True)
class Window:
    """A pool's geometry; every tuple has one entry a window axis, in the order of ``axes``."""

    axes: tuple[int, ...]
    """Axes of the array the window moves over, not negative."""
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    dilations: tuple[int, ...]

    def output_sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Window positions along each axis for an input of ``shape``."""
        spans = zip(
            self.axes, self.kernel, self.strides, self.pads_begin, self.pads_end, self.dilations, strict=True
        )
        return tuple((shape[a] + p + q - (k - 1) * d - 1) // s + 1 for a, k, s, p, q, d in spans)


def _taps(x: npt.NDArray[Any], window: Window, fill: float) -> Iterator[npt.NDArray[Any]]:
    """Per kernel tap, row-major, the cells it meets at every window position; outside is ``fill``."""
    widths = [(0, 0)] * x.ndim
    for axis, before, after in zip(window.axes, window.pads_begin, window.pads_end, strict=True):
        widths[axis] = (before, after)
    padded = np.pad(x, widths, constant_values=fill) if any(w != (0, 0) for w in widths) else x
    sizes = window.output_sizes(x.shape)
    for offsets in product(*(range(k) for k in window.kernel)):
        index = [slice(None)] * x.ndim
        for axis, offset, size, s, d in zip(
            window.axes, offsets, sizes, window.strides, window.dilations, strict=True
        ):
            index[axis] = slice(offset * d, offset * d + (size - 1) * s + 1, s)
        yield padded[tuple(index)]


def max_pool_codes(codes: npt.NDArray[Any], window: Window, padding: int) -> npt.NDArray[Any]:
    """Rule 8: the greatest code of each window; ``padding`` is qmin. Keeps the type."""
    return _greatest(codes, window, padding)


def _greatest(x: npt.NDArray[Any], window: Window, padding: float) -> npt.NDArray[Any]:
    taps = _taps(x, window, padding)
    best = next(taps).copy()
    for tap in taps:
        np.maximum(best, tap, out=best)
    return best


def max_pool_float(x: npt.NDArray[np.float32], window: Window) -> npt.NDArray[np.float32]:
    """The greatest value of each window; padding never wins. The result holds no negative zero."""
    best = _greatest(np.asarray(x, np.float32), window, -np.inf)
    best += np.float32(0.0)
    return best


def window_sums(codes: npt.NDArray[Any], zero_point: int, window: Window) -> npt.NDArray[np.int64]:
    """Rule 9's exact ``S = sum (code - zero_point)`` of each window, in int64; padding adds nothing."""
    shifted = codes.astype(np.int32) - np.int32(zero_point)
    taps = _taps(shifted, window, 0)
    total = next(taps).astype(np.int64)
    for tap in taps:
        total += tap
    return total


def window_counts(shape: tuple[int, ...], window: Window, count_include_pad: bool) -> npt.NDArray[np.int64]:
    """Cells each window counts: shape of 1 for every other axis, so that it broadcasts over an output."""
    spatial = tuple(n if axis in window.axes else 1 for axis, n in enumerate(shape))
    ones = np.ones(spatial, np.int64)
    taps = _taps(ones, window, 1 if count_include_pad else 0)
    total = next(taps).copy()
    for tap in taps:
        total += tap
    return total


def average_codes(
    sums: npt.NDArray[Any],
    counts: npt.NDArray[Any] | int,
    scale_x: np.float32,
    scale_y: np.float32,
    zero_y: int,
    lo: int,
    hi: int,
    *,
    dtype: npt.DTypeLike = np.int32,
) -> npt.NDArray[Any]:
    """Rule 9: ``clamp(rint(((f32(S) / f32(n)) * sx) / sy) + zy, lo, hi)``.

    ``sums``: integers of any shape (of :func:`window_sums`, or over all of an image); ``counts``
    broadcasts to it.
    """
    flat = np.ascontiguousarray(sums).reshape(-1)
    divisor = np.broadcast_to(np.asarray(counts, np.float32), sums.shape).reshape(-1)
    out = np.empty(flat.shape, dtype)
    for block in row_blocks(flat.size, 1):
        value = flat[block].astype(np.float32)
        value /= divisor[block]
        value *= np.float32(scale_x)
        value /= np.float32(scale_y)
        round_to_codes(value, zero_y, lo, hi, out[block])
    return out.reshape(sums.shape)


def average_pool_float(
    x: npt.NDArray[np.float32], window: Window, count_include_pad: bool
) -> npt.NDArray[np.float32]:
    """Rule 11's mean of each window: a halving tree over its taps in float64, one rounding at the end."""
    taps = np.stack([tap.astype(np.float64) for tap in _taps(np.asarray(x, np.float32), window, 0.0)])
    total = halving_tree_sum(taps, axis=0)
    return (total / window_counts(x.shape, window, count_include_pad)).astype(np.float32)


def global_average_float(x: npt.NDArray[np.float32], axes: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Rule 11's mean over ``axes`` (kept with size 1), cells in row-major order, one rounding at the end."""
    moved = np.moveaxis(np.asarray(x, np.float64), axes, tuple(range(len(axes))))
    cells = moved.reshape(-1, *moved.shape[len(axes) :])
    mean = halving_tree_sum(cells, axis=0) / cells.shape[0]
    return np.expand_dims(mean.astype(np.float32), axes)
