"""The operators and the machine the closed forms speak of (docs/scheduling.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WEIGHT_BITS = 8
INPUT_BITS = 8


def ceil_div(a: int, b: int) -> int:
    """The exact ceiling of ``a / b``."""
    return -(-a // b)


@dataclass(frozen=True)
class Operator:
    """A convolution or a max pool of a linear list; images are square and padded so that OH = ceil(H / stride)."""

    name: str
    kind: Literal["convolution", "pool"]
    kernel: int
    stride: int
    inputs: int
    """Input channels."""
    outputs: int
    height: int
    """Height (and width) of the input in pixels."""

    @property
    def is_pool(self) -> bool:
        """Whether the digital unit computes it."""
        return self.kind == "pool"

    @property
    def out_height(self) -> int:
        """Height (and width) of the output in pixels."""
        return ceil_div(self.height, self.stride)

    @property
    def depth(self) -> int:
        """Rows of the weight matrix."""
        return self.kernel**2 * self.inputs

    @property
    def windows(self) -> int:
        """Output pixels."""
        return self.out_height**2

    @property
    def work(self) -> int:
        """Convolution: input bits of all windows, DAC bits 1. Pool: operations of the digital unit."""
        return self.windows * (4 * self.outputs if self.is_pool else INPUT_BITS)


@dataclass(frozen=True)
class Machine:
    """Defaults: Table 3 of Qu et al., CIM-MLC (ASPLOS 2024). Buses in bytes, digital unit in operations a cycle."""

    cores: int = 768
    core_crossbars: int = 16
    rows: int = 128
    columns: int = 128
    cell_bits: int = 2
    parallel_rows: int = 8
    chip_bus: int = 48
    core_bus: int = 1024
    alu: int = 1024

    @property
    def crossbars(self) -> int:
        """Crossbars of the chip."""
        return self.cores * self.core_crossbars

    @property
    def row_groups(self) -> int:
        """Steps to activate all rows of a crossbar."""
        return ceil_div(self.rows, self.parallel_rows)

    def row_tiles(self, op: Operator) -> int:
        """Crossbars one above the other for the weights of ``op``."""
        return ceil_div(op.depth, self.rows)

    def col_tiles(self, op: Operator) -> int:
        """Crossbars side by side for the weights of ``op``."""
        return ceil_div(op.outputs * WEIGHT_BITS, self.columns * self.cell_bits)

    def tiles(self, op: Operator) -> int:
        """Crossbars of one copy; 0 for a pool."""
        return 0 if op.is_pool else self.row_tiles(op) * self.col_tiles(op)

    def cores_of(self, op: Operator) -> int:
        """Whole cores of one copy; 0 for a pool."""
        return ceil_div(self.tiles(op), self.core_crossbars)

    def exact_row_groups(self, op: Operator) -> int:
        """Steps to activate the rows of ``op``'s weights, dealt evenly to its row tiles."""
        return ceil_div(ceil_div(op.depth, self.row_tiles(op)), self.parallel_rows)


REFERENCE = Machine()
