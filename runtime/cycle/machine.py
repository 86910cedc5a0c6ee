"""What the cycle engine needs of a resolved architecture (``program.machine``), as exact numbers.

Decimals count as they were written: a width of 6.4 bytes per cycle is the fraction 32/5, so that cycle
counts never depend on a float product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

from cimc.diagnostics import UnsupportedError, UsageError
from cimc.runtime.program import AluFunction

T = TypeVar("T")

AJ_PER_PJ = 1_000_000
"""The kernel adds whole attojoules, so that sums do not depend on the order of events."""


def ceil_div(amount: int | Fraction, width: Fraction) -> int:
    """Cycles that ``amount`` takes at ``width`` per cycle."""
    return math.ceil(Fraction(amount) / width)


def attojoules(pj: float) -> int:
    """pJ as whole aJ."""
    return round(pj * AJ_PER_PJ)


@dataclass(frozen=True)
class VectorUnit:
    """A digital unit: ``startup_cycles``, ``lanes``, cycles and pJ per element by function name."""

    lanes: int
    startup_cycles: int
    cycles: Mapping[str, Fraction]
    energy_pj: Mapping[str, float]

    def duration(self, function: int, elements: int) -> int:
        """Cycles of ``function`` (an :class:`AluFunction`) on ``elements``; at least one."""
        per_element = _by_function(self.cycles, function)
        return max(1, self.startup_cycles + math.ceil(per_element * elements / self.lanes))

    def energy(self, function: int, elements: int) -> float:
        """pJ of ``function`` on ``elements``."""
        return _by_function(self.energy_pj, function) * elements


@dataclass(frozen=True)
class Machine:
    """Widths in bytes per cycle, latencies in cycles, energies in pJ; see ``docs/cycle-engine.md``."""

    clock_ghz: float
    static_power_mw: float
    cores: int
    local_width: Fraction
    local_pj: float
    global_width: Fraction
    global_latency: int
    global_pj: float
    vector: VectorUnit | None
    chip_vector: VectorUnit | None
    link_to_host: tuple[Fraction, int, float] | None
    """Width, latency, pJ per byte."""
    host: tuple[Fraction, Fraction] | None
    """FLOP and bytes per cycle."""
    bus: bool
    columns: int
    rows: int
    link_width: Fraction
    hop_cycles: int
    hop_pj: float
    global_node: int
    parallel_rows: int
    adcs: int
    logical_cells: bool
    """Whether a crossbar is as many physical ones side by side as a weight has cells, all working at once."""
    read_cycles: int
    conversion_cycles: int
    shift_add_in_unit: bool
    """Whether the vector unit adds digits, slices and groups up, one addition per conversion."""
    read_pj: float
    dac_pj: float
    conversion_pj: float
    write_cycles: int
    write_pj: float

    @classmethod
    def of(cls, machine: Mapping[str, Any]) -> Machine:
        """Read the JSON form of an architecture.

        Raises :class:`UsageError` when a key is missing or its value no number,
        :class:`UnsupportedError` for shift-and-add in a digital unit that is not there.
        """
        try:
            return cls._of(machine)
        except KeyError as error:
            raise UsageError(
                f"the machine in the program lacks {error}; compile the program again",
                where="program.machine",
            ) from None
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"the machine in the program has a value of the wrong kind ({error}); compile the program again",
                where="program.machine",
            ) from None

    @classmethod
    def _of(cls, machine: Mapping[str, Any]) -> Machine:
        chip, core, xbar, net = (machine[k] for k in ("chip", "core", "crossbar", "network"))
        if xbar["shift_add"] == "digital_unit" and core.get("digital_unit") is None:
            raise UnsupportedError(
                "shift_add: digital_unit needs core.digital_unit, given none; add it or set shift_add: periphery",
                where="program.machine",
            )
        clock = _exact(machine["clock_ghz"])
        link, host = chip.get("host_link"), machine.get("host")
        return cls(
            clock_ghz=float(machine["clock_ghz"]),
            static_power_mw=float(machine["static_power_mw"]),
            cores=int(chip["cores"]),
            local_width=_exact(core["local_buffer_bytes_per_cycle"]),
            local_pj=float(core["local_buffer_energy_pj_per_byte"]),
            global_width=_exact(chip["global_buffer_bytes_per_cycle"]),
            global_latency=int(chip["global_buffer_latency_cycles"]),
            global_pj=float(chip["global_buffer_energy_pj_per_byte"]),
            vector=_vector(core.get("digital_unit")),
            chip_vector=_vector(chip.get("digital_unit")),
            link_to_host=(
                (
                    _exact(link["bytes_per_cycle"]),
                    int(link["latency_cycles"]),
                    float(link["energy_pj_per_byte"]),
                )
                if link
                else None
            ),
            host=(_exact(host["flops_per_cycle"]), _exact(host["bytes_per_cycle"])) if host else None,
            bus=net["kind"] == "bus",
            columns=int(net["columns"]),
            rows=int(net["rows"]),
            link_width=_exact(net["link_bytes_per_cycle"]),
            hop_cycles=int(net["hop_cycles"]),
            hop_pj=float(net["energy_pj_per_byte_hop"]),
            global_node=int(net["global_buffer_node"]),
            parallel_rows=int(xbar["parallel_rows"]),
            adcs=int(xbar["adcs"]),
            logical_cells=bool(xbar.get("logical_cells", False)),
            read_cycles=math.ceil(_exact(xbar["read_latency_ns"]) * clock),
            conversion_cycles=int(xbar["conversion_cycles"]),
            shift_add_in_unit=xbar["shift_add"] == "digital_unit",
            read_pj=float(xbar["read_energy_pj"]),
            dac_pj=float(xbar["dac_energy_pj"]),
            conversion_pj=float(xbar["conversion_energy_pj"]),
            write_cycles=math.ceil(_exact(xbar["write_latency_ns"]) * clock),
            write_pj=float(xbar["write_energy_pj_per_cell"]),
        )

    def unit(self, core: int) -> int:
        """Number of the port of a memory among the shared units."""
        return self.cores if core < 0 else core

    def vector_unit(self, core: int) -> int:
        """Number of a vector unit among the shared units."""
        return self.cores + 1 + self.unit(core)

    @property
    def host_link_unit(self) -> int:
        """Number of the host link among the shared units."""
        return 2 * (self.cores + 1)

    @property
    def host_unit(self) -> int:
        """Number of the host among the shared units."""
        return self.host_link_unit + 1

    @property
    def units(self) -> int:
        """Number of shared units."""
        return self.host_unit + 1


def _exact(value: float) -> Fraction:
    return Fraction(str(value))


def _vector(unit: Mapping[str, Any] | None) -> VectorUnit | None:
    if unit is None:
        return None
    cycles = {name: _exact(value) for name, value in unit["cycles_per_element"].items()}
    energy = {name: float(value) for name, value in unit["energy_pj_per_element"].items()}
    return VectorUnit(int(unit["lanes"]), int(unit["startup_cycles"]), cycles, energy)


def _by_function(table: Mapping[str, T], function: int) -> T:
    name = AluFunction(function).name.lower()
    return table[name] if name in table else table["default"]
