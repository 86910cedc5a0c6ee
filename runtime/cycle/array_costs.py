"""Cycles and energy of reading and writing the crossbars of an array set (``docs/isa.md``, Time)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

from cimc.runtime.crossbar.coding import ROW_FIELDS, Coding
from cimc.runtime.cycle.machine import Machine, ceil_div
from cimc.runtime.program import Program


class Block(NamedTuple):
    """One tile: wordlines and logical columns in use."""

    rows: int
    columns: int


class Part(NamedTuple):
    """What a read or write touches of one tile: first wordline, wordlines, logical columns."""

    first: int
    rows: int
    columns: int


@dataclass(frozen=True)
class ArrayCost:
    """One read or write. Cycles and pJ; ``size`` is the bytes of weights a write transports.

    ``conversions``: of all tiles, in one read."""

    occupancy: int
    latency: int
    array_pj: float = 0.0
    dac_pj: float = 0.0
    adc_pj: float = 0.0
    write_pj: float = 0.0
    size: int = 0
    conversions: int = 0

    def repeated(self, windows: int) -> ArrayCost:
        """The cost of as many windows one behind the other."""
        return replace(
            self,
            occupancy=windows * self.occupancy,
            latency=(windows - 1) * self.occupancy + self.latency,
            array_pj=windows * self.array_pj,
            dac_pj=windows * self.dac_pj,
            adc_pj=windows * self.adc_pj,
            conversions=windows * self.conversions,
        )


class ArrayCosts:
    """Costs by (set, by wordline, first, count); sets that look alike share their records."""

    def __init__(self, program: Program, machine: Machine):
        self._machine = machine
        rows = program["codings"]["fields"]
        self._codings = [Coding.from_row(row[: len(ROW_FIELDS)]) for row in rows]
        sets, tiles = program["array_sets"], program["tiles"]
        blocks = [
            Block(k1 - k0, n1 - n0)
            for k0, k1, n0, n1 in zip(
                *(tiles[name].tolist() for name in ("k0", "k1", "n0", "n1")), strict=True
            )
        ]
        firsts, counts = sets["tile_first"].tolist(), sets["tile_count"].tolist()
        self._sets = [
            (coding, tuple(blocks[first : first + count]))
            for coding, first, count in zip(sets["coding"].tolist(), firsts, counts, strict=True)
        ]
        self.columns: list[int] = (sets["n1"] - sets["n0"]).tolist()
        """Logical columns of every set."""
        self._known: dict[tuple[bool, int, tuple[Part, ...]], ArrayCost] = {}
        self._parts: dict[tuple[tuple[Block, ...], bool, int, int], tuple[Part, ...]] = {}

    def read(self, array_set: int, by_row: bool, first: int, count: int) -> ArrayCost:
        """One window of ``read_xb``, ``read_core`` (tiles from ``first``) or ``read_row`` (wordlines of every tile)."""
        return self._cost(True, array_set, by_row, first, count)

    def write(self, array_set: int, by_row: bool, first: int, count: int) -> ArrayCost:
        """One ``write_xb``, ``write_row`` or ``write_core``."""
        return self._cost(False, array_set, by_row, first, count)

    def write_local(self, array_set: int, rows: int) -> ArrayCost:
        """One ``write_local`` of so many rows of the set: one behind the other, all columns of a row at once."""
        coding, _ = self._sets[array_set]
        return self._write_cost(self._codings[coding], (Part(0, rows, self.columns[array_set]),))

    def _cost(self, reads: bool, array_set: int, by_row: bool, first: int, count: int) -> ArrayCost:
        coding, blocks = self._sets[array_set]
        where = (blocks, by_row, first, count)
        parts = self._parts.get(where)
        if parts is None:
            parts = self._parts[where] = _parts(blocks, by_row, first, count)
        key = (reads, coding, parts)
        if key not in self._known:
            compute = self._read_cost if reads else self._write_cost
            self._known[key] = compute(self._codings[coding], parts)
        return self._known[key]

    def _read_cost(self, coding: Coding, parts: tuple[Part, ...]) -> ArrayCost:
        m = self._machine
        digits = coding.digit_cycles
        conversions = len(coding.conversions)
        together = coding.cells_per_weight if m.logical_cells else 1
        groups = [_groups(part, coding.parallel_rows) for part in parts]
        convert = max(
            (ceil_div(p.columns * conversions, Fraction(m.adcs * together)) for p in parts), default=0
        )
        convert *= m.conversion_cycles
        occupancy = max(1, digits * max(groups, default=0) * max(m.read_cycles, convert))
        pairs = zip(parts, groups, strict=True)
        count = digits * sum(g * p.columns * conversions for p, g in pairs)
        return ArrayCost(
            occupancy=occupancy,
            latency=occupancy + convert,
            array_pj=digits * sum(groups) * together * m.read_pj,
            dac_pj=digits * sum(p.rows for p in parts) * together * m.dac_pj,
            adc_pj=count * m.conversion_pj,
            conversions=count,
        )

    def _write_cost(self, coding: Coding, parts: tuple[Part, ...]) -> ArrayCost:
        m = self._machine
        weights = sum(p.rows * p.columns for p in parts)
        cycles = max((p.rows for p in parts), default=0) * m.write_cycles
        return ArrayCost(
            occupancy=cycles,
            latency=cycles,
            write_pj=weights * coding.cells_per_weight * m.write_pj,
            size=-(-weights * coding.weight_bits // 8),
        )


def _parts(blocks: tuple[Block, ...], by_row: bool, first: int, count: int) -> tuple[Part, ...]:
    """The wordlines used in the range, tile by tile; tiles without any are left out."""
    if not by_row:
        return tuple(Part(0, rows, columns) for rows, columns in blocks[first : first + count])
    cut = [(max(0, min(first + count, rows) - first), columns) for rows, columns in blocks]
    return tuple(Part(first, rows, columns) for rows, columns in cut if rows)


def _groups(part: Part, parallel_rows: int) -> int:
    """Physical wordline groups that hold one of the wordlines."""
    return -(-(part.first + part.rows) // parallel_rows) - part.first // parallel_rows
