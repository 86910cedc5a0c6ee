"""Loops over cells, digits and conversions that numpy would do in many passes.

Compiled without ``fastmath``: every float operation here is on integers below 2^53 and the one division is
rounded once, so the results are exact (see :func:`fold`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

SOURCES = ("value", "positive", "negative")
"""Order of the codes that :func:`stack_digits` takes for a phase's source."""


@njit(cache=True)
def signed_sums(
    levels: npt.NDArray[np.int16],
    bounds: npt.NDArray[np.int64],
    below: npt.NDArray[np.int64],
    above: npt.NDArray[np.int64],
) -> None:
    """Sums of the negative and of the positive levels (K, N, J) of each group, the extreme over columns: (G, J)."""
    _, columns, conversions = levels.shape
    minus = np.empty((columns, conversions), dtype=np.int64)
    plus = np.empty((columns, conversions), dtype=np.int64)
    for g in range(len(bounds) - 1):
        minus[:] = 0
        plus[:] = 0
        for k in range(bounds[g], bounds[g + 1]):
            for n in range(columns):
                for j in range(conversions):
                    minus[n, j] += min(levels[k, n, j], np.int16(0))
                    plus[n, j] += max(levels[k, n, j], np.int16(0))
        below[g] = 0
        above[g] = 0
        for n in range(columns):
            for j in range(conversions):
                below[g, j] = min(below[g, j], minus[n, j])
                above[g, j] = max(above[g, j], plus[n, j])


@njit(cache=True)
def weigh(
    levels: npt.NDArray[np.int16],
    bounds: npt.NDArray[np.int64],
    worth: npt.NDArray[np.int64],
    weights: npt.NDArray[np.int64],
) -> None:
    """Add ``sum_j worth[g, n, j] * levels[k, n, j]`` to ``weights`` (K, N), row k lying in group g."""
    _, columns, conversions = levels.shape
    for g in range(len(bounds) - 1):
        for k in range(bounds[g], bounds[g + 1]):
            for n in range(columns):
                total = np.int64(0)
                for j in range(conversions):
                    total += worth[g, n, j] * np.int64(levels[k, n, j])
                weights[k, n] += total


@njit(cache=True)
def stack_digits(
    values: npt.NDArray[np.int32],
    source: npt.NDArray[np.int32],
    shift: npt.NDArray[np.int32],
    top: npt.NDArray[np.int32],
    out: npt.NDArray[Any],
) -> None:
    """All input digits of ``values`` (M, K) into ``out`` (I, M, K), phase by phase."""
    for i in range(len(source)):
        for m in range(values.shape[0]):
            for k in range(values.shape[1]):
                x = values[m, k]
                if source[i] == 1:
                    x = max(x, np.int32(0))
                if source[i] == 2:
                    x = max(-x, np.int32(0))
                out[i, m, k] = (x >> shift[i]) & top[i]


@njit(cache=True, error_model="numpy")
def fold(
    partial: npt.NDArray[Any],
    h: npt.NDArray[np.float64],
    worth: npt.NDArray[np.float64],
    phase: npt.NDArray[np.int64],
    scale: float,
    low: float,
    high: float,
    total: npt.NDArray[np.int64],
) -> None:
    """Convert, shift and add: ``partial`` (I, M, J, N) into ``total`` (M, N).

    ``h`` (I, J) are the steps, ``worth`` (J, N) the signed worth of a conversion in the weight, ``phase``
    (I) the worth of an input digit, ``scale`` is 2^(F+1), ``low`` and ``high`` are the converter's range
    less zero.

    ``floor((p * scale + h) / (2 h))`` in float64 equals the floor of the exact quotient: numerator and
    denominator are integers, the quotient is at least 1 / (2h) away from the next integer above it, and
    rounding moves it by at most 2^-53 of itself, which is less while the numerator is below 2^53. The sum
    over j stays below 2^53 too: 16-bit weights, converter and steps give at most 2^49.
    """
    phases, windows, conversions, columns = partial.shape
    line = np.empty(columns, dtype=np.float64)
    for m in range(windows):
        for i in range(phases):
            line[:] = 0.0
            for j in range(conversions):
                step = h[i, j]
                twice = 2.0 * step
                for n in range(columns):
                    code = np.floor((np.float64(partial[i, m, j, n]) * scale + step) / twice)
                    line[n] += min(max(code, low), high) * step * worth[j, n]
            for n in range(columns):
                total[m, n] += phase[i] * np.int64(line[n])
