"""Elements into and out of buffers, compiled: windows and rows of many contexts, with the rules of ``memory.py``.

Nothing that breaks a rule is touched: the first request that does is the answer, and its Python form says why.
(numba's cache looks at the file of the cached function: whoever changes what ``kernel.py`` takes from here
removes ``__pycache__``.)
"""

from __future__ import annotations

from numba import njit

from cimc.runtime.functional import layout as y
from cimc.runtime.functional.layout import Array, Bytes, Int


@njit(cache=True)
def slot_of(buffers: Int, b: int, row: int) -> int:
    """The slot of a row, -1 where a ring does not hold it."""
    if not buffers[b, y.RING]:
        return row % buffers[b, y.SLOTS]
    if row < 0 or row >= buffers[b, y.RECEIVED] - buffers[b, y.FREED]:
        return -1
    return (buffers[b, y.FREED] + row) % buffers[b, y.SLOTS]


@njit(cache=True)
def readable(buffers: Int, slots: Int, b: int, row: int, col: int, size: int) -> int:
    """First byte of ``size`` elements at (row, col), -1 unless all were written."""
    slot = slot_of(buffers, b, row)
    if slot < 0:
        return -1
    at = buffers[b, y.FIRST_SLOT] + slot
    if col < slots[at, y.LOW] or col + size > slots[at, y.HIGH]:
        return -1
    return buffers[b, y.DATA] + (slot * buffers[b, y.PITCH] + col) * buffers[b, y.ITEM]


@njit(cache=True)
def writable(buffers: Int, slots: Int, b: int, row: int, col: int, size: int) -> int:
    """First byte of ``size`` elements at (row, col) that are written now, -1 outside the slot."""
    slot = slot_of(buffers, b, row)
    if slot < 0 or col < 0 or col + size > buffers[b, y.PITCH]:
        return -1
    at = buffers[b, y.FIRST_SLOT] + slot
    slots[at, y.LOW] = min(slots[at, y.LOW], col)
    slots[at, y.HIGH] = max(slots[at, y.HIGH], col + size)
    return buffers[b, y.DATA] + (slot * buffers[b, y.PITCH] + col) * buffers[b, y.ITEM]


@njit(cache=True)
def gather_windows(
    buffers: Int, slots: Int, memory: Bytes, rows: Int, requests: Int, shape: Int, patches: Bytes
) -> int:
    """Bytes of the windows at the requests' first sources into ``patches`` (windows * rows * tap row), in turn.

    ``shape``: first and last row of the window, step between rows, taps, step and elements of a tap, step
    between windows. The first request that may not be read, or -1.
    """
    first, last, row_step, kw, col_step, c, step = shape
    reach, start = (kw - 1) * col_step, 0
    for k in range(len(requests)):
        b, count = rows[requests[k, y.Q_ROW], y.A], rows[requests[k, y.Q_ROW], y.COUNT]
        across = (count - 1) * step
        below = min(reach, 0) + min(across, 0)
        size = max(reach, 0) + max(across, 0) + c - below
        row, col = requests[k, y.Q_A_ROW], requests[k, y.Q_A_COL]
        item = buffers[b, y.ITEM]
        runs, length = kw, c * item
        if col_step == c:
            runs, length = 1, kw * length
        window = (last - first) * kw * c * item
        for i in range(first, last):
            source = readable(buffers, slots, b, row + i * row_step, col + below, size)
            if source < 0:
                return k
            to = start + (i - first) * kw * c * item
            for p in range(count):
                at = source + (p * step - below) * item
                for j in range(runs):
                    for x in range(length):
                        patches[to + j * length + x] = memory[at + x]
                    at += col_step * item
                to += window
        start += count * window
    return -1


@njit(cache=True)
def scatter_sums(
    buffers: Int,
    slots: Int,
    memory: Array,
    rows: Int,
    requests: Int,
    sums: Int,
    step: int,
    limit: int,
    add: bool,
) -> int:
    """Sums (windows, columns) to the destinations of the requests in turn, windows ``step`` elements apart.

    ``add``: to what is held. ``memory`` has the elements' type, which holds magnitudes up to ``limit``.
    The first request that may not be written or whose sums do not fit, or -1.
    """
    columns, start = sums.shape[1], 0
    for k in range(len(requests)):
        b, count = rows[requests[k, y.Q_ROW], y.D], rows[requests[k, y.Q_ROW], y.COUNT]
        span = (count - 1) * step + columns
        row, col = requests[k, y.Q_D_ROW], requests[k, y.Q_D_COL]
        if add and readable(buffers, slots, b, row, col, span) < 0:
            return k
        at = writable(buffers, slots, b, row, col, span) // buffers[b, y.ITEM]
        if at < 0:
            return k
        for p in range(count):
            for n in range(columns):
                value = sums[start + p, n]
                if add:
                    value += memory[at + p * step + n]
                if value > limit or value < -limit - 1:
                    return k
                memory[at + p * step + n] = value
        start += count
    return -1


@njit(cache=True)
def transfer(
    buffers: Int, slots: Int, memory: Bytes, rows: Int, requests: Int, operand: int, values: Bytes
) -> int:
    """A source (``A``, ``B``) of each request in turn to ``values``, or from there to ``D``: m x n elements each.

    The first request that may not be read or written, or -1.
    """
    place, start = y.Q_A_ROW + (operand - y.A) // 4 * 2, 0
    for k in range(len(requests)):
        r, row, col = requests[k, y.Q_ROW], requests[k, place], requests[k, place + 1]
        b, size = rows[r, operand], rows[r, y.N] * rows[r, y.M]
        if operand == y.D:
            at = writable(buffers, slots, b, row, col, size)
        else:
            at = readable(buffers, slots, b, row, col, size)
        if at < 0:
            return k
        length = size * buffers[b, y.ITEM]
        for x in range(length):
            if operand == y.D:
                memory[at + x] = values[start + x]
            else:
                values[start + x] = memory[at + x]
        start += length
    return -1
