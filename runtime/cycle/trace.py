"""The Chrome trace of a run: open it in ``chrome://tracing`` or Perfetto."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cimc.diagnostics import UsageError
from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.machine import Machine
from cimc.runtime.cycle.timing import Slices, Timing
from cimc.runtime.program import Opcode


def write_trace(timing: Timing, path: str | Path) -> None:
    """Write the slices of a run made with ``trace=True``; one cycle is one microsecond of the trace.

    A process is a core (the chip comes last), a thread one of its units, or a context with its waits.
    Raises :class:`UsageError` when the run kept no slices.
    """
    if timing.slices is None:
        raise UsageError("the run kept no trace; call simulate(..., trace=True)")
    Path(path).write_text(json.dumps(_document(timing, timing.slices), separators=(",", ":")) + "\n")


def _document(timing: Timing, slices: Slices) -> dict[str, Any]:
    prepared = slices.prepared
    fields, rows = prepared.resolved.fields, prepared.world.base("rows")
    threads: dict[tuple[int, str], int] = {}
    events: list[dict[str, Any]] = []
    for unit, start, cycles, address, context in slices.rows.tolist():
        row = (address - rows) // y.ROW_WIDTH
        core, thread = _place(slices, unit, context)
        events.append(
            {
                "name": Opcode(int(fields["opcode"][row])).name.lower(),
                "cat": prepared.program.name_of(int(fields["node"][row])),
                "ph": "X",
                "ts": start,
                "dur": cycles,
                "pid": core,
                "tid": threads.setdefault((core, thread), len(threads)),
                "args": {"layer": prepared.program.name_of(int(fields["node"][row])), "context": context},
            }
        )
    cores = prepared.machine.cores
    names = [
        {"name": "process_name", "ph": "M", "pid": core, "args": {"name": _core_name(core, cores)}}
        for core in sorted({core for core, _ in threads})
    ]
    names += [
        {"name": "thread_name", "ph": "M", "pid": core, "tid": tid, "args": {"name": thread}}
        for (core, thread), tid in threads.items()
    ]
    note = (
        f"the first {len(slices.rows)} slices; {slices.dropped} more were dropped"
        if slices.dropped
        else "complete"
    )
    return {
        "traceEvents": names + events,
        "displayTimeUnit": "ns",
        "otherData": {
            "unit": "1 us of this trace is 1 cycle",
            "clock_ghz": timing.clock_ghz,
            "cycles": timing.cycles,
            "slices": note,
        },
    }


def _place(slices: Slices, unit: int, context: int) -> tuple[int, str]:
    """Process and thread of a slice: -1 is the context itself, else the address of a set or shared unit."""
    program, world, machine = slices.prepared.program, slices.prepared.world, slices.prepared.machine
    if unit == -1:
        core = int(program["contexts"]["core"][context])
        return (core if core >= 0 else machine.cores), f"context {context} waits"
    array_set = (unit - world.base("sets")) // y.UNIT_WIDTH
    if array_set < world.sizes["sets"]:
        return int(program["array_sets"]["core"][array_set]), f"arrays {array_set}"
    return _shared(machine, (unit - world.base("units")) // y.UNIT_WIDTH)


def _shared(machine: Machine, unit: int) -> tuple[int, str]:
    if unit <= machine.cores:
        return unit, "global buffer" if unit == machine.cores else "port"
    if unit < machine.host_link_unit:
        return unit - machine.cores - 1, "vector unit"
    return machine.cores, "host link" if unit == machine.host_link_unit else "host"


def _core_name(core: int, cores: int) -> str:
    return "chip" if core == cores else f"core {core}"
