"""``send`` in the kernel: who wants the row, is there room, and the multicast that carries it."""

from __future__ import annotations

from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.compiled import jit
from cimc.runtime.cycle.layout import Memory
from cimc.runtime.cycle.network import route
from cimc.runtime.cycle.steps import fill, finished, grant, note, offset, plan, record, source, spend


@jit
def survey(w: Memory, ctx: int, row: int) -> tuple[int, int]:
    """The targets of a send, left in ``chosen`` as (route, slot, place), and when all have room.

    Returns (targets, cycle); (minus the ring, place) when that ring has no room for that place yet.
    """
    number = w[row + y.ROW] + offset(w, ctx, w[row + y.ROW_ST])
    image = w[ctx + y.C_COUNTERS]
    chosen = w[y.AT_CHOSEN]
    count = 0
    room = 0
    entry = w[row + y.IMM]
    for _ in range(w[row + y.N]):
        ring = w[entry + y.T_RING]
        distance = number - w[ring + y.R_FIRST]
        if distance >= 0 and number <= w[ring + y.R_LAST]:
            turn = distance // w[ring + y.R_PERIOD]
            within = distance - turn * w[ring + y.R_PERIOD]
            if within < w[ring + y.R_ADVANCE]:
                place = image * w[ring + y.R_PLACES] + turn * w[ring + y.R_ADVANCE] + within
                if place >= w[ring + y.FREED_PLACES] + w[ring + y.SLOTS]:
                    return -ring, place
                slot = w[ring + y.SLOT_BASE] + place % w[ring + y.SLOTS] * y.SLOT_WIDTH
                room = max(room, w[slot + y.READ_DONE])
                w[chosen] = entry
                w[chosen + 1] = slot
                w[chosen + 2] = place
                chosen += y.CHOSEN_WIDTH
                count += 1
        entry += y.ROUTE_WIDTH
    return count, room


@jit
def note_occupancy(w: Memory, ring: int, place: int, time: int) -> None:
    """Keep the largest number of places of a ring in use, once ``place`` is taken at ``time``.

    Frees that were already executed but take effect behind ``time`` do not count yet.
    """
    freed = w[ring + y.FREED_PLACES]
    least = max(0, freed - w[ring + y.SLOTS])
    while freed > least:
        slot = w[ring + y.SLOT_BASE] + (freed - 1) % w[ring + y.SLOTS] * y.SLOT_WIDTH
        if w[slot + y.READ_DONE] <= time:
            break
        freed -= 1
    w[ring + y.HIGH] = max(w[ring + y.HIGH], place + 1 - freed)


@jit
def dispatch(w: Memory, ctx: int, row: int, start: int, targets: int) -> int:
    """Reserve port and links of a send that issues at ``start``; when the port is done with it."""
    core = w[row + y.CORE]
    chip = core < 0
    numerator = w[y.K_GLOBAL_NUM] if chip else w[y.K_LOCAL_NUM]
    denominator = w[y.K_GLOBAL_DEN] if chip else w[y.K_LOCAL_DEN]
    energy = 0
    done = start
    chosen = w[y.AT_CHOSEN]
    end = chosen + targets * y.CHOSEN_WIDTH
    while chosen < end:
        group = w[w[chosen] + y.T_GROUP]
        elements = w[w[chosen] + y.T_ELEMENTS]
        size = elements * w[row + y.SIZE]
        cycles = -(-size * denominator // numerator)
        done = grant(w, w[row + y.UNIT], done, cycles) + cycles
        out = done + (w[y.K_GLOBAL_LATENCY] if chip else 0)
        w[row + y.M_SOURCE_CYCLES] += cycles
        w[row + y.M_SOURCE_BYTES] += size
        energy += size * (w[y.K_GLOBAL_ENERGY] if chip else w[y.K_LOCAL_ENERGY])
        w[y.O_MARK] += 1
        while chosen < end and w[w[chosen] + y.T_GROUP] == group:
            ring = w[w[chosen] + y.T_RING]
            note_occupancy(w, ring, w[chosen + 2], start)
            if w[ring + y.R_CORE] == core:
                record(w, -1, -1, start, ring, w[chosen + 2], out)
                fill(w, ring, w[chosen + 1], elements, out)
                finished(w, out)
            else:
                energy += carry(w, core, chosen, elements, size, out, row)
            chosen += y.CHOSEN_WIDTH
    spend(w, start, done - start, energy)
    if w[y.K_ISSUES] > 0:
        record(w, row, w[ctx + y.C_NUMBER], start, done - start, source(w, ctx, row), energy)
    finished(w, done)
    note(w, w[row + y.UNIT], start, done - start, row, w[ctx + y.C_NUMBER])
    return done


@jit
def carry(w: Memory, core: int, chosen: int, elements: int, size: int, head: int, row: int) -> int:
    """One target of a multicast in another core: links now, its port when the part is there; link energy."""
    ring = w[w[chosen] + y.T_RING]
    before = w[row + y.M_HOP_BYTES]
    to = w[ring + y.R_CORE]
    time = route(w, core, to, w[y.O_MARK], head, size, row)
    if to < 0:
        cycles = -(-size * w[y.K_GLOBAL_DEN] // w[y.K_GLOBAL_NUM])
        latency = w[y.K_GLOBAL_LATENCY]
        cost = size * w[y.K_GLOBAL_ENERGY]
        w[row + y.M_GLOBAL_CYCLES] += cycles
        w[row + y.M_GLOBAL_BYTES] += size
    else:
        cycles = -(-size * w[y.K_LOCAL_DEN] // w[y.K_LOCAL_NUM])
        latency = 0
        cost = size * w[y.K_LOCAL_ENERGY]
        w[row + y.M_STORE_CYCLES] += cycles
        w[row + y.M_STORE_BYTES] += size
    e = plan(w, time, y.RING_PART, w[ring + y.R_PORT], cycles, latency, cost, row)
    w[e + y.E_BUFFER] = ring
    w[e + y.E_SLOT] = w[chosen + 1]
    record(w, -1, -1, head, ring, w[chosen + 2], time + cycles + latency)
    w[e + y.E_ELEMENTS] = elements
    return (w[row + y.M_HOP_BYTES] - before) * w[y.K_HOP_ENERGY]
