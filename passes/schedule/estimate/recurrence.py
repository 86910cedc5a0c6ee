"""Compiled recurrence over the pieces of all rows of a phase, and over all phases (``pipeline.py`` says what it
computes).

Tables are rows of integers; nodes are numbered phase by phase, in the order in which rows go through them.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

(
    N_ROWS,
    N_PIECES,
    N_COPIES,
    N_BETWEEN,
    N_WAIT,
    N_LOAD,
    N_WRITE,
    N_REWRITTEN,
    N_CONTEXTS,
    N_TURN,
    N_BEGIN,
    N_EDGE,
    N_EDGES,
    NODE_COLUMNS,
) = range(14)
"""Columns of a node: the first ones are ``nodes.Timing.figures``.

``REWRITTEN``: crossbars whose weights do not stay, of so many ``CONTEXTS``. ``BEGIN``: when its weights are in its
arrays. ``EDGE``: its first edge, of ``EDGES``; nodes may share them.
"""
(
    E_SOURCE,
    E_ROWS,
    E_PIECES,
    E_KERNEL,
    E_STRIDE,
    E_PAD,
    E_GATHER,
    E_SIDE,
    E_DELAY,
    E_LATE,
    E_AGAIN,
    E_SAME,
    EDGE_COLUMNS,
) = range(13)
"""Columns of an edge.

``SOURCE``: the node, or -1 for one that is not in the table; ``ROWS`` and ``PIECES`` are the source's. Rows of another
phase come ``AGAIN`` cycles after each other, and take ``LATE`` in place of ``DELAY``. ``GATHER`` is -1 where a node
starts with its window. ``SAME``: whether the edge differs from the one before in its source only.
"""

BARRIER = 3
"""Cycles from the end of a phase to the begin of the next: a signal, the barrier, a signal."""

AHEAD = 3
"""Rows by which contexts of a stage may be ahead of each other: their rings hold a window and two advances more."""


@numba.njit(cache=True)
def phase_through(
    nodes: Ints,
    edges: Ints,
    needs: Ints,
    steps: Ints,
    lead: int,
    rewrites: bool,
    opens: bool,
    issue: int,
) -> tuple[Ints, Ints, Ints]:
    """Cycles at which every piece of every node of one phase is sent and its rows are there, and the first row of every
    node, with the number of all.

    ``needs``: of every edge the last piece of a source's row that each piece of the node's waits for. ``steps``: of
    every node the cycles of the products of a piece and those behind them; ``issue``: from a send to the next products.
    ``lead``: cycles before the phase begins in which weights begin to leave the global buffer, where they are written
    (``rewrites``); ``opens``: whether no phase is before it.
    """
    first, sent, ready, room = _space(nodes, edges)
    _load(nodes, 0, len(nodes), 0, lead, rewrites, opens)
    _phase(nodes, edges, needs, steps, 0, len(nodes), 0, issue, first, sent, ready, room)
    return sent, ready, first


@numba.njit(cache=True)
def phases_through(
    nodes: Ints,
    edges: Ints,
    needs: Ints,
    steps: Ints,
    bounds: Ints,
    moved: Ints,
    supply: int,
    staying: int,
    issue: int,
) -> tuple[Ints, Ints, Ints]:
    """:func:`phase_through` of all phases behind each other; ``bounds``: the first node of each, and their number.

    ``moved``: cycles of the global buffer's port for rows that every phase takes from others or leaves for them.
    ``supply``: crossbars of the chip; ``staying``: those whose weights stay.
    """
    first, sent, ready, room = _space(nodes, edges)
    rewrites = len(bounds) > 2
    begin = lead = port = ended = free = 0
    for p in range(len(bounds) - 1):
        low, high = bounds[p], bounds[p + 1]
        if p:
            lead = lead_of(nodes[low:high], port, ended, free)
        _load(nodes, low, high, begin, lead, rewrites, p == 0)
        _phase(nodes, edges, needs, steps, low, high, begin, issue, first, sent, ready, room)
        last = sent[first[low + 1 : high + 1] - 1]
        port, ended, free = left_by(nodes[low:high], last, begin, lead, moved[p], supply, staying)
        begin = BARRIER + max(last.max(), begin - lead + nodes[low:high, N_LOAD].sum() + moved[p])
    return sent, ready, first


@numba.njit(cache=True)
def lead_of(nodes: Ints, port: int, ended: int, free: int) -> int:
    """Cycles before a phase of ``nodes`` begins in which its weights begin to leave the global buffer.

    The others: what the phase before leaves (``flow.Handoff``). Weights for free crossbars follow those of the
    phase before; the others as its contexts come to their end, the last one's behind the phase
    (``passes/lower/write_order.py``).
    """
    used, load = nodes[:, N_REWRITTEN].sum(), nodes[:, N_LOAD].sum()
    if load == 0 or used == 0:
        return 0
    beside = min(1.0, free / used)
    wanted = float(load - port)
    if beside < 1:
        wanted = max(wanted, (1 - beside) * load - ended)
        for n in range(len(nodes)):
            wanted = max(wanted, nodes[n, N_LOAD] / max(1, nodes[n, N_CONTEXTS]))
    return max(0, round(load + BARRIER - wanted))


@numba.njit(cache=True)
def left_by(
    nodes: Ints, last: Ints, begin: int, lead: int, moved: int, supply: int, staying: int
) -> tuple[int, int, int]:
    """What a phase of ``nodes`` leaves, whose last rows are sent at ``last``: the fields of ``flow.Handoff``."""
    end = first = last.max()
    loaded, used, writes = begin - lead, 0, False
    for n in range(len(nodes)):
        load = nodes[n, N_LOAD]
        loaded += load
        used += nodes[n, N_REWRITTEN]
        if load == 0:
            continue
        writes = True
        # Contexts of a stage that are written one after the other end so, as far as their rings take rows ahead.
        spread = load * (1 - 1 / max(1, nodes[n, N_CONTEXTS]))
        ahead = spread if nodes[n, N_ROWS] <= AHEAD else float(AHEAD * nodes[n, N_TURN])
        first = min(first, int(last[n] - min(spread, ahead)))
    port = max(0, end - max(loaded, begin) - moved)
    free = (supply if writes else 0) - staying - used if used else 0
    return port, end - first, free


@numba.njit(cache=True)
def intervals(nodes: Ints, steps: Ints, issue: int) -> Ints:
    """Cycles between images that the contexts of every node allow."""
    found = np.zeros(len(nodes), np.int64)
    for n in range(len(nodes)):
        rows, pieces = nodes[n, N_ROWS], nodes[n, N_PIECES]
        turn = steps[n, :pieces].sum() + issue * pieces
        found[n] = max(-(-rows // nodes[n, N_COPIES]) * turn, nodes[n, N_BETWEEN] * rows)
    return found


@numba.njit(cache=True)
def _space(nodes: Ints, edges: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """The first row of every node; space for all rows, and for those of an edge and beside a node's."""
    first = np.zeros(len(nodes) + 1, np.int64)
    made = nodes[:, N_ROWS] * nodes[:, N_PIECES]
    first[1:] = np.cumsum(made)
    longest = max(made.max(), (edges[:, E_ROWS] * edges[:, E_PIECES]).max() if len(edges) else 0)
    sent, ready = np.zeros(first[-1], np.int64), np.zeros(first[-1], np.int64)
    return first, sent, ready, np.zeros((2, longest), np.int64)


@numba.njit(cache=True)
def _load(nodes: Ints, low: int, high: int, begin: int, lead: int, rewrites: bool, opens: bool) -> None:
    """Weights leave the global buffer node by node; each begins when its own are in the arrays.

    In the phase that ``opens`` a program all writes wait for the port from the beginning, so that what comes from the
    host gets it behind them.
    """
    loaded = begin - lead
    for n in range(low, high):
        nodes[n, N_BEGIN] = begin
        if rewrites and nodes[n, N_LOAD]:
            loaded += nodes[n, N_LOAD]
            nodes[n, N_BEGIN] = max(begin, loaded + nodes[n, N_WRITE])
    for n in range(low, high):
        if opens and rewrites and nodes[n, N_EDGES] == 0:
            nodes[n, N_BEGIN] = loaded


@numba.njit(cache=True)
def _phase(
    nodes: Ints,
    edges: Ints,
    needs: Ints,
    steps: Ints,
    low: int,
    high: int,
    begin: int,
    issue: int,
    first: Ints,
    sent: Ints,
    ready: Ints,
    room: Ints,
) -> None:
    """The rows of the nodes of a phase, whose weights are there when their columns say so."""
    there, side = room[0], room[1]
    for n in range(low, high):
        at, end, wait = first[n], first[n + 1], nodes[n, N_WAIT]
        start = max(wait, nodes[n, N_BEGIN])
        side[: end - at] = 0
        for e in range(nodes[n, N_EDGE], nodes[n, N_EDGE] + nodes[n, N_EDGES]):
            if edges[e, E_SAME] and max(edges[e - 1, E_SOURCE], edges[e, E_SOURCE]) < low:
                continue  # rows of other phases come as those of the edge before
            _arrive(edges[e], sent, first, low, begin, there)
            if edges[e, E_GATHER] >= 0:
                start = max(start, _gathered(edges[e], there) + wait)
            else:
                _wait(edges[e], needs[e], nodes[n], there, side if edges[e, E_SIDE] else ready[at:end])
        ready[at:end] = np.maximum(ready[at:end], start)
        _send(nodes[n], steps[n], issue, ready[at:end], side, sent[at:end])


@numba.njit(cache=True)
def _arrive(edge: Ints, sent: Ints, first: Ints, low: int, begin: int, there: Ints) -> None:
    """When the pieces of an edge's source are there; phases before the one whose first node is ``low`` are over."""
    source, pieces, delay = edge[E_SOURCE], edge[E_PIECES], edge[E_DELAY]
    late, again = edge[E_LATE], edge[E_AGAIN]
    for i in range(edge[E_ROWS] * pieces):
        if source >= low:
            there[i] = delay + sent[first[source] + i]
        else:
            there[i] = late + begin + again * (i // pieces + 1)


@numba.njit(cache=True)
def _gathered(edge: Ints, there: Ints) -> int:
    """When the last of an edge's rows is collected, one after the other."""
    rows, pieces, step = edge[E_ROWS], edge[E_PIECES], edge[E_GATHER]
    done = there[pieces - 1]
    for row in range(1, rows):
        done = max(done + step, there[row * pieces + pieces - 1])
    return done + step


@numba.njit(cache=True)
def _wait(edge: Ints, needs: Ints, node: Ints, there: Ints, ready: Ints) -> None:
    """Let every piece wait for the last one of its window, or of the row beside it, and all before that."""
    rows, pieces = edge[E_ROWS], edge[E_PIECES]
    for i in range(1, rows * pieces):
        there[i] = max(there[i], there[i - 1])
    for row in range(node[N_ROWS]):
        last = row if edge[E_SIDE] else row * edge[E_STRIDE] + edge[E_KERNEL] - 1 - edge[E_PAD]
        last = min(max(last, 0), rows - 1)
        for piece in range(node[N_PIECES]):
            i = row * node[N_PIECES] + piece
            ready[i] = max(ready[i], there[last * pieces + needs[piece]])


@numba.njit(cache=True)
def _send(node: Ints, steps: Ints, issue: int, ready: Ints, side: Ints, sent: Ints) -> None:
    """A context takes its pieces in turn; what enters beside the products costs what is behind them only."""
    rows, pieces, copies, between = node[N_ROWS], node[N_PIECES], node[N_COPIES], node[N_BETWEEN]
    for row in range(rows):
        for piece in range(pieces):
            i, head, tail = row * pieces + piece, steps[piece, 0], steps[piece, 1]
            sent[i] = max(ready[i] + head, side[i]) + tail
            before = i - 1 if piece else i - 1 - (copies - 1) * pieces
            if before >= 0:
                sent[i] = max(sent[i], sent[before] + head + tail + issue)
    for i in range(1, rows * pieces if between else 0):
        sent[i] = max(sent[i], sent[i - 1] + between)
