"""Small steps of the kernel: operands and the scoreboard, wait lists, energy over time, arrivals.

``row``, ``ctx``, ``ring`` and ``slot`` are addresses of an instruction, a context, a buffer, a slot.
"""

from __future__ import annotations

from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.compiled import jit
from cimc.runtime.cycle.heap import key_of, pop, push
from cimc.runtime.cycle.layout import Memory


@jit
def offset(w: Memory, ctx: int, stride: int) -> int:
    """What the loop counters of a context add by a stride (0: none)."""
    total = 0
    if stride > 0:
        for level in range(y.LEVELS):
            total += w[stride + level] * w[ctx + y.C_COUNTERS + level]
    return total


@jit
def slot_of(w: Memory, ctx: int, buffer: int, cold: int, step: int) -> int:
    """Slot of row ``step`` of a GENERAL operand, whose details are at ``cold``."""
    number = w[cold + y.COLD_ROW] + offset(w, ctx, w[cold + y.COLD_ST]) + step * w[cold + y.COLD_STEP]
    return w[buffer + y.SLOT_BASE] + number % w[buffer + y.SLOTS] * y.SLOT_WIDTH


@jit
def ready(w: Memory, ctx: int, hot: int, cold: int) -> int:
    """When an operand is ready to be read; minus the slot while a store to it is under way.

    ``hot``: where its mode stands. Rows of a ring were ready when they were received.
    """
    mode = w[hot]
    if mode == y.FIXED:
        slot = w[hot + 1]
        return -slot if w[slot + y.FILLED] else w[slot + y.READY]
    if mode != y.GENERAL:
        return 0
    latest = 0
    for step in range(w[cold + y.COLD_SPAN]):
        slot = slot_of(w, ctx, w[hot + 1], cold, step)
        if w[slot + y.FILLED]:
            return -slot
        latest = max(latest, w[slot + y.READY])
    return latest


@jit
def target(w: Memory, ctx: int, row: int) -> int:
    """The slot of an instruction's destination, 0 if it has none."""
    mode = w[row + y.D_MODE]
    if mode == y.FIXED:
        return w[row + y.D_X]
    return 0 if mode == y.NOTHING else slot_of(w, ctx, w[row + y.D_X], row + y.D_COLD, 0)


@jit
def note_read(w: Memory, ctx: int, hot: int, cold: int, until: int) -> None:
    """An operand is being read until cycle ``until``."""
    mode = w[hot]
    if mode == y.RING:
        at = w[hot + 1] + y.LAST_READ
        w[at] = max(w[at], until)
    elif mode == y.FIXED:
        at = w[hot + 1] + y.READ_DONE
        w[at] = max(w[at], until)
    elif mode == y.GENERAL:
        for step in range(w[cold + y.COLD_SPAN]):
            at = slot_of(w, ctx, w[hot + 1], cold, step) + y.READ_DONE
            w[at] = max(w[at], until)


@jit
def schedule(w: Memory, time: int, number: int) -> None:
    """Put a context, or an arrival behind the contexts, into the heap."""
    push(w, key_of(w, time, number))


@jit
def wake(w: Memory, ctx: int, time: int) -> None:
    """Let a parked context look again at ``time``."""
    w[ctx + y.C_STATE] = y.RUNNABLE
    schedule(w, time, w[ctx + y.C_NUMBER])


@jit
def wake_list(w: Memory, ctx: int, time: int) -> None:
    """Wake a whole wait list that begins with ``ctx`` (0: empty)."""
    while ctx > 0:
        following = w[ctx + y.C_LINK]
        wake(w, ctx, time)
        ctx = following


@jit
def wake_senders(w: Memory, ring: int, time: int) -> None:
    """Wake those whose place the ring has room for by now; the others keep waiting."""
    ctx = w[ring + y.ROOM_HEAD]
    kept = 0
    room = w[ring + y.FREED_PLACES] + w[ring + y.SLOTS]
    while ctx > 0:
        following = w[ctx + y.C_LINK]
        if w[ctx + y.C_NEED] < room:
            wake(w, ctx, time)
        else:
            w[ctx + y.C_LINK] = kept
            kept = ctx
        ctx = following
    w[ring + y.ROOM_HEAD] = kept


@jit
def fill(w: Memory, ring: int, slot: int, elements: int, time: int) -> None:
    """A part of a row is in its slot at ``time``; wakes the consumer when that was what it lacked."""
    w[slot + y.READY] = max(w[slot + y.READY], time)
    w[slot + y.FILLED] += elements
    if w[slot + y.FILLED] < w[ring + y.R_FILL]:
        return
    if w[slot + y.FILLED] > w[ring + y.R_FILL]:
        w[y.O_STATUS] = y.OVERFULL
        w[y.O_RING] = ring
        return
    ctx = w[ring + y.CONSUMER]
    if ctx > 0 and w[ring + y.CONSUMER_SLOT] == slot:
        w[ring + y.CONSUMER] = 0
        wake(w, ctx, w[slot + y.READY])


@jit
def stored(w: Memory, slot: int, time: int) -> None:
    """A store to ``slot`` is complete at ``time``."""
    w[slot + y.READY] = max(w[slot + y.READY], time)
    w[slot + y.FILLED] -= 1
    if w[slot + y.FILLED] == 0:
        first = w[slot + y.SLOT_HEAD]
        w[slot + y.SLOT_HEAD] = 0
        wake_list(w, first, w[slot + y.READY])


@jit
def park(w: Memory, ctx: int, row: int, t: int, state: int) -> int:
    """Take the context at the top of the heap out of it, to go on at ``row`` when it is woken."""
    w[ctx + y.C_PC] = row
    w[ctx + y.C_TIME] = t
    w[ctx + y.C_STATE] = state
    pop(w)
    return y.PARKED


@jit
def park_on_slot(w: Memory, ctx: int, row: int, t: int, slot: int) -> int:
    """Park until no store to ``slot`` is under way."""
    w[ctx + y.C_LINK] = w[slot + y.SLOT_HEAD]
    w[slot + y.SLOT_HEAD] = ctx
    return park(w, ctx, row, t, y.ON_SLOT)


@jit
def plan(w: Memory, time: int, kind: int, unit: int, cycles: int, latency: int, energy: int, row: int) -> int:
    """Plan a request of ``unit`` at ``time``, in its turn among all requests then; its record."""
    record = w[y.O_RECORD]
    tried = 0
    while w[w[y.AT_ARRIVALS] + record * y.ARRIVAL_WIDTH + y.E_KIND] != y.UNUSED:
        record = record + 1 if record + 1 < w[y.K_RECORDS] else 0
        tried += 1
        if tried == w[y.K_RECORDS]:
            w[y.O_STATUS] = y.NO_RECORD
            break
    w[y.O_RECORD] = record + 1 if record + 1 < w[y.K_RECORDS] else 0
    e = w[y.AT_ARRIVALS] + record * y.ARRIVAL_WIDTH
    w[e + y.E_KIND] = kind
    w[e + y.E_UNIT] = unit
    w[e + y.E_CYCLES] = cycles
    w[e + y.E_LATENCY] = latency
    w[e + y.E_ENERGY] = energy
    w[e + y.E_ROW] = row
    schedule(w, time, w[y.K_CONTEXTS] + record)
    return e


@jit
def grant(w: Memory, unit: int, time: int, cycles: int) -> int:
    """Reserve a shared unit for ``cycles`` from ``time`` on, when it is free; the first cycle."""
    start = max(time, w[unit + y.FREE_AT])
    if w[y.K_APART] == 0:
        w[unit + y.FREE_AT] = start + cycles
    w[unit + y.BUSY] += cycles
    return start


@jit
def spend(w: Memory, start: int, cycles: int, energy: int) -> None:
    """Spread ``energy`` evenly over ``cycles`` from ``start`` on; what does not divide goes last.

    A run that the bins do not reach doubles their width until it fits.
    """
    bins = w[y.AT_BINS]
    while start + cycles > w[y.O_LIMIT]:
        half = w[y.K_BINS] // 2
        for at in range(half):
            w[bins + at] = w[bins + 2 * at] + w[bins + 2 * at + 1]
        for at in range(half, w[y.K_BINS]):
            w[bins + at] = 0
        w[y.O_WINDOW] *= 2
        w[y.O_LIMIT] *= 2
    window = w[y.O_WINDOW]
    at = start // window
    border = (at + 1) * window
    last = start + cycles
    if last > border:
        each = energy // cycles
        while last > border:
            part = each * (border - start)
            w[bins + at] += part
            energy -= part
            start = border
            at += 1
            border += window
    w[bins + at] += energy


@jit
def finished(w: Memory, time: int) -> None:
    """Something lasts until ``time``: the run does too."""
    w[y.O_END] = max(w[y.O_END], time)


@jit
def note(w: Memory, unit: int, start: int, cycles: int, row: int, number: int) -> None:
    """Keep a slice of the trace while there is room; slices without room are counted."""
    if w[y.K_TRACE] == 0:
        return
    if w[y.O_TRACED] < w[y.K_TRACE]:
        at = w[y.AT_TRACE] + w[y.O_TRACED] * y.TRACE_WIDTH
        w[at + y.X_UNIT] = unit
        w[at + y.X_START] = start
        w[at + y.X_CYCLES] = cycles
        w[at + y.X_ROW] = row
        w[at + y.X_CONTEXT] = number
    w[y.O_TRACED] += 1


@jit
def record(w: Memory, row: int, number: int, start: int, a: int, b: int, c: int) -> None:
    """Keep an issue, or a target of one, while there is room; those without room are counted."""
    if w[y.K_ISSUES] == 0:
        return
    if w[y.O_ISSUES] < w[y.K_ISSUES]:
        at = w[y.AT_ISSUES] + w[y.O_ISSUES] * y.ISSUE_WIDTH
        w[at + y.I_ROW] = row
        w[at + y.I_CONTEXT] = number
        w[at + y.I_START] = start
        w[at + y.I_A] = a
        w[at + y.I_B] = b
        w[at + y.I_C] = c
    w[y.O_ISSUES] += 1


@jit
def source(w: Memory, ctx: int, row: int) -> int:
    """The first slot of an instruction's source, 0 if it has none or it is a ring."""
    mode = w[row + y.A_MODE]
    if mode == y.FIXED:
        return w[row + y.A_X]
    return slot_of(w, ctx, w[row + y.A_X], row + y.A_COLD, 0) if mode == y.GENERAL else 0
