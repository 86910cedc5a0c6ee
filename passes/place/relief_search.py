"""Compiled search that takes load off busy memory ports and links: contexts and cores of a mesh change places.

Ends of multicasts are contexts; the last one is the chip.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from cimc.passes.place.multicasts import Multicasts

Ints = npt.NDArray[np.int64]

EAST, WEST, SOUTH, NORTH = range(4)
"""Links of a node, in the order of ``Loads.links``."""

LENGTH = 0.03
"""Price of a load as large as the pace beside that of its sixth power, which is 1: what is idle stays short."""

NEAR = 4
"""Cores around one that sends or receives its rows in which a context looks for a place."""

DRAWS = 4
"""Contexts of which the one on the busiest core is tried, at most, and places of which the least busy one is."""

IDLE = 8
"""Targets that a try counts for, beside those it looks at."""


class Contexts(NamedTuple):
    """What contexts bring to their core; columns are replaced where two change places."""

    place: Ints
    """Node, the chip's last."""
    slot: Ints
    """First crossbar in the core."""
    xbars: Ints
    size_bytes: Ints
    port_cycles: Ints
    """Cycles of an image on the port of the core's memory."""
    stage: Ints


class Loads(NamedTuple):
    """Cycles of an image on links (4 a node) and ports, and on ports by stage; what they are compared with."""

    links: Ints
    ports: Ints
    bursts: Ints
    pace: float
    """Cycles of an image at the slowest stage."""
    columns: int
    """Of nodes."""
    ends: Ints
    """Scratch of a route: the rows that a multicast reaches in every column."""


class Seats(NamedTuple):
    """The contexts of every core, in any order, the place of each in that list, and the bytes that cores have left."""

    members: Ints
    filled: Ints
    place: Ints
    left_bytes: Ints


@numba.njit(cache=True)
def _price(load: int, pace: float) -> float:
    share = load / pace
    return LENGTH * share + share**6


@numba.njit(cache=True)
def _add(links: Ints, link: int, cycles: int, pace: float) -> float:
    before = _price(links[link], pace)
    links[link] += cycles
    return _price(links[link], pace) - before


@numba.njit(cache=True)
def _carry(casts: Multicasts, f: int, sign: int, place: Ints, loads: Loads) -> float:
    """Put a multicast on the links of its tree (``sign`` 1), or take it off (-1); what the price grows by."""
    columns, ends, cycles = loads.columns, loads.ends, sign * casts.load[f]
    home = int(place[casts.source[f]])
    x, y = home % columns, home // columns
    targets = casts.target[casts.first[f] : casts.first[f + 1]]
    left, right, price = x, x, 0.0
    for context in targets:
        left, right = min(left, place[context] % columns), max(right, place[context] % columns)
    ends[:, left : right + 1] = y
    for context in targets:
        to_x, to_y = place[context] % columns, place[context] // columns
        ends[0, to_x], ends[1, to_x] = min(ends[0, to_x], to_y), max(ends[1, to_x], to_y)
    for column in range(x, right):
        price += _add(loads.links, 4 * (y * columns + column) + EAST, cycles, loads.pace)
    for column in range(x, left, -1):
        price += _add(loads.links, 4 * (y * columns + column) + WEST, cycles, loads.pace)
    for column in range(left, right + 1):
        for row in range(y, ends[1, column]):
            price += _add(loads.links, 4 * (row * columns + column) + SOUTH, cycles, loads.pace)
        for row in range(y, ends[0, column], -1):
            price += _add(loads.links, 4 * (row * columns + column) + NORTH, cycles, loads.pace)
    return price


@numba.njit(cache=True)
def _sit(own: Contexts, c: int, node: int, sign: int, loads: Loads) -> float:
    """Put a context's rows on the port of a core (``sign`` 1), or take them off (-1); what the price grows by."""
    stage, cycles = own.stage[c], sign * own.port_cycles[c]
    before = _price(loads.ports[node], loads.pace) + (loads.bursts[node, stage] / loads.pace) ** 2
    loads.ports[node] += cycles
    loads.bursts[node, stage] += cycles
    return _price(loads.ports[node], loads.pace) + (loads.bursts[node, stage] / loads.pace) ** 2 - before


@numba.njit(cache=True)
def _exchange(
    one: Any,
    other: Any,
    nodes: tuple[int, int],
    stamp: int,
    seen: Ints,
    touched: Ints,
    own: Contexts,
    casts: Multicasts,
    loads: Loads,
) -> tuple[float, int]:
    """Move contexts ``one`` from the first node to the second and ``other`` back; what the price grows by, and the
    targets looked at. ``seen``, ``touched``: scratch, an entry a multicast."""
    price, count, looked = 0.0, 0, 0
    for c in np.concatenate((one, other)):
        for f in casts.touch[casts.touch_first[c] : casts.touch_first[c + 1]]:
            if seen[f] != stamp:
                seen[f] = stamp
                touched[count] = f
                count += 1
                looked += 2 * int(casts.first[f + 1] - casts.first[f])
                price += _carry(casts, f, -1, own.place, loads)
    for c in one:
        own.place[c] = nodes[1]
        price += _sit(own, c, nodes[0], -1, loads) + _sit(own, c, nodes[1], 1, loads)
    for c in other:
        own.place[c] = nodes[0]
        price += _sit(own, c, nodes[1], -1, loads) + _sit(own, c, nodes[0], 1, loads)
    for f in touched[:count]:
        price += _carry(casts, f, 1, own.place, loads)
    return price, looked


@numba.njit(cache=True)
def _candidate(own: Contexts, loads: Loads) -> int:
    """A context, rather one on a busy core."""
    best = np.random.randint(len(own.xbars))
    for _ in range(np.random.randint(DRAWS)):
        c = np.random.randint(len(own.xbars))
        if loads.ports[own.place[c]] > loads.ports[own.place[best]]:
            best = c
    return best


@numba.njit(cache=True)
def _node_like(c: int, kinds: Ints, first: Ints, own: Contexts, loads: Loads) -> int:
    """The core of a context with as many crossbars, rather one that is not busy."""
    begin, end = first[own.xbars[c]], first[own.xbars[c] + 1]
    best = int(own.place[kinds[np.random.randint(begin, end)]])
    for _ in range(np.random.randint(DRAWS)):
        node = int(own.place[kinds[np.random.randint(begin, end)]])
        if loads.ports[node] < loads.ports[best]:
            best = node
    return best


@numba.njit(cache=True)
def _node_near(c: int, own: Contexts, casts: Multicasts, loads: Loads) -> int:
    """A node near one that sends rows to the context or takes some; -1 beside the mesh, and where it has none."""
    begin, end = casts.touch_first[c], casts.touch_first[c + 1]
    if begin == end:
        return -1
    f = casts.touch[np.random.randint(begin, end)]
    near = casts.source[f]
    if near == c:
        near = casts.target[np.random.randint(casts.first[f], casts.first[f + 1])]
    reach = 1 + np.random.randint(NEAR)
    home = int(own.place[near])
    x = home % loads.columns + np.random.randint(-reach, reach + 1)
    y = home // loads.columns + np.random.randint(-reach, reach + 1)
    node = y * loads.columns + x
    return node if 0 <= x < loads.columns and 0 <= y and node < len(loads.ports) else -1


@numba.njit(cache=True)
def _partner(c: int, node: int, own: Contexts, seats: Seats) -> int:
    """A context on ``node`` that can change places with ``c``; -1 without one."""
    count = seats.filled[node]
    begin = np.random.randint(max(1, count))
    for i in range(count):
        other = seats.members[node, (begin + i) % count]
        grow = own.size_bytes[other] - own.size_bytes[c]
        fits = grow <= seats.left_bytes[own.place[c]] and -grow <= seats.left_bytes[node]
        if own.xbars[other] == own.xbars[c] and fits:
            return int(other)
    return -1


@numba.njit(cache=True)
def _seat(own: Contexts, left_bytes: Ints) -> Seats:
    nodes = len(left_bytes)
    count, index = np.zeros(nodes, np.int64), np.zeros(len(own.xbars), np.int64)
    for c in range(len(own.xbars)):
        index[c] = count[own.place[c]]
        count[own.place[c]] += 1
    members = np.full((nodes, max(1, count.max())), -1, np.int64)
    for c in range(len(own.xbars)):
        members[own.place[c], index[c]] = c
    return Seats(members, count, index, left_bytes)


@numba.njit(cache=True)
def _swap_contexts(a: int, b: int, own: Contexts, seats: Seats) -> None:
    """Two contexts that have changed places take each other's seat and crossbars."""
    i, j = seats.place[a], seats.place[b]
    seats.members[own.place[b], i], seats.members[own.place[a], j] = b, a
    seats.place[a], seats.place[b] = j, i
    own.slot[a], own.slot[b] = own.slot[b], own.slot[a]
    grow = own.size_bytes[a] - own.size_bytes[b]
    seats.left_bytes[own.place[a]] -= grow
    seats.left_bytes[own.place[b]] += grow


@numba.njit(cache=True)
def _swap_cores(a: int, b: int, seats: Seats) -> None:
    """All contexts of two cores have changed places."""
    members = seats.members[a].copy()
    seats.members[a], seats.members[b] = seats.members[b], members
    seats.filled[a], seats.filled[b] = seats.filled[b], seats.filled[a]
    seats.left_bytes[a], seats.left_bytes[b] = seats.left_bytes[b], seats.left_bytes[a]


@numba.njit(cache=True)
def relieve(
    casts: Multicasts, own: Contexts, left_bytes: Ints, columns: int, pace: float, work: int
) -> tuple[float, float]:
    """Exchange contexts with as many crossbars, and whole cores, while the price falls; the price before and after.

    ``casts``: loads in cycles of an image. ``left_bytes``: of every core. ``columns``: of nodes. ``pace``: cycles that
    loads are compared with. ``work``: targets looked at before it ends. Changes ``place``, ``slot``, ``left_bytes``.
    """
    np.random.seed(1)  # the same input gives the same places
    nodes = len(left_bytes)
    rows = max(nodes - 1, own.place[-1]) // columns + 1
    loads = Loads(
        np.zeros(4 * rows * columns, np.int64),
        np.zeros(nodes, np.int64),
        np.zeros((nodes, own.stage.max() + 1), np.int64),
        pace,
        columns,
        np.zeros((2, columns), np.int64),
    )
    price = 0.0
    for f in range(len(casts.source)):
        price += _carry(casts, f, 1, own.place, loads)
    for c in range(len(own.xbars)):
        price += _sit(own, c, own.place[c], 1, loads)
    begin, seats = price, _seat(own, left_bytes)
    kinds = np.argsort(own.xbars)
    kind_first = np.searchsorted(own.xbars[kinds], np.arange(own.xbars.max() + 2))
    seen, touched = np.full(len(casts.source), -1, np.int64), np.zeros(len(casts.source), np.int64)
    pair = np.zeros(2, np.int64)
    done, stamp = 0, 0
    while done < work:
        done += IDLE
        a, way = _candidate(own, loads), np.random.randint(3)
        node = _node_like(a, kinds, kind_first, own, loads) if way == 0 else _node_near(a, own, casts, loads)
        home = own.place[a]
        if node in (-1, home):
            continue
        if way == 2:
            one = seats.members[home, : seats.filled[home]]
            other = seats.members[node, : seats.filled[node]]
        else:
            pair[0], pair[1] = a, _partner(a, node, own, seats)
            if pair[1] < 0:
                continue
            one, other = pair[:1], pair[1:]
        stamp += 2
        delta, looked = _exchange(one, other, (home, node), stamp, seen, touched, own, casts, loads)
        done += looked
        if delta >= 0:
            _exchange(one, other, (node, home), stamp + 1, seen, touched, own, casts, loads)
        elif way == 2:
            price += delta
            _swap_cores(home, node, seats)
        else:
            price += delta
            _swap_contexts(pair[0], pair[1], own, seats)
    return begin, price
