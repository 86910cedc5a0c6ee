"""Converter steps from observed partial sums (docs/crossbar.md, step 6).

The compiler runs this once per operator on calibration windows and stores the steps in the artifact; engines
never calibrate. What several tiles and batches observed is joined before a step is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.crossbar.cells import Cells, conversion_levels
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.converter import MAX_STEP, StepChoice, convert, full_step
from cimc.runtime.crossbar.product import group_ranges
from cimc.runtime.crossbar.reference import check_codes, phase_digits
from cimc.runtime.crossbar.rows import Bounds

CHUNK_WINDOWS = 512
"""Windows whose partial sums are held at once."""
CANDIDATES = 64
"""Steps tried between 1 and the covering step, in equal ratios."""


@dataclass(frozen=True)
class Observed:
    """How often each partial sum came: ``counts`` int64 (I, J, bins), bin b being the sum ``first + b``."""

    first: int
    counts: npt.NDArray[np.int64]

    def join(self, other: Observed) -> Observed:
        """What both have seen. The phases and conversions must be the same."""
        first = min(self.first, other.first)
        last = max(self.first + self.counts.shape[2], other.first + other.counts.shape[2])
        counts = np.zeros((*self.counts.shape[:2], last - first), dtype=np.int64)
        for part in (self, other):
            start = part.first - first
            counts[:, :, start : start + part.counts.shape[2]] += part.counts
        return Observed(first, counts)


def observe(qx: npt.NDArray[np.integer[Any]], cells: Cells, coding: Coding, bounds: Bounds) -> Observed:
    """Partial sums that windows ``qx`` (M, K) give on stored ``cells`` (K, N, D), over all groups and columns.

    Costs a conversion's work each, M * N * G * I * J in all: some hundred windows of a layer are enough.
    :class:`ValueError` for codes out of range.
    """
    check_codes(qx, cells.shape[0], coding)
    rows, columns, _ = cells.shape
    conversions = len(coding.conversions)
    p_min, p_max = group_ranges(conversion_levels(cells, coding), coding, bounds)
    first = min(0, int(p_min.min()))
    bins = max(0, int(p_max.max())) - first + 1
    counts = np.zeros((coding.digit_cycles, conversions * bins), dtype=np.int64)
    own = -first + bins * np.arange(conversions)[:, None]
    # float64 holds every partial sum exactly: 65536 rows of 16-bit digits on 8-bit cells stay below 2^41.
    levels = conversion_levels(cells, coding).transpose(0, 2, 1).reshape(rows, -1).astype(np.float64)
    for start in range(0, len(qx), CHUNK_WINDOWS):
        values = qx[start : start + CHUNK_WINDOWS].astype(np.int64) - coding.input_offset
        for i, phase in enumerate(coding.phases):
            digits = phase_digits(values, phase).astype(np.float64)
            for top, bottom in pairwise(bounds.tolist()):
                partial = (digits[:, top:bottom] @ levels[top:bottom]).astype(np.int64)
                cell = partial.reshape(len(values), conversions, columns) + own
                counts[i] += np.bincount(cell.ravel(), minlength=conversions * bins)
    return Observed(first, counts.reshape(coding.digit_cycles, conversions, bins))


def choose_steps(observed: Sequence[Observed], coding: Coding, *, per_phase: bool = True) -> StepChoice:
    """Steps of one operator from what its tiles observed: ``h`` (I, J), or (J) without ``per_phase``.

    Each step is the one of least squared error of the conversions seen, a phase counting with the square of
    its worth, among 1, its multiples, and :data:`CANDIDATES` steps up to the largest useful one. It is
    seldom the covering step: few sums are near the largest, and clamping those costs less than coarse steps
    for all. F is the largest at which the covering steps fit 16 bits. The coding of the reads must then
    carry ``frac_bits`` of the choice. :class:`ValueError` without observations, :class:`UnsupportedError`
    as :func:`~cimc.runtime.crossbar.converter.full_step`.
    """
    if not observed:
        raise ValueError("choose_steps needs the partial sums of at least one tile")
    seen = observed[0]
    for other in observed[1:]:
        seen = seen.join(other)
    sums = seen.first + np.arange(seen.counts.shape[2])
    worth = np.array([phase.coefficient for phase in coding.phases], dtype=np.float64) ** 2
    cost = seen.counts * worth[:, None, None]
    if not per_phase:
        cost = cost.sum(axis=0)
    weights = cost.reshape(-1, len(sums))
    low = np.array([int(sums[line > 0].min(initial=0)) for line in weights])
    high = np.array([int(sums[line > 0].max(initial=0)) for line in weights])
    cover = full_step(low, high, coding)
    chosen = [
        least_error_step(line[line > 0], sums[line > 0], int(h), coding, cover.frac_bits)
        for line, h in zip(weights, cover.h, strict=True)
    ]
    h = np.array(chosen, dtype=np.int64).reshape(cost.shape[:-1])
    if np.all(h == 1 << cover.frac_bits):
        return StepChoice(np.ones_like(h), 0)
    return StepChoice(h, cover.frac_bits)


def least_error_step(
    weights: npt.NDArray[np.float64],
    sums: npt.NDArray[np.int64],
    cover: int,
    coding: Coding,
    frac_bits: int,
) -> int:
    """The h from step 1 upwards of least ``sum weights * (sums - converted)^2``, the least of equals.

    Covering lets the largest sum round down by half a step; past the step that meets it exactly, a little
    above ``cover``, every sum only gets coarser.
    """
    unit = 1 << frac_bits
    exact = [unit, cover]
    for peak, codes in (
        (sums.max(initial=0), coding.converter_hi - coding.converter_zero),
        (-sums.min(initial=0), coding.converter_zero - coding.converter_lo),
    ):
        exact.append(-(-int(peak) * unit // max(1, codes)))
    most = min(MAX_STEP, max(exact))
    ratios = np.rint(np.geomspace(unit, most, CANDIDATES)).astype(np.int64)
    # Multiples of 1 leave no beat between the step and the integers; the smallest are the likely ones.
    multiples = np.arange(unit, most + 1, unit)[:CANDIDATES]
    best, least = unit, np.inf
    for h in np.unique(np.concatenate([ratios, multiples])).tolist():
        codes = convert(
            sums,
            h,
            frac_bits=frac_bits,
            lo=coding.converter_lo,
            hi=coding.converter_hi,
            zero=coding.converter_zero,
        )
        wrong = ((codes - coding.converter_zero) * h - sums * unit).astype(np.float64)
        error = float(weights @ wrong**2)
        if error < least:
            best, least = h, error
    return best


def calibrate(
    qx: npt.NDArray[np.integer[Any]],
    cells: Cells,
    coding: Coding,
    bounds: Bounds,
    *,
    per_phase: bool = True,
) -> StepChoice:
    """Steps of one product from calibration windows ``qx`` (M, K): observe, then choose."""
    return choose_steps([observe(qx, cells, coding, bounds)], coding, per_phase=per_phase)


def full_steps(cells: Cells, coding: Coding, bounds: Bounds) -> StepChoice:
    """The rule ``full``: ``h`` (G, I, J), each group's own [p_min, p_max] covered, whatever the inputs."""
    p_min, p_max = group_ranges(conversion_levels(cells, coding), coding, bounds)
    return full_step(p_min, p_max, coding)
