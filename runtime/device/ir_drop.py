"""Voltage lost along the wires of an array, as effective conductances (docs/device-file.md, wires).

With linear cells, drivers of fixed resistance, grounded sense nodes and grounded undriven rows, the column currents are
linear in the row voltages whatever the input: ``I = G_eff^T V``. ``G_eff`` is computed once per array, by exact
elimination of the resistor network, and reads stay matrix products.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from cimc.configuration.located import Section
from cimc.runtime.device.choice import Amount, OneModel, Positive

Columns = Annotated[int, Field(ge=1, le=1 << 16)]

US_PER_S = 1e6
SOLVER_BYTES = 64 << 20
"""What the elimination holds at once, unless a single array takes more."""


class NodalWires(Section):
    """Every wire segment is a resistor; row i is driven at column 0, column n is sensed below the last row."""

    array_columns: Columns
    """physical columns that one row wire runs past"""
    array_rows: Columns | None = None
    """wordlines of the array; left out, every row group ends at the sense nodes"""
    row_segment_ohm: Positive
    """row wire from one cell to the next, and from the driver to the first"""
    column_segment_ohm: Positive
    """column wire from one cell to the next, and from the last to the sense node"""
    driver_ohm: Amount = 0.0
    """output resistance of a row driver"""
    sense_ohm: Amount = 0.0
    """input resistance of a sense node"""

    def effective_us(self, g_us: Tensor, wordlines_below: int = 0) -> Tensor:
        """G_eff of row groups ``g_us`` (…, R, N) with so many wordlines between them and the sense nodes: float64, uS.

        Wordlines that are not read are cut off by their cells' transistors: they only lengthen the columns.
        """
        sense_ohm = self.sense_ohm + wordlines_below * self.column_segment_ohm
        rows, columns = g_us.shape[-2:]
        arrays = g_us.reshape(-1, rows, columns)
        at_once = max(1, SOLVER_BYTES // (8 * columns * rows * (rows + 1)))
        solved = [
            nodal_effective_us(
                part, self.row_segment_ohm, self.column_segment_ohm, self.driver_ohm, sense_ohm
            )
            for part in arrays.split(at_once)
        ]
        return torch.cat(solved).reshape(g_us.shape)


class ClosedFormWires(Section):
    """aihwkit's approximation: column wires only, ``y_n -= scale c_n sum_k g_kn x_k (1 - (1 - k/R)^2)``.

    ``c = a (a (0.05 a - 0.2) + 0.5)``, ``a_n = R r sum_k g_kn x_k``, k counted from the sense node, r the resistance of
    a segment (rpu_forward_backward_pass.cpp, ``applyIrDrop``; there r is 0.35 ohm and g at most 5 uS). There ``a``
    follows the input; here it is that of ``mean_drive`` on every row, so that the drop is linear in the input.
    """

    array_columns: Columns
    """physical columns of an array; they do not influence each other here"""
    segment_ohm: Positive = 0.35
    """column wire from one cell to the next"""
    scale: Amount = 1.0
    """factor of the drop; 0 is none"""
    mean_drive: Annotated[float, Field(gt=0, le=1)] = 0.5
    """row voltage, as a share of the largest, at which the drop is evaluated"""

    @property
    def array_rows(self) -> None:
        """Not part of this model: a row group's column is as long as the group."""
        return None

    def effective_us(self, g_us: Tensor, wordlines_below: int = 0) -> Tensor:
        """G_eff of row groups ``g_us`` (…, R, N): float64 of the same shape, uS."""
        g = g_us.to(torch.float64)
        rows = g.shape[-2]
        a = g.sum(dim=-2, keepdim=True) * (self.mean_drive * rows * self.segment_ohm / US_PER_S)
        c = a * (a * (0.05 * a - 0.2) + 0.5)
        from_sense = torch.arange(rows - 1, -1, -1, dtype=torch.float64, device=g.device)[:, None]
        lost = 1 - (1 - from_sense / rows) ** 2
        return g * (1 - self.scale * c * lost)


class Wires(OneModel):
    """Resistance of the array's wires."""

    nodal: NodalWires | None = None
    """exact solution of the resistor network, once per array"""
    closed_form: ClosedFormWires | None = None
    """aihwkit's polynomial in the column current, rows ideal"""


def nodal_effective_us(
    g_us: Tensor, row_segment_ohm: float, column_segment_ohm: float, driver_ohm: float, sense_ohm: float
) -> Tensor:
    """``G_eff`` (…, R, N), uS: the current of column n per volt on row k, all other rows and the sense nodes at 0 V.

    Exact, by block elimination instead of a sparse factorisation: R x R dense steps, batched over arrays, on any
    device. Cells of column n tie its R wire nodes (a tridiagonal matrix T_n) to R row nodes. Without the wire nodes the
    row nodes form a chain over columns, coupled by the row segments only:

        S_n = diag(what leaves the row node) - diag(g_n) T_n^-1 diag(g_n)
        u_n = P_n u_(n-1),   P_n = (S_n - y P_(n+1))^-1 y   from the last column to the first, y = 1 / row segment
        I_n = c_n^T u_n,     c_n = g_n (T_n^-1 e_last) / (column segment + sense)

    Costs about 8 N R^3 operations and (N + 4) R^2 numbers an array; 128 x 128 takes a second on one core, where
    factoring the nodal matrix and solving for every column takes 8.
    """
    g = g_us.to(torch.float64) / US_PER_S
    rows, columns = g.shape[-2], g.shape[-1]
    along_row, along_column = 1 / row_segment_ohm, 1 / column_segment_ohm
    driver, sense = 1 / (row_segment_ohm + driver_ohm), 1 / (column_segment_ohm + sense_ohm)
    wire = _ladder(rows, along_column, sense, g)
    identity = torch.eye(rows, dtype=torch.float64, device=g.device)
    transfer: list[Tensor] = [identity] * columns
    pick: list[Tensor] = [identity] * columns
    for n in range(columns - 1, -1, -1):
        cell = g[..., :, n]
        # T_n^-1 diag(g_n): voltages of the wire nodes per volt on the row nodes
        wired = torch.linalg.solve(wire + torch.diag_embed(cell), torch.diag_embed(cell))
        pick[n] = wired[..., rows - 1 : rows, :] * sense
        leaves = cell + (driver if n == 0 else along_row) + (0.0 if n == columns - 1 else along_row)
        chain = torch.diag_embed(leaves) - cell[..., :, None] * wired
        if n < columns - 1:
            chain = chain - along_row * transfer[n + 1]
        transfer[n] = torch.linalg.inv(chain) * (driver if n == 0 else along_row)
    currents: list[Tensor] = []
    reached = identity
    for n in range(columns):
        reached = transfer[n] @ reached
        currents.append(pick[n] @ reached)
    return torch.cat(currents, dim=-2).transpose(-1, -2) * US_PER_S


def _ladder(rows: int, along: float, end: float, like: Tensor) -> Tensor:
    """(R, R): nodal matrix of one column wire with its sense node at 0 V, without cells."""
    diagonal = torch.full((rows,), 2 * along, dtype=torch.float64, device=like.device)
    diagonal[0] -= along
    diagonal[-1] += end - along
    beside = torch.full((rows - 1,), -along, dtype=torch.float64, device=like.device)
    return torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)
