"""Products of two activations (Q by K, P by V): the chip's digital unit, or arrays rewritten for every image.

Arrays would have to hold the second operand, which is new for every image: its codes cross the global buffer, are
written row by row, and only then the rows of the first one are read through it. This is what ``cimc check`` prints
beside every such product; the array side is a bound from below (no conversions to codes, no network, every array free).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from cimc.dialects.graph_types import QuantType
from cimc.passes.schedule.array_product import machine_coding
from cimc.passes.schedule.copies.stage_costs import exact, window_cycles

MATMUL = "matmul"
"""The digital unit's name of the function."""


@dataclass(frozen=True)
class DynamicProduct:
    """``batch`` products of ``rows`` x ``depth`` by ``depth`` x ``columns``."""

    batch: int
    rows: int
    depth: int
    columns: int


@dataclass(frozen=True)
class DynamicCost:
    """Cycles of an image on either side; ``None`` for a side the machine does not have."""

    digital: int | None
    arrays: int | None
    written: int = 0
    """Of ``arrays``, the cycles until the second operand is in the cells."""
    copies: int = 0
    """Copies of the second operand that ``arrays`` takes: each is written, and takes its share of the rows."""

    @property
    def arrays_are_quicker(self) -> bool:
        """Whether even one cycle is gained on the arrays, their writes charged."""
        return self.arrays is not None and (self.digital is None or self.arrays < self.digital)

    def describe(self) -> str:
        """One line for people."""
        digital = "no digital unit" if self.digital is None else f"{self.digital} cycles on the digital unit"
        if self.arrays is None:
            return f"{digital}; arrays cannot take it: too few, or not rewritten at run time"
        sides = f"{digital}, at least {self.arrays} on rewritten arrays ({self.written} of them writing)"
        if not self.arrays_are_quicker:
            return sides
        return f"{sides}: arrays would be quicker, but the instruction set writes weights of the model only"


def dynamic_cost(product: DynamicProduct, arch: Any, *, weight_bits: int, input_bits: int) -> DynamicCost:
    """The cost of a product of activations, as the cycle engine charges the digital unit (docs/isa.md, Time).

    The unit computes a row of the first operand at a time. On arrays the number of copies is the best one.
    """
    return DynamicCost(_digital(product, arch), *_arrays(product, arch, weight_bits, input_bits))


def _digital(product: DynamicProduct, arch: Any) -> int | None:
    unit = arch.chip.digital_unit
    if unit is None:
        return None
    each = unit.cycles_per_element
    cycles = exact(each.get(MATMUL, each["default"]))
    row = unit.startup_cycles + ceil(product.columns * product.depth * cycles / unit.lanes)
    return product.batch * product.rows * row


def _arrays(
    product: DynamicProduct, arch: Any, weight_bits: int, input_bits: int
) -> tuple[int | None, int, int]:
    """Least cycles over the numbers of copies, those of its writes, and the copies."""
    columns = arch.crossbar.weight_columns(weight_bits)
    if not arch.chip.allow_writes or not columns:
        return None, 0, 0
    codes = QuantType.of(input_bits, signed=False, scale=1.0, zero_point=0)
    coding = machine_coding(arch, weight_bits, codes, (1 << (weight_bits - 1)) - 1)
    height, width = min(product.depth, arch.crossbar.rows), min(product.columns, columns)
    tiles = ceil(product.depth / arch.crossbar.rows) * ceil(product.columns / columns)
    window = window_cycles(coding, height, width, arch)
    clock = exact(arch.clock_ghz)
    write = height * ceil(exact(arch.crossbar.write_latency_ns) * clock)
    size = ceil(product.depth * product.columns * weight_bits / 8)
    carry = ceil(size / exact(arch.chip.global_buffer_bytes_per_cycle))
    supply = arch.chip.cores * arch.core.crossbars
    best: tuple[int, int, int] | None = None
    for copies in range(1, product.rows + 1):
        together = supply // (tiles * copies)
        if together == 0:
            break
        turns = ceil(product.batch / together)
        written = product.batch * copies * carry + turns * write
        total = written + turns * ceil(product.rows / copies) * window
        if best is None or total < best[0]:
            best = (total, written, copies)
    return best if best is not None else (None, 0, 0)
