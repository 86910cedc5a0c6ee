"""The compiled part of the engine: control flow of all contexts and rows between rings.

Contexts run until they halt, block, or come to a row whose values numpy computes; that row becomes a request
with its addresses. Whatever breaks a rule is left untouched and named to the caller, whose Python form of
the same row (``moves.py``, ``memory.py``) says what is wrong. All state lies in the tables of ``layout.py``.
"""

from __future__ import annotations

from numba import njit

from cimc.runtime.functional import layout as y
from cimc.runtime.functional.layout import Array, Bytes, Int
from cimc.runtime.functional.transfers import readable

REFUSED, WAITS, DONE = -1, 0, 1


@njit(cache=True)
def wake(contexts: Int, ready: Int, head: Int, first: int) -> None:
    """Put a wait list back among the ready contexts."""
    c = first
    while c >= 0:
        following = contexts[c, y.LINK]
        enqueue(contexts, ready, head, c)
        c = following


@njit(cache=True)
def enqueue(contexts: Int, ready: Int, head: Int, c: int) -> None:
    """Context ``c`` can go on."""
    contexts[c, y.STATE] = y.READY
    ready[(head[y.H_READY_AT] + head[y.H_READY]) % len(ready)] = c
    head[y.H_READY] += 1


@njit(cache=True)
def enqueue_all(contexts: Int, ready: Int, head: Int, these: Int) -> None:
    """The contexts ``these`` can go on, in this order."""
    for c in these:
        enqueue(contexts, ready, head, c)


@njit(cache=True)
def address(rows: Int, pc: int, base: int, stride: int, table: Int, counters: Int) -> int:
    """``base`` of a row plus what the loop counters add by a stride; loops further inside stand at 0."""
    total = rows[pc, base]
    st = rows[pc, stride]
    if st > 0:
        for level in range(rows[pc, y.LEVEL]):
            total += table[st, level] * counters[level]
    return total


@njit(cache=True)
def receive(buffers: Int, slots: Int, memory: Bytes, ring: int, count: int) -> int:
    """``recv``: take the next places if all are full; rows outside the image are filled here."""
    received, depth = buffers[ring, y.RECEIVED], buffers[ring, y.SLOTS]
    end = received + count
    if end > buffers[ring, y.FREED] + depth:
        return REFUSED
    first, places, top = buffers[ring, y.FIRST_SLOT], buffers[ring, y.PLACES], buffers[ring, y.TOP]
    below = places - buffers[ring, y.BOTTOM]
    for place in range(received, end):
        local = place % places
        if top <= local < below and slots[first + place % depth, y.FILLED] < buffers[ring, y.FILL]:
            return WAITS
    for place in range(received, end):
        local = place % places
        if not top <= local < below:
            item, pitch = buffers[ring, y.ITEM], buffers[ring, y.PITCH]
            at = buffers[ring, y.DATA] + place % depth * pitch * item
            for x in range(pitch * item):
                memory[at + x] = (buffers[ring, y.PAD] >> (8 * (x % item))) & 255
    buffers[ring, y.RECEIVED] = end
    buffers[ring, y.MOST] = max(buffers[ring, y.MOST], end - buffers[ring, y.FREED])
    return DONE


@njit(cache=True)
def place_of(buffers: Int, ring: int, number: int) -> int:
    """Place within its image of row ``number``, -1 if the ring does not want it."""
    if number < buffers[ring, y.FIRST] or number > buffers[ring, y.LAST]:
        return -1
    distance = number - buffers[ring, y.FIRST]
    turn = distance // buffers[ring, y.PERIOD]
    within = distance - turn * buffers[ring, y.PERIOD]
    return turn * buffers[ring, y.ADVANCE] + within if within < buffers[ring, y.ADVANCE] else -1


@njit(cache=True)
def survey(
    buffers: Int, slots: Int, routes: Int, first: int, last: int, number: int, image: int, row: Int
) -> tuple[int, int]:
    """Whether a send may go: (DONE, -1), (WAITS, the ring without room) or (REFUSED, -1)."""
    for entry in range(first, last):
        ring = routes[entry, y.R_RING]
        local = place_of(buffers, ring, number)
        place = image * buffers[ring, y.PLACES] + local
        if local >= 0 and place < buffers[ring, y.RECEIVED]:
            return REFUSED, -1
        if local >= 0 and place >= buffers[ring, y.FREED] + buffers[ring, y.SLOTS]:
            return WAITS, ring
    for entry in range(first, last):
        ring = routes[entry, y.R_RING]
        local = place_of(buffers, ring, number)
        if local < 0:
            continue
        outside = routes[entry, y.R_SRC_POS] + routes[entry, y.R_POSITIONS] > row[y.M]
        outside |= routes[entry, y.R_SRC_CHAN] + routes[entry, y.R_CHANNELS] > row[y.N]
        if outside or buffers[ring, y.ELEMENT] != buffers[row[y.A], y.ELEMENT]:
            return REFUSED, -1
        size = routes[entry, y.R_POSITIONS] * routes[entry, y.R_CHANNELS]
        for other in range(first, entry):  # parts of one send for one place count together
            if routes[other, y.R_RING] == ring:
                size += routes[other, y.R_POSITIONS] * routes[other, y.R_CHANNELS]
        slot = (image * buffers[ring, y.PLACES] + local) % buffers[ring, y.SLOTS]
        if slots[buffers[ring, y.FIRST_SLOT] + slot, y.FILLED] + size > buffers[ring, y.FILL]:
            return REFUSED, -1
    return DONE, -1


@njit(cache=True)
def deliver(
    buffers: Int, slots: Int, memory: Bytes, routes: Int, entry: int, place: int, source: int, n: int
) -> bool:
    """Copy one part of a row into its ring; whether that made the place full."""
    ring = routes[entry, y.R_RING]
    item, channels = buffers[ring, y.ITEM], routes[entry, y.R_CHANNELS]
    slot = place % buffers[ring, y.SLOTS]
    to = buffers[ring, y.DATA] + slot * buffers[ring, y.PITCH] * item
    to += (routes[entry, y.R_DST_POS] * buffers[ring, y.CHANNELS] + routes[entry, y.R_DST_CHAN]) * item
    at = source + (routes[entry, y.R_SRC_POS] * n + routes[entry, y.R_SRC_CHAN]) * item
    runs, length = routes[entry, y.R_POSITIONS], channels * item
    if channels == n and channels == buffers[ring, y.CHANNELS]:
        runs, length = 1, runs * length
    for _ in range(runs):
        for x in range(length):
            memory[to + x] = memory[at + x]
        to += buffers[ring, y.CHANNELS] * item
        at += n * item
    slots[buffers[ring, y.FIRST_SLOT] + slot, y.FILLED] += routes[entry, y.R_POSITIONS] * channels
    return slots[buffers[ring, y.FIRST_SLOT] + slot, y.FILLED] == buffers[ring, y.FILL]


@njit(cache=True)
def request(
    c: int, pc: int, rows: Int, strides: Array, contexts: Int, mine: Int, requests: Int, head: Int
) -> None:
    """Leave a row to Python, with its addresses at the present counters."""
    contexts[c, y.AT], contexts[c, y.STATE] = pc, y.PENDING
    at = requests[head[y.H_REQUESTS]]
    at[y.Q_CONTEXT], at[y.Q_ROW] = c, pc
    for k in range(3):
        base, stride, to = y.A + 4 * k, y.A_ST + 4 * k, y.Q_A_ROW + 2 * k
        at[to] = address(rows, pc, base + 1, stride, strides[:, 0], mine)
        at[to + 1] = address(rows, pc, base + 2, stride, strides[:, 1], mine)
    head[y.H_REQUESTS] += 1


@njit(cache=True)
def control(
    buffers: Int,
    slots: Int,
    memory: Bytes,
    rows: Int,
    strides: Array,
    sets: Int,
    routes: Int,
    events: Int,
    contexts: Int,
    counters: Array,
    ready: Int,
    requests: Int,
    head: Int,
) -> int:
    """Run every ready context until it blocks, halts or makes a request; -1, or one whose row breaks a rule."""
    while head[y.H_READY] > 0:
        c = int(ready[head[y.H_READY_AT]])
        head[y.H_READY_AT] = (head[y.H_READY_AT] + 1) % len(ready)
        head[y.H_READY] -= 1
        pc = contexts[c, y.AT]
        mine = counters[c]
        while True:
            kind = rows[pc, y.KIND]
            following = pc + 1
            if kind == y.END:
                level = rows[pc, y.LEVEL]
                mine[level] += 1
                if mine[level] < rows[pc, y.COUNT]:
                    following = rows[pc, y.FOLLOWING]
                else:
                    mine[level] = 0
            elif kind == y.LOOP:
                if rows[pc, y.COUNT] == 0:
                    following = rows[pc, y.FOLLOWING]
                mine[rows[pc, y.LEVEL]] = 0
            elif kind == y.RECV:
                ring = rows[pc, y.A]
                outcome = receive(buffers, slots, memory, ring, rows[pc, y.N])
                if outcome != DONE:
                    contexts[c, y.AT] = pc
                    if outcome == REFUSED:
                        return c
                    contexts[c, y.STATE] = y.BLOCKED
                    contexts[c, y.LINK] = buffers[ring, y.FOR_ROWS]
                    buffers[ring, y.FOR_ROWS] = c
                    break
            elif kind == y.FREE:
                ring = rows[pc, y.A]
                freed = buffers[ring, y.FREED]
                if rows[pc, y.N] < 0 or freed + rows[pc, y.N] > buffers[ring, y.RECEIVED]:
                    contexts[c, y.AT] = pc
                    return c
                for place in range(freed, freed + rows[pc, y.N]):
                    slots[buffers[ring, y.FIRST_SLOT] + place % buffers[ring, y.SLOTS], y.FILLED] = 0
                buffers[ring, y.FREED] = freed + rows[pc, y.N]
                first = buffers[ring, y.FOR_ROOM]
                buffers[ring, y.FOR_ROOM] = y.NOBODY
                wake(contexts, ready, head, first)
            elif kind == y.SEND:
                number = address(rows, pc, y.B_ROW, y.B_ST, strides[:, 0], mine)
                image = mine[0] if rows[pc, y.LEVEL] > 0 else 0
                first = sets[rows[pc, y.IMM], y.S_FIRST]
                last = first + sets[rows[pc, y.IMM], y.S_COUNT]
                outcome, ring = survey(buffers, slots, routes, first, last, number, image, rows[pc])
                if outcome == WAITS:
                    contexts[c, y.AT], contexts[c, y.STATE] = pc, y.BLOCKED
                    contexts[c, y.LINK] = buffers[ring, y.FOR_ROOM]
                    buffers[ring, y.FOR_ROOM] = c
                    break
                a_row = address(rows, pc, y.A_ROW, y.A_ST, strides[:, 0], mine)
                a_col = address(rows, pc, y.A_COL, y.A_ST, strides[:, 1], mine)
                n, size = rows[pc, y.N], rows[pc, y.N] * rows[pc, y.M]
                source = readable(buffers, slots, rows[pc, y.A], a_row, a_col, size)
                if outcome == REFUSED or source < 0:
                    contexts[c, y.AT] = pc
                    return c
                for entry in range(first, last):
                    ring = routes[entry, y.R_RING]
                    local = place_of(buffers, ring, number)
                    if local < 0:
                        continue
                    place = image * buffers[ring, y.PLACES] + local
                    if deliver(buffers, slots, memory, routes, entry, place, source, n):
                        waiting = buffers[ring, y.FOR_ROWS]
                        buffers[ring, y.FOR_ROWS] = y.NOBODY
                        wake(contexts, ready, head, waiting)
                if rows[pc, y.TAPPED]:
                    request(c, pc, rows, strides, contexts, mine, requests, head)
                    break
            elif kind == y.SIGNAL:
                event = rows[pc, y.IMM]
                events[event, y.E_COUNT] += rows[pc, y.N]
                first = events[event, y.E_WAITING]
                events[event, y.E_WAITING] = y.NOBODY
                wake(contexts, ready, head, first)
            elif kind == y.WAIT:
                event = rows[pc, y.IMM]
                if events[event, y.E_COUNT] < rows[pc, y.N]:
                    contexts[c, y.AT], contexts[c, y.STATE] = pc, y.BLOCKED
                    contexts[c, y.LINK] = events[event, y.E_WAITING]
                    events[event, y.E_WAITING] = c
                    break
                events[event, y.E_COUNT] -= rows[pc, y.N]
            elif kind == y.HALT:
                contexts[c, y.STATE] = y.HALTED
                if contexts[c, y.NEXT] >= 0:
                    enqueue(contexts, ready, head, contexts[c, y.NEXT])
                break
            else:
                request(c, pc, rows, strides, contexts, mine, requests, head)
                break
            rows[pc, y.HITS] += 1
            pc = following
    return -1
