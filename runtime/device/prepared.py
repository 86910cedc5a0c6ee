"""A product's cells in the form that reads want: what collapses and what is converted (docs/device.md, shortcuts).

A (group, conversion) collapses when its conversions provably lose nothing: ideal cells with a lossless converter, or no
converter and no noise. Its digits then merge with the digital corrections, which are linear in the values, into one
integer matrix. The others keep their cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cimc.runtime.crossbar.converter import is_lossless
from cimc.runtime.device.cells import GroupCells, conversion_values, group_cells, group_variance, groups
from cimc.runtime.device.noise import noise_scale
from cimc.runtime.device.recipe import Recipe


@dataclass(frozen=True)
class Converted:
    """The conversions of one row group, rows ``first`` … ``last`` - 1, that did not collapse.

    ``kept`` are their numbers j; ``values`` integers (rows, J', N) in units of 2^-e, empty when reads make the cells
    anew; ``worth`` int64 (J', N), the worth of a conversion in the weight, negated where the column is flipped.
    ``variance`` (rows, J', N) with the ``scale`` of its noise, or None.
    """

    group: int
    first: int
    last: int
    kept: tuple[int, ...]
    values: Tensor
    worth: Tensor
    variance: Tensor | None
    scale: np.float32


@dataclass(frozen=True)
class Prepared:
    """One product, ready to read.

    ``dense`` int64 (K, N) is what the values are multiplied by outside the converter, in units of 2^-e. ``codes`` are
    kept only when reads draw the noise of cells anew. ``clipped_share`` is the share of cells outside ±v_max.
    """

    codes: Tensor | None
    dense: Tensor
    converted: tuple[Converted, ...]
    clipped_share: float

    @property
    def lossless(self) -> bool:
        """Whether everything collapsed."""
        return not self.converted

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        tensors = [self.codes, self.dense]
        for part in self.converted:
            tensors += [part.values, part.worth, part.variance]
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def prepare(recipe: Recipe, codes: Tensor) -> Prepared:
    """Cells of the weights ``codes`` (K, N), integers, on their device: a deterministic function of both.

    :class:`ValueError` when a weight is out of range or K is not the recipe's.
    """
    if codes.ndim != 2 or codes.shape[0] != recipe.rows:
        raise ValueError(f"weights are ({recipe.rows}, N), got {tuple(codes.shape)}")
    dense = torch.empty(codes.shape, dtype=torch.int64, device=codes.device)
    converted: list[Converted] = []
    clipped = 0
    for g, first, last in groups(recipe):
        cells = group_cells(recipe, codes[first:last], first)
        clipped += cells.clipped
        part = _split(recipe, cells, dense[first:last], (g, first, last))
        if part is not None:
            converted.append(part)
    kept = codes if recipe.resamples else None
    cell_count = codes.numel() * recipe.coding.cells_per_weight
    return Prepared(kept, dense, tuple(converted), clipped / max(1, cell_count))


def _split(recipe: Recipe, cells: GroupCells, dense: Tensor, place: tuple[int, int, int]) -> Converted | None:
    """Fill ``dense`` (rows, N) of one group and return what has to be converted."""
    coding = recipe.coding
    group, first, last = place
    values = conversion_values(cells.values, coding)
    count = values.shape[2]
    where = values.device
    coefficients = torch.tensor([plane.coefficient for plane in coding.conversions], device=where)
    tops = torch.tensor([plane.top for plane in coding.conversions], device=where)
    flips = cells.flips[:, :count]
    worth = torch.where(flips, -coefficients, coefficients)
    fixed = (flips * (coefficients * tops)).sum(dim=1) - coding.weight_offset
    dense[:] = fixed if recipe.converter else fixed << recipe.grid_bits
    collapsed = _collapsed(recipe, values, group)
    for j in np.flatnonzero(collapsed).tolist():
        dense += worth[:, j] * values[:, :, j]
    kept = np.flatnonzero(~collapsed).tolist()
    if not kept:
        return None
    variance = group_variance(recipe, cells)
    spread, bits = (None, 0) if variance is None else variance
    return Converted(
        group,
        first,
        last,
        tuple(kept),
        _planes_first(values[:, :, kept]) if not recipe.resamples else values.new_empty(0),
        worth[:, kept].T.contiguous(),
        None if spread is None else _planes_first(spread[:, :, kept]),
        noise_scale(recipe.grid_bits, bits),
    )


def _planes_first(values: Tensor) -> Tensor:
    """(rows, N, J) as (rows, J, N), in 16 bits where they fit."""
    swapped = values.transpose(1, 2)
    small = not values.numel() or int(values.abs().max()) < 1 << 15
    return swapped.to(torch.int16 if small else torch.int32, memory_format=torch.contiguous_format)


def _collapsed(recipe: Recipe, values: Tensor, group: int) -> np.ndarray:
    """bool [J]: conversions that provably lose nothing in any phase, whatever the inputs."""
    count = values.shape[2]
    if recipe.noisy and recipe.device.read_scope != "frozen":
        return np.zeros(count, dtype=np.bool_)
    if not recipe.converter:
        return np.ones(count, dtype=np.bool_)
    low = values.clamp(max=0).sum(dim=0, dtype=torch.int64).amin(dim=0).cpu().numpy()
    high = values.clamp(min=0).sum(dim=0, dtype=torch.int64).amax(dim=0).cpu().numpy()
    empty = (low == 0) & (high == 0)
    if not recipe.device.ideal:
        return empty
    drive = np.array([phase.top for phase in recipe.coding.phases])[:, None]
    lossless = is_lossless(low * drive, high * drive, recipe.steps[group], recipe.coding)
    return lossless.all(axis=0) | empty
