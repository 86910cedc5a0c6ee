"""Devices by name or path, as models that the simulator calls (docs/device-file.md).

Order of a cell's life: level -> ``targets_us`` -> ``programmed_us`` -> ``drifted_us`` -> ``faulty_us`` (a stuck cell
does not drift) -> every read. The caller draws all random numbers, so that they can be keyed by chip, layer and
cell; nothing here has a state or a seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from cimc.diagnostics import UsageError
from cimc.runtime.device.adc import Adc
from cimc.runtime.device.dac import Dac
from cimc.runtime.device.drift import DriftModel
from cimc.runtime.device.ir_drop import ClosedFormWires, NodalWires
from cimc.runtime.device.nonlinearity import CubicCurrent
from cimc.runtime.device.programming import ProgrammingModel
from cimc.runtime.device.random import Purpose
from cimc.runtime.device.read_noise import ReadNoiseModel, ReadScope
from cimc.runtime.device.schema import Baseline, DeviceFile


@dataclass(frozen=True)
class DeviceModel:
    """A device as functions of tensors: conductances in uS, times in seconds since programming."""

    file: DeviceFile

    @property
    def name(self) -> str:
        """Name of the device."""
        return self.file.name

    @property
    def g_off_us(self) -> float:
        """Conductance of level 0."""
        return self.file.cell.g_off_us

    @property
    def g_on_us(self) -> float:
        """Conductance of the top level."""
        return self.file.cell.g_on_us

    @property
    def v_max(self) -> float:
        """Largest value of a cell that is read, in top levels."""
        return self.file.cell.v_max

    @property
    def baseline(self) -> Baseline:
        """How the current of level 0 is taken away."""
        return self.file.baseline

    @property
    def read_scope(self) -> ReadScope:
        """How long a draw of read noise lives."""
        return self.file.read_scope

    @property
    def draws(self) -> frozenset[Purpose]:
        """What a cell takes random numbers for between its level and its reads."""
        sections = {
            Purpose.PROGRAMMING: self.file.programming,
            Purpose.DRIFT: self.file.drift,
            Purpose.FAULTS: self.file.faults,
        }
        return frozenset(purpose for purpose, section in sections.items() if section is not None)

    @cached_property
    def _programming(self) -> ProgrammingModel | None:
        section = self.file.programming
        return None if section is None else cast(ProgrammingModel, section.chosen())

    @cached_property
    def _drift(self) -> DriftModel | None:
        section = self.file.drift
        return None if section is None else cast(DriftModel, section.chosen())

    @cached_property
    def _read_noise(self) -> ReadNoiseModel | None:
        section = self.file.read_noise
        return None if section is None else cast(ReadNoiseModel, section.chosen())

    @property
    def ideal(self) -> bool:
        """Whether a cell reads as its digit, always: what lets a lossless product collapse.

        Conservative for devices with a fixed number of states. Row drivers are part of it, converters are not.
        """
        file = self.file
        lossless = file.cell.state_count is None and (file.baseline != "none" or self.g_off_us == 0)
        cells = (file.programming, file.drift, file.faults, file.read_noise)
        effects = (*cells, file.wires, file.current, file.dac)
        return lossless and all(section is None for section in effects)

    @property
    def independent_gaussian_reads(self) -> bool:
        """Whether every read draws anew and its noise is additive Gaussian (the variance product is exact)."""
        return self._read_noise is not None and self._read_noise.gaussian and self.read_scope == "read"

    def check_top(self, top: int) -> None:
        """:class:`UsageError` when a digit of levels 0 … ``top`` has more levels than the cell has states."""
        states = self.file.cell.state_count
        if top < 1:
            raise UsageError(f"a cell has two levels or more, got {top + 1}", where=f"device '{self.name}'")
        if states is not None and top >= states:
            raise UsageError(
                f"a cell has {states} levels, but digits of {top + 1} levels are to be stored; use cell_bits "
                f"{int(math.log2(states))} or less, or another device",
                where=f"device '{self.name}'",
            )

    def check_time(self, time_s: float) -> None:
        """:class:`UsageError` when ``time_s`` is negative, not finite, or one that the drift was not fitted for."""
        where = f"device '{self.name}'"
        if not 0 <= time_s < math.inf:
            raise UsageError(f"time since programming is 0 s or more, got {time_s:g}", where=where)
        why = "" if self._drift is None else self._drift.refused(time_s)
        if why:
            raise UsageError(f"its drift {why}, got {time_s:g} s", where=where)

    def step_us(self, top: int) -> float:
        """dG: uS of one level where the top level is ``top``."""
        return (self.g_on_us - self.g_off_us) / top

    def targets_us(self, levels: Tensor, top: int) -> Tensor:
        """Conductances to program for ``levels`` 0 … ``top``: float64 of the same shape, uS.

        With a number of states the nearest one is taken (half to even), as MemIntelli does. :class:`UsageError` as
        :meth:`check_top`.
        """
        self.check_top(top)
        cell = self.file.cell
        levels = levels.to(torch.float64)
        if cell.state_count is None:
            return self.g_off_us + levels * self.step_us(top)
        last = cell.state_count - 1
        state = torch.round(levels * last / top)
        if cell.level_conductances_us is None:
            return self.g_off_us + state * ((self.g_on_us - self.g_off_us) / last)
        table = torch.tensor(cell.level_conductances_us, dtype=torch.float64, device=levels.device)
        return table[state.to(torch.int64)]

    def programmed_us(self, target_us: Tensor, z: Tensor) -> Tensor:
        """Conductances after programming; ``z`` are standard normals of the same shape."""
        if self._programming is None:
            return target_us
        return self._programming.programmed_us(target_us, z, self.g_on_us)

    def drifted_us(self, g_us: Tensor, target_us: Tensor, time_s: float, z: Tensor) -> Tensor:
        """Conductances ``time_s`` after programming; one normal a cell, the same at every time."""
        if self._drift is None or time_s == 0:
            return g_us
        self.check_time(time_s)
        return self._drift.drifted_us(g_us, target_us, time_s, z, self.g_off_us, self.g_on_us)

    def drift_gain(self, time_s: float, top: int) -> float:
        """What reads are multiplied by against the mean drift; 1 unless `drift_compensation: global`.

        ``sum (target - G_off) / sum (drifted - G_off)`` over reference cells: one of each level 0 … ``top`` at each of
        64 equally likely draws. aihwkit takes the weights' own cells; a fixed set needs no read of them.
        """
        if self.file.drift_compensation == "none" or time_s == 0:
            return 1.0
        quantiles = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
        z = torch.special.ndtri(quantiles)[:, None].expand(64, top + 1)
        target = self.targets_us(torch.arange(top + 1), top).expand(64, top + 1)
        drifted = self.drifted_us(target, target, time_s, z)
        left = float((drifted - self.g_off_us).sum())
        if left <= 0:
            raise UsageError(
                f"nothing is left of its levels after {time_s:g} s: no gain brings them back; read it sooner",
                where=f"device '{self.name}'",
            )
        return float((target - self.g_off_us).sum()) / left

    def faulty_us(self, g_us: Tensor, u: Tensor) -> Tensor:
        """Conductances with stuck cells, from uniforms ``u`` in [0, 1) of the same shape."""
        if self.file.faults is None:
            return g_us
        return self.file.faults.faulty_us(g_us, u, self.g_off_us, self.g_on_us)

    @cached_property
    def _wires(self) -> NodalWires | ClosedFormWires | None:
        section = self.file.wires
        return None if section is None else cast(NodalWires | ClosedFormWires, section.chosen())

    @property
    def array_columns(self) -> int | None:
        """Physical columns of one array whose wires have resistance; None when they have none."""
        return None if self._wires is None else self._wires.array_columns

    @property
    def array_rows(self) -> int | None:
        """Wordlines of one array, where the wires' resistance depends on them."""
        return None if self._wires is None else self._wires.array_rows

    def effective_us(self, g_us: Tensor, wordlines_below: int = 0) -> Tensor:
        """Conductances that row groups ``g_us`` (…, rows, columns) of arrays have between drivers and sense nodes.

        ``wordlines_below`` lie between the group and the sense nodes.
        """
        return g_us if self._wires is None else self._wires.effective_us(g_us, wordlines_below)

    @property
    def adc(self) -> Adc | None:
        """The converter that the device asks for instead of the machine's."""
        return self.file.adc

    @property
    def dac(self) -> Dac | None:
        """Row drivers with noise; None when every row is driven exactly."""
        return self.file.dac

    @property
    def proportional(self) -> bool:
        """Whether a cell's current is proportional to the voltage: one conductance for all digits."""
        return self.file.current is None

    def driven_us(self, g_us: Tensor, digit: int, top: int) -> Tensor:
        """Current over voltage of cells driven with ``digit`` 1 … ``top``, uS: ``g_us`` when proportional."""
        if self.file.current is None:
            return g_us
        return cast(CubicCurrent, self.file.current.chosen()).driven_us(g_us, digit / top)

    def read_sigma_us(
        self, g_us: Tensor, time_s: float, programmed_us: Tensor | None = None
    ) -> Tensor | None:
        """Standard deviation of a read of ``g_us``, uS; None without read noise.

        ``programmed_us`` is the conductance before drift, on which the 1/f fits of PCM depend (``g_us`` when left out).
        """
        if self._read_noise is None:
            return None
        before = g_us if programmed_us is None else programmed_us
        return self._read_noise.sigma_us(g_us, time_s, before, self.g_on_us)

    def read_us(self, g_us: Tensor, time_s: float, z: Tensor, programmed_us: Tensor | None = None) -> Tensor:
        """Conductances that one read sees; ``z`` are standard normals of the same shape."""
        if self._read_noise is None:
            return g_us
        before = g_us if programmed_us is None else programmed_us
        return self._read_noise.read_us(g_us, time_s, z, before, self.g_on_us)
