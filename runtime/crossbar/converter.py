"""The converter: half up, in integers, and the choice of its step (docs/crossbar.md, step 6).

A step is ``h * 2^-F``: ``h`` 1 … 65535 per group, phase and conversion, F one per operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UnsupportedError
from cimc.runtime.crossbar.coding import MAX_FRAC_BITS, Coding

MAX_STEP = 65535
"""Largest h."""

Steps = npt.NDArray[np.int64]


def convert(
    partial: npt.NDArray[np.integer[Any]],
    h: int | Steps,
    *,
    frac_bits: int,
    lo: int,
    hi: int,
    zero: int,
    grid_bits: int = 0,
) -> npt.NDArray[np.int64]:
    """Codes of the partial sums ``partial * 2^-grid_bits`` at the step ``h * 2^-frac_bits``.

    ``clamp(floor(p / step + 1/2) + zero, lo, hi)`` in int64; ``h`` broadcasts against ``partial``. Ideal
    cells have ``grid_bits`` 0.
    """
    wide = np.asarray(partial, dtype=np.int64)
    scaled = np.asarray(h, dtype=np.int64) << grid_bits
    return np.clip(((wide << (frac_bits + 1)) + scaled) // (2 * scaled) + zero, lo, hi)


@dataclass(frozen=True)
class StepChoice:
    """Steps ``h * 2^-frac_bits``, ``h`` of the shape of the ranges they were made for."""

    h: Steps
    frac_bits: int


def least_step(
    p_min: npt.NDArray[np.int64], p_max: npt.NDArray[np.int64], coding: Coding, frac_bits: int
) -> Steps:
    """The least h, not below 2^F (step 1), at which no partial sum of [p_min, p_max] is clamped.

    From ``floor(p / step + 1/2) <= hi - zero`` follows ``h > p_max * 2^(F+1) / (2 (hi - zero) + 1)``, and
    from ``>= lo - zero`` follows ``h >= -p_min * 2^(F+1) / (2 (zero - lo) + 1)``.
    """
    above = 2 * (coding.converter_hi - coding.converter_zero) + 1
    below = 2 * (coding.converter_zero - coding.converter_lo) + 1
    upper = (p_max << (frac_bits + 1)) // above + 1
    lower = -((p_min << (frac_bits + 1)) // below)
    return np.maximum(np.maximum(upper, lower), 1 << frac_bits)


def full_step(
    p_min: npt.NDArray[np.int64] | int, p_max: npt.NDArray[np.int64] | int, coding: Coding
) -> StepChoice:
    """Steps that cover the ranges [p_min, p_max], with the largest F <= 8 at which every h fits 16 bits.

    Given bounds this is the rule ``full``, given observed ranges it is the calibrated step. All steps 1 are
    written h = 1, F = 0. :class:`UnsupportedError` when a range needs a step above 65535, or has negative
    sums that the converter has no codes for.
    """
    low, high = np.asarray(p_min, dtype=np.int64), np.asarray(p_max, dtype=np.int64)
    if coding.converter_lo == coding.converter_zero and np.any(low < 0):
        raise UnsupportedError(
            f"partial sums reach {low.min()}, but the converter has no codes below zero; "
            "use a signed converter or subtract: digital",
            where="converter",
        )
    for frac_bits in range(MAX_FRAC_BITS, -1, -1):
        h = least_step(low, high, coding, frac_bits)
        if np.any(h > MAX_STEP):
            continue
        if np.all(h == 1 << frac_bits):
            return StepChoice(np.ones_like(h), 0)
        return StepChoice(h, frac_bits)
    raise UnsupportedError(
        f"partial sums {low.min()} … {high.max()} need a converter step above {MAX_STEP}; "
        "use fewer parallel rows, narrower digits or a wider converter",
        where="converter",
    )


def is_lossless(
    p_min: npt.NDArray[np.int64] | int, p_max: npt.NDArray[np.int64] | int, h: int | Steps, coding: Coding
) -> npt.NDArray[np.bool_]:
    """Whether the converter is the identity on [p_min, p_max]: step 1 and no clamping (ideal cells).

    Step 1 is ``h = 2^F``; with F > 0 it stands beside other steps of the same operator.
    """
    fits_below = np.asarray(p_min) >= coding.converter_lo - coding.converter_zero
    fits_above = np.asarray(p_max) <= coding.converter_hi - coding.converter_zero
    return (np.asarray(h) == 1 << coding.frac_bits) & fits_below & fits_above


def broadcast_steps(h: int | npt.NDArray[np.integer[Any]], groups: int, coding: Coding) -> Steps:
    """``h`` given as (), (J), (I, J) or (G, I, J) as int64 (G, I, J).

    :class:`ValueError` when the shape does not fit or a step is outside 1 … 65535.
    """
    steps = np.asarray(h, dtype=np.int64)
    shape = (groups, coding.digit_cycles, len(coding.conversions))
    try:
        full = np.broadcast_to(steps, shape)
    except ValueError:
        raise ValueError(
            f"steps must broadcast to (groups, phases, conversions) {shape}, got {steps.shape}"
        ) from None
    if full.min() < 1 or full.max() > MAX_STEP:
        raise ValueError(f"a converter step h is 1 … {MAX_STEP}, got {full.min()} … {full.max()}")
    return full
