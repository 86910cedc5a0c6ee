"""What time does to a programmed cell. Times are seconds since programming; conductances are uS.

``z`` are standard normals, one a cell, drawn once for a chip: the same cell drifts the same way at every time and in
every conversion. (A sign redrawn at each conversion would be read noise; docs/device-file.md, other simulators.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from cimc.configuration.located import BrokenRule, Section
from cimc.runtime.device.choice import Amount, OneModel, Polynomial, Positive
from cimc.runtime.device.fits import SaturatingFit, StateFit, ascending, polynomial

SIGN_THIRD = 0.4307272992954576
"""A standard normal is above this with probability 1/3."""
SECONDS_A_DAY = 86400.0


class DriftModel(Protocol):
    """Change of a cell with time."""

    def refused(self, time_s: float) -> str:
        """Why the model says nothing about ``time_s``; empty when it does."""
        ...

    def drifted_us(
        self, g_us: Tensor, target_us: Tensor, time_s: float, z: Tensor, g_off_us: float, g_on_us: float
    ) -> Tensor:
        """Conductance at ``time_s``, uS."""
        ...


class PowerLawDrift(Section):
    """``g(t) = g ((t + t0) / t0)^-nu`` with ``nu = |mean(r) + sigma(r) z|``, r = gT / g_on: drift of PCM.

    ``t`` counts from the end of programming and ``t0`` is the age at the fit's first read, so that nothing has drifted
    at t = 0 (aihwkit's ``t_inference``).
    """

    t0_s: Positive
    """age of a cell at the first read, in s"""
    mean: StateFit
    """mean of nu over the state"""
    sigma: StateFit
    """standard deviation of nu over the state"""

    def refused(self, time_s: float) -> str:
        """Any time."""
        return ""

    def exponent(self, target_us: Tensor, z: Tensor, g_on_us: float) -> Tensor:
        """nu of each cell."""
        ratio = target_us / g_on_us
        return (self.mean.at(ratio) + self.sigma.at(ratio) * z).abs()

    def drifted_us(
        self, g_us: Tensor, target_us: Tensor, time_s: float, z: Tensor, g_off_us: float, g_on_us: float
    ) -> Tensor:
        """uS, as in the class."""
        age = math.log((time_s + self.t0_s) / self.t0_s)
        return g_us * torch.exp(-age * self.exponent(target_us, z, g_on_us))


class SignedDrift(Section):
    """``g(t) = clip(g (t / t0)^(nu sign), g_off, g_on)`` for t above t0: NeuroSim's retention.

    ``random``: each cell has one sign of -1, 0, 1, equally likely, for good. ``toward``: each cell moves towards
    ``target_us``.
    """

    nu: Amount
    """exponent of every cell"""
    t0_s: Positive = 1.0
    """time from which on cells drift, in s"""
    direction: Literal["random", "toward"]
    """whose sign: a random one a cell, or towards `target_us`"""
    target_us: Amount | None = None
    """conductance that cells move towards, in uS"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """A direction has a target, chance has none."""
        if (self.direction == "toward") != (self.target_us is not None):
            yield BrokenRule(
                ("direction",), "'toward' needs target_us and 'random' takes none; make them agree"
            )

    def refused(self, time_s: float) -> str:
        """Any time."""
        return ""

    def drifted_us(
        self, g_us: Tensor, target_us: Tensor, time_s: float, z: Tensor, g_off_us: float, g_on_us: float
    ) -> Tensor:
        """uS, as in the class."""
        if time_s <= self.t0_s:
            return g_us
        if self.target_us is None:
            sign = (z > SIGN_THIRD).to(g_us.dtype) - (z < -SIGN_THIRD).to(g_us.dtype)
        else:
            sign = torch.sign(self.target_us - g_us)
        return (g_us * torch.exp(sign * (self.nu * math.log(time_s / self.t0_s)))).clamp(g_off_us, g_on_us)


class Snapshot(Section):
    """Spread around the target at one time."""

    time_s: Amount
    """seconds since programming"""
    coefficients_us: Polynomial
    """coefficients of the standard deviation in uS, ascending powers of r = gT / g_on"""


class SnapshotDrift(Section):
    """``g(t) = max(gT + sigma_t(r) z, 0)`` at the times that were measured, and at no others: ReRAM.

    The fit is of the whole spread at that time, so it replaces the error of programming. Up to the first time cells
    are as programmed.
    """

    fitted_g_on_us: Positive
    """range in uS at which the coefficients hold; sigma scales with g_on"""
    snapshots: Annotated[tuple[Snapshot, ...], Field(min_length=2)]
    """spreads in the order of their times, the first one that of programming"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """Times are in order."""
        yield from ascending("snapshots", [snapshot.time_s for snapshot in self.snapshots])

    def refused(self, time_s: float) -> str:
        """Only measured times."""
        times = [snapshot.time_s for snapshot in self.snapshots]
        if time_s <= times[0] or time_s in times:
            return ""
        return f"was fitted at {', '.join(f'{t:g}' for t in times)} s only; choose one of these"

    def drifted_us(
        self, g_us: Tensor, target_us: Tensor, time_s: float, z: Tensor, g_off_us: float, g_on_us: float
    ) -> Tensor:
        """uS, as in the class."""
        if time_s <= self.snapshots[0].time_s:
            return g_us
        fit = next(snapshot for snapshot in self.snapshots if snapshot.time_s == time_s)
        sigma = polynomial(fit.coefficients_us, target_us / g_on_us) * (g_on_us / self.fitted_g_on_us)
        return (target_us + sigma.clamp(min=0) * z).clamp(min=0)


class RelaxationDrift(Section):
    """``g(t) = clip(g + m ln t + (s ln t + s0) z, g_off, g_on)`` for t of 1 s and above: CMO/HfOx ReRAM.

    The relaxation does not depend on the state. At t = 0 cells are as programmed.
    """

    mean_us_per_ln_s: float
    """m, uS per unit of ln(t / s)"""
    sigma_us_per_ln_s: Amount
    """s, uS per unit of ln(t / s)"""
    sigma_us: Amount
    """s0, uS at 1 s"""

    def refused(self, time_s: float) -> str:
        """Not between 0 and 1 s, where ln t is negative."""
        if time_s == 0 or time_s >= 1:
            return ""
        return "was fitted from 1 s on; choose 0 or at least 1"

    def drifted_us(
        self, g_us: Tensor, target_us: Tensor, time_s: float, z: Tensor, g_off_us: float, g_on_us: float
    ) -> Tensor:
        """uS, as in the class."""
        if time_s == 0:
            return g_us
        ln_t = math.log(time_s)
        sigma = self.sigma_us_per_ln_s * ln_t + self.sigma_us
        return (g_us + self.mean_us_per_ln_s * ln_t + sigma * z).clamp(g_off_us, g_on_us)


class Day(Section):
    """State of SONOS cells some days after programming."""

    time_days: Amount
    """days since programming"""
    shift_na: Polynomial
    """coefficients of the mean shift in nA, ascending powers of the target current in nA"""
    spread: SaturatingFit
    """standard deviation over the shifted current"""


class CurrentShiftDrift(Section):
    """``I(t) = max(IT + shift_t(IT) + spread_t(I) z, 0)``, coefficients interpolated between days: SONOS.

    The fit is of the whole spread at that time, so it replaces the error of programming.
    """

    current_na_per_us: Positive
    """cell current in nA that one uS carries: the read voltage in mV"""
    days: Annotated[tuple[Day, ...], Field(min_length=2)]
    """fits in the order of their times, the first at 0 days"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """Days are in order, begin at programming, and have polynomials of one degree."""
        times = [day.time_days for day in self.days]
        yield from ascending("days", times)
        if times[0] != 0:
            yield BrokenRule(("days", 0, "time_days"), f"must be 0 for the first, given {times[0]:g}")
        if len({len(day.shift_na) for day in self.days}) > 1:
            yield BrokenRule(("days",), "must have shift_na of one length; fill up with 0")

    def refused(self, time_s: float) -> str:
        """Not after the last day: the polynomials mean nothing there."""
        last = self.days[-1].time_days
        if time_s <= last * SECONDS_A_DAY:
            return ""
        return f"was fitted up to {last:g} days ({last * SECONDS_A_DAY:g} s); choose at most that"

    def drifted_us(
        self, g_us: Tensor, target_us: Tensor, time_s: float, z: Tensor, g_off_us: float, g_on_us: float
    ) -> Tensor:
        """uS, as in the class."""
        if time_s == 0:
            return g_us
        at = time_s / SECONDS_A_DAY
        after = next(i for i, day in enumerate(self.days) if day.time_days >= at)
        left, right = self.days[after - 1], self.days[after]
        share = (at - left.time_days) / (right.time_days - left.time_days)
        shift = [a + share * (b - a) for a, b in zip(left.shift_na, right.shift_na, strict=True)]
        spread = SaturatingFit(
            amplitude_na=left.spread.amplitude_na
            + share * (right.spread.amplitude_na - left.spread.amplitude_na),
            constant_na=left.spread.constant_na
            + share * (right.spread.constant_na - left.spread.constant_na),
        )
        target_na = target_us * self.current_na_per_us
        current_na = target_na + polynomial(shift, target_na)
        return (current_na + spread.at(current_na) * z).clamp(min=0) / self.current_na_per_us


class Drift(OneModel):
    """Change of a cell with time."""

    power_law: PowerLawDrift | None = None
    """g (t / t0)^-nu with an exponent a cell"""
    signed: SignedDrift | None = None
    """g t^(nu sign) with one exponent"""
    snapshots: SnapshotDrift | None = None
    """spread around the target at measured times"""
    relaxation: RelaxationDrift | None = None
    """shift and spread in ln t, whatever the state"""
    current_shift: CurrentShiftDrift | None = None
    """shift and spread of the current, day by day"""
