"""The crossbar product, fast and equal to :func:`~cimc.runtime.crossbar.reference.read_reference`.

Where the converter provably loses nothing, all digits of a group and conversion collapse into one product
with the weights decoded from the cells. Where it can lose, the digits of all phases and conversions are
stacked into one product per row group, converted and added. Proofs use the cells' contents, never the
intended weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.crossbar.cells import Cells, Flips, conversion_levels
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.converter import broadcast_steps, is_lossless
from cimc.runtime.crossbar.kernels import SOURCES, fold, signed_sums, stack_digits, weigh
from cimc.runtime.crossbar.reference import check_codes
from cimc.runtime.crossbar.rows import Bounds, group_of_rows

CHUNK_BYTES = 4 << 20
"""Bound on the digits, and on the partial sums, that one step of the stacked evaluation holds."""

FLOAT32_EXACT = 1 << 24
FLOAT64_EXACT = 1 << 53


@dataclass(frozen=True)
class _Group:
    """The conversions of one row group that can lose information."""

    first: int
    last: int
    levels: npt.NDArray[Any]
    """(rows, J' * N) cell levels, float32 or float64: whichever is exact."""
    worth: npt.NDArray[np.float64]
    """(J', N): coefficient of the conversion, negated where the column is flipped."""
    h: npt.NDArray[np.float64]
    """(I, J')."""


def group_ranges(levels: npt.NDArray[np.int16], coding: Coding, bounds: Bounds) -> npt.NDArray[np.int64]:
    """[p_min, p_max] of every conversion over all inputs: int64 (2, G, I, J), from levels (K, N, J).

    A group's partial sum is largest when every row with positive levels is driven fully and the others not.
    """
    drive = np.array([phase.top for phase in coding.phases], dtype=np.int64)[:, None]
    below = np.empty((len(bounds) - 1, levels.shape[2]), dtype=np.int64)
    above = np.empty_like(below)
    signed_sums(levels, bounds, below, above)
    return np.stack([below[:, None, :] * drive, above[:, None, :] * drive])


class ArrayProduct:
    """One operator's cells, prepared once per write for many reads.

    ``cells`` uint8 (K, N, D), ``flips`` bool (G, N, D), ``bounds`` and ``h`` as in ``read_reference``.
    ``lossless`` tells whether every conversion collapsed, ``converted`` how many (group, conversion) pairs
    did not, ``dense_type`` in what the collapsed product is computed. :class:`ValueError` for steps out of
    range or arrays that do not belong together.
    """

    def __init__(
        self,
        cells: Cells,
        flips: Flips,
        coding: Coding,
        bounds: Bounds,
        h: int | npt.NDArray[np.integer[Any]] = 1,
    ):
        rows, columns, depth = cells.shape
        if depth != coding.cells_per_weight or bounds[-1] != rows:
            raise ValueError(
                f"cells {cells.shape}: need {bounds[-1]} rows and {coding.cells_per_weight} cells each"
            )
        if flips.shape != (len(bounds) - 1, columns, depth):
            raise ValueError(f"flips must be {(len(bounds) - 1, columns, depth)}, got {flips.shape}")
        self.coding = coding
        self.rows = rows
        self.columns = columns
        steps = broadcast_steps(h, len(bounds) - 1, coding)
        levels = conversion_levels(cells, coding)
        p_min, p_max = group_ranges(levels, coding, bounds)
        collapsed = np.asarray(is_lossless(p_min, p_max, steps, coding).all(axis=1))
        self.lossless = bool(collapsed.all())
        self._groups = _lossy_groups(levels, flips, coding, bounds, steps, collapsed)
        self.converted = sum(len(group.worth) for group in self._groups)
        self._prepare_dense(_dense_weights(levels, flips, coding, bounds, collapsed))
        phases = coding.phases
        self._source = np.array([SOURCES.index(phase.source) for phase in phases], dtype=np.int32)
        self._shift = np.array([phase.shift for phase in phases], dtype=np.int32)
        self._top = np.array([phase.top for phase in phases], dtype=np.int32)
        self._phase = np.array([phase.coefficient for phase in phases], dtype=np.int64)

    def _prepare_dense(self, weights: npt.NDArray[np.int64]) -> None:
        """Choose the narrowest type in which the collapsed product is exact in any order of addition."""
        coding = self.coding
        # Codes around their middle have half the magnitude: more products fit float32.
        self._centre = (coding.input_min + coding.input_max + 1) // 2
        self._constant = (self._centre - coding.input_offset) * weights.sum(axis=0)
        magnitude = max(self._centre - coding.input_min, coding.input_max - self._centre)
        bound = magnitude * int(np.abs(weights).sum(axis=0).max(initial=0))
        self.dense_type: type[Any] = np.int64
        if bound < FLOAT64_EXACT:
            self.dense_type = np.float64
        if bound < FLOAT32_EXACT:
            self.dense_type = np.float32
        self._weights = np.ascontiguousarray(weights.astype(self.dense_type))

    def read(self, qx: npt.NDArray[np.integer[Any]], chunk_bytes: int = CHUNK_BYTES) -> npt.NDArray[np.int64]:
        """``read_reference`` of the codes ``qx`` (M, K), integer for integer: int64 (M, N) in units of 2^-F.

        ``chunk_bytes`` bounds the stacked digits and the partial sums held at once; no result depends on it.
        """
        check_codes(qx, self.rows, self.coding)
        centred = np.subtract(qx, self._centre, dtype=self.dense_type, casting="unsafe")
        total = (centred @ self._weights).astype(np.int64)
        total += self._constant
        if self.coding.frac_bits:
            total <<= self.coding.frac_bits
        if self._groups:
            self._add_converted(qx, total, chunk_bytes)
        return total

    def _add_converted(
        self, qx: npt.NDArray[np.integer[Any]], total: npt.NDArray[np.int64], chunk_bytes: int
    ) -> None:
        """Add every conversion that did not collapse, a block of windows at a time."""
        coding = self.coding
        phases = coding.digit_cycles
        kind = self._groups[0].levels.dtype
        widest = max(self.rows, max(group.levels.shape[1] for group in self._groups))
        block = max(1, chunk_bytes // (phases * widest * kind.itemsize))
        values = qx.astype(np.int32) - np.int32(coding.input_offset)
        scale = float(2 << coding.frac_bits)
        low = float(coding.converter_lo - coding.converter_zero)
        high = float(coding.converter_hi - coding.converter_zero)
        for start in range(0, len(values), block):
            part = values[start : start + block]
            digits = np.empty((phases, *part.shape), dtype=kind)
            stack_digits(part, self._source, self._shift, self._top, digits)
            stacked = digits.reshape(-1, self.rows)
            for group in self._groups:
                partial = (stacked[:, group.first : group.last] @ group.levels).reshape(
                    phases, len(part), len(group.worth), self.columns
                )
                fold(
                    partial, group.h, group.worth, self._phase, scale, low, high, total[start : start + block]
                )


def _dense_weights(
    levels: npt.NDArray[np.int16],
    flips: Flips,
    coding: Coding,
    bounds: Bounds,
    collapsed: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:
    """int64 (K, N): what the input values are multiplied by outside the converter.

    The weights of the ``collapsed`` (G, J) conversions, the correction ``top * sum_k x`` of flipped columns
    (which is linear in the values, converted or not), and the offset encoding's correction.
    """
    coefficients = np.array([plane.coefficient for plane in coding.conversions], dtype=np.int64)
    tops = np.array([plane.top for plane in coding.conversions], dtype=np.int64)
    # Analog subtraction has fewer conversions than cells, and no flips.
    flipped = flips[:, :, : len(tops)]
    fixed = (flipped * (coefficients * tops)).sum(axis=2) - coding.weight_offset
    weights = fixed[group_of_rows(bounds)]
    weigh(levels, bounds, np.where(flipped, -coefficients, coefficients) * collapsed[:, None, :], weights)
    return weights


def _lossy_groups(
    levels: npt.NDArray[np.int16],
    flips: Flips,
    coding: Coding,
    bounds: Bounds,
    steps: npt.NDArray[np.int64],
    collapsed: npt.NDArray[np.bool_],
) -> list[_Group]:
    """The groups with a conversion that did not collapse, their levels as (rows, J' * N)."""
    coefficients = np.array([plane.coefficient for plane in coding.conversions], dtype=np.float64)
    drive = max(phase.top for phase in coding.phases)
    peak = int(np.abs(levels).max(initial=0)) * drive * int(np.diff(bounds).max())
    kind = np.float32 if peak < FLOAT32_EXACT else np.float64
    found: list[_Group] = []
    for g in np.flatnonzero(~collapsed.all(axis=1)).tolist():
        first, last = bounds[g : g + 2].tolist()
        kept = np.flatnonzero(~collapsed[g])
        block = levels[first:last, :, kept].transpose(0, 2, 1).reshape(last - first, -1)
        sign = np.where(flips[g][:, kept].T, -1.0, 1.0)
        found.append(
            _Group(
                first,
                last,
                np.ascontiguousarray(block, dtype=kind),
                sign * coefficients[kept, None],
                np.ascontiguousarray(steps[g][:, kept], dtype=np.float64),
            )
        )
    return found
