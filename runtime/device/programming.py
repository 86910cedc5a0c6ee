"""What a cell holds after it was programmed: targets in uS become conductances in uS (docs/device-file.md).

Every model is a pure function of the target, of standard normals ``z`` of the same shape, and of the cell's
range; it computes in the number type it is given (float64 gives bits that do not depend on the device).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cimc.configuration.located import Section
from cimc.runtime.device.choice import Amount, OneModel


class ProgrammingModel(Protocol):
    """The conductance after programming."""

    def programmed_us(self, target_us: Tensor, z: Tensor, g_on_us: float) -> Tensor:
        """uS, of the shape of ``target_us``; ``g_on_us`` is the conductance of the top level."""
        ...


class GaussianProgramming(Section):
    """``g = max(gT (1 + relative z) + absolute z, 0)``: one normal a cell, both parts in step.

    ``relative`` is the convention of MemIntelli (write variation, G (1 + s N)) and of CrossSim's
    ``NormalProportional``; ``absolute_us`` that of ``NormalIndependent``.
    """

    relative: Amount = 0.0
    """standard deviation as a share of the target conductance"""
    absolute_us: Amount = 0.0
    """standard deviation in uS, whatever the target"""

    def programmed_us(self, target_us: Tensor, z: Tensor, g_on_us: float) -> Tensor:
        """uS, as in the class."""
        return (target_us + (target_us * self.relative + self.absolute_us) * z).clamp(min=0)


class LognormalProgramming(Section):
    """``g = gT exp(sigma z)``, whose mean is ``gT exp(sigma^2 / 2)``; ``compensated`` divides that gain out.

    The gain is 0.13 % at sigma 0.05 and 4.6 % at 0.3, which a simulator that leaves it in reports as accuracy lost or
    won (docs/numerics.md, section on devices).
    """

    sigma: Amount
    """standard deviation of ln g"""
    compensated: bool
    """true: the mean is the target; false: the median is"""

    def programmed_us(self, target_us: Tensor, z: Tensor, g_on_us: float) -> Tensor:
        """uS, as in the class."""
        shift = -0.5 * self.sigma**2 if self.compensated else 0.0
        return target_us * torch.exp(self.sigma * z + shift)


class Programming(OneModel):
    """Error of programming, drawn once per cell and chip."""

    gaussian: GaussianProgramming | None = None
    """normal error, relative or absolute"""
    lognormal: LognormalProgramming | None = None
    """error that is normal in ln g"""
