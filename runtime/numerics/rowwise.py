"""Functions of a whole row of channels, the last axis (docs/numerics.md section 0, rule 11).

Sums are halving trees in float64, everything else float64 too, with one rounding at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.numerics.reductions import halving_tree_sum

Real = npt.NDArray[np.float32]


def layer_norm(x: Real, scale: Real, bias: Real, epsilon: float) -> Real:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` over the last axis; variance in two passes."""
    wide = np.asarray(x, np.float64)
    channels = wide.shape[-1]
    centred = wide - (halving_tree_sum(wide) / channels)[..., np.newaxis]
    variance = halving_tree_sum(centred * centred) / channels
    spread = np.sqrt(variance + float(np.float32(epsilon)))[..., np.newaxis]
    return (centred / spread * scale.astype(np.float64) + bias.astype(np.float64)).astype(np.float32)


def rms_norm(x: Real, scale: Real, epsilon: float) -> Real:
    """``x / sqrt(mean(x^2) + epsilon) * scale`` over the last axis."""
    wide = np.asarray(x, np.float64)
    mean = halving_tree_sum(wide * wide) / wide.shape[-1]
    spread = np.sqrt(mean + float(np.float32(epsilon)))[..., np.newaxis]
    return (wide / spread * scale.astype(np.float64)).astype(np.float32)


def local_response_norm(x: Real, size: int, alpha: float, beta: float, bias: float) -> Real:
    """ONNX LRN over the last axis: ``x / (bias + alpha / size * sum of squares around)^beta``."""
    wide = np.asarray(x, np.float64)
    before = (size - 1) // 2
    pads = [(0, 0)] * (wide.ndim - 1) + [(before, size - 1 - before)]
    squares = np.pad(wide * wide, pads)
    taps = np.stack([squares[..., i : i + wide.shape[-1]] for i in range(size)])
    factors = [float(np.float32(v)) for v in (alpha, beta, bias)]
    return (wide / (factors[2] + factors[0] / size * halving_tree_sum(taps, axis=0)) ** factors[1]).astype(
        np.float32
    )


REDUCTIONS: Mapping[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[Any]]] = MappingProxyType(
    {
        "reduce_sum": halving_tree_sum,
        "reduce_mean": lambda x: halving_tree_sum(x) / x.shape[-1],
        "reduce_max": lambda x: x.max(axis=-1) + 0.0,
        "reduce_min": lambda x: x.min(axis=-1) + 0.0,
    }
)
"""Reductions of the last axis by name."""


def reduce_row(function: str, x: Real) -> Real:
    """``function`` of :data:`REDUCTIONS` over the last axis, which keeps the extent 1."""
    return REDUCTIONS[function](np.asarray(x, np.float64)).astype(np.float32)[..., np.newaxis]


def lookup(table: Real, indices: npt.NDArray[Any]) -> Real:
    """Rows of ``table`` (V, D) by index: ``indices`` (...) give (..., D).

    An index below 0 counts from the end. Raises ValueError for one outside the table.
    """
    rows = len(table)
    if indices.size and (indices.min() < -rows or indices.max() >= rows):
        raise ValueError(f"indices {indices.min()} … {indices.max()} into a table of {rows} rows")
    return table[indices]
