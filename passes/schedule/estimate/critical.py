"""Which turns of which stages the last row of an image waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cimc.passes.schedule.estimate.flow import Flow, Rows
from cimc.passes.schedule.estimate.nodes import Step, Timing, sending


def critical_turns(nodes: Sequence[Timing], members: Sequence[int]) -> dict[int, float]:
    """Turns of every node on the way of rows that decides when the nodes ``members`` end an image.

    So many cycles later they end if the node's turn takes one more; a piece of a row counts for its share of the turn.

    Walked backwards from the last piece: a piece waits for its context's piece before it, or for the last one of its
    window.
    """
    done, sends = Flow(nodes, members).rows(), sending(nodes, members)
    number = max(done, key=lambda n: int(done[n].sent[-1]))
    at, counts = len(done[number].sent) - 1, dict.fromkeys(done, 0.0)
    while True:
        node, rows = nodes[number], done[number]
        row, piece = divmod(at, len(node.steps))
        head, tail = node.steps[piece]
        step = Step(head, tail + sends[number])
        waits = int(rows.sent[at]) - int(rows.ready[at]) - step.head - step.tail
        before = at - 1 if piece else at - 1 - (node.copies - 1) * len(node.steps)
        if waits > 0 and before >= 0 and rows.sent[at] <= rows.sent[before] + step.turn:
            counts[number] += step.turn / node.turn
            at = before
            continue
        if node.between and at and rows.sent[at] <= rows.sent[at - 1] + node.between:
            at -= 1
            continue
        found = _last_arrival(nodes, done, node, row, piece, waits > 0)
        counts[number] += (not found.side) * step.turn / node.turn
        if found.source is None:
            return counts
        number, at = found.source, found.at


class _Arrival(NamedTuple):
    """The piece that a piece of a node waited for; no source where it waited for none of them."""

    cycle: int
    source: int | None
    at: int
    side: bool


def _last_arrival(
    nodes: Sequence[Timing], done: dict[int, Rows], node: Timing, row: int, piece: int, late: bool
) -> _Arrival:
    """What the piece waited for; ``late``: it was sent later than its products allow, so that a side row decides."""
    found = _Arrival(-1, None, 0, side=False)
    for edge in node.edges:
        if edge.source not in done or (edge.side != late and any(e.side == late for e in node.edges)):
            continue
        source = nodes[edge.source]
        wanted = row if edge.side else row * edge.stride + edge.kernel - 1 - edge.pad
        last = source.rows - 1 if edge.gather is not None else min(max(wanted, 0), source.rows - 1)
        of_row = len(source.steps) - 1 if edge.gather is not None else edge.pieces(source, node)[piece]
        sent = done[edge.source].sent
        at = int(sent[: last * len(source.steps) + of_row + 1].argmax())
        there = int(sent[at]) + edge.after(source)
        found = max(found, _Arrival(there, edge.source, at, edge.side), key=lambda arrival: arrival.cycle)
    return found
