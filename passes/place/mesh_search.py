"""Compiled search over placements of blocks on a mesh: bytes x links of XY multicast trees, exactly.

Ends of multicasts are blocks; the last one is the chip, whose node is fixed. ``place[block]`` is its node, ``at[node]``
the block there or -1.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cimc.passes.place.multicasts import Multicasts

Ints = npt.NDArray[np.int64]


@numba.njit(cache=True)
def tree_links(
    source: Any, targets: Ints, place: Ints, columns: int, up: Ints, down: Ints, seen: Ints, mark: int
) -> int:
    """Links of the tree that goes along the source's row of the mesh, then along columns.

    ``up``, ``down``, ``seen``: scratch, one entry a column of the mesh; ``mark`` is new for every call.
    """
    x, y = place[source] % columns, place[source] // columns
    left, right, links = x, x, 0
    for block in targets:
        to_x, to_y = place[block] % columns, place[block] // columns
        if seen[to_x] != mark:
            seen[to_x], up[to_x], down[to_x] = mark, y, y
        if to_x < left:
            left = to_x
        if to_x > right:
            right = to_x
        if to_y < up[to_x]:
            links += up[to_x] - to_y
            up[to_x] = to_y
        if to_y > down[to_x]:
            links += to_y - down[to_x]
            down[to_x] = to_y
    return int(links + right - left)


@numba.njit(cache=True)
def costs_of(casts: Multicasts, place: Ints, columns: int) -> Ints:
    """Load x links of every multicast."""
    source, first, target = casts.source, casts.first, casts.target
    up, down = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
    seen = np.full(columns, -1, np.int64)
    cost = np.zeros(len(source), np.int64)
    for f in range(len(source)):
        links = tree_links(source[f], target[first[f] : first[f + 1]], place, columns, up, down, seen, f)
        cost[f] = links * casts.load[f]
    return cost


@numba.njit(cache=True)
def anneal(casts: Multicasts, start: Ints, nodes: int, columns: int, work: int) -> Ints:
    """The best placement met by simulated annealing over swaps of the contents of two nodes.

    A block goes near another block of one of its multicasts, at a distance that shrinks from 4 to 1 as the search
    cools. ``work``: targets looked at before it ends.
    """
    source, first, target, size = casts.source, casts.first, casts.target, casts.load
    touch_first, touch = casts.touch_first, casts.touch
    np.random.seed(1)  # the same input gives the same places
    blocks = len(start) - 1
    place, best = start.copy(), start.copy()
    at = np.full(nodes, -1, np.int64)
    for block in range(blocks):
        at[place[block]] = block
    up, down = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
    seen = np.full(columns, -1, np.int64)
    cost = costs_of(casts, place, columns)
    total = cost.sum()
    least = total
    changed = np.zeros(len(source), np.int64)
    fresh = np.zeros(len(source), np.int64)
    stamp = np.full(len(source), -1, np.int64)
    heat = total / max(1, blocks)
    done, mark, step = 0, 0, 0
    while done < work:
        step += 1
        done += 8  # a step that looks at no target is not free either
        left = 1.0 - done / work
        a = np.random.randint(blocks)
        if touch_first[a] == touch_first[a + 1]:
            continue
        f = touch[np.random.randint(touch_first[a], touch_first[a + 1])]
        near = source[f] if source[f] != a else target[np.random.randint(first[f], first[f + 1])]
        radius = 1 + int(3 * left)
        x = place[near] % columns + np.random.randint(-radius, radius + 1)
        y = place[near] // columns + np.random.randint(-radius, radius + 1)
        node = y * columns + x
        if x < 0 or x >= columns or y < 0 or node >= nodes or node == place[a]:
            continue
        b, home = at[node], place[a]
        place[a] = node
        if b >= 0:
            place[b] = home
        delta, count = 0, 0
        for one in (a, b):
            if one < 0:
                continue
            for i in range(touch_first[one], touch_first[one + 1]):
                f = touch[i]
                if stamp[f] == step:
                    continue
                stamp[f] = step
                mark += 1
                links = tree_links(
                    source[f], target[first[f] : first[f + 1]], place, columns, up, down, seen, mark
                )
                done += first[f + 1] - first[f]
                changed[count], fresh[count] = f, links * size[f]
                delta += fresh[count] - cost[f]
                count += 1
        warm = heat * left * left * left
        if delta > 0 and (warm <= 0 or np.random.random() >= np.exp(-delta / warm)):
            place[a] = home
            if b >= 0:
                place[b] = node
            continue
        at[node], at[home] = a, b
        total += delta
        for i in range(count):
            cost[changed[i]] = fresh[i]
        if total < least:
            least = total
            best[:] = place
    return best
