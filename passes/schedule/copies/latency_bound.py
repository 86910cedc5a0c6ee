"""A lower bound on the latency of one image: late work, on the crossbars that all other stages leave.

However rows enter and windows are ordered, some windows cannot begin before so many rows of the input are in, they come
behind a chain of windows, and the last of them has a chain of windows behind it. A stage must do them in between, so it
needs a number of crossbars; what is left of the chip bounds how quick the chains of all others are. A latency at
which that does not add up is impossible (constraint propagation; the bound is the smallest that is not refuted).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

SHARES = (Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(7, 8))
"""Shares of the input's rows behind which late work is counted, beside the last row."""
ROUNDS = 6
"""Times that what stages need is taken from what the others have; the bound is sound after each."""


@dataclass(frozen=True)
class Link:
    """How the windows of a stage hang together with those of a source."""

    source: int
    """Number of the stage that makes it."""
    needed: int
    """Windows of the source that a late window needs at least, of those that are late in it."""
    users: int
    """Windows that need an element of the source, at the element that the fewest need; 0 where some have none."""
    side: bool = False
    """Whether elements enter behind the products, one for each window."""


@dataclass(frozen=True)
class Work:
    """A stage of the network, in order of computation; one without arrays takes no time."""

    cuts: tuple[tuple[int, int], ...] = ()
    """Crossbars of a copy and cycles of a window, for every cut of its weights."""
    late: Mapping[int, int] = field(default_factory=dict[int, int])
    """Windows that cannot begin before so many rows of the input are in."""
    links: tuple[Link, ...] = ()

    def cycles(self, windows: int, crossbars: int) -> int:
        """The least cycles for some windows on so many crossbars, in one cut."""
        if not self.cuts or not windows:
            return 0
        return min(
            (
                -(-windows // (crossbars // tiles)) * window
                for tiles, window in self.cuts
                if tiles <= crossbars
            ),
            default=_NEVER,
        )

    def crossbars(self, windows: int, cycles: int) -> int:
        """The fewest crossbars on which some windows take no more than ``cycles``; no fewer than one copy."""
        if not self.cuts:
            return 0
        least = min(tiles for tiles, _ in self.cuts)
        ways = (tiles * -(-windows // (cycles // window)) for tiles, window in self.cuts if window <= cycles)
        return max(least, min(ways, default=_NEVER))


_NEVER = 10**15
"""Cycles or crossbars that nothing has."""


def latency_bound(stages: Sequence[Work], crossbars: int, row_cycles: Fraction, floor: int) -> int:
    """Cycles below which no image is done; at least ``floor``.

    ``row_cycles``: from one row of the input to the next. Sound for every number of copies and cut of the weights in
    which one copy of each stage fits ``crossbars``, and for every order of rows and windows: a window waits for all
    it needs, a stage has no more copies than crossbars, and one cut.
    """
    if _consistent(stages, crossbars, row_cycles, floor):
        return floor
    refuted, possible = floor, max(2 * floor, 1)
    while not _consistent(stages, crossbars, row_cycles, possible):
        refuted, possible = possible, 2 * possible
    while possible - refuted > 1:
        middle = (refuted + possible) // 2
        if _consistent(stages, crossbars, row_cycles, middle):
            possible = middle
        else:
            refuted = middle
    return possible


def _consistent(stages: Sequence[Work], crossbars: int, row_cycles: Fraction, latency: int) -> bool:
    """Whether ``latency`` is not refuted."""
    most = [crossbars] * len(stages)
    least = [0] * len(stages)
    for _ in range(ROUNDS):
        heads, tails = _heads(stages, most), _tails(stages, most)
        needs = [
            max(
                stage.crossbars(windows, latency - head - tail - int(rows * row_cycles))
                for rows, windows in (stage.late or {0: 0}).items()
            )
            for stage, head, tail in zip(stages, heads, tails, strict=True)
        ]
        total = sum(needs)
        if total > crossbars:
            return False
        if needs == least:
            return True
        least, most = needs, [crossbars - total + need for need in needs]
    return True


def _heads(stages: Sequence[Work], most: Sequence[int]) -> list[int]:
    """Cycles from the row that a late window waits for to its begin, at least."""
    heads: list[int] = []
    for stage in stages:
        begun = (
            heads[own.source] + stages[own.source].cycles(own.needed, most[own.source]) for own in stage.links
        )
        heads.append(max(begun, default=0))
    return heads


def _tails(stages: Sequence[Work], most: Sequence[int]) -> list[int]:
    """Cycles from the end of a stage's last window to that of the image, at least."""
    tails = [0] * len(stages)
    for number in range(len(stages) - 1, -1, -1):
        for own in stages[number].links:
            if own.users:
                work = 0 if own.side else stages[number].cycles(own.users, most[number])
                behind = tails[number] + work
                tails[own.source] = max(tails[own.source], behind)
    return tails
