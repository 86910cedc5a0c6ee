"""Products of two activations (Q by K, P by V): on units of cores, the chip's, or arrays rewritten for every image.

Cores take a matrix each, or a share of the rows of one: the second operand is collected in local memory, then the unit
computes row by row. The chip's unit is one for all products, and its operands pass the global buffer. Arrays hold the
second operand, which is new for every image: its codes are written row by row by the context that receives them, and
only then the rows of the first one, made codes, are read through it and their sums made reals. Cores and arrays are
bounds from below, at the best number of copies with all of the chip free; the network is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from cimc.dialects.graph_types import QuantType
from cimc.passes.schedule.array_frames import frame_columns, write_cycles
from cimc.passes.schedule.array_product import machine_coding
from cimc.passes.schedule.copies.stage_costs import conversion_cycles, exact, window_cycles
from cimc.runtime.program import Element

MATMUL, TO_CODES, TO_FLOAT = "matmul", "quantise", "acc_to_float"
"""The digital unit's names of the product, and of what makes codes of an array's rows and reals of its sums."""

COLLECT = 3
"""Cycles in which a row of the second operand issues its ``recv``, ``copy`` or ``write_local``, and ``free``."""


@dataclass(frozen=True)
class DynamicProduct:
    """``batch`` products of ``rows`` x ``depth`` by ``depth`` x ``columns``."""

    batch: int
    rows: int
    depth: int
    columns: int


@dataclass(frozen=True)
class DynamicCost:
    """Cycles of an image on each side; ``None`` for a side the machine does not have."""

    digital: int | None
    """On the chip's unit."""
    cores: int | None
    arrays: int | None
    written: int = 0
    """Of ``arrays``, the cycles until the second operand is in the cells."""
    copies: int = 0
    """Copies of the second operand that ``arrays`` takes: each is written, and takes its share of the rows."""

    @property
    def arrays_are_quicker(self) -> bool:
        """Whether even one cycle is gained on the arrays, their writes charged."""
        units = [cycles for cycles in (self.digital, self.cores) if cycles is not None]
        return self.arrays is not None and all(self.arrays < cycles for cycles in units)

    def describe(self) -> str:
        """One line for people."""
        chip = (
            "no digital unit" if self.digital is None else f"{self.digital} cycles on the chip's digital unit"
        )
        units = (
            chip if self.cores is None else f"at least {self.cores} cycles on digital units of cores, {chip}"
        )
        if self.arrays is None:
            return f"{units}; arrays cannot take it: too few, or not rewritten at run time"
        sides = f"{units}, at least {self.arrays} on rewritten arrays ({self.written} of them writing)"
        return f"{sides}: arrays are quicker" if self.arrays_are_quicker else sides


def dynamic_cost(product: DynamicProduct, arch: Any, *, weight_bits: int, input_bits: int) -> DynamicCost:
    """The cost of a product of activations, as the cycle engine charges the digital unit (docs/isa.md, Time).

    The unit computes a row of the first operand at a time. On arrays the number of copies is the best one.
    """
    return DynamicCost(
        _digital(product, arch), _cores(product, arch), *_arrays(product, arch, weight_bits, input_bits)
    )


def cores_are_quicker(product: DynamicProduct, arch: Any) -> bool:
    """Whether cores take the product: no slower than the chip, which collects all second operands in its buffer."""
    cores, digital = _cores(product, arch), _digital(product, arch)
    if cores is None or digital is None:
        return digital is None and cores is not None
    return cores <= digital + product.batch * _collect(product, arch.chip.global_buffer_bytes_per_cycle)


def _digital(product: DynamicProduct, arch: Any) -> int | None:
    unit = arch.chip.digital_unit
    return None if unit is None else product.batch * product.rows * _row(product, unit)


def _row(product: DynamicProduct, unit: Any) -> int:
    """Cycles of a row of the first operand on a digital unit."""
    return _function(unit, MATMUL, product.columns * product.depth)


def _function(unit: Any, name: str, elements: int) -> int:
    """Cycles of a function on a digital unit."""
    each = unit.cycles_per_element
    return unit.startup_cycles + ceil(elements * exact(each.get(name, each["default"])) / unit.lanes)


def _cores(product: DynamicProduct, arch: Any) -> int | None:
    """Every matrix on as many cores as there are for it, collected by each, rows in turn. Matrices of one core share
    its unit, not the time in which they are collected."""
    unit = arch.core.digital_unit
    if unit is None:
        return None
    collect = _collect(product, arch.core.local_buffer_bytes_per_cycle)
    copies = max(1, min(product.rows, arch.chip.cores // product.batch))
    turns = ceil(product.batch / arch.chip.cores)
    return collect + turns * ceil(product.rows / copies) * _row(product, unit)


def _collect(product: DynamicProduct, bytes_per_cycle: float) -> int:
    """Cycles to copy a matrix's rows, or its columns if those are fewer, from a ring into a buffer."""
    port = exact(bytes_per_cycle) / Element.F32.size_bytes
    sides = ((product.depth, product.columns), (product.columns, product.depth))
    return min(rows * (COLLECT + 2 * ceil(width / port)) for rows, width in sides)


def _arrays(
    product: DynamicProduct, arch: Any, weight_bits: int, input_bits: int
) -> tuple[int | None, int, int]:
    """Least cycles over the numbers of copies, those of its writes, and the copies."""
    columns, unit = arch.crossbar.weight_columns(weight_bits), arch.core.digital_unit
    if not arch.chip.allow_writes or not columns or unit is None:
        return None, 0, 0
    codes = QuantType.of(input_bits, signed=False, scale=1.0, zero_point=0)
    coding = machine_coding(arch, weight_bits, codes, 0)
    height, width = min(product.depth, arch.crossbar.rows), min(product.columns, columns)
    tiles = ceil(product.depth / arch.crossbar.rows) * ceil(product.columns / columns)
    codes_and_reals = _function(unit, TO_CODES, product.depth) + _function(unit, TO_FLOAT, product.columns)
    turn = (
        window_cycles(coding, height, width, arch) + conversion_cycles(coding, width, arch) + codes_and_reals
    )
    port = ceil(product.columns * ceil(weight_bits / 8) / exact(arch.core.local_buffer_bytes_per_cycle))
    written = product.depth * max(COLLECT, port, write_cycles(arch))
    own = frame_columns(product.depth, product.columns, weight_bits, arch)
    if not own:
        return None, 0, 0
    contexts = ceil(product.columns / own)
    heads = arch.chip.cores * (arch.core.crossbars // ceil(tiles / contexts)) // contexts
    units = ceil(product.batch * product.rows / arch.chip.cores) * codes_and_reals
    best: tuple[int, int, int] | None = None
    for copies in range(1, product.rows + 1):
        together = heads // copies
        if together == 0:
            break
        turns = ceil(product.batch / together)
        total = max(turns * (written + ceil(product.rows / copies) * turn), written + units)
        if best is None or total < best[0]:
            best = (total, turns * written, copies)
    return best if best is not None else (None, 0, 0)
