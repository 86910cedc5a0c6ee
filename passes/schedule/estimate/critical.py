"""Which turns of which stages the last row of an image waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cimc.passes.schedule.estimate.nodes import Timing
from cimc.passes.schedule.estimate.pipeline import Rows, rows_of


def critical_turns(nodes: Sequence[Timing], members: Sequence[int]) -> dict[int, int]:
    """Turns of every node on the way of rows that decides when the nodes ``members`` end an image.

    So many cycles later they end if the node's turn takes one more.

    Walked backwards from the last row: a row waits for its context's row before it, or for the last row of its window.
    """
    done = rows_of(nodes, members)
    number = max(done, key=lambda n: int(done[n].sent[-1]))
    row, counts = nodes[number].rows - 1, dict.fromkeys(done, 0)
    while True:
        node, rows = nodes[number], done[number]
        waits = int(rows.sent[row]) - int(rows.ready[row]) - node.head - node.tail
        before = row - node.copies
        if waits > 0 and before >= 0 and rows.sent[row] <= rows.sent[before] + node.turn:
            counts[number] += 1
            row = before
            continue
        if node.between and row and rows.sent[row] <= rows.sent[row - 1] + node.between:
            row -= 1
            continue
        found = _last_arrival(nodes, done, node, row, waits > 0)
        counts[number] += not found.side
        if found.source is None:
            return counts
        number, row = found.source, found.row


class _Arrival(NamedTuple):
    """The row that a row of a node waited for; no source where it waited for none of them."""

    at: int
    source: int | None
    row: int
    side: bool


def _last_arrival(
    nodes: Sequence[Timing], done: dict[int, Rows], node: Timing, row: int, late: bool
) -> _Arrival:
    """What the row waited for; ``late``: it was sent later than its products allow, so that a side row decides."""
    found = _Arrival(-1, None, 0, side=False)
    for edge in node.edges:
        if edge.source not in done or (edge.side != late and any(e.side == late for e in node.edges)):
            continue
        rows = nodes[edge.source].rows
        wanted = row if edge.side else row * edge.stride + edge.kernel - 1 - edge.pad
        last = rows - 1 if edge.gather is not None else min(max(wanted, 0), rows - 1)
        at = int(done[edge.source].sent[: last + 1].argmax())
        there = int(done[edge.source].sent[at]) + edge.delay // nodes[edge.source].columns
        found = max(found, _Arrival(there, edge.source, at, edge.side), key=lambda arrival: arrival.at)
    return found
