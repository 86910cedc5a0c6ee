"""The instructions in the kernel: when each may issue, what it reserves, what it changes.

All take (memory, context, instruction, earliest cycle, limit): the key ``limit`` belongs to the next request
of somebody else, so a request of a shared unit behind it must wait its turn and answers ``-2 - cycle``. They
answer the cycle of the context's next instruction when they issued.
"""

from __future__ import annotations

from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.compiled import jit
from cimc.runtime.cycle.layout import Memory
from cimc.runtime.cycle.network import route
from cimc.runtime.cycle.sends import dispatch, survey
from cimc.runtime.cycle.steps import (
    finished,
    grant,
    note,
    note_read,
    offset,
    park,
    park_on_slot,
    plan,
    ready,
    record,
    source,
    spend,
    target,
    wake_list,
    wake_senders,
)


@jit
def later(w: Memory, ctx: int, request: int, limit: int) -> bool:
    """Whether somebody else's request comes before this one, or the request is behind all time."""
    return request > y.LAST_TIME or ((request << y.ID_BITS) | w[ctx + y.C_NUMBER]) > limit


@jit
def issued(w: Memory, ctx: int, row: int, t: int, operands: int, start: int) -> int:
    """Count the instruction and attribute its wait: operands first, then the unit; the next cycle."""
    w[ctx + y.STALL_OPERAND] += operands - t
    w[ctx + y.STALL_UNIT] += start - operands
    w[row + y.COUNT] += 1
    return start + 1


@jit
def compute(w: Memory, ctx: int, row: int, t: int, limit: int) -> int:
    """``read_*``, ``write_local``, ``alu``, ``copy``: operands, own array set, then port or vector unit in turn."""
    time = ready(w, ctx, row + y.A_MODE, row + y.A_COLD)
    if time < 0:
        return park_on_slot(w, ctx, row, t, -time)
    operands = max(t, time)
    if w[row + y.B_MODE] != y.NOTHING:
        time = ready(w, ctx, row + y.B_MODE, row + y.B_COLD)
        if time < 0:
            return park_on_slot(w, ctx, row, t, -time)
        operands = max(operands, time)
    slot = target(w, ctx, row)
    if slot > 0:
        operands = max(operands, w[slot + y.READ_DONE])
        if w[row + y.ADDS]:
            operands = max(operands, w[slot + y.READY])
    own = w[row + y.SET]
    request = operands if own < 0 else max(operands, w[own + y.FREE_AT])
    if later(w, ctx, request, limit):
        return -2 - request
    cost = row + y.OCCUPANCY
    if w[row + y.VARIANT] >= 0:
        cost = w[row + y.VARIANT] + offset(w, ctx, w[row + y.VARIANT_ST]) * y.VARIANT_WIDTH
        w[cost + y.V_COUNT] += 1
    occupancy, latency, port, energy = w[cost], w[cost + 1], w[cost + 2], w[cost + 3]
    start = grant(w, w[row + y.UNIT], request, port)
    if own >= 0:
        w[own + y.FREE_AT] = start + occupancy
        w[own + y.BUSY] += occupancy
    note_read(w, ctx, row + y.A_MODE, row + y.A_COLD, start + port)
    if w[row + y.B_MODE] != y.NOTHING:
        note_read(w, ctx, row + y.B_MODE, row + y.B_COLD, start + port)
    if slot > 0 and w[row + y.CYCLES2] > 0:
        shift_and_add(w, row, cost, slot, start + latency)
    elif slot > 0:
        w[slot + y.READY] = max(w[slot + y.READY], start + latency)
    note(w, w[row + y.UNIT] if own < 0 else own, start, occupancy, row, w[ctx + y.C_NUMBER])
    spend(w, start, occupancy, energy)
    finished(w, start + max(latency, occupancy))
    if w[y.K_ISSUES] > 0:
        record(w, row, w[ctx + y.C_NUMBER], start, slot, source(w, ctx, row), cost)
    return issued(w, ctx, row, t, operands, start)


@jit
def shift_and_add(w: Memory, row: int, cost: int, slot: int, time: int) -> None:
    """The vector unit adds a read's conversions up, in its turn when the last one is there."""
    cycles, energy = w[row + y.CYCLES2], w[row + y.ENERGY2]
    if w[row + y.VARIANT] >= 0:
        cycles, energy = w[cost + y.V_CYCLES2], w[cost + y.V_ENERGY2]
    w[slot + y.FILLED] += 1
    e = plan(w, time, y.SLOT_STORE, w[row + y.UNIT2], cycles, 0, energy, row)
    w[e + y.E_SLOT] = slot


@jit
def receive(w: Memory, ctx: int, row: int, t: int, limit: int) -> int:
    """``recv``: wait until the next places are full; rows outside the image need only a free slot."""
    if w[y.K_PLAIN] and later(w, ctx, t, limit):
        return -2 - t
    ring = w[row + y.A_X]
    when = t
    for k in range(w[row + y.N]):
        place = w[ring + y.RECEIVED] + k
        if place >= w[ring + y.FREED_PLACES] + w[ring + y.SLOTS]:
            w[y.O_STATUS] = y.BAD_RECV
            w[y.O_RING] = ring
            return y.PARKED
        slot = w[ring + y.SLOT_BASE] + place % w[ring + y.SLOTS] * y.SLOT_WIDTH
        at = (w[ring + y.RECEIVED_AT] + k) % w[ring + y.R_PLACES]
        if at < w[ring + y.R_TOP] or at >= w[ring + y.R_PLACES] - w[ring + y.R_BOTTOM]:
            when = max(when, w[slot + y.READ_DONE])
        elif w[slot + y.FILLED] == w[ring + y.R_FILL]:
            when = max(when, w[slot + y.READY])
        else:
            w[ring + y.CONSUMER] = ctx
            w[ring + y.CONSUMER_SLOT] = slot
            return park(w, ctx, row, t, y.ON_RECV)
    if w[row + y.N] > 0:
        w[ring + y.RECEIVED] += w[row + y.N]
        w[ring + y.RECEIVED_AT] = (w[ring + y.RECEIVED_AT] + w[row + y.N]) % w[ring + y.R_PLACES]
    if when > t:
        w[ctx + y.STALL_RECV] += when - t
        note(w, -1, t, when - t, row, w[ctx + y.C_NUMBER])
    w[row + y.COUNT] += 1
    record(w, row, w[ctx + y.C_NUMBER], when, ring, w[ring + y.RECEIVED], w[row + y.N])
    return when + 1


@jit
def free(w: Memory, ctx: int, row: int, t: int, limit: int) -> int:
    """``free``: in effect at the end of its cycle, and after the reads of the ring that are under way."""
    if w[y.K_PLAIN] and later(w, ctx, t, limit):
        return -2 - t
    ring = w[row + y.A_X]
    when = max(t + 1, w[ring + y.LAST_READ])
    for _ in range(w[row + y.N]):
        slot = w[ring + y.SLOT_BASE] + w[ring + y.FREED_PLACES] % w[ring + y.SLOTS] * y.SLOT_WIDTH
        w[slot + y.READ_DONE] = when
        w[slot + y.READY] = 0
        w[slot + y.FILLED] = 0
        w[ring + y.FREED_PLACES] += 1
    if w[ring + y.ROOM_HEAD] > 0:
        wake_senders(w, ring, when)
    finished(w, when)
    w[row + y.COUNT] += 1
    record(w, row, w[ctx + y.C_NUMBER], t, ring, w[ring + y.FREED_PLACES], w[row + y.N])
    return t + 1


@jit
def send(w: Memory, ctx: int, row: int, t: int, limit: int) -> int:
    """``send``: room at all targets, the row, then the port; links and target ports follow by themselves."""
    targets, room = survey(w, ctx, row)
    if targets < 0:
        ring = -targets
        w[ctx + y.C_NEED] = room
        w[ctx + y.C_LINK] = w[ring + y.ROOM_HEAD]
        w[ring + y.ROOM_HEAD] = ctx
        return park(w, ctx, row, t, y.ON_ROOM)
    time = ready(w, ctx, row + y.A_MODE, row + y.A_COLD)
    if time < 0:
        return park_on_slot(w, ctx, row, t, -time)
    roomy = max(t, room)
    request = max(roomy, time)
    if later(w, ctx, request, limit):
        return -2 - request
    start = request
    if targets > 0:
        start = max(request, w[w[row + y.UNIT] + y.FREE_AT])
        done = dispatch(w, ctx, row, start, targets)
        note_read(w, ctx, row + y.A_MODE, row + y.A_COLD, done)
    w[ctx + y.STALL_ROOM] += roomy - t
    return issued(w, ctx, row, roomy, request, start)


@jit
def load(w: Memory, ctx: int, row: int, t: int, limit: int) -> int:
    """``dma_in``: the host link in its turn; the store by the destination's port when the row is there."""
    slot = target(w, ctx, row)
    operands = max(t, w[slot + y.READ_DONE])
    if later(w, ctx, operands, limit):
        return -2 - operands
    start = grant(w, w[row + y.UNIT], operands, w[row + y.PORT])
    first = w[y.AT_STARTS] + w[ctx + y.C_COUNTERS]
    w[first] = min(w[first], start)
    w[slot + y.FILLED] += 1
    e = plan_second(w, row, start, y.SLOT_STORE)
    w[e + y.E_SLOT] = slot
    leave(w, ctx, row, start)
    return issued(w, ctx, row, t, operands, start)


@jit
def store(w: Memory, ctx: int, row: int, t: int, limit: int) -> int:
    """``dma_out``: the source's port in its turn; the host link when the row has left the memory."""
    time = ready(w, ctx, row + y.A_MODE, row + y.A_COLD)
    if time < 0:
        return park_on_slot(w, ctx, row, t, -time)
    operands = max(t, time)
    if later(w, ctx, operands, limit):
        return -2 - operands
    start = grant(w, w[row + y.UNIT], operands, w[row + y.PORT])
    note_read(w, ctx, row + y.A_MODE, row + y.A_COLD, start + w[row + y.PORT])
    e = plan_second(w, row, start, y.HOST_STORE)
    w[e + y.E_IMAGE] = w[ctx + y.C_COUNTERS]
    leave(w, ctx, row, start)
    return issued(w, ctx, row, t, operands, start)


@jit
def plan_second(w: Memory, row: int, start: int, kind: int) -> int:
    """The second request of a DMA, when the first one's data are through."""
    time, unit, cycles = start + w[row + y.LATENCY], w[row + y.UNIT2], w[row + y.CYCLES2]
    return plan(w, time, kind, unit, cycles, w[row + y.LATENCY2], w[row + y.ENERGY2], row)


@jit
def leave(w: Memory, ctx: int, row: int, start: int) -> None:
    """Energy and trace of an instruction that takes its unit for PORT cycles."""
    note(w, w[row + y.UNIT], start, w[row + y.PORT], row, w[ctx + y.C_NUMBER])
    record(w, row, w[ctx + y.C_NUMBER], start, 0, 0, 0)
    spend(w, start, w[row + y.PORT], w[row + y.ENERGY])
    finished(w, start + w[row + y.PORT])


@jit
def write(w: Memory, ctx: int, row: int, t: int, limit: int) -> int:
    """``write_*``: weights through the global buffer and the network, then all tiles of the set at once."""
    own = w[row + y.SET]
    request = max(t, w[own + y.FREE_AT])
    if later(w, ctx, request, limit):
        return -2 - request
    occupancy, port, energy, size = (
        w[row + y.OCCUPANCY],
        w[row + y.PORT],
        w[row + y.ENERGY],
        w[row + y.SIZE],
    )
    if w[row + y.VARIANT] >= 0:
        cost = w[row + y.VARIANT] + offset(w, ctx, w[row + y.VARIANT_ST]) * y.VARIANT_WIDTH
        occupancy, port = w[cost + y.V_OCCUPANCY], w[cost + y.V_PORT]
        energy, size = w[cost + y.V_ENERGY], w[cost + y.V_SIZE]
        w[cost + y.V_COUNT] += 1
    start = request
    if size > 0:
        start = grant(w, w[row + y.UNIT], request, port)
        w[y.O_MARK] += 1
        before = w[row + y.M_HOP_BYTES]
        head = start + port + w[y.K_GLOBAL_LATENCY]
        arrived = route(w, -1, w[row + y.CORE], w[y.O_MARK], head, size, row)
        energy += (w[row + y.M_HOP_BYTES] - before) * w[y.K_HOP_ENERGY]
        done = arrived + occupancy
        w[own + y.FREE_AT] = done
        w[own + y.BUSY] += occupancy
        w[y.O_WRITTEN] = max(w[y.O_WRITTEN], done)
        note(w, own, arrived, occupancy, row, w[ctx + y.C_NUMBER])
        spend(w, arrived, occupancy, energy)
        finished(w, done)
    return issued(w, ctx, row, t, t, start)


@jit
def signal(w: Memory, ctx: int, row: int, t: int, limit: int) -> int:
    """``signal``: the count is higher from the next cycle on."""
    if later(w, ctx, t, limit):
        return -2 - t
    event = w[row + y.IMM]
    w[event + y.V_SIGNALS] += w[row + y.N]
    w[event + y.V_TIME] = t + 1
    first = w[event + y.V_HEAD]
    w[event + y.V_HEAD] = 0
    wake_list(w, first, t + 1)
    return issued(w, ctx, row, t, t, t)


@jit
def wait(w: Memory, ctx: int, row: int, t: int, limit: int) -> int:
    """``wait``: those who wait for one event ask again at its next signal, by context number."""
    event = w[row + y.IMM]
    request = max(t, w[event + y.V_TIME])
    if later(w, ctx, request, limit):
        return -2 - request
    if w[event + y.V_SIGNALS] < w[row + y.N]:
        w[ctx + y.C_LINK] = w[event + y.V_HEAD]
        w[event + y.V_HEAD] = ctx
        return park(w, ctx, row, t, y.ON_EVENT)
    w[event + y.V_SIGNALS] -= w[row + y.N]
    if request > t:
        w[ctx + y.STALL_EVENT] += request - t
        note(w, -1, t, request - t, row, w[ctx + y.C_NUMBER])
    w[row + y.COUNT] += 1
    return request + 1


@jit
def host(w: Memory, ctx: int, row: int, t: int, limit: int) -> int:
    """``host``: whole buffers ready and writable, then the host, one operator at a time."""
    operator = w[row + y.IMM]
    inputs, outputs, end = w[operator], w[operator + 1], w[operator + 2]
    operands = t
    for at in range(inputs, outputs):
        slot = w[at]
        if w[slot + y.FILLED]:
            return park_on_slot(w, ctx, row, t, slot)
        operands = max(operands, w[slot + y.READY])
    for at in range(outputs, end):
        operands = max(operands, w[w[at] + y.READ_DONE])
    if later(w, ctx, operands, limit):
        return -2 - operands
    start = grant(w, w[row + y.UNIT], operands, w[row + y.PORT])
    done = start + w[row + y.PORT]
    for at in range(inputs, outputs):
        w[w[at] + y.READ_DONE] = max(w[w[at] + y.READ_DONE], done)
    for at in range(outputs, end):
        w[w[at] + y.READY] = max(w[w[at] + y.READY], done)
    leave(w, ctx, row, start)
    return issued(w, ctx, row, t, operands, start)
