"""In how many pieces the stages of a phase compute and send their rows: as many as shorten the latency.

A consumer begins with the first piece of a row, so that a stage holds the last row back by a piece instead of a row
where its windows are points, and by a row and some pieces instead of two rows where they overlap. What a piece costs is
the begin of its functions, a ``recv``, a ``free`` and a ``send``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from cimc.passes.schedule.estimate.flow import Flow
from cimc.passes.schedule.estimate.nodes import Timing, sending

MOST = 16
"""Pieces of a row at most; a program has as many times the sends."""
STAGGERED = 4
"""The same where arrays take turns: every piece waits and signals, 4.7 % of ResNet-50's latency with 16 of them."""
SLACK = {"balanced": 0.1, "throughput": 0.0, "latency": inf, "energy": 0.0}
"""Share of the smallest interval by which pieces may make it longer, by objective; others have whole rows. A tenth is
what the pieces of a row may cost (``MORE``): all stages may have them, the slowest, too."""
MORE = 0.1
"""Share of a row's cycles that its pieces may cost."""
LEAST_GAIN = 1 / 1000
"""Share of the latency that twice the pieces of a stage must save."""
ROUNDS = 2
"""Times that every stage's pieces are tried."""


def in_pieces(node: Timing, pieces: int) -> Timing:
    """The node of a stage with its rows in so many pieces."""
    if len(node.steps) == pieces:
        return node
    if node.arrays is None and node.digital is None:
        return node
    return node.dealt(node.copies * node.columns, pieces)


def useful(node: Timing, most: int, slowest: float = inf) -> Timing:
    """The node with as many pieces, up to ``most``, as cost little and take no more than ``slowest`` cycles an image.

    In whole rows where there are none. Found by bisection: more pieces cost more.
    """
    whole = found = in_pieces(node, 1)
    few, many, pieces = 1, most + 1, most
    while few < pieces:
        tried = in_pieces(node, pieces)
        cheap = len(tried.steps) == pieces and tried.turn <= (1 + MORE) * whole.turn
        if cheap and tried.interval() <= slowest:
            few, found = pieces, tried
        else:
            many = pieces
        pieces = (few + many) // 2
    return found


def shorten(
    nodes: Sequence[Timing], numbers: Mapping[int, int], members: Sequence[int], floor: float
) -> list[Timing]:
    """``nodes`` with rows in pieces where that shortens the latency of the phase of ``members``.

    ``numbers``: the nodes that may have pieces, and how many at most. The interval stays at ``floor``, or where it is
    with whole rows. All stages begin with what is useful: pieces of one alone bring little. Then each is tried with
    half as many, which are taken where that loses little.
    """
    whole = list(nodes)
    for number in numbers:
        whole[number] = in_pieces(nodes[number], 1)
    sends = sending(whole, members)
    slowest = max(floor, *(whole[number].interval(sends[number]) for number in members))
    found = list(whole)
    for number, most in numbers.items():
        found[number] = useful(whole[number], most, slowest)
    _hold(found, numbers, members, slowest)
    flow = Flow(found, members)
    current = flow.span(rewrites=False)
    for _ in range(ROUNDS):
        for number in numbers:
            while len(found[number].steps) > 1:
                fewer = in_pieces(found[number], len(found[number].steps) // 2)
                flow.put(number, fewer)
                reached = flow.span(rewrites=False)
                if reached > current * (1 + LEAST_GAIN):
                    flow.put(number, found[number])
                    break
                found[number], current = fewer, reached
    return found if current < Flow(whole, members).span(rewrites=False) else whole


def _hold(nodes: list[Timing], numbers: Mapping[int, int], members: Sequence[int], slowest: float) -> None:
    """Fewer pieces, in place, for nodes that take longer than ``slowest`` with their sends, and for their consumers."""
    while True:
        sends = sending(nodes, members)
        late = {n for n in members if nodes[n].interval(sends[n]) > slowest}
        takers = {n for n in members if any(edge.source in late for edge in nodes[n].edges)}
        fewer = [n for n in sorted(late | takers) if n in numbers and len(nodes[n].steps) > 1]
        if not fewer:
            return
        for n in fewer:
            nodes[n] = in_pieces(nodes[n], len(nodes[n].steps) - 1)
