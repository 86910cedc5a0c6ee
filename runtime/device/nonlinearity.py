"""Cells whose current is not proportional to the voltage (docs/device-file.md, current)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from cimc.configuration.located import Section
from cimc.runtime.device.choice import OneModel, Polynomial
from cimc.runtime.device.fits import polynomial

LEAST_US = 1e-3
"""Below 1 nS a cell is linear (CrossSim, ``RRAM_Milo.py``)."""


class CubicCurrent(Section):
    """``I = G V + NL2(G) V^2 + NL3(G) V^3`` with both factors polynomials of log10(G / S): Milo et al., as in CrossSim.

    G is the conductance near 0 V. A digit x of largest digit top drives ``V = read_voltage_v x / top``.
    """

    read_voltage_v: Annotated[float, Field(gt=0, le=10)]
    """voltage of the largest digit, in V"""
    nl2_a_per_v2: Polynomial
    """NL2 in A / V^2: coefficients of log10(G / S), ascending"""
    nl3_a_per_v3: Polynomial
    """NL3 in A / V^3: coefficients of log10(G / S), ascending"""

    def driven_us(self, g_us: Tensor, share: float) -> Tensor:
        """``I / V`` in uS at the drive ``share`` (0, 1] of the read voltage."""
        volt = self.read_voltage_v * share
        log_g = (g_us.clamp(min=LEAST_US) * 1e-6).log10()
        second = polynomial(self.nl2_a_per_v2, log_g) * volt
        third = polynomial(self.nl3_a_per_v3, log_g) * volt**2
        return torch.where(g_us >= LEAST_US, g_us + (second + third) * 1e6, g_us)


class Current(OneModel):
    """Current of a cell over voltage; left out, proportional."""

    cubic: CubicCurrent | None = None
    """a cubic in the voltage with factors that depend on the conductance"""
