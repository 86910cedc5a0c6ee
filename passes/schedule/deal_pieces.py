"""In how many pieces the stages of a phase compute and send their rows: as many as shorten the latency.

A consumer begins with the first piece of a row, so that a stage holds the last row back by a piece instead of a row
where its windows are points, and by a row and some pieces instead of two rows where they overlap. What a piece costs is
the begin of its functions, a ``recv``, a ``free`` and a ``send``.
"""

from __future__ import annotations

from math import inf

from cimc.passes.schedule.estimate.nodes import Timing

MOST = 16
"""Pieces of a row at most; a program has as many times the sends."""
STAGGERED = 4
"""The same where arrays take turns: every piece waits and signals, 4.7 % of ResNet-50's latency with 16 of them."""
MORE = 0.1
"""Share of a row's cycles that its pieces may cost."""


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
