"""Chains of convolutions over one column, as the bound on the latency sees them."""

from __future__ import annotations

from collections.abc import Sequence

from cimc.dialects.cim_types import WindowAttr
from cimc.passes.schedule.copies.latency_bound import Link, Work
from cimc.passes.schedule.copies.receptive import Field, least_users

Chain = Sequence[tuple[int, int, int]]
"""Kernel, crossbars of a copy and cycles of a window of every stage; columns of one pixel, stride 1, padded."""


def works(chain: Chain, rows: int) -> list[Work]:
    """What the bound is told of a chain of convolutions over ``rows`` rows of one column."""
    field = Field.of_input(rows)
    found: list[Work] = []
    for number, (kernel, tiles, window) in enumerate(chain):
        shape = WindowAttr.of((kernel, 1), pads=(kernel // 2, 0, kernel // 2, 0))
        made = field.through(shape, rows)
        assert made is not None
        field = made
        late = {0: rows} | {n + 1: field.late(n) for n in range(rows)}
        links = (Link(number - 1, 1, least_users(shape, (rows, 1), (rows, 1))),) if number else ()
        found.append(Work(((tiles, window),), late, links))
    return found
