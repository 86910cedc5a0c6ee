"""When every row of one image is sent: the pipeline of all stages as a recurrence over rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.passes.schedule.estimate.nodes import Edge, Timing

BARRIER = 3
"""Cycles from the end of a phase to the begin of the next: a signal, the barrier, a signal."""

Cycles = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Cycles at which the rows of a node are sent, and at which those of its sources are there for them."""

    sent: Cycles
    ready: Cycles


def latency(nodes: Sequence[Timing]) -> int:
    """Cycles of one image that runs alone."""
    return max((int(r.sent[-1]) for r in pipeline(nodes)), default=0)


def pipeline(nodes: Sequence[Timing]) -> list[Rows]:
    """Rows of every node of one image, with rings that always have room.

    A context sends its row j at ``F_j = max(F_{j-1} + turn, b_j)``, where b_j is when its rows are there plus its own
    work. With d copies that is d recurrences; each unrolls to ``F_j = turn*j + max over i <= j of (b_i - turn*i)``.
    """
    done: dict[int, Rows] = {}
    begin = 0
    for phase in sorted({node.phase for node in nodes}):
        members = [number for number, node in enumerate(nodes) if node.phase == phase]
        done |= _phase(nodes, members, begin, rewrites=any(node.phase for node in nodes))
        begin = BARRIER + max(int(rows.sent[-1]) for rows in done.values())
    return [done[number] for number in range(len(nodes))]


def span(nodes: Sequence[Timing], members: Sequence[int], *, rewrites: bool) -> int:
    """Cycles in which the nodes numbered ``members``, in order, make the rows of one image.

    Rows of other nodes are there when they begin; ``rewrites``: their weights are written first.
    """
    return max(int(rows.sent[-1]) for rows in _phase(nodes, members, 0, rewrites=rewrites).values())


def _phase(nodes: Sequence[Timing], members: Sequence[int], begin: int, *, rewrites: bool) -> dict[int, Rows]:
    done: dict[int, Rows] = {}
    loaded = begin
    for number in members:
        node = nodes[number]
        if rewrites:
            loaded += node.load
        programmed = loaded + node.write if rewrites and node.arrays is not None else begin
        there = [_arrived(nodes[e.source], done.get(e.source), e, begin) for e in node.edges]
        done[number] = _node(node, there, programmed)
    return done


def _arrived(source: Timing, rows: Rows | None, edge: Edge, begin: int) -> Cycles:
    """When the rows of an edge are there; those of an earlier phase are sent again when this one begins."""
    if rows is not None:
        return rows.sent + edge.delay // source.columns
    return begin + edge.delay + source.row * np.arange(1, source.rows + 1)


def _node(node: Timing, arrived: Sequence[Cycles], begin: int) -> Rows:
    start = np.full(node.rows, begin, np.int64)
    side = None
    gathered = 0
    for edge, there in zip(node.edges, arrived, strict=True):
        if edge.gather is not None:
            gathered = max(gathered, int(_paced(there, edge.gather)[-1]) + edge.gather)
        elif edge.side:
            rows = np.maximum.accumulate(there)[: node.rows]
            side = rows if side is None else np.maximum(side, rows)
        else:
            np.maximum(start, _windows(there, edge, node.rows), out=start)
    np.maximum(start, gathered + node.wait, out=start)
    ended = start + (node.head + node.tail)
    if side is not None:
        np.maximum(ended, side + node.tail, out=ended)
    sent = _dealt(ended, node.turn, node.copies)
    if node.between:
        sent = _paced(sent, node.between)
    return Rows(sent, start)


def _windows(there: Cycles, edge: Edge, rows: int) -> Cycles:
    """When the last source row of each row's window is there, and all before it."""
    last = np.arange(rows) * edge.stride + (edge.kernel - 1 - edge.pad)
    return np.maximum.accumulate(there)[np.clip(last, 0, len(there) - 1)]


def _paced(times: Cycles, step: int) -> Cycles:
    """``times`` with at least ``step`` cycles from one to the next."""
    ramp = np.arange(len(times)) * step
    return np.maximum.accumulate(times - ramp) + ramp


def _dealt(ended: Cycles, turn: int, copies: int) -> Cycles:
    """Rows dealt to ``copies`` contexts in turn, each of which takes ``turn`` cycles from one to the next."""
    if copies >= len(ended):
        return ended
    turns = -(-len(ended) // copies)
    padded: Any = np.zeros(turns * copies, np.int64)
    padded[: len(ended)] = ended
    ramp = (np.arange(turns) * turn)[:, None]
    table = np.maximum.accumulate(padded.reshape(turns, copies) - ramp, axis=0) + ramp
    return table.reshape(-1)[: len(ended)]
