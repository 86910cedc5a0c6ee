"""What a cell holds after it was programmed: targets in uS become conductances in uS (docs/device-file.md).

Every model is a pure function of the target, of standard normals ``z`` of the same shape, and of the cell's
range; it computes in the number type it is given (float64 gives bits that do not depend on the device).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from cimc.configuration.located import BrokenRule, Section
from cimc.runtime.device.choice import Amount, OneModel, Polynomial, Positive
from cimc.runtime.device.fits import SaturatingFit, ascending, interpolate, polynomial


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


class PolynomialProgramming(Section):
    """``g = gT + sigma(gT) z`` with ``sigma = max(sum_i c_i x^i, 0)``: the form of most fits to measured cells.

    ``x`` is gT in uS, or with ``fitted_g_on_us`` the ratio ``r = gT / g_on``; then sigma is scaled by
    ``g_on / fitted_g_on_us``, as aihwkit does for another range than the fitted one.
    """

    coefficients_us: Polynomial
    """coefficients of sigma in uS, ascending powers"""
    fitted_g_on_us: Positive | None = None
    """range in uS at which coefficients of r hold; left out: the coefficients are of gT in uS"""
    clip_at_zero: bool = True
    """whether a conductance below 0 is set to 0"""

    def sigma_us(self, target_us: Tensor, g_on_us: float) -> Tensor:
        """Standard deviation at a target, uS."""
        if self.fitted_g_on_us is None:
            return polynomial(self.coefficients_us, target_us).clamp(min=0)
        sigma = polynomial(self.coefficients_us, target_us / g_on_us) * (g_on_us / self.fitted_g_on_us)
        return sigma.clamp(min=0)

    def programmed_us(self, target_us: Tensor, z: Tensor, g_on_us: float) -> Tensor:
        """uS, as in the class."""
        g_us = target_us + self.sigma_us(target_us, g_on_us) * z
        return g_us.clamp(min=0) if self.clip_at_zero else g_us


class TwoRegimeProgramming(Section):
    """One polynomial below a split and another above it; targets below ``zero_below_us`` are 0 exactly.

    The PCM weights of the analog foundation models: one device carries weights up to the split, two those above.
    A conductance may come out negative: there it is the difference of a pair.
    """

    low_us: Polynomial
    """coefficients of sigma in uS, ascending powers of gT in uS, up to and at the split"""
    high_us: Polynomial
    """the same above the split"""
    split_us: Positive
    """largest target of the first polynomial, in uS"""
    zero_below_us: Amount
    """targets below this are not programmed, in uS"""

    def programmed_us(self, target_us: Tensor, z: Tensor, g_on_us: float) -> Tensor:
        """uS, as in the class."""
        above = target_us > self.split_us
        sigma = torch.where(above, polynomial(self.high_us, target_us), polynomial(self.low_us, target_us))
        g_us = target_us + sigma * z
        return torch.where(target_us < self.zero_below_us, torch.zeros_like(g_us), g_us)


class SaturatingProgramming(Section):
    """``g = max(gT + sigma z, 0)`` with sigma saturating in the cell's current: SONOS right after programming."""

    spread: SaturatingFit
    """standard deviation over current"""
    current_na_per_us: Positive
    """cell current in nA that one uS carries: the read voltage in mV"""

    def programmed_us(self, target_us: Tensor, z: Tensor, g_on_us: float) -> Tensor:
        """uS, as in the class."""
        sigma = self.spread.at(target_us * self.current_na_per_us) / self.current_na_per_us
        return (target_us + sigma * z).clamp(min=0)


class ResistanceProgramming(Section):
    """``R = RT (1 + relative z)``: MNSIM's variation, relative in resistance; ``g = gT / (1 + relative z)``.

    Every cell has its own z; MNSIM-2.0 draws one for all cells of a level. A resistance below a hundredth of its
    target is held there (at relative 0.2 that is 5 standard deviations).
    """

    relative: Annotated[float, Field(ge=0, le=0.2)]
    """standard deviation as a share of the resistance, at most 0.2"""

    def programmed_us(self, target_us: Tensor, z: Tensor, g_on_us: float) -> Tensor:
        """uS, as in the class."""
        return target_us / (1.0 + self.relative * z).clamp(min=0.01)


class TableProgramming(Section):
    """``g = max(gT + sigma z, 0)`` with sigma listed per state: NeuroSim's mean and deviation of each level."""

    conductance_us: Annotated[tuple[Amount, ...], Field(min_length=2)]
    """states in uS, ascending; between two of them sigma is interpolated"""
    sigma_us: Annotated[tuple[Amount, ...], Field(min_length=2)]
    """standard deviation of each state, in uS"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """One standard deviation a state, states in order."""
        yield from ascending("conductance_us", self.conductance_us)
        if len(self.sigma_us) != len(self.conductance_us):
            message = (
                f"has {len(self.sigma_us)} values for {len(self.conductance_us)} states; give one a state"
            )
            yield BrokenRule(("sigma_us",), message)

    def programmed_us(self, target_us: Tensor, z: Tensor, g_on_us: float) -> Tensor:
        """uS, as in the class."""
        sigma = interpolate(target_us, self.conductance_us, self.sigma_us)
        return (target_us + sigma * z).clamp(min=0)


class Programming(OneModel):
    """Error of programming, drawn once per cell and chip."""

    gaussian: GaussianProgramming | None = None
    """normal error, relative or absolute"""
    lognormal: LognormalProgramming | None = None
    """error that is normal in ln g"""
    polynomial: PolynomialProgramming | None = None
    """normal error with a fitted polynomial of the target as standard deviation"""
    two_regimes: TwoRegimeProgramming | None = None
    """two polynomials, below and above a split"""
    saturating: SaturatingProgramming | None = None
    """standard deviation that saturates in the current"""
    resistance: ResistanceProgramming | None = None
    """normal error of the resistance"""
    table: TableProgramming | None = None
    """standard deviation listed per state"""
