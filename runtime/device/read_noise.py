"""What one read sees of a cell: conductances in uS, ``z`` standard normals, both of one shape."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from cimc.configuration.located import Section
from cimc.runtime.device.choice import Amount, OneModel

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


class ReadNoise(OneModel):
    """Noise of a read, drawn anew in every ``scope``."""

    gaussian: GaussianRead | None = None
    """normal noise, relative or absolute"""
    lognormal: LognormalRead | None = None
    """noise that is normal in ln g"""
