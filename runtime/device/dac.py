"""Row drivers that are not exact: noise on the voltage of a row, shared by all its columns."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from cimc.configuration.located import Section
from cimc.runtime.device.choice import Amount

GRID_BITS = 6
"""A driven row is a multiple of 2^-6 digit, so that sums stay exact: its rounding is below a noise of 1 %."""
MOST_SIGMAS = 4.0
"""Draws beyond are held here (one in 16 thousand), so that the largest drive is known before a read."""


class Dac(Section):
    """``x -> x (1 + relative z) + absolute z``, a fresh z for every row, vector and input digit; 0 stays 0.

    ``noise_relative`` is MemIntelli's voltage noise. A digit 0 is a grounded row, which no driver moves. Not the same
    as read noise of cells: all columns of a row see one draw.
    """

    noise_relative: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """standard deviation as a share of the voltage, at most 0.5"""
    noise_absolute_digits: Amount = 0.0
    """standard deviation in digits, whatever the voltage"""

    def largest(self, top: int) -> float:
        """The largest magnitude that a digit up to ``top`` is driven with."""
        return top + MOST_SIGMAS * (top * self.noise_relative + self.noise_absolute_digits)

    def driven(self, digits: Tensor, z: Tensor) -> Tensor:
        """int64: what ``digits`` (integers) are driven as with standard normals ``z``, in units of 2^-GRID_BITS."""
        x = digits.to(torch.float64)
        spread = x * self.noise_relative + self.noise_absolute_digits
        noisy = torch.round((x + spread * z.clamp(-MOST_SIGMAS, MOST_SIGMAS)) * 2.0**GRID_BITS)
        return torch.where(digits == 0, torch.zeros_like(noisy), noisy).to(torch.int64)
