"""What a timed run tells: cycles, energy, power, occupation, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.costs import COMPONENTS, UNIT_KINDS, Float
from cimc.runtime.cycle.layout import Int
from cimc.runtime.cycle.prepare import Prepared
from cimc.runtime.program import BufferKind

NETWORK_PARTS = tuple(UNIT_KINDS.index(kind) for kind in ("port", "network", "global_buffer"))


@dataclass(frozen=True)
class Slices:
    """Slices for a trace, int64 [slices, 5]: the columns ``X_*`` of :mod:`~cimc.runtime.cycle.layout`."""

    rows: Int
    dropped: int
    """Slices for which there was no room."""
    prepared: Prepared


@dataclass(frozen=True)
class Timing:
    """A timed run. Cycles are those of the machine's clock, energies pJ, powers mW."""

    cycles: int
    """Cycles until everything is done."""
    clock_ghz: float
    images: int
    latency_cycles: int
    """An image alone: its first byte on the host link to its last byte out."""
    interval_cycles: int
    """Between the ends of the last two images; the latency when there is one image."""
    image_start_cycles: Int
    image_end_cycles: Int
    setup_cycles: int
    """End of the last array write; 0 without writes."""
    energy_pj: Mapping[str, float]
    """By component; their sum is ``total_energy_pj``."""
    energy_by_node_pj: Mapping[str, float]
    """By layer, static power apart."""
    window_cycles: int
    """Window of ``power_mw``; twice, four times ... what was asked for in a run too long for the series."""
    power_mw: Float
    """Mean power of every window from cycle 0 on, static power included."""
    executed_instructions: int
    """Rows issued, without loop, end, halt and wait; every read of one window is one."""
    executed_reads: int
    executed_by_opcode: Mapping[str, int]
    busy_cycles: Mapping[str, int]
    """By kind of unit, over all units of the kind; counted at the units."""
    attributed_cycles: Mapping[str, int]
    """The same, counted at the instructions."""
    busy_by_node: Mapping[str, Mapping[str, int]]
    """By layer and kind of unit."""
    busiest_cycles: Mapping[str, int]
    """By kind: the cycles the busiest single unit was busy."""
    stall_cycles: Int
    """[contexts, causes]: cycles lost to recv, room, unit, operand, event."""
    ring_numbers: Int
    """Buffer numbers of the rings."""
    ring_high_water: Int
    """Most places in use at once, per ring."""
    ring_slots: Int
    host_cycles: int
    jit_seconds: float
    """Compiling the kernel or loading it from the cache."""
    prepare_seconds: float
    run_seconds: float
    slices: Slices | None = field(default=None, repr=False)

    @property
    def total_energy_pj(self) -> float:
        """Sum over the components."""
        return float(sum(self.energy_pj.values()))

    @property
    def latency_ns(self) -> float:
        """:attr:`latency_cycles` in ns."""
        return self.latency_cycles / self.clock_ghz

    @property
    def peak_power_mw(self) -> float:
        """Largest mean over an aligned window of :attr:`window_cycles`."""
        return float(self.power_mw.max(initial=0.0))

    @property
    def host_share(self) -> float:
        """Share of all cycles in which the host computes."""
        return self.host_cycles / self.cycles if self.cycles else 0.0

    @property
    def instructions_per_second(self) -> float:
        """Executed instructions per second of the kernel, compiling and preparing apart."""
        return self.executed_instructions / self.run_seconds if self.run_seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts for ``report.json``."""
        stalls = dict(zip(y.STALL_CAUSES, self.stall_cycles.sum(axis=0).tolist(), strict=True))
        return {
            "cycles": self.cycles,
            "clock_ghz": self.clock_ghz,
            "images": self.images,
            "latency_cycles": self.latency_cycles,
            "latency_ns": self.latency_ns,
            "interval_cycles": self.interval_cycles,
            "setup_cycles": self.setup_cycles,
            "image_start_cycles": self.image_start_cycles.tolist(),
            "image_end_cycles": self.image_end_cycles.tolist(),
            "energy_pj": dict(self.energy_pj),
            "total_energy_pj": self.total_energy_pj,
            "energy_by_node_pj": dict(self.energy_by_node_pj),
            "peak_power_mw": self.peak_power_mw,
            "window_cycles": self.window_cycles,
            "executed_instructions": self.executed_instructions,
            "executed_reads": self.executed_reads,
            "executed_by_opcode": dict(self.executed_by_opcode),
            "busy_cycles": dict(self.busy_cycles),
            "busiest_cycles": dict(self.busiest_cycles),
            "busy_by_node": {node: dict(kinds) for node, kinds in self.busy_by_node.items()},
            "stall_cycles": stalls,
            "ring_high_water": [
                {"ring": ring, "places": most, "slots": slots}
                for ring, most, slots in zip(
                    self.ring_numbers.tolist(),
                    self.ring_high_water.tolist(),
                    self.ring_slots.tolist(),
                    strict=True,
                )
            ],
            "host_share": self.host_share,
            "jit_seconds": self.jit_seconds,
            "prepare_seconds": self.prepare_seconds,
            "run_seconds": self.run_seconds,
            "instructions_per_second": self.instructions_per_second,
        }


def latency_cycles(prepared: Prepared) -> int:
    """First byte of the first image on the host link to its last byte out; the whole run without DMA."""
    world = prepared.world
    start, end = int(world.table("starts")[0, 0]), int(world.table("ends")[0, 0])
    return end - start if start < y.LAST_TIME and end >= 0 else int(world.memory[y.O_END])


def timing(prepared: Prepared, latency: int, seconds: tuple[float, float, float]) -> Timing:
    """The report of a finished run; ``latency`` of an image alone, ``seconds`` of compiling, preparing, running."""
    world, m, program = prepared.world, prepared.machine, prepared.program
    head = world.memory
    cycles = int(head[y.O_END])
    energy, busy = _per_row(prepared)
    by_component: dict[str, float] = dict(zip(COMPONENTS, energy.sum(axis=0).tolist(), strict=True))
    by_component["static"] = m.static_power_mw * cycles / m.clock_ghz
    ends, starts = world.table("ends")[:, 0].copy(), world.table("starts")[:, 0].copy()
    images = len(ends)
    rings = np.flatnonzero(program["buffers"]["kind"] == BufferKind.RING)
    counts = _counts(world.table("rows"), prepared.resolved.windows_read)
    buffers = world.table("buffers")
    unit_busy = _unit_busy(prepared)
    return Timing(
        cycles=cycles,
        clock_ghz=m.clock_ghz,
        images=images,
        latency_cycles=latency,
        interval_cycles=int(ends[-1] - ends[-2]) if images > 1 and ends[-2] >= 0 else latency,
        image_start_cycles=np.where(starts < y.LAST_TIME, starts, -1),
        image_end_cycles=ends,
        setup_cycles=int(head[y.O_WRITTEN]),
        energy_pj=by_component,
        energy_by_node_pj=_by_node(prepared, energy.sum(axis=1)),
        window_cycles=int(head[y.O_WINDOW]),
        power_mw=_power(prepared, cycles),
        executed_instructions=sum(n for name, n in counts.items() if name not in ("halt", "wait")),
        executed_reads=counts["read_xb"],
        executed_by_opcode=counts,
        busy_cycles={kind: int(values.sum()) for kind, values in unit_busy.items()},
        attributed_cycles=dict(zip(UNIT_KINDS, busy.sum(axis=0).tolist(), strict=True)),
        busy_by_node=_busy_by_node(prepared, busy),
        busiest_cycles={kind: int(values.max(initial=0)) for kind, values in unit_busy.items()},
        stall_cycles=world.table("contexts")[:, y.C_STALLS :].copy(),
        ring_numbers=rings,
        ring_high_water=buffers[rings, y.HIGH],
        ring_slots=buffers[rings, y.SLOTS],
        host_cycles=int(unit_busy["host"].sum()),
        jit_seconds=seconds[0],
        prepare_seconds=seconds[1],
        run_seconds=seconds[2],
        slices=_slices(prepared) if world.sizes["trace"] else None,
    )


def _per_row(prepared: Prepared) -> tuple[Float, Int]:
    """Energy by component and busy cycles by kind of every resolved instruction, over the run."""
    world, m, costs = prepared.world, prepared.machine, prepared.costs
    rows = world.table("rows")
    count = rows[:, y.COUNT, None]
    energy, busy = costs.energy_pj * count, costs.busy * count
    if len(costs.variant_row):
        executed = world.table("variants")[:, y.V_COUNT, None]
        np.add.at(energy, costs.variant_row, costs.variant_energy_pj * executed)
        np.add.at(busy, costs.variant_row, costs.variant_busy * executed)
    chip = rows[:, y.CORE] < 0
    local, network, remote = (COMPONENTS.index(k) for k in ("local_buffer", "network", "global_buffer"))
    source, stored, kept = (rows[:, k] for k in (y.M_SOURCE_BYTES, y.M_STORE_BYTES, y.M_GLOBAL_BYTES))
    energy[:, local] += (stored + np.where(chip, 0, source)) * m.local_pj
    energy[:, remote] += (kept + np.where(chip, source, 0)) * m.global_pj
    energy[:, network] += rows[:, y.M_HOP_BYTES] * m.hop_pj
    port, links, remote = NETWORK_PARTS
    source, stored, kept = (rows[:, k] for k in (y.M_SOURCE_CYCLES, y.M_STORE_CYCLES, y.M_GLOBAL_CYCLES))
    busy[:, port] += stored + np.where(chip, 0, source)
    busy[:, remote] += kept + np.where(chip, source, 0)
    busy[:, links] += rows[:, y.M_LINK_CYCLES]
    return energy, busy


def _unit_busy(prepared: Prepared) -> dict[str, Int]:
    """Busy cycles of every single unit, by kind, as the units counted them."""
    world, m = prepared.world, prepared.machine
    units, ports = world.table("units")[:, y.BUSY], m.cores
    return {
        "arrays": world.table("sets")[:, y.BUSY],
        "port": units[:ports],
        "vector_unit": units[ports + 1 : 2 * ports + 2],
        "network": world.table("links")[:, y.BUSY],
        "global_buffer": units[ports : ports + 1],
        "host_link": units[m.host_link_unit : m.host_link_unit + 1],
        "host": units[m.host_unit : m.host_unit + 1],
    }


def _power(prepared: Prepared, cycles: int) -> Float:
    """mW of every window: pJ over ns is mW."""
    world, m = prepared.world, prepared.machine
    window = int(world.memory[y.O_WINDOW])
    pj = world.table("bins")[: -(-cycles // window), 0] / 1e6
    return pj * m.clock_ghz / window + m.static_power_mw


def _counts(rows: Int, windows: Int) -> dict[str, int]:
    """Executions by instruction; ``write_*`` and ``read_*`` count under their whole-tile names, reads by window."""
    names = {
        y.WRITE: "write_xb",
        y.READ: "read_xb",
        y.WRITE_LOCAL: "write_local",
        y.ALU: "alu",
        y.COPY: "copy",
        y.SEND: "send",
        y.RECV: "recv",
        y.FREE: "free",
        y.DMA_IN: "dma_in",
        y.DMA_OUT: "dma_out",
        y.SIGNAL: "signal",
        y.WAIT: "wait",
        y.HOST: "host",
        y.HALT: "halt",
    }
    totals = np.zeros(max(names) + 1, np.int64)
    np.add.at(totals, rows[:, y.OP], rows[:, y.COUNT] * windows)
    return {name: int(totals[op]) for op, name in names.items()}


def _by_node(prepared: Prepared, values: npt.NDArray[Any]) -> dict[str, float]:
    nodes = prepared.resolved.fields["node"]
    totals = np.zeros(len(prepared.program.names) + 1)
    np.add.at(totals, nodes, values)  # node -1 adds to the last
    names = (*prepared.program.names, "-")
    return {name: float(total) for name, total in zip(names, totals, strict=True) if total}


def _busy_by_node(prepared: Prepared, busy: Int) -> dict[str, dict[str, int]]:
    nodes = prepared.resolved.fields["node"]
    totals = np.zeros((len(prepared.program.names) + 1, len(UNIT_KINDS)), np.int64)
    np.add.at(totals, nodes, busy)
    names = (*prepared.program.names, "-")
    return {
        name: {kind: value for kind, value in zip(UNIT_KINDS, row, strict=True) if value}
        for name, row in zip(names, totals.tolist(), strict=True)
        if any(row)
    }


def _slices(prepared: Prepared) -> Slices:
    world = prepared.world
    found = int(world.memory[y.O_TRACED])
    kept = min(found, world.sizes["trace"])
    rows = world.table("trace")[:kept]
    order = np.lexsort((rows[:, y.X_ROW], rows[:, y.X_UNIT], rows[:, y.X_START]))
    return Slices(rows[order], found - kept, prepared)
