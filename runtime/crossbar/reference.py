"""The crossbar product as it is defined: one group, one digit, one conversion at a time.

Slow and plain on purpose. Everything faster is tested for equality with :func:`read_reference`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.crossbar.cells import Cells, Flips, conversion_levels
from cimc.runtime.crossbar.coding import Coding, Phase
from cimc.runtime.crossbar.converter import broadcast_steps, convert
from cimc.runtime.crossbar.rows import Bounds


def check_codes(qx: npt.NDArray[np.integer[Any]], rows: int, coding: Coding) -> None:
    """:class:`ValueError` unless ``qx`` is (M, rows) and every code is legal for ``coding``.

    Codes outside would lose bits in the digits but not in a collapsed product, so no engine lets them pass.
    """
    if qx.ndim != 2 or qx.shape[1] != rows:
        raise ValueError(f"input codes are (M, {rows}), got shape {qx.shape}")
    low, high = coding.input_min, coding.input_max
    kind = np.iinfo(qx.dtype)
    if (low <= kind.min and kind.max <= high) or not qx.size:
        return
    least, most = int(qx.min()), int(qx.max())
    if least < low or most > high:
        raise ValueError(f"input codes must be in {low} … {high}, got {least} … {most}")


def phase_digits(values: npt.NDArray[np.int64], phase: Phase) -> npt.NDArray[np.int64]:
    """The digits that the DACs drive in ``phase``, same shape as ``values`` (codes less the input offset)."""
    source = {"value": values, "positive": np.maximum(values, 0), "negative": np.maximum(-values, 0)}
    return (source[phase.source] >> phase.shift) & phase.top


def read_reference(
    qx: npt.NDArray[np.integer[Any]],
    cells: Cells,
    flips: Flips,
    coding: Coding,
    bounds: Bounds,
    h: int | npt.NDArray[np.integer[Any]] = 1,
) -> npt.NDArray[np.int64]:
    """``sum_k value[m, k] * w[k, n]`` in units of 2^-F, as arrays and converter deliver it: int64 (M, N).

    ``qx`` are codes (M, K), ``cells`` uint8 (K, N, D) and ``flips`` bool (G, N, D) as stored, ``bounds``
    the row groups, ``h`` the steps broadcast to (G, phases, conversions). ``value`` is ``qx - input_min``
    for ``offset`` inputs and ``qx`` for signed ones. The corrections that depend on the data (offset
    weights, column flip) are inside; the constant of
    :func:`~cimc.runtime.crossbar.coding.constant_correction` and the bias are not. docs/crossbar.md,
    steps 1 to 7. :class:`ValueError` for codes or steps out of range.
    """
    check_codes(qx, cells.shape[0], coding)
    steps = broadcast_steps(h, len(bounds) - 1, coding)
    levels = conversion_levels(cells, coding).astype(np.int64)
    values = qx.astype(np.int64) - coding.input_offset
    total = np.zeros((qx.shape[0], cells.shape[1]), dtype=np.int64)
    for g, (first, last) in enumerate(pairwise(bounds.tolist())):
        for i, phase in enumerate(coding.phases):
            x = phase_digits(values[:, first:last], phase)
            driven = x.sum(axis=1, keepdims=True) << coding.frac_bits
            for j, plane in enumerate(coding.conversions):
                step = int(steps[g, i, j])
                partial = x @ levels[first:last, :, j]
                codes = convert(
                    partial,
                    step,
                    frac_bits=coding.frac_bits,
                    lo=coding.converter_lo,
                    hi=coding.converter_hi,
                    zero=coding.converter_zero,
                )
                read = (codes - coding.converter_zero) * step
                read = np.where(flips[g, :, j], plane.top * driven - read, read)
                total += phase.coefficient * plane.coefficient * read
    offset = coding.weight_offset * values.sum(axis=1, keepdims=True)
    return total - (offset << coding.frac_bits)
