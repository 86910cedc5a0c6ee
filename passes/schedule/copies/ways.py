"""The ways of a stage: copies of its weights, cut into one number of row tiles or another, and what chips hold of them.

More row tiles make a window quicker, more copies compute more windows at a time; both take crossbars. A tile height
that fills cores exactly leaves nothing of them unused.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from cimc.passes.schedule.copies.packing import Counts, cores_needed
from cimc.passes.schedule.copies.stage_costs import StageCost
from cimc.passes.schedule.dealing import Dealing

UNFILLED = (1.0, 0.5, 0.0)
"""Shares of what contexts leave of their cores that are charged to them, tried in turn: others may use it, or not."""


@dataclass(frozen=True)
class Way:
    """Copies of a stage on one cut of its weights."""

    cost: StageCost
    dealing: Dealing
    cycles: int
    """Cycles between images that the arrays allow."""

    @cached_property
    def copies(self) -> int:
        """Copies of the weights."""
        return self.dealing.rows * self.dealing.columns

    @cached_property
    def contexts(self) -> int:
        """Contexts beyond those of one copy."""
        return self.cost.contexts * (self.copies - 1)

    @property
    def tiles(self) -> int:
        """Crossbars."""
        return self.cost.tiles * self.copies

    @cached_property
    def power_mw(self) -> float:
        """Of all copies' arrays while they work."""
        return self.cost.power_mw * self.copies

    @cached_property
    def counts(self) -> Counts:
        """Contexts of so many crossbars, by number of crossbars."""
        return self.copies * self.cost.by_crossbars

    @cached_property
    def key(self) -> tuple[int, int]:
        """What tells ways of a stage apart."""
        return self.copies, self.cost.row_tiles

    def room(self, size: int, share: float) -> float:
        """Crossbars with ``share`` of what is left unfilled of cores of ``size``."""
        return self.copies * (self.cost.tiles + share * self.cost.unfilled(size))


Ways = Mapping[int, Way]
"""A way of each stage, by its number."""


@dataclass(frozen=True)
class Options:
    """An array stage and what a scheduler may make of it: ``variants`` are cuts of its weights, the first as given."""

    variants: tuple[StageCost, ...]
    size: int
    """Crossbars of a core."""

    @property
    def base(self) -> StageCost:
        """The weights as they were cut before."""
        return self.variants[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and windows of a row that can be dealt, the same whatever the cut."""
        return self.base.rows, self.base.dealable

    def way(self, copies: int) -> Way:
        """So many copies of the weights as given. Raises ``ValueError`` where some would idle."""
        return Way(self.base, self.base.dealt(copies), self.base.interval(copies))

    @property
    def one(self) -> Way:
        """One copy of the weights as given."""
        return self.way(1)

    @cached_property
    def _all(self) -> tuple[Way, ...]:
        dealings = {n: self.base.dealt(n) for n, _ in self.base.ways}
        return tuple(Way(cost, dealings[n], cycles) for cost in self.variants for n, cycles in cost.ways)

    @cached_property
    def cycles(self) -> frozenset[int]:
        """Cycles between images of all ways."""
        return frozenset(way.cycles for way in self._all)

    @cached_property
    def _kept(self) -> dict[float, tuple[Way, ...]]:
        return {}

    def ways(self, share: float = 1.0) -> tuple[Way, ...]:
        """Ways that are quicker than all that take no more room, the cheapest first."""
        if share not in self._kept:
            ordered = sorted(
                self._all, key=lambda w: (w.room(self.size, share), w.cycles, w.tiles, w.contexts)
            )
            found: list[Way] = []
            for way in ordered:
                if not found or way.cycles < found[-1].cycles:
                    found.append(way)
            self._kept[share] = tuple(found)
        return self._kept[share]

    def slower(self, cycles: int, slowest: int) -> tuple[Way, ...]:
        """Of :meth:`ways`, those that take more than ``cycles`` and no more than ``slowest``."""
        ways = self.ways()
        first, last = (bisect_left(ways, -bar, key=lambda way: -way.cycles) for bar in (slowest, cycles))
        return ways[first:last]

    def cheapest(self, cycles: float, share: float = 1.0) -> Way | None:
        """The way with the least room that takes no longer than ``cycles``; ``None`` where none is as quick."""
        ways = self.ways(share)
        at = bisect_left(ways, -cycles, key=lambda way: -way.cycles)
        return ways[at] if at < len(ways) else None


class Load(NamedTuple):
    """What ways take of what is limited."""

    contexts: int
    """Beyond those of one copy each."""
    power_mw: float
    """Of all copies' arrays while they work."""
    counts: Counts
    """Contexts of so many crossbars, by number of crossbars."""

    def plus(self, other: Load, times: int = 1) -> Load:
        """The sum of both, ``other`` so many times. Their counts are as long."""
        return Load(
            self.contexts + times * other.contexts,
            self.power_mw + times * other.power_mw,
            self.counts + times * other.counts,
        )


def load_of(ways: Iterable[Way], size: int) -> Load:
    """The sum over ways on cores of ``size`` crossbars."""
    contexts, power, counts = 0, 0.0, np.zeros(size + 1, np.int64)
    for way in ways:
        contexts += way.contexts
        power += way.power_mw
        counts[: len(way.counts)] += way.counts
    return Load(contexts, power, counts)


@dataclass(frozen=True)
class Limits:
    """What ways may take, ``contexts`` beyond those of one copy each; ``power_mw`` with ``static_mw``, if capped."""

    cores: int
    size: int
    """Crossbars of a core."""
    contexts: int
    static_mw: float
    power_mw: float | None = None
    taken: tuple[Way, ...] = ()
    """Ways of stages that are decided already; their power is in ``static_mw``."""

    def allow(self, ways: Ways) -> bool:
        """Whether the ways stay below all limits; one copy each never has too many contexts."""
        return self.allow_load(load_of(ways.values(), self.size))

    def allow_load(self, load: Load) -> bool:
        """The same of what ways take together."""
        if load.contexts > self.contexts:
            return False
        if self.power_mw is not None and self.static_mw + load.power_mw > self.power_mw:
            return False
        return self._cores(load) <= self.cores

    def filled(self, ways: Ways) -> int:
        """Cores that the ways fill, packed by size."""
        return self._cores(load_of(ways.values(), self.size))

    def _cores(self, load: Load) -> int:
        return cores_needed(load.counts + self._taken, self.size)

    @cached_property
    def _taken(self) -> Counts:
        return load_of(self.taken, self.size).counts


def power_mw(ways: Iterable[Way], static_mw: float) -> float:
    """What the arrays of all copies draw when they work together, static power included."""
    return static_mw + sum(way.power_mw for way in ways)
