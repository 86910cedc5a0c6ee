"""The nodes of a phase, or of all, as tables of the compiled recurrence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cimc.passes.schedule.estimate.nodes import ISSUE, Edge, Timing, arriving_over, extra_sends, sending
from cimc.passes.schedule.estimate.recurrence import (
    EDGE_COLUMNS,
    N_COPIES,
    N_EDGES,
    N_PIECES,
    N_ROWS,
    NODE_COLUMNS,
    intervals,
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
        self._ends = [(edge, number) for number in members for edge in nodes[number].edges]
        self._takers = np.array([self._place[number] for _, number in self._ends], np.int64)
        self._touching: dict[int, list[int]] = {}
        self._leaving: dict[int, list[int]] = {}
        for index, (edge, number) in enumerate(self._ends):
            self._leaving.setdefault(edge.source, []).append(index)
            for end in dict.fromkeys((number, edge.source)):
                self._touching.setdefault(end, []).append(index)
        self._most = 1
        self._lay_out()

    def _lay_out(self) -> None:
        """Tables with room for the most pieces that a node has now, or had before."""
        nodes, members = self._nodes, self._members
        self._most = max([self._most, *(len(nodes[number].steps) for number in members)])
        self._known: dict[tuple[int, int, int], _Link] = {}
        self._sent: dict[tuple[int, int], tuple[Cycles, Timing]] = {}
        """Cycles of a node's pieces with so many sends; the node is held, so that its id stays its own."""
        counts = [len(nodes[number].edges) for number in members]
        table = [
            (*nodes[number].figures, 0, first, count)
            for number, first, count in zip(members, accumulate(counts, initial=0), counts, strict=False)
        ]
        self._table = np.array(table, np.int64)
        self._steps = np.zeros((len(members), self._most, 2), np.int64)
        self._edges = np.zeros((len(self._ends), EDGE_COLUMNS), np.int64)
        self._last = np.zeros((len(self._ends), self._most), np.int64)
        self._parts = [0] * len(self._ends)
        self._entering = np.zeros(len(self._ends), np.int64)
        self._products = np.array([_products(nodes[number]) for number in members], np.int64)
        for index in range(len(self._ends)):
            self._join(index)
        for number in members:
            self._take(number)

    def put(self, number: int, node: Timing) -> None:
        """Change the costs of a node of the phase."""
        if node is self._nodes[number]:
            return
        self._nodes[number] = node
        if len(node.steps) > self._most:
            self._lay_out()
            return
        place = self._place[number]
        self._table[place, : len(node.figures)] = node.figures
        self._products[place] = _products(node)
        for index in self._touching.get(number, ()):
            self._join(index)
        # What its sources send, and in how many parts, depends on it.
        for n in dict.fromkeys((number, *(edge.source for edge in node.edges))):
            if n in self._place:
                self._take(n)

    def _join(self, index: int) -> None:
        """The line of an edge as its ends are."""
        edge, number = self._ends[index]
        source, node = self._nodes[edge.source], self._nodes[number]
        key = index, id(source), id(node)
        if key not in self._known:
            line = np.array(_edge(edge, source, self._place.get(edge.source, -1)), np.int64)
            needs = np.array(_needs(edge, source, node, self._most), np.int64)
            entering = arriving_over(edge, source, node)[1]
            self._known[key] = _Link(line, needs, edge.parts(source, node), entering, (source, node))
        link = self._known[key]
        self._edges[index], self._last[index], self._parts[index] = link.line, link.needs, link.parts
        self._entering[index] = link.entering

    def _take(self, number: int) -> None:
        """The cycles of a node's pieces, with those in which it sends them to more than one set of contexts."""
        node, leaving = self._nodes[number], self._leaving.get(number, ())
        sends = extra_sends(node, [(self._ends[i][0], self._parts[i]) for i in leaving])
        key = id(node), sends
        if key not in self._sent:
            self._sent[key] = np.array(node.steps, np.int64) + np.array((0, sends)), node
        steps, _ = self._sent[key]
        self._steps[self._place[number], : len(steps)] = steps

    def keep(self) -> None:
        """Hold the nodes as they are now, for :meth:`back`."""
        self._kept = list(self._nodes), list(self._parts), self._most, [own.copy() for own in self._tables]

    def back(self) -> None:
        """The nodes as they were held last."""
        nodes, parts, most, tables = self._kept
        self._nodes, self._parts = list(nodes), list(parts)
        if most != self._most:
            self._lay_out()
            self.keep()
            return
        for own, kept in zip(self._tables, tables, strict=True):
            np.copyto(own, kept)

    @property
    def _tables(self) -> tuple[Cycles, ...]:
        return self._table, self._edges, self._last, self._steps, self._entering, self._products

    def span(self, *, rewrites: bool, waits: npt.NDArray[np.float64] | None = None) -> int:
        """Cycles in which the nodes make the rows of one image; ``rewrites``: their weights are written first.

        ``waits``: cycles of an image by which the products of every node, in order, take longer.
        """
        steps = self._steps
        if waits is not None and waits.any():
            table = self._table
            pieces = -(-table[:, N_ROWS] // table[:, N_COPIES]) * table[:, N_PIECES]
            steps = steps.copy()
            steps[:, :, 0] += np.rint(waits / pieces).astype(np.int64)[:, np.newaxis]
        sent, _, first = self._run(steps, 0, rewrites=rewrites)
        return int(sent[first[1:] - 1].max())

    @property
    def count(self) -> int:
        """Nodes of the phase."""
        return len(self._members)

    def intervals(self) -> Cycles:
        """Cycles between images that the contexts of every node allow."""
        return intervals(self._table, self._steps, ISSUE)

    def ports(self) -> Cycles:
        """Cycles between images at its core's memory for a context of every node: what enters, and the products."""
        return np.bincount(self._takers, self._entering, len(self._members)) + self._products

    @property
    def size(self) -> int:
        """Pieces of all rows."""
        return int((self._table[:, N_ROWS] * self._table[:, N_PIECES]).sum())

    def rows(self) -> dict[int, Rows]:
        """Rows of one image, all weights in the arrays."""
        return dict(zip(self._members, rows_in(*self._run(self._steps, 0, rewrites=False)), strict=True))

    def behind(self, before: Handoff | None, moved: int, staying: int) -> tuple[int, int, Handoff]:
        """Cycles in which the nodes make the rows of one image in a phase behind one that leaves ``before``, the lead
        of its writes, and what it leaves.

        ``moved``: cycles of the port for rows of other phases. ``staying``: crossbars of all nodes whose weights stay.
        """
        lead = lead_of(self._table, *before) if before is not None else 0
        sent, _, first = self._run(self._steps, lead, rewrites=True, opens=before is None)
        last = sent[first[1:] - 1]
        supply = chip_crossbars(self._nodes)
        left = left_by(self._table, last, 0, lead, moved, supply, staying)
        return int(last.max()), lead, Handoff(*left)

    def _run(
        self, steps: Cycles, lead: int, *, rewrites: bool, opens: bool = False
    ) -> tuple[Cycles, Cycles, Cycles]:
        """The rows of all nodes behind each other, and where each node's begin."""
        return phase_through(self._table, self._edges, self._last, steps, lead, rewrites, opens, ISSUE)


def _products(node: Timing) -> int:
    """Cycles of an image that the products of a context keep its core's memory busy."""
    return -(-node.rows // node.copies) * node.port


class _Link(NamedTuple):
    """An edge between two nodes as they are, in lines of the tables."""

    line: Cycles
    needs: Cycles
    parts: int
    entering: int
    """Cycles of an image at the port of a context's memory."""
    ends: tuple[Timing, Timing]
    """Held, so that their ids stay theirs."""


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
    steps = np.array([_steps(node, most) for node in lines], np.int64)[of]
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


def _steps(node: Timing, most: int) -> list[tuple[int, int]]:
    """The cycles of a node's pieces, in room for ``most``."""
    return [*node.steps, *[(0, 0)] * (most - len(node.steps))]


def _needs(edge: Edge, source: Timing, node: Timing, most: int) -> tuple[int, ...]:
    """The last piece of the source's row that each piece of a node's waits for, in room for ``most``."""
    if len(source.steps) == 1:
        return (0,) * most
    found = edge.pieces(source, node)
    return found + (0,) * (most - len(found))
