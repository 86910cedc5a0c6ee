"""A weight matrix as blocks that are programmed, placed and streamed one by one (docs/streaming.md, blocks).

A block is some output columns of a layer that store at most :data:`BLOCK_VALUES` values: a large vocabulary does not
need a large buffer, nor a weight of many cells a large workspace. Blocks are cut the same way whatever the budget, so
that bits do not depend on it. A grouped convolution is a block diagonal: a block holds as many groups as one crossbar
does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cimc.analog.codes import weight_codes, weight_scales
from cimc.backends.schema import Architecture
from cimc.diagnostics import UnsupportedError
from cimc.passes.schedule.array_product import groups_per_block
from cimc.runtime.crossbar.coding import Coding, converter_range
from cimc.runtime.device.prepared import loses_nothing
from cimc.runtime.device.recipe import Chip, DeviceModel, Recipe

BLOCK_VALUES = 1 << 20
"""Values that the reads of a block hold, unless the columns of one array are more: cells, or weights where reads
collapse."""
BLOCKS_PER_LAYER = 1 << 16

GROUP_CELLS = 1 << 17
"""Cells of a block that are made at once, those of one row group. Each takes a dozen numbers of 8 bytes meanwhile."""

RowSource = Callable[[int, int], Tensor]
"""``rows(first, last)``: float (last - first, K) weights of some output channels, in the order of the windows' rows."""


@dataclass(frozen=True)
class Block:
    """Some columns of a layer and the recipe of their product."""

    key: int
    """Number of the block in the run: its place in the store."""
    name: str
    recipe: Recipe
    columns: slice
    """Output channels of the layer."""
    channels: slice
    """Input channels that its windows hold."""
    groups: int
    """Groups of a grouped convolution inside, 1 for a dense matrix."""

    @property
    def width(self) -> int:
        """Output channels."""
        return self.columns.stop - self.columns.start

    def with_recipe(self, recipe: Recipe) -> Block:
        """The same weights, read by another recipe."""
        return replace(self, recipe=recipe)

    def shape(self) -> tuple[int, int]:
        """(N, K) as stored: the codes of an output channel lie together."""
        return self.width, self.recipe.rows


@dataclass(frozen=True)
class Form:
    """The shape of a layer's weights on arrays."""

    out_channels: int
    in_channels: int
    """Of all groups."""
    taps: int
    """Kernel positions: rows of a product for each input channel."""
    groups: int = 1


def machine_coding(arch: Architecture, weight_bits: int, input_bits: int) -> Coding:
    """The digits of ``weight_bits`` weights, never -2^(B-1), and unsigned ``input_bits`` inputs on a machine."""
    crossbar = arch.crossbar
    lo, hi, zero = converter_range(crossbar.adc_bits, crossbar.adc_signed)
    differential = crossbar.weight_encoding == "differential"
    return Coding(
        weight_bits=weight_bits,
        weight_encoding=crossbar.weight_encoding,
        column_flip=crossbar.column_flip,
        cell_bits=crossbar.cell_bits,
        input_bits=input_bits,
        input_min=0,
        input_encoding=crossbar.input_encoding,
        dac_bits=crossbar.dac_bits,
        parallel_rows=crossbar.parallel_rows,
        subtract=crossbar.subtract,
        converter_lo=lo,
        converter_hi=hi,
        converter_zero=zero,
        max_abs_weight=(1 << (weight_bits - 1)) - 1 if differential else 0,
    )


def row_tiles(rows: int, array_rows: int) -> tuple[tuple[int, int], ...]:
    """Row tiles (rows, first wordline) of a product that starts on an array of its own."""
    return tuple((min(array_rows, rows - start), 0) for start in range(0, rows, array_rows))


def cut(
    form: Form,
    name: str,
    layer: int,
    keys: Iterator[int],
    arch: Architecture,
    coding: Coding,
    device: DeviceModel,
    chip: Chip,
) -> list[Block]:
    """The blocks of layer number ``layer``, with the next of ``keys``.

    Raises :class:`UnsupportedError` when a weight does not fit a row of cells.
    """
    array_rows = arch.crossbar.rows
    side = arch.crossbar.weight_columns(coding.weight_bits)
    if side < 1:
        raise UnsupportedError(
            f"a weight takes {coding.cells_per_weight} cells of a row, a crossbar of {arch.name} has "
            f"{arch.crossbar.columns}; use fewer weight bits",
            where=name,
        )
    depth, width = form.in_channels // form.groups * form.taps, form.out_channels // form.groups
    packed = 1
    if form.groups > 1:
        packed = groups_per_block(form.groups, depth, width, array_rows, side)
    span = packed * width
    if form.groups == 1:
        # Whole arrays side by side, so that no array is shared by two blocks.
        probe = Recipe(layer, coding, row_tiles(depth, array_rows), device, chip)
        span = max(1, _columns(probe) // side) * side
    found: list[Block] = []
    for number, start in enumerate(range(0, form.out_channels, span)):
        stop = min(form.out_channels, start + span)
        group = start // width if form.groups > 1 else 0
        channels = form.in_channels // form.groups
        rows = packed * depth
        recipe = Recipe(layer * BLOCKS_PER_LAYER + number, coding, row_tiles(rows, array_rows), device, chip)
        whole = span >= form.out_channels
        found.append(
            Block(
                next(keys),
                name if whole else f"{name}[{start}:{stop}]",
                recipe,
                slice(start, stop),
                slice(group * channels, (group + packed) * channels),
                packed,
            )
        )
    return found


def _columns(probe: Recipe) -> int:
    """Output channels of a block of products like ``probe``."""
    if loses_nothing(probe):
        return BLOCK_VALUES // probe.rows
    cells = probe.coding.cells_per_weight
    return min(BLOCK_VALUES // (probe.rows * cells), GROUP_CELLS // (probe.rows_at_once * cells))


@dataclass(frozen=True)
class Programmed:
    """What is left of a layer's weights in memory: numbers per output channel."""

    scales: Tensor
    """float32 [N]."""
    sums: Tensor
    """int64 [N]: sum of each output channel's codes, which zero points are multiplied by."""


def program(
    form: Form, blocks: Sequence[Block], rows: RowSource, keep: Callable[[int, Tensor], None], where: str
) -> Programmed:
    """Quantise ``rows`` block by block and give each block's codes (N, K) to ``keep(key, codes)``.

    Never more than one block of float weights exists. Raises :class:`UnsupportedError` for a weight that is not finite.
    """
    scales: list[Tensor] = []
    sums: list[Tensor] = []
    for block in blocks:
        bits = block.recipe.coding.weight_bits
        part = rows(block.columns.start, block.columns.stop)
        scale = weight_scales(part, bits, where)
        codes = weight_codes(part, scale, bits)
        scales.append(scale)
        sums.append(codes.sum(dim=1, dtype=torch.int64))
        keep(block.key, expanded(codes, form, block).contiguous())
    return Programmed(torch.cat(scales), torch.cat(sums))


def program_codes(
    form: Form, blocks: Sequence[Block], codes: Tensor, scales: Tensor, keep: Callable[[int, Tensor], None]
) -> Programmed:
    """As :func:`program` for codes (N, taps * channels of a group) that are there already."""
    for block in blocks:
        keep(block.key, expanded(codes[block.columns], form, block).contiguous())
    return Programmed(scales, codes.sum(dim=1, dtype=torch.int64))


def expanded(rows: Tensor, form: Form, block: Block) -> Tensor:
    """Rows (N, taps * channels of a group) with zeros for the other groups of the block: (N, K)."""
    if block.groups == 1:
        return rows
    count, channels = len(rows), form.in_channels // form.groups
    full = rows.new_zeros((count, form.taps, block.groups, channels))
    full[torch.arange(count), :, _own_group(count, block)] = rows.view(count, form.taps, channels)
    return full.view(count, -1)


def compacted(codes: Tensor, form: Form, block: Block) -> Tensor:
    """The inverse of :func:`expanded`."""
    if block.groups == 1:
        return codes
    count, channels = len(codes), form.in_channels // form.groups
    full = codes.view(count, form.taps, block.groups, channels)
    return full[torch.arange(count), :, _own_group(count, block)].reshape(count, -1)


def _own_group(count: int, block: Block) -> Tensor:
    return torch.arange(count) // (count // block.groups)
