"""Row drivers and converters that are not exact, for a given product: draws keyed by place (docs/device.md).

A driver's noise is named by row, window and phase, a converter's mismatch by array and position: neither chunking nor
order can change them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cimc.runtime.device.adc import sar_codes
from cimc.runtime.device.dac import GRID_BITS
from cimc.runtime.device.normals import normals
from cimc.runtime.device.random import WORD, Purpose, philox
from cimc.runtime.device.recipe import Recipe


def drive_bits(recipe: Recipe) -> int:
    """Driven rows are multiples of 2^-this: 0 when drivers are exact."""
    return 0 if recipe.device.dac is None else GRID_BITS


def largest_drive(recipe: Recipe) -> int:
    """Largest driven row, in units of 2^-:func:`drive_bits`."""
    dac = recipe.device.dac
    return recipe.drive if dac is None else int(dac.largest(recipe.drive) * (1 << GRID_BITS)) + 1


def driven_rows(recipe: Recipe, digits: Tensor, first_row: int, windows: Tensor, phases: range) -> Tensor:
    """What the rows from ``first_row`` are driven with for ``digits`` (I, M, R) of ``phases`` and ``windows`` [M].

    Integers in units of 2^-:func:`drive_bits`, of the shape and number type of ``digits``.
    """
    dac = recipe.device.dac
    if dac is None:
        return digits
    where = digits.device
    rows = torch.arange(first_row, first_row + digits.shape[2], device=where)[None, None, :]
    window = windows.to(torch.int64)[None, :, None]
    block = torch.arange(phases.start // 4, (phases.stop - 1) // 4 + 1, device=where)[:, None, None]
    counter = torch.broadcast_tensors(rows, window & WORD, block, window >> 32)
    drawn = torch.stack(
        philox((counter[0], counter[1], counter[2], counter[3]), recipe.key(Purpose.DRIVE)), dim=1
    )
    # four phases a block, the first block possibly begun before the first phase
    words = drawn.flatten(0, 1)[phases.start % 4 :][: len(phases)]
    return dac.driven(digits, normals(words)).to(digits.dtype)


def by_digit(recipe: Recipe, driven: Tensor, digits: Tensor) -> Tensor:
    """Rows ``driven`` (…, R) as the cells' values want them: (…, drive * R) with every row at the place of its digit.

    ``digits`` (…, R) are the nominal ones. Unchanged where a cell's value does not depend on the digit.
    """
    if not recipe.bends:
        return driven
    places = [torch.where(digits == digit, driven, 0) for digit in range(1, recipe.drive + 1)]
    return torch.cat(places, dim=-1)


def mismatched(recipe: Recipe) -> bool:
    """Whether converters are successive approximations with errors of their own."""
    return recipe.device.adc is not None and recipe.device.adc.sar is not None


def thresholds(recipe: Recipe, first_row: int, conversion: int, columns: int, where: torch.device) -> Tensor:
    """int64 (columns, 2^bits): thresholds behind each logical column for one conversion of the group at ``first_row``.

    Row groups of one tile share their array's converters.
    """
    adc = recipe.device.adc
    assert adc is not None
    assert adc.sar is not None
    coding = recipe.coding
    bits = (coding.converter_hi - coding.converter_lo).bit_length()
    physical = torch.arange(columns, device=where) * coding.cells_per_weight + conversion
    converter = physical // adc.sar.columns_per_converter
    each, column_of = converter.unique(return_inverse=True)
    needed = adc.sar.normals_needed(bits)
    block = torch.arange(-(-needed // 4), device=where)[None, :]
    tile = torch.full_like(block, recipe.tile_of(first_row))
    counter = torch.broadcast_tensors(each[:, None], tile, block, torch.zeros_like(block))
    drawn = philox((counter[0], counter[1], counter[2], counter[3]), recipe.key(Purpose.CONVERTER))
    z = normals(torch.stack(drawn, dim=-1).flatten(1)[:, :needed])
    return adc.sar.thresholds(bits, z)[column_of]


def mismatched_codes(
    recipe: Recipe, partial: Tensor, kept: tuple[int, ...], group: int, first_row: int, phases: range
) -> Tensor:
    """``code - zero`` int64 of partial sums (I, M, J', N) in units of 2^-(e + drive bits): conversions ``kept``."""
    steps = torch.from_numpy(recipe.steps[group].copy()).to(partial.device)
    codes = torch.empty_like(partial, dtype=torch.int64)
    for at, j in enumerate(kept):
        table = thresholds(recipe, first_row, j, partial.shape[3], partial.device)
        h = steps[phases.start : phases.stop, j, None, None]
        grid_bits = recipe.grid_bits + drive_bits(recipe)
        codes[:, :, at] = sar_codes(partial[:, :, at], h, recipe.coding, grid_bits, table)
    return codes
