"""How far parts of rows travel in the mesh, once the contexts of all stages lie on cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.dialects.cim import StageOp
from cimc.passes.place.network import COLUMNS
from cimc.passes.schedule.estimate.nodes import Timing
from cimc.passes.schedule.estimate.units import Units

Ints = npt.NDArray[np.int64]
FAR = 1 << 30
"""Beyond every column of a row."""


def placed(nodes: Sequence[Timing], table: Callable[[StageOp], Any], arch: Any) -> list[Timing]:
    """``nodes`` whose edges between stages know how far their contexts are from each other.

    A context waits for the farthest of the parts that its windows need, a row as long as its contexts do in the mean.
    On a bus, in several phases, and as long as a core is not decided, the nodes stay as they are.
    """
    found = list(nodes)
    tables = {n: table(node.op)[:, _USED] for n, node in enumerate(nodes) if isinstance(node.op, StageOp)}
    between = [(n, e) for n in tables for e, edge in enumerate(nodes[n].edges) if edge.source in tables]
    together = all(node.phase == 0 for node in nodes)
    decided = all((own[:, 0] >= 0).all() for own in tables.values())
    if arch.network.kind == "bus" or not (together and decided and between):
        return found
    units = Units(arch)
    edges = {n: list(nodes[n].edges) for n, _ in between}
    for (n, e), hops in zip(between, _hops(nodes, tables, between, arch.network.columns), strict=True):
        edge = nodes[n].edges[e]
        source = nodes[edge.source]
        part = ceil(edge.part / (source.columns * len(source.steps)))
        # The first cycle at the source's port is in its tail.
        arrival = 2 * units.port(part) - 1 + units.hops(hops) + units.link(part)
        edges[n][e] = replace(edge, arrival=arrival)
    for n, own in edges.items():
        found[n] = replace(nodes[n], edges=tuple(own))
    return found


def _hops(
    nodes: Sequence[Timing], tables: Mapping[int, Ints], between: Sequence[tuple[int, int]], columns: int
) -> list[int]:
    """Links from the farthest contexts that each context takes parts from, in the mean of all, for every edge.

    ``tables``: core and positions [p0, p1) of the contexts of every stage, by node. ``between``: node and edge.
    The farthest of many cores is as far as the largest or least of their x + y and x - y.
    """
    counts = [len(own) for own in tables.values()]
    begins = dict(zip(tables, accumulate(counts, initial=0), strict=False))
    core, p0, p1 = np.concatenate(list(tables.values())).T
    x, y = core % columns, core // columns
    corners = np.stack([x + y, -x - y, x - y, y - x])
    # Blocks of rows, stage by stage, with the extremes of the contexts that compute them.
    keys = np.repeat(np.array(list(tables)), counts) * FAR + p0
    order = np.argsort(keys, kind="stable")
    blocks = np.flatnonzero(np.diff(keys[order], prepend=-1))
    extremes = np.maximum.reduceat(corners[[1, 0, 3, 2]][:, order], blocks, axis=1)
    extremes = np.append(extremes, np.zeros((4, 1), np.int64), axis=1)
    keys = keys[order][blocks]

    edges = [nodes[n].edges[e] for n, e in between]
    lengths = [len(tables[n]) for n, _ in between]
    taker = np.concatenate([np.arange(begins[n], begins[n] + len(tables[n])) for n, _ in between])
    windows = [(w.stride, w.pad, w.kernel) if (w := e.across) is not None else (0, 0, FAR - 1) for e in edges]
    stride, pad, kernel = np.repeat(windows, lengths, axis=0).T
    source = np.repeat([edge.source for edge in edges], lengths) * FAR
    low = np.maximum(0, p0[taker] * stride - pad)
    high = np.maximum(low + 1, (p1[taker] - 1) * stride - pad + kernel)
    first = np.searchsorted(keys, source + low, side="right") - 1
    last = np.searchsorted(keys, source + high)
    farthest = np.maximum.reduceat(extremes, np.stack([first, last], axis=1).ravel(), axis=1)[:, ::2]
    hops = (farthest + corners[:, taker]).max(axis=0)
    of = np.repeat(np.arange(len(edges)), lengths)
    return [round(mean) for mean in (np.bincount(of, hops) / lengths).tolist()]


_USED = [COLUMNS.index(name) for name in ("core", "p0", "p1")]
