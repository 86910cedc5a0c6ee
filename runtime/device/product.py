"""Reads of a prepared product, fast and equal to :func:`~cimc.runtime.device.reference.read_reference`.

What collapsed is one exact integer product. What is converted has the digits of all phases stacked and goes through
one product per row group, a bounded block of windows at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cimc.runtime.crossbar.coding import Coding, Phase
from cimc.runtime.device.cells import GroupCells, conversion_values, group_cells, resampled
from cimc.runtime.device.converter import Division, division
from cimc.runtime.device.dense import read_dense
from cimc.runtime.device.exact import exact_type, largest_sum, product
from cimc.runtime.device.fused import Fused, add_group, bytes_per_window
from cimc.runtime.device.noise import noise_units, read_words
from cimc.runtime.device.periphery import (
    by_digit,
    drive_bits,
    driven_rows,
    largest_drive,
    mismatched,
    mismatched_codes,
)
from cimc.runtime.device.prepared import Converted, Prepared
from cimc.runtime.device.random import Purpose
from cimc.runtime.device.recipe import Recipe

if TYPE_CHECKING:
    from cimc.runtime.device.kernels_triton import TritonGroup

CHUNK_BYTES = 16 << 20
"""Default bound on what a read holds beside cells and result."""


def read(
    recipe: Recipe,
    prepared: Prepared,
    x: Tensor,
    first_window: int = 0,
    chunk_bytes: int = CHUNK_BYTES,
    call: int = 0,
) -> Tensor:
    """``read_reference`` of activation codes ``x`` (M, K), bit for bit: int64 (M, N), units 2^-``recipe.frac_bits``.

    ``first_window`` is the number of the first window in the whole run, ``call`` the number of the call. At most
    ``chunk_bytes`` are held at once beside the prepared cells and the result; no value depends on them.
    :class:`ValueError` for codes out of range.
    """
    check_codes(x, recipe)
    total = torch.empty((len(x), prepared.columns), dtype=torch.int64, device=x.device)
    read_dense(recipe, prepared.dense, x, total, chunk_bytes)
    for part in prepared.converted:
        if part.fused is not None:
            _add_fused(recipe, part, part.fused, x, total, first_window, chunk_bytes)
            continue
        if part.triton is not None:
            _add_triton(recipe, part.triton, x, total, first_window, chunk_bytes)
            continue
        _add_converted(recipe, prepared, part, x, total, first_window, chunk_bytes, call)
    return total


def check_codes(x: Tensor, recipe: Recipe) -> None:
    """:class:`ValueError` unless ``x`` is (M, K) and every code is legal: wrong ones would lose bits in the digits."""
    coding = recipe.coding
    if x.ndim != 2 or x.shape[1] != recipe.rows:
        raise ValueError(f"input codes are (M, {recipe.rows}), got {tuple(x.shape)}")
    kind = torch.iinfo(x.dtype)
    if not x.numel() or (coding.input_min <= kind.min and kind.max <= coding.input_max):
        return
    least, most = (int(v) for v in torch.aminmax(x))
    if least < coding.input_min or most > coding.input_max:
        raise ValueError(
            f"input codes must be in {coding.input_min} … {coding.input_max}, got {least} … {most}"
        )


def phase_digits(values: Tensor, phase: Phase) -> Tensor:
    """Digits that the DACs drive in ``phase``, of the shape of ``values`` (codes less the input offset)."""
    if phase.source == "positive":
        values = values.clamp(min=0)
    if phase.source == "negative":
        values = (-values).clamp(min=0)
    return (values >> phase.shift) & phase.top


def stacked_digits(x: Tensor, coding: Coding, kind: torch.dtype) -> Tensor:
    """Digits of all phases of codes (M, R): (I, M, R)."""
    values = x.to(torch.int32) - coding.input_offset
    return torch.stack([phase_digits(values, phase).to(kind) for phase in coding.phases])


def _add_converted(
    recipe: Recipe,
    prepared: Prepared,
    part: Converted,
    x: Tensor,
    total: Tensor,
    first_window: int,
    chunk_bytes: int,
    call: int,
) -> None:
    """Add the conversions of one group to ``total``, a block of windows at a time."""
    phases, columns = recipe.coding.digit_cycles, total.shape[1]
    noise = 160 if part.variance is not None else 0
    per_window = phases * (part.last - part.first) * 16 + phases * len(part.kept) * columns * (48 + noise)
    block = max(1, chunk_bytes // per_window)
    values, still = part.values, None
    if prepared.codes is not None:
        still = group_cells(recipe, prepared.codes[part.first : part.last], part.first)
        if recipe.device.read_scope == "call":
            values, still = _redrawn(recipe, still, part, recipe.epoch(0, 0, call)), None
    for start in range(0, len(x), block):
        codes = x[start : start + block, part.first : part.last]
        window = first_window + start
        if still is None:
            partial = _sums(recipe, part, values, codes, window)
        else:
            partial = _sums_of_draws(recipe, still, part, codes, window)
        total[start : start + block] += _shift_add(recipe, part, partial)


def _add_fused(
    recipe: Recipe,
    part: Converted,
    fused: Fused,
    x: Tensor,
    total: Tensor,
    first_window: int,
    chunk_bytes: int,
) -> None:
    """The same by the CPU kernel."""
    phases = recipe.coding.digit_cycles
    key = recipe.key(Purpose.READ)
    counters = np.array([part.group << 9 | j << 3 for j in part.kept], dtype=np.int64)
    block = max(1, chunk_bytes // bytes_per_window(fused, phases))
    worth = part.worth.numpy()
    for start in range(0, len(x), block):
        values = x[start : start + block, part.first : part.last].to(torch.int32, copy=True)
        values -= recipe.coding.input_offset
        target = total[start : start + block].numpy()
        add_group(recipe, fused, worth, values.numpy(), key, counters, first_window + start, target)
        del values  # before the next block is made


def _add_triton(
    recipe: Recipe,
    group: TritonGroup,
    x: Tensor,
    total: Tensor,
    first_window: int,
    chunk_bytes: int,
) -> None:
    """The same by the GPU kernel."""
    from cimc.runtime.device.kernels_triton import add_group as add_on_gpu

    block = max(1, chunk_bytes // (8 * (group.last - group.first)))
    for start in range(0, len(x), block):
        stop = start + block
        add_on_gpu(recipe, group, x[start:stop], first_window + start, total[start:stop])


def _redrawn(recipe: Recipe, cells: GroupCells, part: Converted, epoch: int) -> Tensor:
    """Cells (rows, J', N) of a group with the read noise of draw ``epoch``."""
    seen = conversion_values(resampled(recipe, cells, part.first, epoch), recipe.coding)
    return seen[:, :, list(part.kept)].transpose(1, 2)


def _sums_of_draws(
    recipe: Recipe, still: GroupCells, part: Converted, x: Tensor, first_window: int
) -> Tensor:
    """Partial sums int64 (I, M, J', N) where every window, or every window and phase, sees cells of its own."""
    phases = recipe.coding.digit_cycles
    windows = torch.arange(first_window, first_window + len(x), device=x.device)
    digits = stacked_digits(x, recipe.coding, torch.float64)
    digits = driven_rows(recipe, digits, part.first, windows, range(phases))
    sums = torch.empty((phases, len(x), *part.worth.shape), dtype=torch.int64, device=x.device)
    fresh = recipe.device.read_scope == "read"
    for m in range(len(x)):
        for i in range(phases if fresh else 1):
            cells = _redrawn(recipe, still, part, recipe.epoch(first_window + m, i, 0)).to(torch.float64)
            seen = digits[i : i + 1, m] if fresh else digits[:, m]
            found = product(seen, cells.reshape(len(cells), -1)).to(torch.int64)
            sums[i : i + len(found) if fresh else None, m] = found.reshape(-1, *part.worth.shape)
    return sums


def _sums(recipe: Recipe, part: Converted, values: Tensor, x: Tensor, first_window: int) -> Tensor:
    """Partial sums int64 (I, M, J', N) in units of 2^-(e + drive bits), sampled noise included."""
    shape = (recipe.coding.digit_cycles, len(x), *part.worth.shape)
    flat = values.reshape(len(values), -1)
    kind = exact_type(largest_sum(largest_drive(recipe), flat))
    windows = torch.arange(first_window, first_window + len(x), device=x.device)
    stacked = stacked_digits(x, recipe.coding, kind)
    driven = driven_rows(recipe, stacked, part.first, windows, range(shape[0]))
    driven = by_digit(recipe, driven, stacked)
    sums = product(driven.reshape(-1, len(flat)), flat.to(kind)).to(torch.int64).reshape(shape)
    if part.variance is None or part.scale is None:
        return sums
    spread = part.variance.reshape(len(part.variance), -1)
    kind = exact_type(largest_sum(recipe.drive**2, spread))
    digits = stacked.reshape(-1, len(spread)).to(kind)
    summed = product(digits**2, spread.to(kind)).reshape(shape)
    key = recipe.key(Purpose.READ)
    for at, j in enumerate(part.kept):
        words = read_words(key, windows, part.group, j, shape[0], shape[3])
        sums[:, :, at] += noise_units(summed[:, :, at], words, part.scale[at]) << drive_bits(recipe)
    return sums


def _shift_add(recipe: Recipe, part: Converted, partial: Tensor) -> Tensor:
    """Convert, shift and add: int64 (M, N)."""
    coding = recipe.coding
    where = partial.device
    worth = torch.tensor([phase.coefficient for phase in coding.phases], device=where)
    if recipe.converter:
        steps = recipe.steps[part.group][:, list(part.kept)]
        if mismatched(recipe):
            cycles = range(coding.digit_cycles)
            partial = mismatched_codes(recipe, partial, part.kept, part.group, part.first, cycles)
        else:
            partial = convert(partial, division(steps, coding, recipe.grid_bits + drive_bits(recipe)))
        worth = worth[:, None] * torch.from_numpy(steps.copy()).to(where)
    else:
        worth = worth[:, None].expand(-1, len(part.kept))
    return ((partial * worth[:, None, :, None]).sum(dim=0) * part.worth).sum(dim=1)


def convert(partial: Tensor, constants: Division) -> Tensor:
    """Codes less zero of partial sums (I, M, J, N) in units of 2^-e: int64. The converter's module has the proof."""

    def spread(array: object) -> Tensor:
        return torch.as_tensor(array, device=partial.device)[:, None, :, None]

    scaled = ((partial << constants.up) + spread(constants.offset)) >> constants.down
    held = torch.clamp(scaled, spread(constants.low), spread(constants.high))
    kind = torch.float32 if constants.single else torch.float64
    inverse = spread(1.0 / constants.h).to(kind)
    return torch.floor((held.to(kind) + 0.5) * inverse).to(torch.int64)
