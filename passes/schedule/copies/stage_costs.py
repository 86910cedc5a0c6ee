"""What the schedulers need to know of the stages of a mapped module, read off the operations and the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from cimc.dialects.cim import StageOp
from cimc.dialects.graph_types import shape_of
from cimc.passes.place.source_rows import head_window
from cimc.passes.place.tail_plan import element_of
from cimc.passes.schedule.array_product import coding_of
from cimc.passes.schedule.copies.packing import Counts
from cimc.passes.schedule.dealing import Dealing, deal, dealt, extents, finest_blocks, useful_copies
from cimc.passes.schedule.row_tiles import tile_height, useful_row_tiles
from cimc.runtime.crossbar.coding import Coding


@dataclass(frozen=True)
class Source:
    """What a stage's windows take from its first source."""

    height: int
    """Rows of a window."""
    stride: int
    """Rows from one row of windows to the next."""
    width: int
    """Columns of a window."""
    step: int
    """Columns from one window to the next."""
    columns: int
    """Columns of the source."""
    pixel_bytes: int


@dataclass(frozen=True)
class StageCost:
    """An array stage: its windows are dealt to the copies, rows in turn and blocks of rows (``dealing.py``)."""

    label: str
    rows: int
    """Rows of the result of one image."""
    positions: int
    """Windows of a row."""
    window_cycles: int
    """Cycles the arrays of one copy are taken by a window."""
    tiles: int
    """Crossbars of one copy."""
    stride: int
    dealable: int
    """Windows of a row that can be dealt; 1 where rows stay whole."""
    power_mw: float
    """Of the arrays of one copy while they work, with their converters."""
    source: Source
    sizes: tuple[int, ...] = ()
    """Crossbars of the contexts of one copy; none known: as many contexts of one crossbar as there are tiles."""
    finest: int | None = None
    """Blocks of a row at most, if that can be (``dealing.finest_blocks``)."""
    row_tiles: int = 1
    """Crossbars above each other: how the rows of the weights are cut."""

    @property
    def contexts(self) -> int:
        """Contexts of one copy."""
        return len(self.sizes) or 1

    @cached_property
    def by_crossbars(self) -> Counts:
        """Contexts of one copy that have so many crossbars, by number of crossbars."""
        return np.bincount(self.sizes).astype(np.int64) if self.sizes else np.array([0, self.tiles], np.int64)

    def unfilled(self, size: int) -> float:
        """Crossbars of cores of ``size`` beside a copy's contexts that no other context of the stage can use."""
        held = enumerate(self.by_crossbars.tolist())
        return sum(n * (size / (size // taken) - taken) for taken, n in held if taken and n)

    @property
    def windows(self) -> int:
        """Windows of an image."""
        return self.rows * self.positions

    @property
    def cycles(self) -> int:
        """Cycles one copy computes for an image."""
        return self.windows * self.window_cycles

    @property
    def most(self) -> int:
        """Copies that all have windows to compute."""
        return self.rows * self.dealable

    @cached_property
    def ways(self) -> tuple[tuple[int, int], ...]:
        """Numbers of copies that are quicker than any fewer, ascending, each with the cycles of an image."""
        return tuple(
            (n, windows * self._turn) for n, windows in useful_copies(self.rows, self.dealable, self.finest)
        )

    @property
    def _turn(self) -> int:
        """Cycles of what is dealt at a time: a window, or a row that stays whole."""
        return self.window_cycles * (self.positions if self.dealable == 1 else 1)

    def dealt(self, copies: int) -> Dealing:
        """How the windows are dealt to ``copies``. Raises ``ValueError`` where some would idle."""
        return dealt(self.rows, self.dealable, copies, self.finest)

    def possible(self, copies: int) -> int:
        """The most copies, up to ``copies``, that can be dealt."""
        shape = self.rows, self.dealable
        return next(
            n for n in range(min(copies, self.most), 0, -1) if deal(*shape, n, self.finest) is not None
        )

    def interval(self, copies: int) -> int:
        """Cycles between images that the arrays allow with ``copies``. Raises ``ValueError`` where some would idle."""
        return self.dealt(copies).windows(self.rows, self.dealable) * self._turn

    def arriving_bytes(self, copies: int) -> int:
        """Bytes that all copies' rings take in for an image: columns between two blocks arrive at both."""
        dealing, source = self.dealt(copies), self.source
        advance = min(source.height, dealing.rows * source.stride)
        rows = dealing.rows * ((math.ceil(self.rows / dealing.rows) - 1) * advance + source.height)
        halo = max(0, source.width - source.step) * (dealing.columns - 1)
        return rows * (source.columns + halo) * source.pixel_bytes


@lru_cache(maxsize=1 << 10)
def exact(value: float) -> Fraction:
    """A number of an architecture file as it was written."""
    return Fraction(str(value))


def window_cycles(coding: Coding, rows: int, columns: int, arch: Any) -> int:
    """Cycles a crossbar is taken by one read of ``rows`` wordlines and ``columns`` weights (docs/isa.md, Time)."""
    crossbar = arch.crossbar
    groups = -(-rows // coding.parallel_rows)
    convert = conversion_cycles(coding, columns, arch)
    read = math.ceil(exact(crossbar.read_latency_ns) * exact(arch.clock_ghz))
    return max(1, coding.digit_cycles * groups * max(read, convert))


def conversion_cycles(coding: Coding, columns: int, arch: Any) -> int:
    """Cycles in which the converters of a crossbar serve ``columns`` weights once."""
    together = coding.cells_per_weight if arch.crossbar.logical_cells else 1
    shared = Fraction(columns * len(coding.conversions), arch.crossbar.adcs * together)
    return math.ceil(shared) * arch.crossbar.conversion_cycles


def stage_cost(stage: StageOp, arch: Any, row_tiles: int | None = None) -> StageCost | None:
    """The cost of an array stage on a machine, its weights cut into ``row_tiles`` (absent: as they are).

    ``None`` for a digital stage.
    """
    write, read = stage.write, stage.read
    if write is None or read is None:
        return None
    coding = coding_of(write.coding)
    k, _ = write.arrays.type.shape.data
    given, col_tiles = write.grid.data
    tiles = given if row_tiles is None else row_tiles
    height = tile_height(k, tiles, coding, arch.crossbar.rows)
    together = 1 if arch.crossbar.logical_cells else coding.cells_per_weight
    width = min(read.diagonal.columns, arch.crossbar.columns // together)
    rows, positions, _ = shape_of(stage.result)
    cycles = window_cycles(coding, min(k, height), width, arch)
    source, window = stage.sources[0], read.window
    return StageCost(
        stage.label.data,
        rows,
        positions,
        cycles,
        tiles * col_tiles,
        stride_of(stage),
        extents(stage)[1],
        _window_energy_pj(coding, k, height, stage, arch) * arch.clock_ghz / cycles,
        Source(
            window.kernel[0],
            window.strides[0],
            window.kernel[1],
            window.strides[1],
            shape_of(source)[1],
            read.diagonal.channels * element_of(source.type).size_bytes,
        ),
        finest=finest_blocks(stage, arch),
        row_tiles=tiles,
    )


def cut_costs(stage: StageOp, arch: Any) -> list[StageCost]:
    """The costs of an array stage with its weights as they are, then in every other useful cut of their rows."""
    base = stage_cost(stage, arch)
    if base is None:
        return []
    others = (stage_cost(stage, arch, tiles) for tiles in cuts_of(stage, arch) if tiles != base.row_tiles)
    return [base, *(cost for cost in others if cost is not None)]


def cuts_of(stage: StageOp, arch: Any) -> list[int]:
    """Row tiles of every useful cut of an array stage's weights; none for a digital stage."""
    if stage.write is None:
        return []
    rows, coding = stage.write.arrays.type.shape.data[0], coding_of(stage.write.coding)
    return useful_row_tiles(rows, coding, arch.crossbar.rows, arch.core.crossbars)


def _window_energy_pj(coding: Coding, k: int, height: int, stage: StageOp, arch: Any) -> float:
    """Of one read of all tiles of a copy: cells, DACs and converters (docs/cycle-engine.md)."""
    assert stage.write is not None
    crossbar = arch.crossbar
    col_tiles, columns = stage.write.grid.data[1], stage.write.arrays.type.shape.data[1]
    together = coding.cells_per_weight if crossbar.logical_cells else 1
    heights = [min(height, k - first) for first in range(0, k, height)]
    groups = sum(-(-height // coding.parallel_rows) for height in heights)
    array = together * col_tiles * (groups * crossbar.read_energy_pj + k * crossbar.dac_energy_pj)
    convert = groups * columns * len(coding.conversions) * crossbar.conversion_energy_pj
    return coding.digit_cycles * (array + convert)


def stride_of(stage: StageOp) -> int:
    """Rows of the source from one row of the result to the next."""
    window = head_window(stage)
    return window.strides[0] if window is not None else 1


def stages_of(module: ModuleOp) -> list[StageOp]:
    """The stages of a mapped module, in order."""
    return [op for op in module.walk() if isinstance(op, StageOp)]
