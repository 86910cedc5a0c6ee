"""Cut every stage into contexts: row chunks and column blocks that fit a core."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from cimc.diagnostics import CimError, DoesNotFitError, raise_all
from cimc.dialects.base import located
from cimc.dialects.cim import StageOp
from cimc.dialects.cim_real import takes_whole_rows
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import shape_of
from cimc.dialects.weights import WeightRefAttr
from cimc.passes.place.network import COLUMNS
from cimc.passes.place.source_rows import is_global_pool, kernel_rows, ring_columns, source_geometry
from cimc.passes.place.tail_plan import element_of, plan_tail
from cimc.passes.schedule.array_frames import frame_blocks
from cimc.passes.schedule.array_product import coding_of
from cimc.passes.schedule.dealing import Dealing, dealing_of
from cimc.passes.schedule.row_tiles import stage_tile_height

SUMS = 4
"""Times that the partial sums of a phase must fit the global buffer: a call of several frames keeps those of all."""


@dataclass(frozen=True)
class PartitionStagesPass(ModulePass):
    """Write a placement table for every stage: one row a context, cores still open.

    A row chunk is a range of row tiles, at most a core's crossbars; a column block takes as many column tiles as
    the rest of the core allows and its rows take at most half of the local memory. Blocks of a grouped convolution
    never share a context, so that its ring holds the channels of one block. Digital stages are cut by channels. Copies,
    of digital stages too, take rows in turn and blocks of them (``dealing.py``). Columns of the table: ``COLUMNS`` of
    ``passes/place/network.py``.

    ```mlir
    %y = cim.stage "conv1" (%x) ...                            // before
    %y = cim.stage "conv1" (%x) placement <"conv1.partition"> ...  // after
    ```
    """

    name = "partition-stages"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set ``placement`` of every stage. Raises ``DoesNotFitError`` for all stages no core can hold."""
        assert isinstance(ctx, CimContext)
        errors: list[CimError] = []
        for stage in op.walk():
            if not isinstance(stage, StageOp):
                continue
            try:
                table = partition(stage, ctx.arch)
            except DoesNotFitError as error:
                errors.append(error)
                continue
            key = ctx.store.fresh(f"{stage.label.data}.partition")
            stage.placement = WeightRefAttr.of(ctx.store.put(key, table))
        raise_all(errors)


class Footprint:
    """Local memory of a stage's contexts: rings, partial sums, buffers of the tail. Read off the stage once."""

    def __init__(self, stage: StageOp, dealing: Dealing, chunks: int, arch: Any):
        """``chunks``: row chunks of a block of the weights."""
        self._stage, self._copies = stage, dealing.rows
        source, *others = stage.sources
        product, read = stage.frame_product is not None, stage.read
        self._positions = 1 if product else ceil(shape_of(stage.result)[1] / dealing.columns)
        first, last = ring_columns(stage, 0, self._positions, arch)
        self._columns, self._size = last - first, element_of(source.type).size_bytes
        self._lanes = read.diagonal.channels if read is not None else None
        if takes_whole_rows(stage):
            self._lanes = shape_of(source)[2]
        self._waiting = [ceil(stage.waiting_rows(n) / dealing.rows) for n in range(1 + len(others))]
        self._sums = (chunks - 1) * element_of(read.acc.type).size_bytes if read is not None else 0
        self._sides = [
            (shape_of(other)[2] if product and n == 1 else None, element_of(other.type).size_bytes)
            for n, other in enumerate(others, start=1)
        ]
        self._tail = plan_tail(stage)
        self._rings: dict[tuple[int, int], tuple[int, int]] = {}

    def bytes(self, k0: int, k1: int, channels: int, slack: int) -> int:
        """Of a context of weight rows [k0, k1) and so many channels, rings with ``slack`` extra advances."""
        window, advance = self._ring(k0, k1)
        lanes = channels if self._lanes is None else self._lanes
        total = self._columns * lanes * self._size * max(window + slack * advance, self._waiting[0])
        total += self._sums * self._positions * channels * (1 + slack)
        for (whole, size), waiting in zip(self._sides, self._waiting[1:], strict=True):
            places = 1 + slack if whole is not None else max(1 + slack, waiting)
            total += self._positions * (channels if whole is None else whole) * size * places
        return total + self._tail.bytes(channels, self._positions)

    def _ring(self, k0: int, k1: int) -> tuple[int, int]:
        """Rows of a window, and from one to the next."""
        if (k0, k1) not in self._rings:
            kernel = kernel_rows(self._stage, k0, k1)
            geometry = source_geometry(self._stage, kernel, 0, self._copies)
            self._rings[k0, k1] = geometry.window, geometry.advance
        return self._rings[k0, k1]


def partition(stage: StageOp, arch: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The table of a stage, chunks of a block together and the chunk that ends it first.

    Raises ``DoesNotFitError`` for a stage that no core can hold, ``ValueError`` for copies without windows.
    """
    dealing = dealing_of(stage, arch)
    return (
        _array_blocks(stage, dealing, arch)
        if stage.read is not None
        else _digital_blocks(stage, dealing, arch)
    )


def _digital_blocks(stage: StageOp, dealing: Dealing, arch: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A context for every copy and channel block; blocks whose rings and rows take at most half of a core, if channels
    are independent."""
    _, positions, channels = shape_of(stage.result)
    if stage.frame_product is not None:
        return _product_blocks(stage, dealing, arch)
    whole = takes_whole_rows(stage)
    footprint, block = Footprint(stage, dealing, 1, arch), channels
    while not whole and block > 1 and 2 * footprint.bytes(0, 0, block, 2) > arch.core.local_buffer_bytes:
        block = ceil(block / 2)
    _check_memory(stage, footprint.bytes(0, 0, block, 0), arch)
    rows = [
        (copy, 0, 0, 0, n, min(n + block, channels), p0, p1, 0, 0, -1, -1, 0)
        for copy in range(dealing.rows)
        for p0, p1 in dealing.blocks(positions)
        for n in range(0, channels, block)
    ]
    return np.array(rows, np.int64).reshape(len(rows), len(COLUMNS))


def _product_blocks(stage: StageOp, dealing: Dealing, arch: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A context for every copy and position of a product with a whole frame; several where the arrays of a core hold
    some of its columns."""
    blocks = frame_blocks(stage, arch)
    widest = max(n1 - n0 for n0, n1, _ in blocks)
    _check_memory(stage, Footprint(stage, dealing, 1, arch).bytes(0, 0, widest, 0), arch)
    rows = [
        (copy, 0, 0, 0, n0, n1, p, p + 1, xbars, 0, -1, -1, 0)
        for copy in range(dealing.rows)
        for p in range(shape_of(stage.result)[1])
        for n0, n1, xbars in blocks
    ]
    return np.array(rows, np.int64).reshape(len(rows), len(COLUMNS))


def _array_blocks(stage: StageOp, dealing: Dealing, arch: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    write, read = stage.write, stage.read
    assert write is not None
    assert read is not None
    k, n = write.arrays.type.shape.data
    coding, block = coding_of(write.coding), read.diagonal.columns
    rows = stage_tile_height(write, arch, coding)
    columns = arch.crossbar.weight_columns(coding.weight_bits)
    row_tiles, col_tiles = write.grid.data[0], ceil(block / columns)
    height = _chunk_height(stage, row_tiles, write.grid.data[1], arch)
    edges = [(i * rows, min((i + height) * rows, k)) for i in range(0, row_tiles, height)]
    edges = [e for e in edges if e[0] < k]
    width = min(col_tiles, max(1, arch.core.crossbars // height))
    footprint = Footprint(stage, dealing, len(edges), arch)

    def need(tiles: int, slack: int) -> int:
        channels = min(tiles * columns, block)
        return max(footprint.bytes(k0, k1, channels, slack) for k0, k1 in edges)

    while width > 1 and 2 * need(width, 2) > arch.core.local_buffer_bytes:
        width -= 1
    _check_memory(stage, need(width, 0), arch)
    width = ceil(col_tiles / ceil(col_tiles / width))
    span = width * columns
    # A context sees one block of the weights' diagonal: spans start anew at each.
    spans = [(n0, min(n0 + span, b + block)) for b in range(0, n, block) for n0 in range(b, b + block, span)]
    table = [
        (copy, chunk, k0, k1, n0, n1, p0, p1, _xbars(k1 - k0, n1 - n0, rows, columns), 0, -1, -1, 0)
        for copy in range(dealing.rows)
        for p0, p1 in dealing.blocks(shape_of(stage.result)[1])
        for n0, n1 in spans
        for chunk, (k0, k1) in enumerate(edges)
    ]
    return np.array(table, np.int64).reshape(len(table), len(COLUMNS))


def _chunk_height(stage: StageOp, row_tiles: int, col_tiles: int, arch: Any) -> int:
    """Row tiles of a chunk; the last may have fewer.

    Whole cores first: what the last chunk leaves of its core is one piece for others. Where the operator is larger
    than the chip: even chunks, and where these leave crossbars of every core free, chunks that do not, with a rest
    that stands beside others of its kind in phases of its own (``packing.order_of_cut``), if the partial sums of these
    have room.
    """
    size, cores = arch.core.crossbars, arch.chip.cores
    even = ceil(row_tiles / ceil(row_tiles / size))
    if row_tiles * col_tiles <= size * cores or stage.read is None or stage.write is None:
        return min(row_tiles, size)

    def phases(height: int) -> Fraction:
        """Cores' phases that a column tile takes."""
        width = size // height
        full, rest = divmod(row_tiles, height)
        return Fraction(full, width) + (Fraction(1, width * (size // (rest * width))) if rest else 0)

    rows, positions, _ = shape_of(stage.read.acc)
    columns = arch.crossbar.weight_columns(coding_of(stage.write.coding).weight_bits)
    sums = rows * positions * columns * element_of(stage.read.acc.type).size_bytes
    best = min(range(min(size, row_tiles), 0, -1), key=phases)
    fits = SUMS * cores * size * sums <= arch.chip.global_buffer_bytes
    return best if fits and phases(best) < Fraction(ceil(row_tiles / even), size // even) else even


def _xbars(k: int, n: int, rows: int, columns: int) -> int:
    return ceil(k / rows) * ceil(n / columns)


def _check_memory(stage: StageOp, need: int, arch: Any) -> None:
    if need <= arch.core.local_buffer_bytes:
        return
    what = "rows" if is_global_pool(stage) else "window and row"
    raise DoesNotFitError(
        located(
            stage,
            f"the smallest block of its {what} needs {need} bytes of local memory, a core has "
            f"{arch.core.local_buffer_bytes} (core.local_buffer_bytes); give the machine a larger buffer",
        )
    )
