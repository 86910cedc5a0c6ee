"""``simulate``: prepare, run the kernel, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np

from cimc.diagnostics import CimError, UnsupportedError, UsageError
from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.prepare import Options, Prepared, prepare
from cimc.runtime.cycle.timing import Timing, latency_cycles, timing
from cimc.runtime.program import Program

TRACE_SLICES = 200_000
"""Slices a trace keeps: about 30 MB of JSON."""
FIRST_ARRIVALS = 1 << 17
"""Parts under way that a run has memory for at first: 10 MiB of records."""

_STATES = {
    y.WAITING: "the earlier phase of its stream",
    y.RUNNABLE: "its turn",
    y.ON_RECV: "a row of a ring",
    y.ON_ROOM: "room in a ring",
    y.ON_SLOT: "a row from the host",
    y.ON_EVENT: "an event",
}


def simulate(
    program: Program,
    *,
    images: int = 8,
    trace: bool = False,
    window_cycles: int | None = None,
    network: str | None = None,
    resident_weights: bool = False,
    plain: bool = False,
    contention: bool = True,
) -> Timing:
    """Time ``images`` frames of ``program`` on the machine it was compiled for (``docs/isa.md``, Time).

    ``trace`` keeps slices for :func:`~cimc.runtime.cycle.trace.write_trace`. ``window_cycles``: window of the
    power series (default: the longest array read of the program). ``network``: ``"bus"`` for the same machine
    with all traffic between cores on one medium. ``resident_weights``: array writes were done before
    cycle 0, but for those of every call.
    ``plain``: one instruction at a time in the order of time, the slow form that the fast one must equal.
    ``contention=False``: ports, links, vector units and host link serve everybody at once, so that nothing can start
    earlier; contexts and arrays do one thing after the other as always.

    Raises :class:`UsageError` for bad arguments or a machine without the keys the engine reads,
    :class:`UnsupportedError` for instructions whose units the machine lacks and for a program that
    cannot finish (the message names who waits for what).
    """
    program = replace(program, machine=with_network(program.machine, network))
    jit = warm_up()
    began = perf_counter()
    options = Options(images, window_cycles, TRACE_SLICES if trace else 0, plain, resident_weights)
    options = options._replace(contention=contention)
    prepared, running = _run_through(program, options)
    done = perf_counter()
    alone = prepared
    if images > 1:
        alone, _ = _run_through(program, options._replace(images=1, trace=0))
    return timing(prepared, latency_cycles(alone), (jit, done - began - running, running))


def _run_through(program: Program, options: Options) -> tuple[Prepared, float]:
    """A run to its end and the kernel's seconds, with memory for more parts under way as long as it lacks some.

    What rings can hold is a bound that large programs stay far below: VGG-16 on `jain` would ask for 2.6 GiB.
    """
    arrivals = FIRST_ARRIVALS
    while True:
        prepared = _prepared(program, options._replace(arrivals=arrivals))
        began = perf_counter()
        _run(prepared.world.memory)
        running = perf_counter() - began
        if prepared.world.memory[y.O_STATUS] != y.NO_RECORD or prepared.world.sizes["arrivals"] < arrivals:
            _check(prepared)
            return prepared, running
        arrivals *= 8


def _prepared(program: Program, options: Options) -> Prepared:
    """The run's tables; UsageError where a figure of the machine is beyond the kernel's 64-bit integers."""
    try:
        return prepare(program, options)
    except OverflowError as error:
        raise UsageError(
            f"the machine's figures give times or energies beyond 64 bits ({error}); no schedule of such a machine "
            "can be timed, so correct its energies, latencies and widths",
            where="cycle engine",
        ) from error


def with_network(machine: Mapping[str, Any], network: str | None) -> Mapping[str, Any]:
    """The machine with the given kind of network; :class:`UsageError` where it states no links."""
    given = machine["network"]["kind"]
    if network is None or network == given:
        return machine
    if network != "bus":
        raise UsageError(f"network must be {given} or bus on this machine, given {network}")
    return {**machine, "network": {**machine["network"], "kind": "bus"}}


def _run(memory: y.Int) -> None:
    from cimc.runtime.cycle.kernel import run  # loads numba, which whoever only imports us need not pay for

    run(memory)


@cache
def warm_up() -> float:
    """Compile the kernel, or load it from numba's cache; the seconds that took, once per process."""
    began = perf_counter()
    _run(np.zeros(y.HEADER, np.int64))  # no contexts: ends at once
    return perf_counter() - began


def run_prepared(prepared: Prepared) -> None:
    """Run the kernel on its memory. Raises :class:`UnsupportedError` when the program cannot finish."""
    _run(prepared.world.memory)
    _check(prepared)


def _check(prepared: Prepared) -> None:
    world = prepared.world
    status = int(world.memory[y.O_STATUS])
    if status == y.DONE:
        return
    ring = (int(world.memory[y.O_RING]) - world.base("buffers")) // y.BUFFER_WIDTH
    raise _error(prepared, status, ring)


def _error(prepared: Prepared, status: int, ring: int) -> CimError:
    if status == y.DEADLOCK:
        return UnsupportedError("the program cannot finish; " + _waiting(prepared), where="cycle engine")
    text = {
        y.OVERFULL: f"ring {ring} gets more elements than its fill for one place; run `cimc verify` on the program",
        y.BAD_RECV: f"ring {ring} is to receive more places than it has slots; deepen it or free earlier",
        y.TOO_LATE: f"the run is longer than {y.LAST_TIME} cycles; time fewer images",
        y.NO_RECORD: "more parts are under way than rings can hold; run `cimc verify` on the program",
    }[status]
    return UnsupportedError(text, where="cycle engine")


def _waiting(prepared: Prepared) -> str:
    """The first few contexts that did not halt, and what each waits for."""
    world, program = prepared.world, prepared.program
    contexts = world.table("contexts")
    stuck = np.flatnonzero(contexts[:, y.C_STATE] != y.HALTED)
    parts: list[str] = []
    for c in stuck[:5].tolist():
        row = (int(contexts[c, y.C_PC]) - world.base("rows")) // y.ROW_WIDTH
        node = program.name_of(int(prepared.resolved.fields["node"][row]))
        where = f"instruction {int(prepared.resolved.offset[row])} of its body, layer {node}"
        parts.append(f"context {c} waits for {_STATES[int(contexts[c, y.C_STATE])]} ({where})")
    more = f"; and {len(stuck) - 5} more" if len(stuck) > 5 else ""
    return f"{len(stuck)} contexts wait: " + "; ".join(parts) + more
