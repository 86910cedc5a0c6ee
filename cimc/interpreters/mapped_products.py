"""Array products of the mapped level: windows of rows times the blocks of a stage, by the crossbar definition.

Tiles, digits and converters are those of docs/crossbar.md; the cells are made from the weight matrix for every
block, as its write meta-operator would program them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from cimc.backends.schema import Architecture
from cimc.diagnostics import UnsupportedError
from cimc.dialects.base import located
from cimc.dialects.cim import StageOp
from cimc.dialects.cim_types import Diagonal, WindowAttr
from cimc.dialects.graph_types import QuantType, quant_of, shape_of
from cimc.dialects.weights import WeightStore
from cimc.interpreters.mapped_blocks import Block
from cimc.passes.schedule.array_product import coding_of
from cimc.passes.schedule.row_tiles import stage_tile_height
from cimc.runtime.crossbar.cells import decode
from cimc.runtime.crossbar.cells import store as store_cells
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.product import ArrayProduct
from cimc.runtime.crossbar.rows import group_bounds

Array = npt.NDArray[Any]

CHUNK_ELEMENTS = 4 << 20
"""Elements of windows that are held at once."""

BATCH_WEIGHTS = 8 << 20
"""Weights whose cells are held at once, give or take a product: 40 bytes each with eight converted bit slices."""

EXACT_FLOAT64 = 1 << 53
"""Below it float64 sums of integers are exact in any order."""


class ArrayReader(Protocol):
    """Programmed cells that windows of codes are multiplied by."""

    @property
    def lossless(self) -> bool:
        """Whether no converter can lose information."""
        ...

    def read(self, qx: Array) -> npt.NDArray[np.int64]:
        """Windows ``qx`` (M, K) times the cells: int64 (M, N) in units of 2^-F."""
        ...


@dataclass(frozen=True)
class Written:
    """What a write meta-operator programs into the arrays of one copy: where, which weights, in which way."""

    stage: str
    copy: int
    position: int
    """The first window of a row that this copy takes; with ``copy`` it tells copies apart."""
    first_row: int
    first_column: int
    weights: Array
    """Integers (K, N)."""
    coding: Coding
    segments: tuple[tuple[int, int], ...]
    """Row tiles: rows and first wordline of each."""
    steps: npt.NDArray[np.int64]
    """Converter steps h, (phases, conversions) or one for all."""


class Programmer(Protocol):
    """Programs the arrays of a machine."""

    @property
    def copies_differ(self) -> bool:
        """Whether equal weights in two copies make different cells."""
        ...

    def program(self, written: Written) -> ArrayReader:
        """The cells after writing."""
        ...


@dataclass(frozen=True)
class ExactCells:
    """Cells that hold what was written, behind the machine's converters or ones that lose nothing."""

    ideal_converters: bool = False

    @property
    def copies_differ(self) -> bool:
        """Equal weights make equal cells."""
        return False

    def program(self, written: Written) -> ArrayReader:
        """Cells and flip bits by docs/crossbar.md."""
        coding, bounds = written.coding, group_bounds(written.segments, written.coding.parallel_rows)
        cells, flips = store_cells(written.weights, coding, bounds)
        if self.ideal_converters:
            weights = decode(cells, flips, coding, bounds)
            return IdealProduct(weights, coding.input_offset, coding.frac_bits)
        return ArrayProduct(cells, flips, coding, bounds, written.steps)


EXACT_CELLS = ExactCells()
"""The machine as it is drawn: cells without errors, its own converters."""


@dataclass(frozen=True)
class IdealProduct:
    """The product of converters that lose nothing, whatever the machine's own would: decoded cells, exact sums."""

    weights: npt.NDArray[np.int64]
    offset: int
    frac_bits: int
    lossless: bool = True

    def read(self, qx: Array) -> npt.NDArray[np.int64]:
        """Windows ``qx`` (M, K) times the weights: int64 (M, N) in units of 2^-F."""
        values = qx.astype(np.int64) - self.offset
        reach = max(int(values.max()), -int(values.min()))
        if reach * int(np.abs(self.weights).sum(axis=0).max()) < EXACT_FLOAT64:
            total = (values.astype(np.float64) @ self.weights.astype(np.float64)).astype(np.int64)
        else:
            total = values @ self.weights
        return total << self.frac_bits


@dataclass(frozen=True)
class Product:
    """The blocks of one copy that share weight rows and source channels, side by side as one product."""

    channels: tuple[int, int]
    rows: slice
    columns: npt.NDArray[np.int64]
    cells: ArrayReader


@dataclass(frozen=True)
class ReadResult:
    """Sums (F, H, W, N) in units of 2^-F of the coding, and what the converters lose."""

    acc: Array
    lossless: bool
    needless: bool
    """Steps lose information that the converters would keep at step 1."""


def read_arrays(
    stage: StageOp,
    source: Array,
    blocks: Sequence[Block],
    store: WeightStore,
    arch: Architecture,
    arrays: Programmer,
) -> ReadResult:
    """Multiply every window of ``source`` (F, H, W, C) by the blocks of the copy it belongs to.

    ``arrays`` programs the cells of every copy. Raises
    ``UnsupportedError`` at the stage for sums that leave the accumulator.
    """
    read, write = stage.read, stage.write
    assert read is not None
    assert write is not None
    given = quant_of(read.source)
    assert given is not None
    coding = coding_of(write.coding)
    steps = store.array(read.steps.key.data) if read.steps is not None else np.int64(1)
    matrix = store.array(write.weight.key.data)
    rows, positions, columns = shape_of(read.acc)
    limits = np.iinfo(np.int32 if str(read.acc.type).endswith("i32>") else np.int64)
    total = np.zeros((len(source), rows, positions, columns), np.int64)
    windows = _Windows.of(source, read.window, given)
    copies = 1 + max(b.copy for b in blocks)
    lossless = needless = True
    height = stage_tile_height(write, arch, coding)
    plan = _Plan(stage.label.data, matrix, read.diagonal, coding, np.asarray(steps), height)
    for members in _alike(blocks, apart=arrays.copies_differ):
        for products in plan.batches(members[0], arrays):
            lossless &= all(p.cells.lossless for p in products)
            for mine in members:
                p0, p1 = mine[0].p0, mine[0].p1
                dealt = _Windows(windows.view[:, :, p0:p1])
                for picked in dealt.chunks(range(mine[0].copy, rows, copies), matrix.shape[0]):
                    sums = _sums(dealt, picked, products, columns)
                    total[:, picked, p0:p1] += sums.reshape(len(source), len(picked), p1 - p0, columns)
        needless &= lossless or plan.fits_step_one(members[0])
    if total.min() < limits.min or total.max() > limits.max:
        raise UnsupportedError(
            located(read, f"sums of {total.min()} … {total.max()} do not fit {limits.dtype}")
        )
    return ReadResult(total.astype(limits.dtype, copy=False), lossless, needless and not lossless)


def _alike(blocks: Sequence[Block], *, apart: bool) -> list[list[list[Block]]]:
    """The blocks of each copy, those of copies with equal cells together; every copy alone if ``apart``."""
    copies: dict[tuple[int, int, int], list[Block]] = {}
    for block in blocks:
        copies.setdefault((block.copy, block.p0, block.p1), []).append(block)
    found: dict[tuple[Any, ...], list[list[Block]]] = {}
    for copy, mine in sorted(copies.items()):
        cells = tuple((b.k0, b.k1, b.n0, b.n1) for b in mine)
        found.setdefault((*copy, cells) if apart else cells, []).append(mine)
    return list(found.values())


def _sums(
    windows: _Windows, picked: range, products: Sequence[Product], columns: int
) -> npt.NDArray[np.int64]:
    total = np.zeros((windows.count(picked), columns), np.int64)
    seen: tuple[tuple[int, int], Array] | None = None
    for product in products:
        if seen is None or seen[0] != product.channels:
            seen = product.channels, windows.rows(picked, product.channels)
        total[:, product.columns] += product.cells.read(seen[1][:, product.rows])
    return total


@dataclass(frozen=True)
class _Plan:
    """What all copies of a stage share."""

    stage: str
    matrix: Array
    diagonal: Diagonal
    coding: Coding
    steps: npt.NDArray[np.int64]
    rows: int
    """Weight rows of a row tile."""

    def batches(self, blocks: Sequence[Block], arrays: Programmer) -> Iterator[list[Product]]:
        """The products of one copy, so many at a time that their cells fit in memory."""
        held: list[Product] = []
        size = 0
        for product in self.products(blocks, arrays):
            held.append(product)
            size += (product.rows.stop - product.rows.start) * len(product.columns)
            if size >= BATCH_WEIGHTS:
                yield held
                held, size = [], 0
        if held:
            yield held

    def products(self, blocks: Sequence[Block], arrays: Programmer) -> Iterator[Product]:
        """Cells of the blocks of one copy; those with the same weight rows and channels become one product."""
        alike: dict[tuple[tuple[int, int], int, int], list[tuple[int, int]]] = {}
        for b in blocks:
            for n0, n1 in _within_blocks(b.n0, b.n1, self.diagonal):
                alike.setdefault((self.diagonal.channel_range(n0), b.k0, b.k1), []).append((n0, n1))
        for (channels, k0, k1), beside in alike.items():
            columns = np.concatenate([np.arange(n0, n1) for n0, n1 in beside])
            tiles = tuple((min(self.rows, k1 - k), 0) for k in range(k0, k1, self.rows))
            weights = np.concatenate([self.matrix[k0:k1, n0:n1] for n0, n1 in beside], axis=1)
            mine, first = blocks[0], int(columns[0])
            made = Written(self.stage, mine.copy, mine.p0, k0, first, weights, self.coding, tiles, self.steps)
            yield Product(channels, slice(k0, k1), columns, arrays.program(made))

    def fits_step_one(self, blocks: Sequence[Block]) -> bool:
        """Whether the converters cover every sum of the blocks at step 1."""
        plain = replace(self, coding=replace(self.coding, frac_bits=0), steps=np.asarray(np.int64(1)))
        return all(p.cells.lossless for p in plain.products(blocks, EXACT_CELLS))


def _within_blocks(n0: int, n1: int, diagonal: Diagonal) -> list[tuple[int, int]]:
    """The columns [n0, n1) cut where the blocks of the diagonal end: a stage not yet partitioned holds all."""
    cuts = range((diagonal.of_column(n0) + 1) * diagonal.columns, n1, diagonal.columns)
    return list(pairwise([n0, *cuts, n1]))


@dataclass(frozen=True)
class _Windows:
    """All windows of padded codes as a view: frames, output rows, positions, kh, kw, channels."""

    view: Array

    @staticmethod
    def of(source: Array, window: WindowAttr, given: QuantType) -> _Windows:
        """The windows of ``source`` (F, H, W, C); outside it is the zero point (numerics 0.3)."""
        (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.strides, window.dilations
        top, left, bottom, right = window.pads
        pads = ((0, 0), (top, bottom), (left, right), (0, 0))
        padded = np.pad(source, pads, constant_values=given.zero_point)
        spans = sliding_window_view(padded, ((kh - 1) * dh + 1, (kw - 1) * dw + 1), axis=(1, 2))
        return _Windows(spans[:, ::sh, ::sw, :, ::dh, ::dw].transpose(0, 1, 2, 4, 5, 3))

    def chunks(self, rows: range, depth: int) -> list[range]:
        """``rows`` in pieces whose windows of ``depth`` elements stay within the bound."""
        frames, _, positions = self.view.shape[:3]
        size = max(1, CHUNK_ELEMENTS // (frames * positions * depth))
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    def count(self, picked: range) -> int:
        """The number of windows of some output rows of all frames."""
        return self.view.shape[0] * len(picked) * self.view.shape[2]

    def rows(self, picked: range, channels: tuple[int, int]) -> Array:
        """The windows of some output rows of all frames over some channels: (M, kh*kw*channels)."""
        taken = self.view[:, picked.start : picked.stop : picked.step, ..., slice(*channels)]
        return taken.reshape(-1, int(np.prod(taken.shape[3:])))
