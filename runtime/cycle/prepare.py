"""A program and its machine to the memory of the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cimc.diagnostics import UsageError
from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.costs import CostBuilder, Costs
from cimc.runtime.cycle.layout import Int, World
from cimc.runtime.cycle.machine import Machine, attojoules
from cimc.runtime.cycle.resolve import Resolved, column, place_control, place_operands, resolve
from cimc.runtime.program import Program

BINS = 1 << 21
"""Bins of the power series; a longer run doubles its window until it fits."""
NO_READ_WINDOW = 1000
"""Cycles of a power bin when a program reads no array."""


class Options(NamedTuple):
    """What a run is asked for, see :func:`~cimc.runtime.cycle.engine.simulate`."""

    images: int
    window: int | None = None
    """Cycles of a power bin; None: the longest read of the program."""
    trace: int = 0
    """Slices to keep."""
    plain: bool = False
    resident_weights: bool = False
    bins: int = BINS
    contention: bool = True
    arrivals: int | None = None
    """Parts under way that there is memory for, at most; None: as many as rings can hold."""
    issues: int = 0
    """Records of issues to keep; 0 counts none."""


@dataclass(frozen=True)
class Prepared:
    """The kernel's memory and what a report needs beside it."""

    program: Program
    machine: Machine
    resolved: Resolved
    costs: Costs
    world: World


def prepare(program: Program, options: Options) -> Prepared:
    """The memory of a run.

    Raises :class:`UsageError` for counts below one and :class:`UnsupportedError` for what the timing rules
    do not cover.
    """
    if options.images < 1:
        raise UsageError(f"a run has at least 1 image, given {options.images}")
    if options.window is not None and options.window < 1:
        raise UsageError(f"window_cycles must be at least 1, given {options.window}")
    machine = Machine.of(program.machine)
    resolved = resolve(program)
    rows = np.zeros((resolved.rows, y.ROW_WIDTH), np.int64)
    place_control(program, resolved, rows, options.images)
    place_operands(program, resolved, rows)
    costs = CostBuilder(program, machine, resolved, rows, options.resident_weights).build()
    world = _sized(program, machine, costs, rows, options)
    _head(world, machine, options, options.window or _longest_read(rows, costs))
    _memories(program, machine, world)
    _contexts(program, resolved, world)
    _routes(program, world)
    _hosts(program, world)
    world.table("events")[:, y.V_SIGNALS] = program["events"]["initial"]
    world.table("starts")[:] = y.LAST_TIME
    world.table("ends")[:] = -1
    world.table("strides")[:] = costs.strides
    world.table("variants")[:] = costs.variants
    _link(program, world, rows)
    return Prepared(program, machine, resolved, costs, world)


def _longest_read(rows: Int, costs: Costs) -> int:
    reads = rows[rows[:, y.OP] == y.READ, y.OCCUPANCY].max(initial=0)
    return int(max(reads, costs.variants[:, y.V_OCCUPANCY].max(initial=0))) or NO_READ_WINDOW


def _sized(program: Program, machine: Machine, costs: Costs, rows: Int, options: Options) -> World:
    contexts = program.count("contexts")
    arrivals = _most_arrivals(program, machine)
    if options.arrivals is not None:
        arrivals = min(arrivals, options.arrivals)
    if contexts + arrivals > y.ID_MASK:
        raise UsageError(
            f"contexts and arrivals are numbered in {y.ID_BITS} bits, given {contexts} and {arrivals}; "
            "use fewer slots or routes"
        )
    return World.sized(
        {
            "rows": len(rows),
            "variants": len(costs.variants),
            "strides": len(costs.strides),
            "buffers": program.count("buffers"),
            "slots": int(column(program, "buffers", "slots").sum()),
            "routes": program.count("routes"),
            "contexts": contexts,
            "events": program.count("events"),
            "hosts": len(program.hosts),
            "host_slots": sum(len(host.inputs) + len(host.outputs) for host in program.hosts),
            "sets": program.count("array_sets"),
            "units": machine.units,
            "links": 4 * max(1, machine.columns * machine.rows),
            "chosen": int(column(program, "route_sets", "count").max(initial=0)),
            "starts": options.images,
            "ends": options.images,
            "arrivals": arrivals,
            "heap": contexts + arrivals,
            "bins": options.bins,
            "trace": options.trace,
            "issues": options.issues,
        }
    )


def _most_arrivals(program: Program, machine: Machine) -> int:
    """A bound of the parts under way: per slot of a ring those that make it up, what DMA latencies
    hide, and shift-and-add of the reads of every array set."""
    slots = column(program, "buffers", "slots")
    parts = np.bincount(column(program, "routes", "ring"), minlength=len(slots))
    latency = machine.link_to_host[1] if machine.link_to_host else 0
    shifts = 2 * program.count("array_sets") if machine.shift_add_in_unit else 0
    return int((slots * parts).sum()) + shifts + latency + machine.global_latency + 16


def _head(world: World, machine: Machine, options: Options, window: int) -> None:
    k = world.memory
    k[y.K_CONTEXTS] = world.sizes["contexts"]
    link = machine.global_width if machine.bus else machine.link_width
    for at, width in (
        (y.K_LOCAL_NUM, machine.local_width),
        (y.K_GLOBAL_NUM, machine.global_width),
        (y.K_LINK_NUM, link),
    ):
        k[at], k[at + 1] = width.numerator, width.denominator
    k[y.K_GLOBAL_LATENCY] = machine.global_latency
    k[y.K_HOP] = machine.hop_cycles
    k[y.K_COLUMNS] = max(1, machine.columns)
    k[y.K_GLOBAL_NODE] = machine.global_node
    k[y.K_LOCAL_ENERGY] = attojoules(machine.local_pj)
    k[y.K_GLOBAL_ENERGY] = attojoules(machine.global_pj)
    k[y.K_HOP_ENERGY] = attojoules(machine.hop_pj)
    k[y.K_BUS] = machine.bus
    k[y.K_PLAIN] = options.plain
    k[y.K_TRACE] = options.trace
    k[y.K_RECORDS] = world.sizes["arrivals"]
    k[y.K_BINS] = options.bins
    k[y.K_APART] = not options.contention
    k[y.K_ISSUES] = options.issues
    for at, table in (
        (y.AT_CONTEXTS, "contexts"),
        (y.AT_LINKS, "links"),
        (y.AT_ARRIVALS, "arrivals"),
        (y.AT_CHOSEN, "chosen"),
        (y.AT_HEAP, "heap"),
        (y.AT_STARTS, "starts"),
        (y.AT_ENDS, "ends"),
        (y.AT_BINS, "bins"),
        (y.AT_TRACE, "trace"),
        (y.AT_ISSUES, "issues"),
    ):
        k[at] = world.base(table)
    k[y.O_WINDOW], k[y.O_LIMIT] = window, window * options.bins


def _memories(program: Program, machine: Machine, world: World) -> None:
    buffers = world.table("buffers")
    for at, name in (
        (y.SLOTS, "slots"),
        (y.R_FIRST, "first"),
        (y.R_LAST, "last"),
        (y.R_PERIOD, "period"),
        (y.R_ADVANCE, "advance"),
        (y.R_PLACES, "places"),
        (y.R_TOP, "top"),
        (y.R_BOTTOM, "bottom"),
        (y.R_FILL, "fill"),
        (y.R_CORE, "core"),
    ):
        buffers[:, at] = program["buffers"][name]
    slots = buffers[:, y.SLOTS]
    buffers[:, y.SLOT_BASE] = world.address("slots", np.cumsum(slots) - slots)
    core = buffers[:, y.R_CORE]
    buffers[:, y.R_PORT] = world.address("units", np.where(core < 0, machine.unit(-1), core))


def _contexts(program: Program, resolved: Resolved, world: World) -> None:
    contexts = world.table("contexts")
    contexts[:, y.C_PC] = world.address("rows", resolved.first)
    contexts[:, y.C_NUMBER] = np.arange(len(contexts))
    contexts[:, y.C_STATE] = y.RUNNABLE
    stream, phase = column(program, "contexts", "stream"), column(program, "contexts", "phase")
    order = np.lexsort((phase, stream))
    before, after = order[:-1], order[1:]
    same = stream[before] == stream[after]
    contexts[before[same], y.C_NEXT] = world.address("contexts", after[same])
    contexts[after[same], y.C_STATE] = y.WAITING


def _routes(program: Program, world: World) -> None:
    """Within a set, the entries of a group stand together."""
    owner = np.zeros(program.count("routes"), np.int64)
    firsts, counts = (program["route_sets"][name].tolist() for name in ("first", "count"))
    for index, (first, count) in enumerate(zip(firsts, counts, strict=True)):
        owner[first : first + count] = index
    group = column(program, "routes", "group")
    # Sets need not lie in the order of their numbers: sorting must keep every set at its place.
    start = np.array(firsts, np.int64)[owner] if len(owner) else owner
    order = np.lexsort((np.arange(len(owner)), group, start))
    routes = world.table("routes")
    routes[:, y.T_RING] = world.address("buffers", column(program, "routes", "ring")[order])
    routes[:, y.T_GROUP] = group[order]
    elements = column(program, "routes", "positions") * column(program, "routes", "channels")
    routes[:, y.T_ELEMENTS] = elements[order]


def _hosts(program: Program, world: World) -> None:
    """Slot 0 of each whole buffer of each operator, inputs first."""
    hosts, slots, base = world.table("hosts"), world.table("host_slots"), world.base("host_slots")
    slot_of = world.table("buffers")[:, y.SLOT_BASE]
    at = 0
    for index, operator in enumerate(program.hosts):
        buffers = [*operator.inputs, *operator.outputs]
        hosts[index] = base + at, base + at + len(operator.inputs), base + at + len(buffers)
        slots[at : at + len(buffers), 0] = slot_of[buffers]
        at += len(buffers)


def _link(program: Program, world: World, rows: Int) -> None:
    """Copy the instructions into the memory, with addresses for the numbers of what they name."""
    op = rows[:, y.OP]
    linked = rows.copy()
    flow = (op == y.LOOP) | (op == y.END)
    linked[flow, y.JUMP] = world.address("rows", rows[flow, y.JUMP])
    for hot in (y.A_MODE, y.D_MODE, y.B_MODE):
        mode, named = rows[:, hot], rows[:, hot + 1]
        place = np.where(mode == y.FIXED, world.address("slots", named), world.address("buffers", named))
        linked[:, hot + 1] = np.where(mode == y.NOTHING, 0, place)
    for at in (y.UNIT, y.UNIT2):
        linked[:, at] = world.address("units", rows[:, at])
    linked[:, y.SET] = world.address("sets", rows[:, y.SET])
    linked[:, y.VARIANT] = world.address("variants", rows[:, y.VARIANT])
    for at in (y.ROW_ST, y.VARIANT_ST, y.A_COLD + y.COLD_ST, y.D_COLD + y.COLD_ST, y.B_COLD + y.COLD_ST):
        linked[:, at] = np.where(rows[:, at] > 0, world.address("strides", rows[:, at]), 0)
    sends, events, hosts = op == y.SEND, (op == y.SIGNAL) | (op == y.WAIT), op == y.HOST
    sets = rows[sends, y.IMM]
    linked[sends, y.N] = program["route_sets"]["count"][sets]
    linked[sends, y.IMM] = world.address("routes", column(program, "route_sets", "first")[sets])
    linked[events, y.IMM] = world.address("events", rows[events, y.IMM])
    linked[hosts, y.IMM] = world.address("hosts", rows[hosts, y.IMM])
    world.table("rows")[:] = linked
