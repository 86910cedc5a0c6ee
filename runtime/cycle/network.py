"""Links of the mesh: XY routes that branch into trees, and the one medium of a bus.

A route goes along the row first, then along the column, so the routes of one sender to many targets
form a tree: a link that an earlier target of the same multicast took is not taken again.
"""

from __future__ import annotations

from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.compiled import jit
from cimc.runtime.cycle.layout import Memory

EAST, WEST, SOUTH, NORTH = 0, 1, 2, 3
"""Links that leave node i are 4*i + direction."""


@jit
def take(w: Memory, number: int, mark: int, head: int, cycles: int, row: int, size: int) -> int:
    """Reserve a link for the multicast ``mark``; when its head leaves the link."""
    link = w[y.AT_LINKS] + number * y.LINK_WIDTH
    if w[link + y.MARK] == mark:
        return w[link + y.HEAD]
    start = max(head, w[link + y.FREE_AT])
    if w[y.K_APART] == 0:
        w[link + y.FREE_AT] = start + cycles
    w[link + y.BUSY] += cycles
    w[link + y.MARK] = mark
    w[link + y.HEAD] = start + w[y.K_HOP]
    w[row + y.M_LINK_CYCLES] += cycles
    w[row + y.M_HOP_BYTES] += size
    return start + w[y.K_HOP]


@jit
def route(w: Memory, source: int, target: int, mark: int, head: int, size: int, row: int) -> int:
    """Send ``size`` bytes whose head leaves core ``source`` at ``head``; when the last is at ``target``."""
    cycles = -(-size * w[y.K_LINK_DEN] // w[y.K_LINK_NUM])
    if w[y.K_BUS]:
        return take(w, 0, mark, head, cycles, row, size) + cycles
    columns = w[y.K_COLUMNS]
    at = w[y.K_GLOBAL_NODE] if source < 0 else source
    to = w[y.K_GLOBAL_NODE] if target < 0 else target
    x, end_x = at % columns, to % columns
    while x != end_x:
        step = 1 if x < end_x else -1
        head = take(w, 4 * at + (EAST if step > 0 else WEST), mark, head, cycles, row, size)
        x += step
        at += step
    while at != to:
        down = at < to
        head = take(w, 4 * at + (SOUTH if down else NORTH), mark, head, cycles, row, size)
        at += columns if down else -columns
    return head + cycles
