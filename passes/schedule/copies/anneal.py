"""Ways of all stages and pieces of their rows together, by simulated annealing on the estimate of the latency.

Copies, cuts and pieces depend on each other: pieces cost a slow stage little and a quick one much, and which pieces of
a source help depends on the blocks of its consumers. A search that improves one of them at a time ends early. Here one
stage changes, or two of which one may give what the other takes; a change that makes the image later is kept with a
probability that falls to nothing (Kirkpatrick, Gelatt, Vecchi, "Optimization by simulated annealing", Science 220,
1983).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp
from random import Random
from statistics import median
from typing import TypeVar

import numpy as np

from cimc.passes.schedule.copies.estimator import Estimator
from cimc.passes.schedule.copies.ways import Limits, Load, Options, Way, Ways, load_of

T = TypeVar("T")

EACH, MOST = 40, 16_000
"""Changes that are tried for each way of a stage and each number of pieces, and at most."""
WORK = 300_000_000
"""Pieces of rows whose times are found at most."""
HOT = 1.0
"""Share of what changes for the worse cost in the middle that one may cost at odds of 1 to e, to begin with; falls with
the square of what is left of the search."""
GREEDY = 20
"""One of so many changes, the first ones, are kept only where they are for the better; they say what others cost."""
STEPS = (-3, -2, -1, 1, 2, 3)
"""Places on the list of its ways by which a stage moves at most."""
PIECES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""Pieces of a row that are tried."""
CUTS, PAIRS = 0.35, 0.4
"""Shares of the changes that are pieces of a row alone, and of the others that move two stages though one has room."""
RENT = 0.02
"""Share of the latency that all crossbars of the chip must be worth; what brings nothing takes room and links."""
GIVES = 8
"""Places by which a stage moves down its list at most to make room for another."""
CHECKS, MOST_CHECKS = 32, 512
"""Times that the best so far must find its cores, the more often the later it failed; where it does not, the search
goes back to the last that did and counts with a core less."""


@dataclass(frozen=True)
class Space:
    """What may be chosen."""

    stages: Mapping[int, Options]
    """Those whose way is open."""
    most: Mapping[int, int]
    """Pieces that the rows of a stage may have, where that is open."""
    limits: Limits
    slowest: float
    """Cycles between images."""

    def menu(self, stage: int) -> Sequence[Way]:
        """Ways of a stage that are quick enough, the cheapest first."""
        ways = self.stages[stage].ways()
        return [way for way in ways if way.cycles <= self.slowest] or ways[-1:]


@dataclass(frozen=True)
class Choice:
    """Ways and pieces of the stages for which they are open."""

    ways: Ways
    pieces: Mapping[int, int]


def anneal(space: Space, start: Choice, known: Estimator, fits: Callable[[Ways], bool]) -> Choice:
    """The choice with the shortest latency, rent of its crossbars included, that is found within the limits; its
    interval is no longer than ``slowest``, or than that of ``start``. The same for the same arguments.

    ``fits``: whether cores are found for all contexts; it holds for ``start``.
    """
    walk = _Walk(space, start, known)
    tries = max(1, min(EACH * walk.alternatives, MOST, WORK // known.size))
    good = best = Choice(dict(start.ways), dict(start.pieces))
    least, shortest = walk.cost, max(1, tries // MOST_CHECKS)
    apart = check = shortest
    for number in range(1, tries + 1):
        walk.step(0.0 if number * GREEDY < tries else (1 - number / tries) ** 2)
        if walk.cost < least:
            least, best = walk.cost, walk.choice()
        if number not in (check, tries):
            continue
        if best is good or fits(best.ways):
            good, apart = best, max(1, min(2 * apart, tries // CHECKS))
        else:
            best, apart = good, shortest
            walk.go_back(good)
            least = walk.cost
        check = number + apart
    return good


class _Walk:
    """A choice that changes at random."""

    def __init__(self, space: Space, start: Choice, known: Estimator):
        self._space, self._known, self._random = space, known, Random(0)
        self._limits = space.limits
        self._menus = {stage: space.menu(stage) for stage in space.stages}
        self._places = {
            stage: {way.key: n for n, way in enumerate(menu)} for stage, menu in self._menus.items()
        }
        self._loads: dict[tuple[int, tuple[int, int]], Load] = {}
        self._open, self._cut = list(space.stages), list(space.most)
        self._put_all(start)
        self._longer: list[float] = []
        """Cycles that changes for the worse would have cost, without heat."""

    def _put_all(self, choice: Choice) -> None:
        self._ways, self._pieces = dict(choice.ways), dict(choice.pieces)
        self._load = load_of(self._ways.values(), self._limits.size)
        for stage in self._ways.keys() | self._pieces.keys():
            self._show(stage)
        self._interval = self._known.slowest()
        self.cost = self._cost_of(self._load, self._interval)
        self._known.keep()

    @property
    def alternatives(self) -> int:
        """Ways and numbers of pieces of all stages."""
        pieces = sum(n <= most for most in self._space.most.values() for n in PIECES)
        return sum(map(len, self._menus.values())) + pieces

    def choice(self) -> Choice:
        """What is chosen now."""
        return Choice(dict(self._ways), dict(self._pieces))

    def go_back(self, choice: Choice) -> None:
        """To a choice that had room, with a core less."""
        self._limits = replace(self._limits, cores=self._limits.cores - 1)
        self._put_all(choice)

    def step(self, heat: float) -> None:
        """Try a change."""
        found = self._change()
        if found is None:
            return
        ways, pieces, load = found
        before = {stage: (self._ways.get(stage), self._pieces.get(stage)) for stage in ways | pieces}
        self._ways |= ways
        self._pieces |= pieces
        for stage in before:
            self._show(stage)
        interval = self._known.slowest()
        if interval <= max(self._space.slowest, self._interval):
            cost = self._cost_of(load, interval)
            if self._keeps(cost - self.cost, heat):
                self.cost, self._interval, self._load = cost, interval, load
                self._known.keep()
                return
        for stage, (way, count) in before.items():
            if way is not None:
                self._ways[stage] = way
            if count is not None:
                self._pieces[stage] = count
        self._known.back()

    def _cost_of(self, load: Load, interval: int) -> float:
        """Cycles of an image, the rent of its crossbars, and what the interval is too long."""
        limits = self._space.limits
        used = float(load.counts @ np.arange(len(load.counts))) / max(1, limits.cores * limits.size)
        return self._known.span() * (1 + RENT * used) + max(0.0, interval - self._space.slowest)

    def _keeps(self, longer: float, heat: float) -> bool:
        """Whether a change that costs so many cycles is kept."""
        if longer <= 0:
            return True
        if heat:
            return self._random.random() < exp(-longer / (heat * self._hot))
        self._longer.append(longer)
        return False

    @cached_property
    def _hot(self) -> float:
        return HOT * max(1.0, median(self._longer or [1.0]))

    def _show(self, stage: int) -> None:
        found = self._known.put(stage, self._ways.get(stage), self._pieces.get(stage))
        if stage in self._pieces:
            self._pieces[stage] = found

    def _change(self) -> tuple[dict[int, Way], dict[int, int], Load] | None:
        """Ways and pieces of one stage or two, and what all take then; ``None`` for what has no room."""
        if self._cut and (self._random.random() < CUTS or not self._open):
            stage = self._one_of(self._cut)
            now = min(range(len(PIECES)), key=lambda n: abs(PIECES[n] - self._pieces[stage]))
            near = min(len(PIECES) - 1, max(0, now + self._one_of((-2, -1, 1, 2))))
            return {}, {stage: min(PIECES[near], self._space.most[stage])}, self._load
        if not self._open:
            return None
        stage = self._one_of(self._open)
        pieces = dict[int, int]()
        if stage in self._pieces and self._random.random() < 0.5:
            pieces[stage] = min(self._one_of(PIECES), self._space.most[stage])
        menu, at = self._menus[stage], self._place(stage)
        way = menu[min(len(menu) - 1, max(0, at + self._one_of(STEPS)))]
        load = self._with(self._load, stage, way)
        room = self._limits.allow_load(load)
        if room and self._random.random() > PAIRS:
            return {stage: way}, pieces, load
        other = self._one_of(self._open)
        paid = self._pays(load, other, room) if other != stage else None
        if paid is None:
            return ({stage: way}, pieces, load) if room else None
        return {stage: way, other: paid[0]}, pieces, paid[1]

    def _pays(self, load: Load, other: int, room: bool) -> tuple[Way, Load] | None:
        """The most room that another stage can have beside ``load``, a few places from what it has: more where there
        is ``room``, less where not."""
        menu, at = self._menus[other], self._place(other)
        reach = range(at + STEPS[-1], at, -1) if room else range(at - 1, at - 1 - GIVES, -1)
        for n in reach:
            if 0 <= n < len(menu):
                found = self._with(load, other, menu[n])
                if self._limits.allow_load(found):
                    return menu[n], found
        return None

    def _place(self, stage: int) -> int:
        """Where the stage's way is on its list; anywhere if it is not."""
        at = self._places[stage].get(self._ways[stage].key)
        return int(self._random.random() * len(self._menus[stage])) if at is None else at

    def _with(self, load: Load, stage: int, way: Way) -> Load:
        """``load`` with another way of a stage."""
        return load.plus(self._load_of(stage, self._ways[stage]), -1).plus(self._load_of(stage, way))

    def _one_of(self, things: Sequence[T]) -> T:
        return things[int(self._random.random() * len(things))]

    def _load_of(self, stage: int, way: Way) -> Load:
        key = stage, way.key
        if key not in self._loads:
            self._loads[key] = load_of([way], self._limits.size)
        return self._loads[key]
