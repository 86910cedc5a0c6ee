"""Curves that were fitted to measured cells: polynomials and the shapes around them.

Coefficients ascend. Everything computes in the number type of its argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from cimc.configuration.located import BrokenRule, Section
from cimc.runtime.device.choice import Amount, Polynomial, Positive

SMALLEST_RATIO = 1e-7
"""Below this share of the top level a fit in ln r is not evaluated (aihwkit: ``_ZERO_CLIP``)."""


def polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """``sum_i c_i x^i`` by Horner's rule."""
    y = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        y = y * x + c
    return y


def interpolate(x: Tensor, xs: Sequence[float], ys: Sequence[float]) -> Tensor:
    """Piecewise linear through (xs, ys), ``xs`` ascending; beyond the ends the end value."""
    knots = torch.tensor(xs, dtype=x.dtype, device=x.device)
    values = torch.tensor(ys, dtype=x.dtype, device=x.device)
    x = x.clamp(min=xs[0], max=xs[-1])
    right = torch.searchsorted(knots, x).clamp(min=1, max=len(xs) - 1)
    left = right - 1
    share = (x - knots[left]) / (knots[right] - knots[left])
    return values[left] + share * (values[right] - values[left])


def ascending(key: str, values: Sequence[float]) -> Iterator[BrokenRule]:
    """The rule that a list of places ascends."""
    if any(b <= a for a, b in pairwise(values)):
        yield BrokenRule((key,), "must ascend; sort the list and drop what stands twice")


class StateFit(Section):
    """``clip(slope ln r + intercept, low, high)`` of ``r = g / g_on``, and a polynomial in r from ``split`` on.

    The shape of the PCM fits of aihwkit: without ``split`` that of Nandakumar et al., with it that of HERMES.
    """

    slope: float
    """factor of ln r"""
    intercept: float
    """value at r = 1 of the logarithmic part"""
    low: Amount
    """least value of the logarithmic part"""
    high: Positive
    """largest value of the logarithmic part"""
    split: Amount | None = None
    """r from which on the polynomial holds"""
    above: Polynomial | None = None
    """coefficients in r, ascending, from `split` on"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """The clip is a range, and a polynomial has a place where it begins."""
        if self.low > self.high:
            yield BrokenRule(
                ("low",), f"must be at most high {self.high:g}, given {self.low:g}; swap the two"
            )
        if (self.split is None) != (self.above is None):
            yield BrokenRule(("split",) if self.above is None else ("above",), "needs both split and above")

    def at(self, ratio: Tensor) -> Tensor:
        """The fitted value at ``ratio``."""
        ratio = ratio.abs().clamp(min=SMALLEST_RATIO)
        value = (self.slope * ratio.log() + self.intercept).clamp(min=self.low, max=self.high)
        if self.split is None or self.above is None:
            return value
        return torch.where(ratio < self.split, value, polynomial(self.above, ratio))


class SaturatingFit(Section):
    """``amplitude (1 - exp(-I / constant))`` of the cell's current I, in nA: the spread of SONOS cells."""

    amplitude_na: Amount
    """spread of a cell far above `constant_na`, in nA"""
    constant_na: Positive
    """current at which 63 % of it is reached, in nA"""

    def at(self, current_na: Tensor) -> Tensor:
        """Spread in nA, never negative."""
        return (self.amplitude_na * (1.0 - torch.exp(-current_na / self.constant_na))).clamp(min=0)
