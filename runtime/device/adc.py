"""Converters of a device file: width, range, and successive approximation with mismatched capacitors.

A device file may ask for another converter than the machine's. Its steps are chosen once from observed partial sums, as
a compiler pass would, and handed to the reads; no read calibrates (docs/crossbar.md, step 6).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from cimc.configuration.located import BrokenRule, Section
from cimc.diagnostics import UnsupportedError
from cimc.runtime.crossbar.calibrate import Observed, least_error_step, observe
from cimc.runtime.crossbar.cells import Cells
from cimc.runtime.crossbar.coding import MAX_BITS, Coding, converter_range
from cimc.runtime.crossbar.converter import MAX_STEP, StepChoice, Steps, full_step, least_step
from cimc.runtime.crossbar.rows import Bounds
from cimc.runtime.device.choice import Amount

THRESHOLD_BITS = 16
"""Thresholds of a successive approximation are multiples of 2^-16 step."""


DEFAULT_PERCENTILE = 99.9
"""Of the observed sums, where a file asks for a percentile and does not say which."""


class Sar(Section):
    """Successive approximation against a binary weighted capacitor array: Spear et al., JXCDC 2023, non-split array.

    Capacitor b is ``2^b + sigma z_b 2^(b/2)`` units and the terminating one ``1 + sigma z``: mismatch shrinks with the
    square root of the area. Code c is compared at ``2^bits sum_(b in c) C_b / sum C - 1/2`` steps above the lowest.
    """

    capacitor_sigma: Annotated[float, Field(ge=0, le=0.3)]
    """standard deviation of a unit capacitor, as a share, at most 0.3"""
    comparator_sigma_steps: Amount = 0.0
    """standard deviation of the comparator's offset, in steps"""
    columns_per_converter: Annotated[int, Field(ge=1, le=1 << 16)] = 1
    """adjacent physical columns that one converter serves in turn"""

    def normals_needed(self, bits: int) -> int:
        """Standard normals a converter takes: its capacitors, the terminating one, and the comparator."""
        return bits + 2

    def thresholds(self, bits: int, z: Tensor) -> Tensor:
        """int64 (converters, 2^bits): least value of each code, in 2^-16 steps above the lowest code's centre.

        ``z`` are standard normals (converters, bits + 2). Code 0 has no threshold; its entry is that of the comparator
        alone and is never compared.
        """
        weight = 2.0 ** torch.arange(bits, dtype=torch.float64, device=z.device)
        capacitors = weight + self.capacitor_sigma * z[:, :bits] * weight.sqrt()
        total = capacitors.sum(dim=1) + 1 + self.capacitor_sigma * z[:, bits]
        codes = torch.arange(1 << bits, device=z.device)
        taken = (codes[:, None] >> torch.arange(bits, device=z.device)) & 1
        level = (capacitors @ taken.T.to(torch.float64)) * ((1 << bits) / total[:, None])
        offset = self.comparator_sigma_steps * z[:, bits + 1 :]
        return torch.round((level - 0.5 + offset) * (1 << THRESHOLD_BITS)).to(torch.int64)


class Adc(Section):
    """The converter at the end of a column."""

    bits: Annotated[int, Field(ge=1, le=MAX_BITS)] | None = None
    """bits of a code; left out, the machine's"""
    range: Literal["tile", "slice", "layer"] = "slice"
    """what shares a step: a row group's (phase, conversion), a (phase, conversion) of all groups, or everything"""
    calibration: Literal["max", "percentile", "mse", "worst", "unit"] = "mse"
    """max covers what was observed, percentile a share of it, mse has least squared error on it; worst covers whatever
    could come, unit is a step of one level that clips the rest"""
    percentile: Annotated[float, Field(gt=50, le=100)] | None = None
    """share of the observed sums, in percent, inside the range, for calibration: percentile; left out, 99.9"""
    sar: Sar | None = None
    """successive approximation with its errors; left out, every step is exact"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """A percentile that nothing reads is a mistake."""
        if self.percentile is not None and self.calibration != "percentile":
            yield BrokenRule(
                ("percentile",), f"has no effect with calibration '{self.calibration}'; take it away"
            )

    def applied(self, coding: Coding) -> Coding:
        """``coding`` with this converter's codes: signed exactly where the machine's is."""
        if self.bits is None:
            return coding
        low, high, zero = converter_range(self.bits, coding.converter_lo < coding.converter_zero)
        return replace(coding, converter_lo=low, converter_hi=high, converter_zero=zero)

    def adapted(self, h: int | Steps, rows: int, coding: Coding) -> Steps:
        """Steps of this converter, in the same units of 2^-F, where the machine's ``coding`` has steps ``h``.

        ``unit`` and ``worst`` (groups of up to ``rows`` wordlines) follow from the coding. The others keep the range
        that was calibrated for the machine's codes, as far as sums can reach: a step widens as the codes get fewer, and
        is at least 1. :class:`UnsupportedError` when a step would be above 65535.
        """
        ours = self.applied(coding)
        machines = np.asarray(h, dtype=np.int64)
        low, high = ours.worst_range(min(rows, coding.parallel_rows))
        ends = np.array(low, dtype=np.int64), np.array(high, dtype=np.int64)
        worst = least_step(*ends, ours, coding.frac_bits)
        if self.calibration == "unit":
            found = np.full_like(machines, 1 << coding.frac_bits)
        elif self.calibration == "worst":
            found = np.broadcast_to(worst, machines.shape)
        elif ours == coding:
            return machines
        else:
            # the codes on the side of zero that has more of them
            had = max(
                coding.converter_hi - coding.converter_zero, coding.converter_zero - coding.converter_lo
            )
            has = max(ours.converter_hi - ours.converter_zero, ours.converter_zero - ours.converter_lo)
            found = np.maximum(np.minimum(-(-machines * had // has), worst), 1 << coding.frac_bits)
        if int(found.max()) > MAX_STEP:
            raise UnsupportedError(
                f"a converter of {self.bits} bits needs a step of {int(found.max())} / 2^{coding.frac_bits}, at most "
                f"{MAX_STEP}; use more bits or fewer parallel rows",
                where="adc",
            )
        return found

    def steps(self, observed: Sequence[Observed], rows: Sequence[int], coding: Coding) -> StepChoice:
        """Steps ``h`` that broadcast to (groups, phases, conversions), from what each row group observed.

        ``rows`` are the groups' used rows. The coding of the reads must then carry ``frac_bits`` of the choice.
        :class:`ValueError` without groups, :class:`UnsupportedError` as
        :func:`~cimc.runtime.crossbar.converter.full_step`.
        """
        if self.calibration == "unit":
            return StepChoice(np.ones((1, 1, 1), dtype=np.int64), 0)
        if not observed:
            raise ValueError("steps need the partial sums of at least one row group")
        first = min(one.first for one in observed)
        last = max(one.first + one.counts.shape[2] for one in observed)
        sums = first + np.arange(last - first)
        counts = np.zeros((len(observed), *observed[0].counts.shape[:2], last - first), dtype=np.int64)
        for group, one in zip(counts, observed, strict=True):
            group[:, :, one.first - first : one.first - first + one.counts.shape[2]] = one.counts
        worth = np.array([phase.coefficient for phase in coding.phases], dtype=np.float64) ** 2
        shared = {"tile": (), "slice": (0,), "layer": (0, 1, 2)}[self.range]
        weight = (counts * worth[None, :, None, None]).sum(axis=shared, keepdims=True)
        low, high = self._ends(counts.sum(axis=shared, keepdims=True), sums, rows, coding)
        cover = full_step(low, high, coding)
        if self.calibration != "mse":
            return cover
        h = np.empty_like(cover.h)
        for place in np.ndindex(h.shape):
            line = weight[place]
            seen = line > 0
            h[place] = least_error_step(line[seen], sums[seen], int(cover.h[place]), coding, cover.frac_bits)
        if np.all(h == 1 << cover.frac_bits):
            return StepChoice(np.ones_like(h), 0)
        return StepChoice(h, cover.frac_bits)

    def _ends(
        self,
        counts: npt.NDArray[np.int64],
        sums: npt.NDArray[np.int64],
        rows: Sequence[int],
        coding: Coding,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Least and largest sum (…) that the step of each line of ``counts`` (…, bins) is to cover; 0 is inside."""
        if self.calibration == "worst":
            ends = np.array([coding.worst_range(count) for count in rows], dtype=np.int64)
            if self.range != "tile":
                ends = np.array([[ends[:, 0].min(), ends[:, 1].max()]], dtype=np.int64)
            shape = (len(ends), 1, 1)
            wide = counts.shape[:-1]
            return np.broadcast_to(ends[:, 0].reshape(shape), wide), np.broadcast_to(
                ends[:, 1].reshape(shape), wide
            )
        share = 1.0 if self.calibration != "percentile" else (self.percentile or DEFAULT_PERCENTILE) / 100
        below = counts.cumsum(axis=-1)
        total = below[..., -1:]
        # the least sum that `share` of all do not exceed, and the largest that `share` of all reach
        high = sums[np.argmax(below >= share * total, axis=-1)]
        above = counts[..., ::-1].cumsum(axis=-1)
        low = sums[::-1][np.argmax(above >= share * total, axis=-1)]
        return np.minimum(low, 0), np.maximum(high, 0)


def observe_groups(
    qx: npt.NDArray[np.integer[Any]], cells: Cells, coding: Coding, bounds: Bounds
) -> list[Observed]:
    """Partial sums of windows ``qx`` (M, K) on stored ``cells`` (K, N, D), row group by row group."""
    seen: list[Observed] = []
    for first, last in pairwise(bounds.tolist()):
        alone = np.array([0, last - first], dtype=np.int64)
        seen.append(observe(qx[:, first:last], cells[first:last], coding, alone))
    return seen


def sar_codes(partial: Tensor, h: Tensor, coding: Coding, grid_bits: int, thresholds: Tensor) -> Tensor:
    """``code - zero`` of partial sums (…, N) in units of 2^-grid_bits by successive approximation: int64.

    ``h`` broadcasts against ``partial``; ``thresholds`` (N, 2^bits) are those of the converter behind each column
    (:meth:`Sar.thresholds`). From the most significant bit down a bit is kept when the sum reaches the threshold of the
    code tried, so that thresholds out of order give the codes that such a converter would. Without mismatch this is
    :func:`~cimc.runtime.crossbar.converter.convert`.
    """
    bits = (coding.converter_hi - coding.converter_lo).bit_length()
    below = coding.converter_zero - coding.converter_lo
    up = coding.frac_bits + THRESHOLD_BITS - grid_bits
    # in units of 2^-16 step of h: a floor on the left changes no comparison with an integer
    wide = partial.to(torch.int64)
    scaled = wide << up if up >= 0 else wide >> -up
    code = torch.zeros_like(scaled)
    column = torch.arange(partial.shape[-1], device=partial.device).expand_as(code)
    for bit in reversed(range(bits)):
        tried = code | (1 << bit)
        level = thresholds[column, tried] - (below << THRESHOLD_BITS)
        code = torch.where(scaled >= level * h, tried, code)
    return code - below
