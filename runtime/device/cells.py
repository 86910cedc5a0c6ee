"""Cells of a product after programming, drift and faults, on the 2^-e grid (docs/device.md, cells).

A deterministic function of recipe and codes: a chip's cells can be thrown away and made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cimc.diagnostics import UnsupportedError
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.device.draws import cell_normals
from cimc.runtime.device.noise import variance_grid
from cimc.runtime.device.normals import normals
from cimc.runtime.device.random import Purpose, cell_words, uniforms
from cimc.runtime.device.recipe import Recipe


@dataclass(frozen=True)
class GroupCells:
    """The cells of one row group, physical columns side by side: (rows, N, D).

    ``values`` int32 in units of 2^-e; where they depend on the digit that drives them, (drive * rows, N, D), those of
    digit 1 first. ``flips`` bool (N, D), ``clipped`` cells outside ±v_max. Float64 conductances:
    ``g_us`` now, ``before_us`` before drift, ``seen_us`` between drivers and sense nodes (None for ideal cells).
    """

    values: Tensor
    flips: Tensor
    clipped: int
    g_us: Tensor | None
    before_us: Tensor | None
    seen_us: Tensor | None


def digits_of(codes: Tensor, coding: Coding) -> Tensor:
    """uint8 (K, N, D): :func:`~cimc.runtime.crossbar.cells.encode` on any device."""
    low, high = coding.weight_range
    if codes.numel() and (int(codes.min()) < low or int(codes.max()) > high):
        raise ValueError(f"weights must be in {low} … {high}, got {int(codes.min())} … {int(codes.max())}")
    wide = codes.to(torch.int32)
    if coding.weight_encoding == "differential":
        parts = {1: wide.clamp(min=0), -1: (-wide).clamp(min=0)}
    else:
        parts = {1: wide + coding.weight_offset}
    planes = [((parts[p.polarity] >> p.shift) & p.top).to(torch.uint8) for p in coding.planes]
    return torch.stack(planes, dim=-1)


def _stored(codes: Tensor, coding: Coding) -> tuple[Tensor, Tensor]:
    """Levels of one group's cells uint8 (rows, N, D) and flips bool (N, D)."""
    digits = digits_of(codes, coding)
    if not coding.column_flip:
        return digits, torch.zeros(digits.shape[1:], dtype=torch.bool, device=codes.device)
    tops = torch.tensor([plane.top for plane in coding.planes], dtype=torch.uint8, device=codes.device)
    flips = 2 * digits.sum(dim=0) > len(digits) * tops.to(torch.int64)
    return torch.where(flips, tops - digits, digits), flips


def group_cells(recipe: Recipe, codes: Tensor, first_row: int) -> GroupCells:
    """Cells of one row group with ``codes`` (rows, N), the group starting at row ``first_row`` of the layer."""
    levels, flips = _stored(codes, recipe.coding)
    device = recipe.device
    if device.ideal:
        return GroupCells(levels.to(torch.int32), flips, 0, None, None, None)
    shape = (levels.shape[0], levels.shape[1], levels.shape[2])

    def draw(purpose: Purpose) -> Tensor:
        return cell_normals(recipe.key(purpose), first_row, shape, 0, codes.device)

    g = target = device.targets_us(levels, recipe.top)
    if Purpose.PROGRAMMING in device.draws:
        g = device.programmed_us(target, draw(Purpose.PROGRAMMING))
    before = g
    if Purpose.DRIFT in device.draws:
        g = device.drifted_us(before, target, recipe.chip.time_s, draw(Purpose.DRIFT))
    if Purpose.FAULTS in device.draws:
        words = cell_words(recipe.key(Purpose.FAULTS), first_row, shape, 0, codes.device)
        g = device.faulty_us(g, uniforms(words))
    if recipe.noisy and device.read_scope == "frozen":
        g = device.read_us(g, recipe.chip.time_s, draw(Purpose.READ), before)
    seen = _through_array(recipe, g, first_row, recipe.drive)
    values, clipped = on_grid(recipe, seen, first_row)
    if recipe.bends:
        weaker = (_through_array(recipe, g, first_row, digit) for digit in range(1, recipe.drive))
        values = torch.cat([*(on_grid(recipe, one, first_row)[0] for one in weaker), values])
    return GroupCells(values, flips, clipped, g, before, seen)


def _through_array(recipe: Recipe, g_us: Tensor, first_row: int, digit: int) -> Tensor:
    """Conductances (rows, N, D) as the converters see them, rows driven with ``digit``, behind their arrays' wires.

    An array holds as many logical columns as its physical columns have room for; arrays of one width are solved in one
    batch.
    """
    device = recipe.device
    driven = device.driven_us(g_us, digit, recipe.drive)
    if device.array_columns is None:
        return driven
    rows, columns, digits = driven.shape
    width = device.array_columns // digits
    if not width:
        raise UnsupportedError(
            f"a weight has {digits} cells, but array_columns of the device's wires is {device.array_columns}; give the "
            "machine's number of columns",
            where=f"layer {recipe.layer}",
        )
    below = recipe.wordlines_below(first_row + rows)
    solved: list[Tensor] = []
    whole = columns // width * width
    for part, count in ((driven[:, :whole], width), (driven[:, whole:], columns - whole)):
        if part.shape[1]:
            arrays = part.reshape(rows, -1, count * digits).transpose(0, 1)
            solved.append(device.effective_us(arrays, below).transpose(0, 1).reshape(part.shape))
    return torch.cat(solved, dim=1)


def _sensitivity(cells: GroupCells) -> Tensor | float:
    """Change of the conductance seen per change of the cell's: the share of a cell's current that arrives.

    A weak cell among strong ones may show more than itself, current that came round through others: not more than 1.
    """
    if cells.g_us is None or cells.seen_us is None:
        return 1.0
    return torch.where(cells.g_us > 0, cells.seen_us / cells.g_us, 1.0).clamp(max=1)


def on_grid(recipe: Recipe, g_us: Tensor, first_row: int) -> tuple[Tensor, int]:
    """Conductances (rows, N, D) as int32 multiples of 2^-e levels clipped to ±v_max, and how many were clipped."""
    device = recipe.device
    zero = torch.zeros((), dtype=torch.float64, device=g_us.device)
    if device.baseline != "none":
        zero = zero + device.g_off_us
    if device.baseline == "column":
        zero = _baseline_us(recipe, first_row, len(g_us), g_us.device)
    level = (g_us - zero) * (recipe.gain * 2.0**recipe.grid_bits / device.step_us(recipe.top))
    values = torch.round(level)
    most = int(recipe.v_max * 2.0**recipe.grid_bits)
    outside = int((values.abs() > most).sum())
    return values.clamp(-most, most).to(torch.int32), outside


def _baseline_us(recipe: Recipe, first_row: int, rows: int, where: torch.device) -> Tensor:
    """Conductances (rows, 1, 1) of the column of G_off cells that each array subtracts: programmed and drifted too."""
    device = recipe.device
    words = cell_words(recipe.key(Purpose.BASELINE), first_row, (rows, 1, 3), 0, where)
    target = torch.full((rows, 1, 1), device.g_off_us, dtype=torch.float64, device=where)
    before = device.programmed_us(target, normals(words[:, :, :1]))
    drifted = device.drifted_us(before, target, recipe.chip.time_s, normals(words[:, :, 1:2]))
    return device.faulty_us(drifted, uniforms(words[:, :, 2:]))


def conversion_values(values: Tensor, coding: Coding) -> Tensor:
    """(rows, N, J): what each conversion sees, the difference of the polarities if it is analog."""
    if not coding.analog:
        return values
    half = coding.cells_per_weight // 2
    return values[:, :, :half] - values[:, :, half:]


def resampled(recipe: Recipe, cells: GroupCells, first_row: int, epoch: int) -> Tensor:
    """int32 (rows, N, D): the cells with the read noise of draw ``epoch``, on the grid; themselves without noise."""
    if cells.g_us is None or cells.before_us is None or cells.seen_us is None:
        return cells.values
    shape = (cells.g_us.shape[0], cells.g_us.shape[1], cells.g_us.shape[2])
    z = cell_normals(recipe.key(Purpose.READ), first_row, shape, epoch, cells.g_us.device)
    read = recipe.device.read_us(cells.g_us, recipe.chip.time_s, z, cells.before_us)
    seen = cells.seen_us + (read - cells.g_us) * _sensitivity(cells)
    return on_grid(recipe, seen, first_row)[0]


def group_variance(recipe: Recipe, cells: GroupCells) -> tuple[Tensor, Tensor] | None:
    """Variances of the conversions' read noise, uint8 (rows, N, J), and the scales of noise, float32 (N, J).

    None when reads have no independent Gaussian noise. The polarities of an analog difference add.
    """
    if cells.g_us is None or not recipe.device.independent_gaussian_reads:
        return None
    sigma = recipe.device.read_sigma_us(cells.g_us, recipe.chip.time_s, cells.before_us)
    if sigma is None:
        return None
    sigma = sigma * _sensitivity(cells) * (recipe.gain / recipe.device.step_us(recipe.top))
    if recipe.coding.analog:
        half = recipe.coding.cells_per_weight // 2
        sigma = torch.hypot(sigma[:, :, :half], sigma[:, :, half:])
    return variance_grid(sigma, recipe.grid_bits)


def groups(recipe: Recipe) -> Iterator[tuple[int, int, int]]:
    """(group, first row, last row + 1) of the product."""
    edges = recipe.bounds.tolist()
    for g in range(len(edges) - 1):
        yield g, edges[g], edges[g + 1]
