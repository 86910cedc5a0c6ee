"""What determines one static product on one chip, except its weights (docs/device.md, recipe)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import floor, log2
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cimc.diagnostics import UnsupportedError
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.converter import Steps, broadcast_steps
from cimc.runtime.crossbar.rows import Bounds, group_bounds
from cimc.runtime.device.adc import Adc
from cimc.runtime.device.dac import Dac
from cimc.runtime.device.random import Key, Purpose, stream_key

Baseline = Literal["ideal", "column", "none"]
"""How the current of G_off is taken away: exactly, by a column of cells that vary themselves, or not at all."""
ReadScope = Literal["read", "vector", "call", "frozen"]
"""How long a draw of read noise lives: one read, all digits of a vector, one call, or for good."""

FLOAT32_EXACT = 1 << 24


class DeviceModel(Protocol):
    """A cell as pure functions of tensors in uS and of random numbers that the caller draws, all of one shape."""

    @property
    def ideal(self) -> bool:
        """Whether a cell always reads as its digit."""
        ...

    @property
    def g_off_us(self) -> float:
        """Conductance of level 0."""
        ...

    @property
    def v_max(self) -> float:
        """Largest value of a cell that is read, in top levels."""
        ...

    @property
    def baseline(self) -> Baseline:
        """How the current of level 0 is taken away."""
        ...

    @property
    def draws(self) -> frozenset[Purpose]:
        """What a cell takes random numbers for between its level and its reads; the other models change nothing."""
        ...

    @property
    def read_scope(self) -> ReadScope:
        """How long a draw of read noise lives."""
        ...

    @property
    def independent_gaussian_reads(self) -> bool:
        """Whether noise is additive, Gaussian and fresh at every read."""
        ...

    @property
    def adc(self) -> Adc | None:
        """The converter that the device brings, None for the machine's."""
        ...

    @property
    def dac(self) -> Dac | None:
        """The noise of row drivers, None for exact ones."""
        ...

    @property
    def proportional(self) -> bool:
        """Whether a cell's current is proportional to the voltage."""
        ...

    @property
    def array_columns(self) -> int | None:
        """Physical columns of an array with resistive wires, None without them."""
        ...

    @property
    def array_rows(self) -> int | None:
        """Its wordlines, where the wires depend on them."""
        ...

    def check_top(self, top: int) -> None:
        """An error when a cell does not have levels 0 … ``top``."""
        ...

    def check_time(self, time_s: float) -> None:
        """An error when the device says nothing about ``time_s``."""
        ...

    def drift_gain(self, time_s: float, top: int) -> float:
        """What reads are multiplied by against the mean drift."""
        ...

    def driven_us(self, g_us: Tensor, digit: int, top: int) -> Tensor:
        """Current over voltage of cells driven with ``digit`` 1 … ``top``."""
        ...

    def effective_us(self, g_us: Tensor, wordlines_below: int = 0) -> Tensor:
        """Conductances of row groups (…, rows, columns) between drivers and sense nodes."""
        ...

    def step_us(self, top: int) -> float:
        """dG: uS of one level."""
        ...

    def targets_us(self, levels: Tensor, top: int) -> Tensor:
        """Conductances to program for ``levels`` 0 … ``top``."""
        ...

    def programmed_us(self, target_us: Tensor, z: Tensor) -> Tensor:
        """Conductances after programming."""
        ...

    def drifted_us(self, g_us: Tensor, target_us: Tensor, time_s: float, z: Tensor) -> Tensor:
        """Conductances ``time_s`` after programming."""
        ...

    def faulty_us(self, g_us: Tensor, u: Tensor) -> Tensor:
        """Conductances with stuck cells, from uniforms in (0, 1)."""
        ...

    def read_sigma_us(
        self, g_us: Tensor, time_s: float, programmed_us: Tensor | None = None
    ) -> Tensor | None:
        """Standard deviation of a read of ``g_us``, ``programmed_us`` before drift; None without read noise."""
        ...

    def read_us(self, g_us: Tensor, time_s: float, z: Tensor, programmed_us: Tensor | None = None) -> Tensor:
        """Conductances that one read sees."""
        ...


@dataclass(frozen=True)
class Chip:
    """One manufactured chip at one time: random numbers follow from (seed, instance), ``time_s`` since programming."""

    seed: int
    instance: int = 0
    time_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Recipe:
    """One operator's static product on one chip; its integer weights are the only thing missing.

    ``layer`` is a stable number of the operator within its network: with the chip it names the random streams.
    ``segments`` are the row tiles in order, (rows, first wordline) each, as
    :func:`~cimc.runtime.crossbar.rows.group_bounds` takes them. ``h`` are the converter's steps, broadcast to
    (groups, phases, conversions). ``converter`` False reads currents without any converter; results then are in units
    of the cells' grid.

    Raises :class:`ValueError` for tiles or steps that do not fit, :class:`UnsupportedError` when a partial sum of
    grid values cannot be held exactly or the device cannot be read this way, :class:`UsageError` when it has too few
    levels or was not fitted for the time.
    """

    layer: int
    coding: Coding
    segments: tuple[tuple[int, int], ...]
    device: DeviceModel
    chip: Chip
    h: int | npt.NDArray[np.int64] = 1
    converter: bool = True

    def __post_init__(self) -> None:
        adc = self.device.adc
        if adc is not None:
            # The device's converter takes the place of the machine's; doing so twice changes nothing.
            h = adc.adapted(self.h, self.rows_at_once, self.coding)
            object.__setattr__(self, "coding", adc.applied(self.coding))
            object.__setattr__(self, "h", h)
        if self.grid_bits < 0:
            raise UnsupportedError(
                f"{self.rows_at_once} rows of {self.drive} x {self.v_max:g} levels exceed 2^24: partial sums are not "
                "exact; use narrower digits or fewer parallel rows",
                where=f"layer {self.layer}",
            )
        for purpose in Purpose:
            self.key(purpose)
        self.steps  # noqa: B018 - the check of h
        self.device.check_top(self.top)
        self.device.check_time(self.chip.time_s)
        if self.bends and (self.resamples or not self.converter):
            raise UnsupportedError(
                "its cells' current is not proportional to the voltage, and digits go up to "
                f"{self.drive}: such cells are read through a converter, with read noise that is frozen or Gaussian "
                "and fresh at every read; use a 1-bit DAC or take `current` out of the device file",
                where=f"layer {self.layer}",
            )
        if self.device.dac is not None and not self.converter:
            raise UnsupportedError(
                "currents of noisy row drivers are not on the cells' grid, so they cannot be read without a converter; "
                "read with one or take `dac` out of the device file",
                where=f"layer {self.layer}",
            )
        used = max(rows + first for rows, first in self.segments)
        if self.device.array_rows is not None and used > self.device.array_rows:
            raise UnsupportedError(
                f"a tile reaches wordline {used - 1}, but array_rows of the device's wires is "
                f"{self.device.array_rows}; give the machine's number of wordlines",
                where=f"layer {self.layer}",
            )

    @cached_property
    def bounds(self) -> Bounds:
        """int64 [G + 1], the row groups."""
        return group_bounds(self.segments, self.coding.parallel_rows)

    @cached_property
    def steps(self) -> Steps:
        """int64 (G, I, J)."""
        return broadcast_steps(self.h, len(self.bounds) - 1, self.coding)

    @property
    def rows(self) -> int:
        """K of the product."""
        return int(self.bounds[-1])

    @property
    def rows_at_once(self) -> int:
        """Used rows of the largest group."""
        return int(np.diff(self.bounds).max())

    @property
    def top(self) -> int:
        """Top level of a cell; a digit narrower than its cell uses the lower levels of the same ladder."""
        return (1 << self.coding.cell_bits) - 1

    @property
    def v_max(self) -> float:
        """Largest magnitude of a cell, in levels."""
        return self.device.v_max * self.top

    @property
    def drive(self) -> int:
        """Largest digit that a DAC drives."""
        return max(phase.top for phase in self.coding.phases)

    @cached_property
    def grid_bits(self) -> int:
        """e: cells are multiples of 2^-e, the largest with rows * (2^dac - 1) * v_max * 2^e < 2^24; 0 if ideal."""
        peak = self.rows_at_once * self.drive * self.v_max
        bits = floor(log2(FLOAT32_EXACT / peak))
        bits -= peak * 2.0**bits >= FLOAT32_EXACT
        return min(bits, 0) if self.device.ideal else bits

    @property
    def frac_bits(self) -> int:
        """Results are in units of 2^-this: F of the converter, or e without one."""
        return self.coding.frac_bits if self.converter else self.grid_bits

    def key(self, purpose: Purpose) -> Key:
        """Key of this layer's stream for ``purpose``."""
        return stream_key(self.chip.seed, self.chip.instance, self.layer, purpose)

    @cached_property
    def noisy(self) -> bool:
        """Whether reads have noise of their own."""
        probe = torch.full((1,), self.device.g_off_us, dtype=torch.float64)
        return self.device.read_sigma_us(probe, self.chip.time_s) is not None

    @cached_property
    def gain(self) -> float:
        """What currents are multiplied by before the converter against the mean drift."""
        return self.device.drift_gain(self.chip.time_s, self.top)

    @property
    def bends(self) -> bool:
        """Whether a cell's value depends on the digit that drives it."""
        return not self.device.proportional and self.drive > 1

    def tile_of(self, row: int) -> int:
        """Number of the row tile that holds ``row``."""
        ends = np.cumsum([rows for rows, _ in self.segments])
        return int(np.searchsorted(ends, row, side="right"))

    def wordlines_below(self, last_row: int) -> int:
        """Wordlines between the row before ``last_row``, at the end of a group, and the sense nodes."""
        if self.device.array_rows is None:
            return 0
        tile = self.tile_of(last_row - 1)
        start = sum(rows for rows, _ in self.segments[:tile])
        return self.device.array_rows - (self.segments[tile][1] + last_row - start)

    @property
    def resamples(self) -> bool:
        """Whether reads draw noise cell by cell: scopes longer than a read, and noise that is not Gaussian."""
        return (
            self.noisy and self.device.read_scope != "frozen" and not self.device.independent_gaussian_reads
        )

    def epoch(self, window: int, phase: int, call: int) -> int:
        """Number of the draw of cell noise that a read sees, by the device's scope."""
        if self.device.read_scope == "call":
            return call
        if self.device.read_scope == "vector":
            return window
        return window * self.coding.digit_cycles + phase
