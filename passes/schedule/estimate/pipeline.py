"""When every row of one image is sent: the pipeline of all stages as a recurrence over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cimc.passes.schedule.estimate.nodes import ISSUE, Edge, Timing, sending
from cimc.passes.schedule.estimate.recurrence import EDGE, NODE, rows_through

BARRIER = 3
"""Cycles from the end of a phase to the begin of the next: a signal, the barrier, a signal."""

AHEAD = 3
"""Rows by which contexts of a stage may be ahead of each other: their rings hold a window and two advances more."""

Cycles = npt.NDArray[np.int64]

_BEGIN = NODE.index("begin")


@dataclass(frozen=True)
class Rows:
    """Cycles at which the pieces of a node's rows are sent, row by row, and at which those of its sources are there for
    them."""

    sent: Cycles
    ready: Cycles


@dataclass(frozen=True)
class Handoff:
    """What a phase leaves for the writes of the next one; cycles before its end."""

    port: int
    """In which the global buffer's port had nothing to carry: neither its own weights nor rows of other phases."""
    first: int
    """Since when the first of its contexts is done."""
    crossbars: int
    """Left free all along."""

    def lead(self, nodes: Sequence[Timing]) -> int:
        """Cycles before the phase of ``nodes`` begins in which its weights begin to leave the global buffer.

        Those for free crossbars follow the weights of the phase before; the others as its contexts come to their end,
        the last one's behind the phase (``passes/lower/write_order.py``).
        """
        used = sum(_crossbars(node) for node in nodes)
        load = sum(node.load for node in nodes)
        if not load or not used:
            return 0
        beside = min(1.0, self.crossbars / used)
        ended = load - self.port
        if beside < 1:
            last = max(node.load / max(1, _crossbars(node)) for node in nodes)
            ended = max(ended, (1 - beside) * load - self.first, last)
        return max(0, round(load + BARRIER - ended))


def _crossbars(node: Timing) -> int:
    """Of the contexts whose weights do not stay."""
    if node.arrays is None:
        return 0
    return max(0, node.arrays.tiles * node.copies * node.columns - node.staying)


def latency(nodes: Sequence[Timing]) -> int:
    """Cycles of one image that runs alone."""
    return max((int(r.sent[-1]) for r in pipeline(nodes)), default=0)


def pipeline(nodes: Sequence[Timing]) -> list[Rows]:
    """Rows of every node of one image, with rings that always have room.

    A context sends its piece j at ``F_j = max(F_{j-1} + t_j, b_j)``, where t_j is what the piece takes and b_j when its
    rows are there plus its own work. With d copies that is d recurrences (``recurrence.py``).
    """
    done: dict[int, Rows] = {}
    begin = lead = 0
    left: Handoff | None = None
    phases: dict[int, list[int]] = {}
    for number, node in enumerate(nodes):
        phases.setdefault(node.phase, []).append(number)
    last_use, staying = last_uses(nodes), sum(node.staying for node in nodes)
    for phase, members in sorted(phases.items()):
        if left is not None:
            lead = left.lead([nodes[number] for number in members])
        here = _phase(nodes, members, begin, lead, rewrites=len(phases) > 1)
        moved = carried(nodes, members, [n for n in members if nodes[last_use[n]].phase > phase])
        left = _handoff(nodes, here, begin, lead, moved, staying)
        done |= here
        loads = sum(nodes[number].load for number in members)
        ended = max(int(rows.sent[-1]) for rows in here.values())
        begin = BARRIER + max(ended, begin - lead + loads + moved)
    return [done[number] for number in range(len(nodes))]


def last_uses(nodes: Sequence[Timing]) -> list[int]:
    """The last node that takes rows of each node; itself without any."""
    found = list(range(len(nodes)))
    for number, node in enumerate(nodes):
        for edge in node.edges:
            found[edge.source] = max(found[edge.source], number)
    return found


def carried(nodes: Sequence[Timing], members: Sequence[int], kept: Sequence[int]) -> int:
    """Cycles of the global buffer's port for rows that a phase of ``members`` gets from phases before it, and for those
    of the ``kept`` members that wait for later ones: these arrive, and are copied into the frame that waits."""
    inside = set(members)
    fetched = {edge.source for n in members for edge in nodes[n].edges} - inside
    return sum(nodes[n].rows * nodes[n].parts for n in fetched) + sum(
        2 * nodes[n].rows * nodes[n].parts for n in kept
    )


def span(nodes: Sequence[Timing], members: Sequence[int], *, rewrites: bool) -> int:
    """Cycles in which the nodes numbered ``members``, in order, make the rows of one image.

    Rows of other nodes are there when they begin; ``rewrites``: their weights are written first.
    """
    return Flow(nodes, members).span(rewrites=rewrites)


def rows_of(nodes: Sequence[Timing], members: Sequence[int]) -> dict[int, Rows]:
    """Rows of one image of the nodes numbered ``members``, their weights in the arrays."""
    return _phase(nodes, members, 0, 0, rewrites=False)


def phase_span(
    nodes: Sequence[Timing], members: Sequence[int], before: Handoff | None, moved: int, staying: int
) -> tuple[int, int, Handoff]:
    """Cycles of a phase of ``members`` behind one that leaves ``before``, the lead of its writes, what it leaves.

    ``moved``: cycles of the port for rows of other phases (:func:`carried`). ``staying``: crossbars of all nodes whose
    weights stay.
    """
    lead = before.lead([nodes[number] for number in members]) if before is not None else 0
    done = _phase(nodes, members, 0, lead, rewrites=True)
    return (
        max(int(rows.sent[-1]) for rows in done.values()),
        lead,
        _handoff(nodes, done, 0, lead, moved, staying),
    )


def _handoff(
    nodes: Sequence[Timing], done: Mapping[int, Rows], begin: int, lead: int, moved: int, staying: int
) -> Handoff:
    end = max(int(rows.sent[-1]) for rows in done.values())
    loaded = begin - lead + sum(nodes[number].load for number in done)
    used = sum(_crossbars(nodes[number]) for number in done)
    first = end
    supply = 0
    for number, rows in done.items():
        arrays = nodes[number].arrays
        if arrays is None or not nodes[number].load:
            continue
        # Contexts of a stage that are written one after the other end so, as far as their rings take rows ahead.
        node = nodes[number]
        spread = node.load * (1 - 1 / max(1, _crossbars(node)))
        ahead = spread if node.rows <= AHEAD else AHEAD * node.turn
        first = min(first, int(rows.sent[-1] - min(spread, ahead)))
        supply = arrays.units.crossbars
    supply -= staying
    port = max(0, end - max(loaded, begin) - moved)
    return Handoff(port, end - first, supply - used if used else 0)


def _phase(
    nodes: Sequence[Timing], members: Sequence[int], begin: int, lead: int, *, rewrites: bool
) -> dict[int, Rows]:
    return Flow(nodes, members).rows(begin, lead, rewrites=rewrites)


class Flow:
    """The nodes of a phase as tables of the compiled recurrence; a search changes some of them at a time."""

    def __init__(self, nodes: Sequence[Timing], members: Sequence[int]):
        """``members``: numbers of the phase's nodes, in order; rows of others are there when it begins."""
        self._nodes, self._members = list(nodes), members
        self._place = {number: at for at, number in enumerate(members)}
        self._given = [(edge, number) for number in members for edge in nodes[number].edges]
        self._touching: dict[int, list[tuple[int, Edge, int]]] = {}
        for index, (edge, number) in enumerate(self._given):
            for end in (number, edge.source):
                self._touching.setdefault(end, []).append((index, edge, number))
        self._lay_out()

    def _lay_out(self) -> None:
        """Tables with room for the most pieces that a node has now."""
        nodes, members = self._nodes, self._members
        self._most = max((len(nodes[number].steps) for number in members), default=1)
        sends = sending(nodes, members)
        self._table = np.array([self._line(nodes[number]) for number in members], np.int64)
        self._steps = np.array([self._padded(number, sends[number]) for number in members], np.int64)
        edges, needs = (
            [self._edge(edge) for edge, _ in self._given],
            [self._needs(*one) for one in self._given],
        )
        self._edges = np.array(edges, np.int64).reshape(-1, len(EDGE))
        self._last = np.array(needs, np.int64).reshape(-1, self._most)

    def put(self, number: int, node: Timing) -> None:
        """Change the costs of a node of the phase."""
        if node is self._nodes[number]:
            return
        self._nodes[number] = node
        if len(node.steps) > self._most:
            self._lay_out()
            return
        self._table[self._place[number]] = self._line(node)
        for index, edge, taker in self._touching.get(number, ()):
            self._edges[index], self._last[index] = self._edge(edge), self._needs(edge, taker)
        # What its sources send, and in how many parts, depends on it.
        senders = [n for n in {number, *(edge.source for edge in node.edges)} if n in self._place]
        takers = (taker for n in senders for _, _, taker in self._touching.get(n, ()))
        sends = sending(self._nodes, list(dict.fromkeys((*senders, *takers))))
        for n in senders:
            self._steps[self._place[n]] = self._padded(n, sends[n])

    def span(self, *, rewrites: bool) -> int:
        """Cycles in which the nodes make the rows of one image; ``rewrites``: their weights are written first."""
        sent, _, ends = self._run(0, 0, rewrites=rewrites)
        return int(sent[ends - 1].max())

    def rows(self, begin: int, lead: int, *, rewrites: bool) -> dict[int, Rows]:
        """Rows of one image; ``lead``: cycles before ``begin`` in which weights begin to leave the global buffer."""
        sent, ready, ends = self._run(begin, lead, rewrites=rewrites)
        bounds = zip(self._members, [0, *ends.tolist()], ends.tolist(), strict=False)
        return {number: Rows(sent[first:end], ready[first:end]) for number, first, end in bounds}

    def _run(self, begin: int, lead: int, *, rewrites: bool) -> tuple[Cycles, Cycles, Cycles]:
        """The rows of all nodes behind each other, and where each node's end."""
        self._table[:, _BEGIN] = begin
        loaded = begin - lead
        for at, number in enumerate(self._members if rewrites else ()):
            node = self._nodes[number]
            if node.load:
                loaded += node.load
                self._table[at, _BEGIN] = max(begin, loaded + node.write)
        sent, ready = rows_through(self._table, self._edges, self._last, self._steps, begin, ISSUE)
        return sent, ready, np.cumsum(self._table[:, 0] * self._table[:, 1])

    def _line(self, node: Timing) -> tuple[int, ...]:
        return node.rows, len(node.steps), node.copies, node.between, node.wait, 0, len(node.edges)

    def _padded(self, number: int, sends: int) -> list[tuple[int, int]]:
        """The cycles of a node's pieces, ``sends`` of them for its multicasts beyond the first."""
        steps = [(head, tail + sends) for head, tail in self._nodes[number].steps]
        return steps + [(0, 0)] * (self._most - len(steps))

    def _edge(self, edge: Edge) -> tuple[int, ...]:
        source, at = self._nodes[edge.source], self._place.get(edge.source, -1)
        pieces = len(source.steps)
        # Rows of an earlier phase are sent again when this one begins.
        delay = edge.delay // (source.columns * pieces) if at >= 0 else edge.delay
        gather = -1 if edge.gather is None else edge.gather
        geometry = source.rows, pieces, edge.kernel, edge.stride, edge.pad
        return at, *geometry, gather, edge.side, delay, source.row

    def _needs(self, edge: Edge, number: int) -> tuple[int, ...]:
        """The last piece of the source's row that each piece of a node's waits for."""
        source = self._nodes[edge.source]
        if len(source.steps) == 1:
            return (0,) * self._most
        found = edge.pieces(source, self._nodes[number])
        return found + (0,) * (self._most - len(found))
