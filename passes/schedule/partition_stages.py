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
    never share a context, so that its ring holds the channels of one block. Digital stages are
    cut by channels. Copies take rows in turn and blocks of their windows (``dealing.py``). Columns of the table:
    ``COLUMNS`` of ``passes/place/network.py``.

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


def context_bytes(
    stage: StageOp, dealing: Dealing, chunks: int, k0: int, k1: int, channels: int, slack: int, arch: Any
) -> int:
    """Local memory of a context: rings with ``slack`` extra advances, partial sums, buffers of the tail."""
    source = stage.sources[0]
    positions = 1 if stage.frame_product is not None else ceil(shape_of(stage.result)[1] / dealing.columns)
    first, last = ring_columns(stage, 0, positions, arch)
    geometry = source_geometry(stage, kernel_rows(stage, k0, k1), 0, dealing.rows)
    lanes = stage.read.diagonal.channels if stage.read is not None else channels
    if takes_whole_rows(stage):
        lanes = shape_of(source)[2]
    total = (
        (last - first)
        * lanes
        * element_of(source.type).size_bytes
        * max(geometry.window + slack * geometry.advance, ceil(stage.waiting_rows(0) / dealing.rows))
    )
    if stage.read is not None:
        total += (
            (chunks - 1) * positions * channels * element_of(stage.read.acc.type).size_bytes * (1 + slack)
        )
    for number, other in enumerate(stage.sources[1:], start=1):
        places = max(1 + slack, ceil(stage.waiting_rows(number) / dealing.rows))
        if stage.frame_product is not None and number == 1:
            channels_in, places = shape_of(other)[2], 1 + slack
        else:
            channels_in = channels
        total += positions * channels_in * element_of(other.type).size_bytes * places
    return total + plan_tail(stage).bytes(channels, positions)


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
    """Channel blocks whose rings and rows take at most half of a core, if channels are independent."""
    _, positions, channels = shape_of(stage.result)
    if stage.frame_product is not None:
        return _product_blocks(stage, dealing, arch)
    whole = takes_whole_rows(stage)
    block = channels
    while (
        not whole
        and block > 1
        and 2 * context_bytes(stage, dealing, 1, 0, 0, block, 2, arch) > arch.core.local_buffer_bytes
    ):
        block = ceil(block / 2)
    _check_memory(stage, context_bytes(stage, dealing, 1, 0, 0, block, 0, arch), arch)
    rows = [
        (0, 0, 0, 0, n, min(n + block, channels), 0, positions, 0, 0, -1, -1)
        for n in range(0, channels, block)
    ]
    return np.array(rows, np.int64).reshape(len(rows), len(COLUMNS))


def _product_blocks(stage: StageOp, dealing: Dealing, arch: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A context for every copy and position of a product with a whole frame."""
    _, positions, channels = shape_of(stage.result)
    _check_memory(stage, context_bytes(stage, dealing, 1, 0, 0, channels, 0, arch), arch)
    rows = [
        (copy, 0, 0, 0, 0, channels, p, p + 1, 0, 0, -1, -1)
        for copy in range(dealing.rows)
        for p in range(positions)
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

    def need(tiles: int, slack: int) -> int:
        channels = min(tiles * columns, block)
        return max(
            context_bytes(stage, dealing, len(edges), k0, k1, channels, slack, arch) for k0, k1 in edges
        )

    while width > 1 and 2 * need(width, 2) > arch.core.local_buffer_bytes:
        width -= 1
    _check_memory(stage, need(width, 0), arch)
    width = ceil(col_tiles / ceil(col_tiles / width))
    span = width * columns
    # A context sees one block of the weights' diagonal: spans start anew at each.
    spans = [(n0, min(n0 + span, b + block)) for b in range(0, n, block) for n0 in range(b, b + block, span)]
    table = [
        (copy, chunk, k0, k1, n0, n1, p0, p1, _xbars(k1 - k0, n1 - n0, rows, columns), 0, -1, -1)
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
