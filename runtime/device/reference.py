"""The crossbar product on cells that are not ideal, as it is defined: one group, digit and conversion at a time.

Slow and plain on purpose: int64 sums, the integer converter of :mod:`cimc.runtime.crossbar.converter`, every cell made
from the recipe where it is used. Everything faster is tested for equality with :func:`read_reference`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cimc.runtime.crossbar.converter import convert
from cimc.runtime.crossbar.reference import check_codes, phase_digits
from cimc.runtime.device.cells import (
    GroupCells,
    conversion_values,
    group_cells,
    group_variance,
    groups,
    resampled,
)
from cimc.runtime.device.noise import noise_units, read_words
from cimc.runtime.device.periphery import drive_bits, driven_rows, mismatched, mismatched_codes
from cimc.runtime.device.random import Purpose
from cimc.runtime.device.recipe import Recipe


def read_reference(
    recipe: Recipe,
    codes: Tensor,
    x: Tensor,
    first_window: int = 0,
    call: int = 0,
    order: Tensor | None = None,
) -> Tensor:
    """``sum_k value[m, k] * w[k, n]`` as this chip delivers it: int64 (M, N) in units of 2^-``recipe.frac_bits``.

    ``codes`` are the weights (K, N), ``x`` activation codes (M, K), ``first_window`` the number of the first window in
    the whole run and ``call`` the number of the call (for the noise scopes that ask). ``order`` permutes the rows
    inside every sum, which must not change a bit. docs/crossbar.md, steps 1 to 7, with the cells of docs/device.md.
    :class:`ValueError` for codes out of range.
    """
    coding = recipe.coding
    check_codes(x.numpy(), recipe.rows, coding)
    values = x.to(torch.int64) - coding.input_offset
    total = torch.zeros((x.shape[0], codes.shape[1]), dtype=torch.int64)
    unit = recipe.frac_bits
    for g, first, last in groups(recipe):
        cells = group_cells(recipe, codes[first:last], first)
        for m in range(len(x)):
            window = first_window + m
            for i, phase in enumerate(coding.phases):
                digits = torch.from_numpy(phase_digits(values[m, first:last].numpy(), phase))
                partial = _partial_sums(recipe, cells, digits, (g, first), i, window, call, order)
                driven = int(digits.sum()) << unit
                for j, plane in enumerate(coding.conversions):
                    read = partial[:, j]
                    h = int(recipe.steps[g, i, j])
                    if mismatched(recipe) and recipe.converter:
                        one = read[None, None, None]
                        read = mismatched_codes(recipe, one, (j,), g, first, range(i, i + 1))[0, 0, 0] * h
                    elif recipe.converter:
                        code = convert(
                            read.numpy(),
                            h,
                            frac_bits=coding.frac_bits,
                            lo=coding.converter_lo,
                            hi=coding.converter_hi,
                            zero=coding.converter_zero,
                            grid_bits=recipe.grid_bits + drive_bits(recipe),
                        )
                        read = torch.from_numpy((code - coding.converter_zero) * h)
                    read = torch.where(cells.flips[:, j], plane.top * driven - read, read)
                    total[m] += phase.coefficient * plane.coefficient * read
    offset = coding.weight_offset * values.sum(dim=1, keepdim=True)
    return total - (offset << unit)


def _partial_sums(
    recipe: Recipe,
    cells: GroupCells,
    digits: Tensor,
    place: tuple[int, int],
    phase: int,
    window: int,
    call: int,
    order: Tensor | None,
) -> Tensor:
    """int64 (N, J) in units of 2^-(e + drive bits): what the converters see in one phase of one window, with noise."""
    coding = recipe.coding
    group, first = place
    seen = cells.values
    if recipe.resamples:
        seen = resampled(recipe, cells, first, recipe.epoch(window, phase, call))
    values = conversion_values(seen, coding).to(torch.int64)
    at = torch.tensor([window])
    driven = driven_rows(recipe, digits[None, None], first, at, range(phase, phase + 1))[0, 0]
    if recipe.bends:
        cell_of = (digits - 1).clamp(min=0) * len(digits) + torch.arange(len(digits))
        values = values[cell_of]
    terms = driven[:, None, None] * values
    if order is not None:
        terms = terms[torch.argsort(order[first : first + len(digits)])]
    partial = torch.zeros_like(terms[0])
    for term in terms:
        partial = partial + term
    variance = group_variance(recipe, cells)
    if variance is None:
        return partial
    grid, scale = variance
    summed = ((digits * digits)[:, None, None] * grid.to(torch.int64)).sum(dim=0)
    for j in range(partial.shape[1]):
        words = read_words(recipe.key(Purpose.READ), at, group, j, coding.digit_cycles, len(partial))
        partial[:, j] += noise_units(summed[:, j], words[phase, 0], scale[:, j]) << drive_bits(recipe)
    return partial
