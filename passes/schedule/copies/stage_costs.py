"""What the schedulers need to know of the stages of a mapped module, read off the operations and the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from xdsl.dialects.builtin import ModuleOp

from cimc.dialects.cim import StageOp
from cimc.dialects.graph_types import shape_of
from cimc.passes.place.source_rows import head_window
from cimc.passes.schedule.array_product import coding_of
from cimc.runtime.crossbar.coding import Coding


@dataclass(frozen=True)
class StageCost:
    """An array stage: its rows are dealt to the copies in turn."""

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

    @property
    def windows(self) -> int:
        """Windows of an image."""
        return self.rows * self.positions

    @property
    def cycles(self) -> int:
        """Cycles one copy computes for an image."""
        return self.windows * self.window_cycles

    def interval(self, copies: int) -> int:
        """Cycles between images that the arrays allow with ``copies``."""
        return -(-self.rows // copies) * self.positions * self.window_cycles


def exact(value: float) -> Fraction:
    """A number of an architecture file as it was written."""
    return Fraction(str(value))


def window_cycles(coding: Coding, rows: int, columns: int, arch: Any) -> int:
    """Cycles a crossbar is taken by one read of ``rows`` wordlines and ``columns`` weights (docs/isa.md, Time)."""
    crossbar = arch.crossbar
    groups = -(-rows // coding.parallel_rows)
    together = coding.cells_per_weight if crossbar.logical_cells else 1
    shared = Fraction(columns * len(coding.conversions), crossbar.adcs * together)
    convert = math.ceil(shared) * crossbar.conversion_cycles
    read = math.ceil(exact(crossbar.read_latency_ns) * exact(arch.clock_ghz))
    return max(1, coding.digit_cycles * groups * max(read, convert))


def stage_cost(stage: StageOp, arch: Any) -> StageCost | None:
    """The cost of an array stage on a machine; ``None`` for a digital stage."""
    write, read = stage.write, stage.read
    if write is None or read is None:
        return None
    coding = coding_of(write.coding)
    k, _ = write.arrays.type.shape.data
    row_tiles, col_tiles = write.grid.data
    together = 1 if arch.crossbar.logical_cells else coding.cells_per_weight
    width = min(read.diagonal.columns, arch.crossbar.columns // together)
    rows, positions, _ = shape_of(stage.result)
    return StageCost(
        stage.label.data,
        rows,
        positions,
        window_cycles(coding, min(k, arch.crossbar.rows), width, arch),
        row_tiles * col_tiles,
        stride_of(stage),
    )


def stride_of(stage: StageOp) -> int:
    """Rows of the source from one row of the result to the next."""
    window = head_window(stage)
    return window.strides[0] if window is not None else 1


def stages_of(module: ModuleOp) -> list[StageOp]:
    """The stages of a mapped module, in order."""
    return [op for op in module.walk() if isinstance(op, StageOp)]
