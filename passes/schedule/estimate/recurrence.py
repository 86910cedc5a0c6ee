"""Compiled recurrence over the pieces of all rows of a phase (``pipeline.py`` says what it computes).

Tables are rows of integers; nodes are numbered in the order in which rows go through them, and have their edges, their
steps and their pieces' cycles one behind the other.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

NODE = ("rows", "pieces", "copies", "between", "wait", "begin", "edges")
"""Columns of a node: ``begin`` is when its weights are in its arrays, ``edges`` how many it has."""
EDGE = ("source", "rows", "pieces", "kernel", "stride", "pad", "gather", "side", "delay", "again")
"""Columns of an edge.

``source``: the node, or -1 for one of an earlier phase, whose rows come ``again`` cycles after each other; ``rows`` and
``pieces`` are the source's. ``gather`` is -1 where a node starts with its window.
"""


@numba.njit(cache=True)
def rows_through(
    nodes: Ints, edges: Ints, needs: Ints, steps: Ints, begin: int, issue: int
) -> tuple[Ints, Ints]:
    """Cycles at which every piece of every node is sent, and at which its rows are there.

    ``needs``: of every edge the last piece of a source's row that each piece of the node's waits for. ``steps``: of
    every node the cycles of the products of a piece and those behind them; ``issue``: from a send to the next products.
    """
    first = np.zeros(len(nodes) + 1, np.int64)
    first[1:] = np.cumsum(nodes[:, 0] * nodes[:, 1])
    longest = max((nodes[:, 0] * nodes[:, 1]).max(), (edges[:, 1] * edges[:, 2]).max() if len(edges) else 0)
    sent, ready = np.zeros(first[-1], np.int64), np.zeros(first[-1], np.int64)
    there, side = np.zeros(longest, np.int64), np.zeros(longest, np.int64)
    edge = 0
    for n in range(len(nodes)):
        at, end, wait, start = first[n], first[n + 1], nodes[n, 4], max(nodes[n, 4], nodes[n, 5])
        side[:] = 0
        for e in range(edge, edge + nodes[n, 6]):
            _arrive(edges[e], sent, first, begin, there)
            if edges[e, 6] >= 0:
                start = max(start, _gathered(edges[e], there) + wait)
            else:
                _wait(edges[e], needs[e], nodes[n], there, side if edges[e, 7] else ready[at:end])
        ready[at:end] = np.maximum(ready[at:end], start)
        _send(nodes[n], steps[n], issue, ready[at:end], side, sent[at:end])
        edge += nodes[n, 6]
    return sent, ready


@numba.njit(cache=True)
def _arrive(edge: Ints, sent: Ints, first: Ints, begin: int, there: Ints) -> None:
    """When the pieces of an edge's source are there."""
    source, rows, pieces, delay, again = edge[0], edge[1], edge[2], edge[8], edge[9]
    for i in range(rows * pieces):
        there[i] = delay + (sent[first[source] + i] if source >= 0 else begin + again * (i // pieces + 1))


@numba.njit(cache=True)
def _gathered(edge: Ints, there: Ints) -> int:
    """When the last of an edge's rows is collected, one after the other."""
    rows, pieces, step = edge[1], edge[2], edge[6]
    done = there[pieces - 1]
    for row in range(1, rows):
        done = max(done + step, there[row * pieces + pieces - 1])
    return done + step


@numba.njit(cache=True)
def _wait(edge: Ints, needs: Ints, node: Ints, there: Ints, ready: Ints) -> None:
    """Let every piece wait for the last one of its window, or of the row beside it, and all before that."""
    rows, pieces = edge[1], edge[2]
    for i in range(1, rows * pieces):
        there[i] = max(there[i], there[i - 1])
    for row in range(node[0]):
        last = row if edge[7] else row * edge[4] + edge[3] - 1 - edge[5]
        last = min(max(last, 0), rows - 1)
        for piece in range(node[1]):
            i = row * node[1] + piece
            ready[i] = max(ready[i], there[last * pieces + needs[piece]])


@numba.njit(cache=True)
def _send(node: Ints, steps: Ints, issue: int, ready: Ints, side: Ints, sent: Ints) -> None:
    """A context takes its pieces in turn; what enters beside the products costs what is behind them only."""
    rows, pieces, copies, between = node[0], node[1], node[2], node[3]
    for row in range(rows):
        for piece in range(pieces):
            i, head, tail = row * pieces + piece, steps[piece, 0], steps[piece, 1]
            sent[i] = max(ready[i] + head, side[i]) + tail
            before = i - 1 if piece else i - 1 - (copies - 1) * pieces
            if before >= 0:
                sent[i] = max(sent[i], sent[before] + head + tail + issue)
    for i in range(1, rows * pieces if between else 0):
        sent[i] = max(sent[i], sent[i - 1] + between)
