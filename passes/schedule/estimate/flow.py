"""The nodes of a phase, or of all, as tables of the compiled recurrence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cimc.passes.schedule.estimate.nodes import ISSUE, Edge, Timing, sending
from cimc.passes.schedule.estimate.recurrence import (
    EDGE_COLUMNS,
    N_EDGES,
    NODE_COLUMNS,
    lead_of,
    left_by,
    phase_through,
    phases_through,
)

Cycles = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Cycles at which the pieces of a node's rows are sent, row by row, and at which those of its sources are there for
    them."""

    sent: Cycles
    ready: Cycles


class Handoff(NamedTuple):
    """What a phase leaves for the writes of the next one; cycles before its end."""

    port: int
    """In which the global buffer's port had nothing to carry: neither its own weights nor rows of other phases."""
    first: int
    """Since when the first of its contexts is done."""
    crossbars: int
    """Left free all along."""


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
        counts = [len(nodes[number].edges) for number in members]
        table = [
            (*nodes[number].figures, 0, first, count)
            for number, first, count in zip(members, accumulate(counts, initial=0), counts, strict=False)
        ]
        self._table = np.array(table, np.int64)
        self._steps = np.array([self._padded(number, sends[number]) for number in members], np.int64)
        edges = [self._edge(edge) for edge, _ in self._given]
        needs = [self._needs(edge, number) for edge, number in self._given]
        self._edges = np.array(edges, np.int64).reshape(-1, EDGE_COLUMNS)
        self._last = np.array(needs, np.int64).reshape(-1, self._most)

    def put(self, number: int, node: Timing) -> None:
        """Change the costs of a node of the phase."""
        if node is self._nodes[number]:
            return
        self._nodes[number] = node
        if len(node.steps) > self._most:
            self._lay_out()
            return
        self._table[self._place[number], : len(node.figures)] = node.figures
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
        sent, _, first = self._run(0, rewrites=rewrites)
        return int(sent[first[1:] - 1].max())

    def rows(self) -> dict[int, Rows]:
        """Rows of one image, all weights in the arrays."""
        return dict(zip(self._members, rows_in(*self._run(0, rewrites=False)), strict=True))

    def behind(self, before: Handoff | None, moved: int, staying: int) -> tuple[int, int, Handoff]:
        """Cycles in which the nodes make the rows of one image in a phase behind one that leaves ``before``, the lead
        of its writes, and what it leaves.

        ``moved``: cycles of the port for rows of other phases. ``staying``: crossbars of all nodes whose weights stay.
        """
        lead = lead_of(self._table, *before) if before is not None else 0
        sent, _, first = self._run(lead, rewrites=True, opens=before is None)
        last = sent[first[1:] - 1]
        supply = chip_crossbars(self._nodes)
        left = left_by(self._table, last, 0, lead, moved, supply, staying)
        return int(last.max()), lead, Handoff(*left)

    def _run(self, lead: int, *, rewrites: bool, opens: bool = False) -> tuple[Cycles, Cycles, Cycles]:
        """The rows of all nodes behind each other, and where each node's begin."""
        return phase_through(self._table, self._edges, self._last, self._steps, lead, rewrites, opens, ISSUE)

    def _padded(self, number: int, sends: int) -> list[tuple[int, int]]:
        return _steps(self._nodes[number], sends, self._most)

    def _edge(self, edge: Edge) -> tuple[int, ...]:
        return _edge(edge, self._nodes[edge.source], self._place.get(edge.source, -1))

    def _needs(self, edge: Edge, number: int) -> tuple[int, ...]:
        return _needs(edge, self._nodes[edge.source], self._nodes[number], self._most)


def rows_in(sent: Cycles, ready: Cycles, first: Cycles) -> list[Rows]:
    """The rows of every node; ``first``: where they begin, and the end of all."""
    return [Rows(sent[low:high], ready[low:high]) for low, high in pairwise(first.tolist())]


def chip_crossbars(nodes: Sequence[Timing]) -> int:
    """Crossbars of the chip; 0 for nodes without any."""
    return next((node.arrays.units.crossbars for node in nodes if node.arrays is not None), 0)


def through_phases(
    nodes: Sequence[Timing], phases: Sequence[Sequence[int]], moved: Sequence[int]
) -> tuple[Cycles, Cycles, Cycles]:
    """Rows of all nodes of one image in all ``phases`` behind each other, and where each node's begin: see
    ``recurrence.phases_through``, nodes in the order of ``phases``.

    ``phases``: numbers of their nodes. ``moved``: cycles of the port for rows that each takes from others or leaves.
    """
    members = [number for phase in phases for number in phase]
    place = dict(zip(members, range(len(members)), strict=True))
    most = max(len(node.steps) for node in nodes)
    # Nodes that are equal but for their phase, hundreds of a large operator, share their lines.
    of, lines = _families(nodes[number] for number in members)
    edges: list[tuple[int, ...]] = []
    needs: list[tuple[int, ...]] = []
    table: list[tuple[int, ...]] = []
    for node in lines:
        table.append((*node.figures, 0, len(edges), len(node.edges)))
        own = [_edge(edge, nodes[edge.source], place[edge.source]) for edge in node.edges]
        edges += own[:1]
        edges += ((*line[:-1], line[1:] == before[1:]) for before, line in pairwise(own))
        needs += [_needs(edge, nodes[edge.source], node, most) for edge in node.edges]
    steps = np.array([_steps(node, 0, most) for node in lines], np.int64)[of]
    for phase in phases:
        for number, sent in sending(nodes, phase).items() if len(phase) > 1 else ():
            steps[place[number], : len(nodes[number].steps), 1] += sent
    return phases_through(
        np.array(table, np.int64)[of],
        np.array(edges, np.int64).reshape(-1, EDGE_COLUMNS),
        np.array(needs, np.int64).reshape(-1, most),
        steps,
        np.cumsum([0, *map(len, phases)]),
        np.array(moved, np.int64),
        chip_crossbars(nodes),
        sum(node.staying for node in nodes),
        ISSUE,
    )


def warm_up() -> None:
    """Compile the recurrence, or load it from numba's cache."""
    node, steps, none = (
        np.ones((1, NODE_COLUMNS), np.int64),
        np.zeros((1, 1, 2), np.int64),
        np.zeros((0, 1), np.int64),
    )
    node[:, N_EDGES] = 0
    phases_through(
        node, none.reshape(0, EDGE_COLUMNS), none, steps, np.arange(2), np.zeros(1, np.int64), 0, 0, ISSUE
    )


def _families(nodes: Iterable[Timing]) -> tuple[list[int], list[Timing]]:
    """The family of every node, and one node of each; nodes of a family have the same object as ``figures``."""
    known: dict[int, int] = {}
    found: list[Timing] = []
    of: list[int] = []
    for node in nodes:
        family = known.setdefault(id(node.figures), len(found))
        if family == len(found):
            found.append(node)
        of.append(family)
    return of, found


def _edge(edge: Edge, source: Timing, at: int) -> tuple[int, ...]:
    """The columns of an edge (``recurrence.py``), whose source is number ``at`` in the table."""
    pieces = len(source.steps)
    gather = -1 if edge.gather is None else edge.gather
    geometry = source.rows, pieces, edge.kernel, edge.stride, edge.pad
    # Rows of an earlier phase are sent again, whole, when this one begins.
    return at, *geometry, gather, edge.side, edge.after(source), edge.delay, source.row, 0


def _steps(node: Timing, sends: int, most: int) -> list[tuple[int, int]]:
    """The cycles of a node's pieces, ``sends`` of them for its multicasts beyond the first, in room for ``most``."""
    steps = [(head, tail + sends) for head, tail in node.steps]
    return steps + [(0, 0)] * (most - len(steps))


def _needs(edge: Edge, source: Timing, node: Timing, most: int) -> tuple[int, ...]:
    """The last piece of the source's row that each piece of a node's waits for, in room for ``most``."""
    if len(source.steps) == 1:
        return (0,) * most
    found = edge.pieces(source, node)
    return found + (0,) * (most - len(found))
