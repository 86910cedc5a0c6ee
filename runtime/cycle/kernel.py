"""The event loop: contexts in the order of their next request, compiled by numba.

The running context stays at the top of the heap and goes on while its requests come before every other
key; loops, ``recv`` and ``free`` touch only its own state and never return it. An effect on another context
is always at least one cycle later than its cause, so running ahead changes nothing: ``K_PLAIN`` takes every
instruction through the heap and must give the same result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

from numba import njit

from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.compiled import jit, memory_of
from cimc.runtime.cycle.heap import key_of, pop, replace_top, second
from cimc.runtime.cycle.issue import compute, free, host, load, receive, send, signal, store, wait, write
from cimc.runtime.cycle.layout import Int, Memory
from cimc.runtime.cycle.steps import fill, finished, grant, note, park, schedule, spend, stored


@jit
def land(w: Memory) -> None:
    """The request at the top of the heap is due: a store by a port, or a row for the host link."""
    key = w[w[y.AT_HEAP]]
    e = w[y.AT_ARRIVALS] + ((key & y.ID_MASK) - w[y.K_CONTEXTS]) * y.ARRIVAL_WIDTH
    pop(w)
    unit, cycles = w[e + y.E_UNIT], w[e + y.E_CYCLES]
    start = grant(w, unit, key >> y.ID_BITS, cycles)
    done = start + cycles + w[e + y.E_LATENCY]
    spend(w, start, cycles, w[e + y.E_ENERGY])
    note(w, unit, start, cycles, w[e + y.E_ROW], -1)
    finished(w, done)
    kind = w[e + y.E_KIND]
    w[e + y.E_KIND] = y.UNUSED
    if kind == y.RING_PART:
        fill(w, w[e + y.E_BUFFER], w[e + y.E_SLOT], w[e + y.E_ELEMENTS], done)
    elif kind == y.SLOT_STORE:
        stored(w, w[e + y.E_SLOT], done)
    else:
        image = w[y.AT_ENDS] + w[e + y.E_IMAGE]
        w[image] = max(w[image], done)


@jit
def halt(w: Memory, ctx: int, row: int, t: int) -> int:
    """The context ends; its stream's next phase starts a cycle later."""
    w[row + y.COUNT] += 1
    park(w, ctx, row, t, y.HALTED)
    finished(w, t)
    following = w[ctx + y.C_NEXT]
    if following > 0:
        w[following + y.C_TIME] = t + 1
        w[following + y.C_STATE] = y.RUNNABLE
        schedule(w, t + 1, w[following + y.C_NUMBER])
    return y.PARKED


@jit
def issue(w: Memory, ctx: int, row: int, t: int, limit: int) -> int:
    """Issue one of the other instructions: the next instruction's cycle, ``PARKED``, or ``-2 - cycle`` to ask again."""
    op = w[row + y.OP]
    if op == y.RECV:
        return receive(w, ctx, row, t, limit)
    if op == y.FREE:
        return free(w, ctx, row, t, limit)
    if op == y.SEND:
        return send(w, ctx, row, t, limit)
    if op == y.DMA_IN:
        return load(w, ctx, row, t, limit)
    if op == y.DMA_OUT:
        return store(w, ctx, row, t, limit)
    if op == y.WRITE:
        return write(w, ctx, row, t, limit)
    if op == y.SIGNAL:
        return signal(w, ctx, row, t, limit)
    if op == y.WAIT:
        return wait(w, ctx, row, t, limit)
    if op == y.HOST:
        return host(w, ctx, row, t, limit)
    return halt(w, ctx, row, t)


@jit
def _computes(op: int) -> bool:
    """Instructions that wake nobody, and plan nothing without a second request."""
    return op == y.READ or op == y.ALU or op == y.COPY or op == y.WRITE_LOCAL


@jit
def advance(w: Memory, ctx: int) -> None:
    """Run the context at the top of the heap until it parks, ends, or somebody else comes first."""
    row = w[ctx + y.C_PC]
    t = w[ctx + y.C_TIME]
    limit = w[w[y.AT_HEAP]] if w[y.K_PLAIN] else second(w)
    while True:
        # Loops take no cycle and touch nothing but the context's counters.
        op = w[row + y.OP]
        if op == y.END:
            counter = ctx + y.C_COUNTERS + w[row + y.LEVEL]
            w[counter] += 1
            if w[counter] < w[row + y.N]:
                row = w[row + y.JUMP]
            else:
                w[counter] = 0
                row += y.ROW_WIDTH
            continue
        if op == y.LOOP:
            row = row + y.ROW_WIDTH if w[row + y.N] > 0 else w[row + y.JUMP]
            continue
        answer = compute(w, ctx, row, t, limit) if _computes(op) else issue(w, ctx, row, t, limit)
        if answer >= 0:
            if not w[y.K_PLAIN] and not (_computes(op) and w[row + y.CYCLES2] == 0):
                limit = second(w)  # the heap may have new keys
            t = answer
            row += y.ROW_WIDTH
            continue
        if answer != y.PARKED:
            w[ctx + y.C_PC] = row
            w[ctx + y.C_TIME] = t
            replace_top(w, key_of(w, -2 - answer, w[ctx + y.C_NUMBER]))
        return


@jit
def loop(w: Memory) -> None:
    """Run all contexts to their end; the status is left in the memory's head."""
    contexts = w[y.K_CONTEXTS]
    for c in range(contexts):
        if w[w[y.AT_CONTEXTS] + c * y.CONTEXT_WIDTH + y.C_STATE] == y.RUNNABLE:
            schedule(w, 0, c)
    while w[y.O_SIZE] > 0 and w[y.O_STATUS] == y.DONE:
        c = w[w[y.AT_HEAP]] & y.ID_MASK
        if c >= contexts:
            land(w)
        else:
            advance(w, w[y.AT_CONTEXTS] + c * y.CONTEXT_WIDTH)
        if w[y.O_END] > y.LAST_TIME:
            w[y.O_STATUS] = y.TOO_LATE
    if w[y.O_STATUS] != y.DONE:
        return
    for c in range(contexts):
        if w[w[y.AT_CONTEXTS] + c * y.CONTEXT_WIDTH + y.C_STATE] != y.HALTED:
            w[y.O_STATUS] = y.DEADLOCK


def _sources() -> str:
    """Digest of the compiled files: numba's cache looks at the file of the cached function only."""
    digest = hashlib.sha256()
    for name in ("layout", "compiled", "heap", "network", "steps", "sends", "issue", "kernel"):
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()


def _compiled(sources: str) -> Callable[[Int], None]:
    """The kernel; ``sources`` is part of its key in numba's cache."""

    @njit(cache=True)
    def run(w: Int) -> None:
        if len(sources) > 0:
            loop(memory_of(w))

    return cast("Callable[[Int], None]", run)


run = _compiled(_sources())
"""Run the memory of a prepared :class:`~cimc.runtime.cycle.layout.World`."""
