"""When every row of one image is sent: the pipeline of all stages as a recurrence over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cimc.passes.schedule.estimate.nodes import ISSUE, Timing, sending
from cimc.passes.schedule.estimate.recurrence import EDGE, rows_through

BARRIER = 3
"""Cycles from the end of a phase to the begin of the next: a signal, the barrier, a signal."""

AHEAD = 3
"""Rows by which contexts of a stage may be ahead of each other: their rings hold a window and two advances more."""

Cycles = npt.NDArray[np.int64]


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
    """Since when its own weights are through the global buffer."""
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
    return node.arrays.tiles * node.copies * node.columns if node.arrays is not None else 0


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
    phases = sorted({node.phase for node in nodes})
    for phase in phases:
        members = [number for number, node in enumerate(nodes) if node.phase == phase]
        if left is not None:
            lead = left.lead([nodes[number] for number in members])
        here = _phase(nodes, members, begin, lead, rewrites=len(phases) > 1)
        left = _handoff(nodes, here, begin, lead)
        done |= here
        begin = BARRIER + max(int(rows.sent[-1]) for rows in here.values())
    return [done[number] for number in range(len(nodes))]


def span(nodes: Sequence[Timing], members: Sequence[int], *, rewrites: bool) -> int:
    """Cycles in which the nodes numbered ``members``, in order, make the rows of one image.

    Rows of other nodes are there when they begin; ``rewrites``: their weights are written first.
    """
    return max(int(rows.sent[-1]) for rows in _phase(nodes, members, 0, 0, rewrites=rewrites).values())


def rows_of(nodes: Sequence[Timing], members: Sequence[int]) -> dict[int, Rows]:
    """Rows of one image of the nodes numbered ``members``, their weights in the arrays."""
    return _phase(nodes, members, 0, 0, rewrites=False)


def phase_span(
    nodes: Sequence[Timing], members: Sequence[int], before: Handoff | None
) -> tuple[int, int, Handoff]:
    """Cycles of a phase of ``members`` behind one that leaves ``before``, the lead of its writes, what it leaves."""
    lead = before.lead([nodes[number] for number in members]) if before is not None else 0
    done = _phase(nodes, members, 0, lead, rewrites=True)
    return max(int(rows.sent[-1]) for rows in done.values()), lead, _handoff(nodes, done, 0, lead)


def _handoff(nodes: Sequence[Timing], done: Mapping[int, Rows], begin: int, lead: int) -> Handoff:
    end = max(int(rows.sent[-1]) for rows in done.values())
    loaded = begin - lead + sum(nodes[number].load for number in done)
    used = sum(_crossbars(nodes[number]) for number in done)
    first = end
    supply = 0
    for number, rows in done.items():
        arrays = nodes[number].arrays
        if arrays is None:
            continue
        # Contexts of a stage that are written one after the other end so, as far as their rings take rows ahead.
        node = nodes[number]
        spread = node.load * (1 - 1 / max(1, _crossbars(node)))
        ahead = spread if node.rows <= AHEAD else AHEAD * node.turn
        first = min(first, int(rows.sent[-1] - min(spread, ahead)))
        supply = arrays.units.crossbars
    return Handoff(end - max(loaded, begin), end - first, supply - used if used else 0)


def _phase(
    nodes: Sequence[Timing], members: Sequence[int], begin: int, lead: int, *, rewrites: bool
) -> dict[int, Rows]:
    """``lead``: cycles before ``begin`` in which weights begin to leave the global buffer."""
    place = {number: at for at, number in enumerate(members)}
    table: list[tuple[int, ...]] = []
    edges: list[tuple[int, ...]] = []
    needs = [0] * max((len(nodes[number].steps) for number in members), default=0)
    loaded = begin - lead
    for number in members:
        node = nodes[number]
        programmed = begin
        if rewrites and node.arrays is not None:
            loaded += node.load
            programmed = max(begin, loaded + node.write)
        pieces = len(node.steps)
        table.append((node.rows, pieces, node.copies, node.between, node.wait, programmed, len(node.edges)))
        for edge in node.edges:
            source = nodes[edge.source]
            of_row, at = len(source.steps), place.get(edge.source, -1)
            # Rows of an earlier phase are sent again when this one begins.
            delay = edge.delay // (source.columns * of_row) if at >= 0 else begin + edge.delay
            need = 0
            if of_row > 1:
                need = len(needs)
                needs += edge.pieces(source, node)
            gather = -1 if edge.gather is None else edge.gather
            geometry = source.rows, of_row, edge.kernel, edge.stride, edge.pad
            edges.append((at, *geometry, gather, edge.side, delay, source.row, need))
    sends = sending(nodes, members)
    steps = [(head, tail + sends[n]) for n in members for head, tail in nodes[n].steps]
    sent, ready = rows_through(
        np.array(table, np.int64),
        np.array(edges, np.int64).reshape(-1, len(EDGE)),
        np.array(needs, np.int64),
        np.array(steps, np.int64),
        ISSUE,
    )
    ends = np.cumsum([rows * pieces for rows, pieces, *_ in table]).tolist()
    return {
        number: Rows(sent[first:end], ready[first:end])
        for number, first, end in zip(members, [0, *ends], ends, strict=False)
    }
