"""A heap of int64 keys with four children a node, in the kernel's memory.

A key is ``time << ID_BITS | id``: equal times leave in the order of their numbers, so that the order of
events is total and does not depend on how the heap happens to lie.
"""

from __future__ import annotations

from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.compiled import jit
from cimc.runtime.cycle.layout import Memory

EMPTY = (1 << 63) - 1
"""Larger than every key."""


@jit
def key_of(w: Memory, time: int, number: int) -> int:
    """The key of an event; a time that no key holds ends the run as too late."""
    if time < 0 or time > y.LAST_TIME:
        w[y.O_STATUS] = y.TOO_LATE
        return (y.LAST_TIME << y.ID_BITS) | number
    return (time << y.ID_BITS) | number


@jit
def push(w: Memory, key: int) -> None:
    """Add ``key``."""
    heap = w[y.AT_HEAP]
    at = w[y.O_SIZE]
    w[y.O_SIZE] += 1
    while at > 0:
        parent = (at - 1) >> 2
        if w[heap + parent] <= key:
            break
        w[heap + at] = w[heap + parent]
        at = parent
    w[heap + at] = key


@jit
def replace_top(w: Memory, key: int) -> None:
    """Put ``key`` in the place of the smallest key."""
    heap = w[y.AT_HEAP]
    size = w[y.O_SIZE]
    at = 0
    while True:
        child = 4 * at + 1
        if child >= size:
            break
        least = child
        value = w[heap + child]
        for other in range(child + 1, min(child + 4, size)):
            if w[heap + other] < value:
                least = other
                value = w[heap + other]
        if value >= key:
            break
        w[heap + at] = value
        at = least
    w[heap + at] = key


@jit
def pop(w: Memory) -> None:
    """Drop the smallest key."""
    w[y.O_SIZE] -= 1
    if w[y.O_SIZE] > 0:
        replace_top(w, w[w[y.AT_HEAP] + w[y.O_SIZE]])


@jit
def second(w: Memory) -> int:
    """The smallest key behind the top: what the running context at the top must not pass."""
    heap = w[y.AT_HEAP]
    value = EMPTY
    for at in range(1, min(5, w[y.O_SIZE])):
        value = min(value, w[heap + at])
    return value
