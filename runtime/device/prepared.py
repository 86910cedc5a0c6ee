"""A product's cells in the form that reads want: what collapses and what is converted (docs/device.md, shortcuts).

A (group, conversion) collapses when its conversions provably lose nothing: ideal cells with a lossless converter,
or no converter and no noise. Its digits then merge with the digital corrections, which are linear in the values,
into one integer matrix. The others keep their cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cimc.runtime.crossbar.converter import is_lossless
from cimc.runtime.device.cells import GroupCells, conversion_values, group_cells, group_variance, groups
from cimc.runtime.device.converter import division
from cimc.runtime.device.dense import Dense, dense_matrix, dense_of
from cimc.runtime.device.fused import Fused, fuse, gathered
from cimc.runtime.device.periphery import mismatched
from cimc.runtime.device.recipe import Recipe

if TYPE_CHECKING:
    from cimc.runtime.device.kernels_triton import TritonGroup


SMALL_GROUP = 1 << 16
"""Bytes of a group below which an allocation of its own wastes memory: allocators give larger ones whole pages."""


@dataclass(frozen=True)
class Converted:
    """The conversions of one row group, rows ``first`` … ``last`` - 1, that did not collapse.

    ``kept`` are their numbers j; ``values`` integers (rows, J', N) in units of 2^-e, empty when reads make the
    cells anew; ``worth`` int64 (J', N), the worth of a conversion in the weight, negated where the column is
    flipped. ``variance`` uint8 (rows, J', N) and ``scale`` float32 (J', N) are those of the read noise, or None.
    ``fused`` holds cells and noise instead where the CPU kernel serves the group, ``triton`` the constants of the
    GPU kernel where that does.
    """

    group: int
    first: int
    last: int
    kept: tuple[int, ...]
    worth: Tensor
    values: Tensor
    variance: Tensor | None = None
    scale: Tensor | None = None
    fused: Fused | None = None
    triton: TritonGroup | None = None


@dataclass(frozen=True)
class Prepared:
    """One product, ready to read.

    ``dense`` is what the values are multiplied by outside the converter. ``codes`` are kept only when reads draw the
    noise of cells anew. ``clipped_share`` is the share of cells outside ±v_max.
    """

    codes: Tensor | None
    dense: Dense
    converted: tuple[Converted, ...]
    columns: int
    clipped_share: float

    @property
    def lossless(self) -> bool:
        """Whether everything collapsed."""
        return not self.converted

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors, those that groups share once."""
        tensors = [self.codes, self.dense.constant]
        for part in self.converted:
            tensors += [part.values, part.worth, part.variance, part.scale]
        sizes = {id(t): t.numel() * t.element_size() for t in tensors if t is not None}
        held = sum(part.fused.size_bytes for part in self.converted if part.fused is not None)
        return held + sum(sizes.values()) + self.dense.size_bytes


def prepare(recipe: Recipe, codes: Tensor, kernels: bool = True) -> Prepared:
    """Cells of the weights ``codes`` (K, N), integers, on their device: a deterministic function of both.

    On a CPU compiled kernels serve what they can; without ``kernels`` reads take the tensor form everywhere, as on a
    GPU, with the same results.
    :class:`ValueError` when a weight is out of range or K is not the recipe's.
    """
    if codes.ndim != 2 or codes.shape[0] != recipe.rows:
        raise ValueError(f"weights are ({recipe.rows}, N), got {tuple(codes.shape)}")
    if loses_nothing(recipe):
        low, high = recipe.coding.weight_range
        if codes.numel() and (int(codes.min()) < low or int(codes.max()) > high):
            raise ValueError(
                f"weights must be in {low} … {high}, got {int(codes.min())} … {int(codes.max())}"
            )
        kind = torch.int16 if recipe.coding.weight_bits <= 8 else torch.int32
        return Prepared(None, dense_matrix(recipe, codes.to(kind), kernels), (), codes.shape[1], 0.0)
    collapsed: list[Tensor | None] = []
    converted: list[Converted] = []
    clipped = 0
    for g, first, last in groups(recipe):
        cells = group_cells(recipe, codes[first:last], first)
        clipped += cells.clipped
        dense, part = _split(recipe, cells, (g, first, last), kernels)
        collapsed.append(dense)
        if part is not None:
            converted.append(part)
    kept = codes if recipe.resamples else None
    cell_count = codes.numel() * recipe.coding.cells_per_weight
    dense = dense_of(recipe, collapsed, codes, kernels)
    parts = _gathered(converted)
    return Prepared(kept, dense, parts, codes.shape[1], clipped / max(1, cell_count))


def _gathered(parts: list[Converted]) -> tuple[Converted, ...]:
    """``parts`` with what the CPU kernel reads of small groups in few allocations."""
    small = [part.fused for part in parts if part.fused is not None and part.fused.size_bytes < SMALL_GROUP]
    held = iter(gathered(small) if small else [])
    worths: dict[bytes, Tensor] = {}
    found: list[Converted] = []
    for part in parts:
        if part.fused is None or part.fused.size_bytes >= SMALL_GROUP:
            found.append(part)
            continue
        worth = worths.setdefault(part.worth.numpy().tobytes(), part.worth)
        found.append(replace(part, worth=worth, values=parts[0].values, fused=next(held)))
    return tuple(found)


def loses_nothing(recipe: Recipe) -> bool:
    """Whether the coding alone proves that every read is exact, whatever the weights: no cell need be made then.

    Ideal cells and rows, step 1, and a converter that covers the worst sums that the largest group can give.
    """
    device = recipe.device
    if not (device.ideal and recipe.converter and device.dac is None) or recipe.noisy or mismatched(recipe):
        return False
    if (recipe.steps != 1 << recipe.coding.frac_bits).any():
        return False
    return recipe.coding.always_lossless(recipe.rows_at_once)


def _split(
    recipe: Recipe, cells: GroupCells, place: tuple[int, int, int], kernels: bool
) -> tuple[Tensor | None, Converted | None]:
    """What of one group goes outside the converter, integers (rows, N) or None, and what is converted."""
    coding = recipe.coding
    group, first, last = place
    values = conversion_values(cells.values, coding)
    count = values.shape[2]
    coefficients = torch.tensor([plane.coefficient for plane in coding.conversions], device=values.device)
    tops = torch.tensor([plane.top for plane in coding.conversions], device=values.device)
    flips = cells.flips[:, :count]
    worth = torch.where(flips, -coefficients, coefficients)
    collapsed = _collapsed(recipe, values, group)
    dense = None
    if collapsed.any() or bool(flips.any()):
        fixed = (flips * (coefficients * tops)).sum(dim=1) - coding.weight_offset
        fixed = fixed if recipe.converter else fixed << recipe.grid_bits
        dense = fixed.expand(last - first, values.shape[1]).clone()
        for j in np.flatnonzero(collapsed).tolist():
            dense += worth[:, j] * values[: last - first, :, j]
    kept = np.flatnonzero(~collapsed).tolist()
    if not kept:
        return dense, None
    return dense, _converted(recipe, cells, values, worth, (group, first, last, kept), kernels)


def _converted(
    recipe: Recipe,
    cells: GroupCells,
    values: Tensor,
    worth: Tensor,
    place: tuple[int, int, int, list[int]],
    kernels: bool,
) -> Converted:
    """The conversions ``kept`` of one group, for the CPU kernel where that can serve them."""
    group, first, last, kept = place
    chosen = worth[:, kept].T.contiguous()
    empty = values.new_empty(0)
    if recipe.resamples:
        return Converted(group, first, last, tuple(kept), chosen, empty)
    mine = values[:, :, kept].transpose(1, 2)
    noise = group_variance(recipe, cells)
    variance = None if noise is None else noise[0][:, :, kept].transpose(1, 2)
    scale = None if noise is None else noise[1][:, kept].T.contiguous()
    exact = kernels and recipe.device.dac is None and not mismatched(recipe) and not recipe.bends
    if recipe.converter and exact and values.device.type == "cpu":
        constants = division(recipe.steps[group][:, kept], recipe.coding, recipe.grid_bits)
        drawn = None if variance is None or scale is None else (variance.numpy(), scale.numpy())
        fused = fuse(recipe, mine.numpy(), drawn, constants)
        if fused is not None:
            return Converted(group, first, last, tuple(kept), chosen, empty, fused=fused)
    if variance is not None:
        variance = variance.contiguous()
    part = Converted(group, first, last, tuple(kept), chosen, _narrow(mine), variance, scale)
    if exact and recipe.converter and values.is_cuda and find_spec("triton") is not None:
        # triton is an extra: without it a GPU takes the tensor form.
        from cimc.runtime.device.kernels_triton import group_of

        noise = None if variance is None or scale is None else (variance, scale)
        served = group_of(recipe, (group, first, last), kept, part.values, chosen, noise)
        return replace(part, triton=served)
    return part


def _narrow(values: Tensor) -> Tensor:
    """``values`` in 16 bits where they fit."""
    small = not values.numel() or int(values.abs().max()) < 1 << 15
    return values.to(torch.int16 if small else torch.int32, memory_format=torch.contiguous_format)


def _collapsed(recipe: Recipe, values: Tensor, group: int) -> np.ndarray:
    """bool [J]: conversions that provably lose nothing in any phase, whatever the inputs."""
    count = values.shape[2]
    if (recipe.noisy and recipe.device.read_scope != "frozen") or mismatched(recipe):
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
