"""Cells that hold one conductance whatever is written (stuck-at faults)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cimc.configuration.located import BrokenRule, Section
from cimc.runtime.device.choice import Amount, Probability


class Faults(Section):
    """Independent stuck-at faults: off where ``u < p_off``, on where ``p_off <= u < p_off + p_on``.

    One uniform decides both, so the injected rates are the ones asked for: no second draw among the faulty cells
    (docs/device-file.md, other simulators).
    """

    stuck_off_probability: Probability = 0.0
    """share of the cells that stay at `stuck_off_us`"""
    stuck_on_probability: Probability = 0.0
    """share of the cells that stay at `stuck_on_us`"""
    stuck_off_us: Amount | None = None
    """conductance of a cell stuck off; g_off_us of the cell when left out"""
    stuck_on_us: Amount | None = None
    """conductance of a cell stuck on; g_on_us of the cell when left out"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """A cell has one fault at most."""
        total = self.stuck_off_probability + self.stuck_on_probability
        if total > 1:
            message = f"with stuck_off_probability sums to {total:g}, at most 1; lower one of the two"
            yield BrokenRule(("stuck_on_probability",), message)

    def faulty_us(self, g_us: Tensor, u: Tensor, g_off_us: float, g_on_us: float) -> Tensor:
        """``g_us`` with the faults that uniforms ``u`` in [0, 1) give; uS."""
        off_us = g_off_us if self.stuck_off_us is None else self.stuck_off_us
        on_us = g_on_us if self.stuck_on_us is None else self.stuck_on_us
        faulty = self.stuck_off_probability + self.stuck_on_probability
        stuck = torch.where(u < self.stuck_off_probability, off_us, on_us).to(g_us.dtype)
        return torch.where(u < faulty, stuck, g_us)
