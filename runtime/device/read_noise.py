"""What one read sees of a cell: conductances in uS, ``z`` standard normals, both of one shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor

from cimc.configuration.located import BrokenRule, Section
from cimc.runtime.device.choice import Amount, OneModel, Positive
from cimc.runtime.device.fits import SMALLEST_RATIO, SaturatingFit, StateFit

ReadScope = Literal["read", "vector", "call", "frozen"]
"""How long a draw lives: one read (vector and input digit), all digits of a vector, one call, or for good."""


class ReadNoiseModel(Protocol):
    """Noise of a read."""

    @property
    def gaussian(self) -> bool:
        """Whether the noise is additive Gaussian without clipping: what a sampled variance reproduces exactly."""
        ...

    def sigma_us(self, g_us: Tensor, time_s: float, programmed_us: Tensor, g_on_us: float) -> Tensor:
        """Standard deviation of a read, uS."""
        ...

    def read_us(
        self, g_us: Tensor, time_s: float, z: Tensor, programmed_us: Tensor, g_on_us: float
    ) -> Tensor:
        """The conductance of one read, uS."""
        ...


class GaussianRead(Section):
    """``g + (relative g + absolute) z``: CrossSim's proportional and independent read noise, NeuroSim's N(0, s g)."""

    relative: Amount = 0.0
    """standard deviation as a share of the conductance"""
    absolute_us: Amount = 0.0
    """standard deviation in uS, whatever the conductance"""

    @property
    def gaussian(self) -> bool:
        """Always."""
        return True

    def sigma_us(self, g_us: Tensor, time_s: float, programmed_us: Tensor, g_on_us: float) -> Tensor:
        """uS, as in the class."""
        return g_us * self.relative + self.absolute_us

    def read_us(
        self, g_us: Tensor, time_s: float, z: Tensor, programmed_us: Tensor, g_on_us: float
    ) -> Tensor:
        """uS, as in the class."""
        return g_us + self.sigma_us(g_us, time_s, programmed_us, g_on_us) * z


class LognormalRead(Section):
    """``g exp(sigma z)``, MemIntelli's read variation; ``compensated`` divides its mean gain exp(sigma^2 / 2) out."""

    sigma: Amount
    """standard deviation of ln g"""
    compensated: bool
    """true: the mean is the conductance; false: the median is"""

    @property
    def gaussian(self) -> bool:
        """Never: the tail is one-sided, and a Gaussian of equal moments is an approximation."""
        return False

    def sigma_us(self, g_us: Tensor, time_s: float, programmed_us: Tensor, g_on_us: float) -> Tensor:
        """``g e^(s^2/2) sqrt(e^(s^2) - 1)``, without the first factor when compensated; uS."""
        spread = float(torch.expm1(torch.tensor(self.sigma**2, dtype=torch.float64)).sqrt())
        gain = (
            1.0 if self.compensated else float(torch.tensor(0.5 * self.sigma**2, dtype=torch.float64).exp())
        )
        return g_us * (gain * spread)

    def read_us(
        self, g_us: Tensor, time_s: float, z: Tensor, programmed_us: Tensor, g_on_us: float
    ) -> Tensor:
        """uS, as in the class."""
        shift = -0.5 * self.sigma**2 if self.compensated else 0.0
        return g_us * torch.exp(self.sigma * z + shift)


def one_over_f(age_s: float, t_read_s: float) -> float:
    """``sqrt(ln((t + tr) / (2 tr)))``: growth of 1/f noise since programming; 0 before a read time has passed."""
    return math.sqrt(max(math.log((age_s + t_read_s) / (2 * t_read_s)), 0.0))


class PowerFit(Section):
    """``min(coefficient / r^exponent, high)``."""

    coefficient: Amount
    """value at r = 1"""
    exponent: Amount
    """power of r"""
    high: Positive
    """largest value"""

    def at(self, ratio: Tensor) -> Tensor:
        """The fitted value at ``ratio``."""
        ratio = ratio.abs().clamp(min=SMALLEST_RATIO)
        return (self.coefficient * torch.exp(-self.exponent * ratio.log())).clamp(max=self.high)


class FlickerRead(Section):
    """``sigma = |g| Q(r) sqrt(ln((t + t0 + tr) / (2 tr)))``, r = programmed g / g_on: 1/f noise of PCM."""

    t_read_s: Positive
    """duration of a read, in s"""
    t0_s: Amount
    """age of a cell at the first read, in s, added to the time since programming"""
    power: PowerFit | None = None
    """Q over the state as a power"""
    state: StateFit | None = None
    """Q over the state as a logarithm, with a polynomial above a split"""
    clip_at_zero: bool = True
    """whether a read below 0 is 0; then the noise is not Gaussian for weak cells"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """Q is given once."""
        if (self.power is None) == (self.state is None):
            yield BrokenRule((), "needs exactly one of power and state")

    @property
    def gaussian(self) -> bool:
        """Unless reads are clipped."""
        return not self.clip_at_zero

    def sigma_us(self, g_us: Tensor, time_s: float, programmed_us: Tensor, g_on_us: float) -> Tensor:
        """uS, as in the class (before clipping)."""
        fit = self.power if self.power is not None else self.state
        assert fit is not None
        return g_us.abs() * fit.at(programmed_us / g_on_us) * one_over_f(time_s + self.t0_s, self.t_read_s)

    def read_us(
        self, g_us: Tensor, time_s: float, z: Tensor, programmed_us: Tensor, g_on_us: float
    ) -> Tensor:
        """uS, as in the class."""
        read_us = g_us + self.sigma_us(g_us, time_s, programmed_us, g_on_us) * z
        return read_us.clamp(min=0) if self.clip_at_zero else read_us


class LogFlickerRead(Section):
    """``sigma = k max(log10(g / uS), 0) sqrt(ln((t + tr) / (2 tr)))``, uS: 1/f noise of CMO/HfOx ReRAM."""

    k_us: Amount
    """uS per decade of conductance above 1 uS"""
    t_read_s: Positive
    """duration of a read, in s"""

    @property
    def gaussian(self) -> bool:
        """Always."""
        return True

    def sigma_us(self, g_us: Tensor, time_s: float, programmed_us: Tensor, g_on_us: float) -> Tensor:
        """uS, as in the class."""
        return self.k_us * g_us.clamp(min=1).log10() * one_over_f(time_s, self.t_read_s)

    def read_us(
        self, g_us: Tensor, time_s: float, z: Tensor, programmed_us: Tensor, g_on_us: float
    ) -> Tensor:
        """uS, as in the class."""
        return g_us + self.sigma_us(g_us, time_s, programmed_us, g_on_us) * z


class SaturatingRead(Section):
    """Standard deviation that saturates in the cell's current, at any time: SONOS."""

    spread: SaturatingFit
    """standard deviation over current"""
    current_na_per_us: Positive
    """cell current in nA that one uS carries: the read voltage in mV"""

    @property
    def gaussian(self) -> bool:
        """Always: zero is 17 standard deviations away from every state of the fitted cells."""
        return True

    def sigma_us(self, g_us: Tensor, time_s: float, programmed_us: Tensor, g_on_us: float) -> Tensor:
        """uS, as in the class."""
        return self.spread.at(g_us * self.current_na_per_us) / self.current_na_per_us

    def read_us(
        self, g_us: Tensor, time_s: float, z: Tensor, programmed_us: Tensor, g_on_us: float
    ) -> Tensor:
        """uS, as in the class."""
        return g_us + self.sigma_us(g_us, time_s, programmed_us, g_on_us) * z


class ReadNoise(OneModel):
    """Noise of a read, drawn anew in every ``scope``."""

    gaussian: GaussianRead | None = None
    """normal noise, relative or absolute"""
    lognormal: LognormalRead | None = None
    """noise that is normal in ln g"""
    flicker: FlickerRead | None = None
    """1/f noise relative to the conductance, with a fitted state dependence"""
    log_flicker: LogFlickerRead | None = None
    """1/f noise in the logarithm of the conductance"""
    saturating: SaturatingRead | None = None
    """noise that saturates in the current"""
