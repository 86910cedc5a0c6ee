"""A lower bound on the latency of one image: how far every stage stays behind the stages it takes from.

A stage that has made k elements can have let its consumers begin only so many windows, whichever they are
(``isoperimetry.py``): a padded 3 x 3 convolution is behind by about a row of windows, in any order, and with copies no
quicker than its source's it cannot catch up. Which copies the crossbars of the chip allow is left open: the
bound is that of the best mixture of all of them, by linear programming duality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

INPUT = -1
"""The input, as a source; its elements are rows."""
ROUNDS = 24
"""Chains that are looked for one by one; the bound is sound after each."""
SEEDS = 16
"""Stages that are taken to be the slowest in turn, for the chains to begin with."""
SLOWER = 1.25
"""Times that such a stage takes longer."""
GAP = 0.01
"""Relative distance of bound and best mixture at which the search ends."""
AROUND = (1 / 2.5, 1 / 1.4, 1.4, 2.5)
"""Times its crossbars that a stage may have in the programme, beside the ways next to what it has."""
FINE = 16
"""Copies up to which all are ways of the programme; more are a tenth apart."""
KEEP = 0.8
"""Share of the best mixture in the next one to look at; the programme's own swing to and fro."""
HALVINGS = 50
"""Steps of a bisection over the cycles of an image."""
ROUNDING = 1e-9
"""Share of the bound that sums of floats may be off by."""


@dataclass(frozen=True)
class Taking:
    """A source of a stage."""

    makers: tuple[int, ...]
    """Numbers of the stages that make it; a window needs channels of them all."""
    needed: Ints
    """The fewest elements of it that any k windows need; shape (windows + 1,)."""
    side: bool = False
    """Whether elements enter behind the products of their windows."""


@dataclass(frozen=True)
class Stage:
    """A stage of the network, in order of computation; one without arrays takes no time."""

    windows: int
    cuts: tuple[tuple[int, int], ...] = ()
    """Crossbars of a copy and cycles of a window, for every cut of its weights."""
    takes: tuple[Taking, ...] = ()


class _Pace(NamedTuple):
    """Cycles of the stages: of a window of all copies together, and of one by itself."""

    each: Floats
    alone: Floats


class _Chain(NamedTuple):
    """A sum that is no more than the latency: so many windows of every stage, and cycles of the input."""

    together: Floats
    """Windows shared by all copies."""
    alone: Floats
    """Windows by themselves."""
    entered: float


def frontier_bound(stages: Sequence[Stage], crossbars: int, rows: int, row_cycles: float) -> int:
    """Cycles below which no image is done; an input of ``rows`` has one every ``row_cycles``.

    Sound for every number of copies and cut of the weights with which the stages fit ``crossbars``, every order of rows
    and windows: a window is read once, on all crossbars of a copy, when all it needs is there.

    *Proof.* Let E_i(k) be the earliest end of k windows of stage i, in any of its channels (in all of them for one that
    takes no time and joins channels of several). For any m < k, all but m of them begin when a source has need(m + 1)
    elements or later, and then take a window w, and (k - m) w / c with c copies: E_i(k) is at least
    E_source(need(m + 1)) + max(w, (k - m) w / c), and no less than what enters behind the products.
    Unrolled from the last window, any choice of m gives a sum of windows, a chain (:meth:`_Network.chain`). The latency
    is no less than any weighted mean of chains; at n copies of stage i that is a sum of terms a_i w / n + b_i w. With
    any price p of a crossbar, of which stage i takes t_i n of X, no choice is below the sum of min (a_i w / n + b_i w +
    p t_i n) - p X, the minimum over cuts and whole n, no more than windows, nor than fit beside one copy of the others
    (:meth:`_Network.dual`). Weights and price are those of a linear programme; they decide how high the bound is, not
    whether it holds.
    """
    network = _Network(tuple(stages), crossbars, np.arange(rows + 1, dtype=np.float64) * row_cycles)
    if not len(network.arrays):
        return 0
    given = network.balanced()
    chains = [network.chain(pace)[0] for pace in network.seeds(given)]
    least, best, bound = np.inf, given, 0.0
    for _ in range(ROUNDS):
        found, end = network.chain(network.pace(given))
        chains.append(found)
        if end < least:
            least, best = end, given
        mixed, value = network.programme(chains, best)
        bound = max(bound, value)
        if mixed is None or least <= bound * (1 + GAP):
            break
        given = KEEP * best + (1 - KEEP) * mixed
    return ceil(bound * (1 - ROUNDING))


@dataclass(frozen=True)
class _Network:
    stages: tuple[Stage, ...]
    crossbars: int
    entered: Floats
    """When so many rows of the input are in."""

    @cached_property
    def arrays(self) -> Ints:
        """Numbers of the stages on arrays."""
        return np.array([i for i, stage in enumerate(self.stages) if stage.cuts], np.int64)

    @cached_property
    def _least(self) -> Floats:
        """Of every stage on arrays: the fewest crossbars of a copy, cycles of a window, and crossbar-cycles of one."""
        cuts = [self.stages[i].cuts for i in self.arrays]
        columns = [
            (min(t for t, _ in own), min(w for _, w in own), min(t * w for t, w in own)) for own in cuts
        ]
        return np.array(columns, np.float64).T

    @cached_property
    def _most(self) -> Floats:
        """Crossbars that one copy each of all others leaves a stage."""
        tiles = self._least[0]
        return self.crossbars - tiles.sum() + tiles

    @cached_property
    def _cuts(self) -> Floats:
        """Place in ``arrays``, crossbars of a copy, cycles of a window and copies at most, for every cut that fits."""
        found = [
            (place, tiles, window, min(self.stages[i].windows, self._most[place] // tiles))
            for place, i in enumerate(self.arrays)
            for tiles, window in self.stages[i].cuts
            if tiles <= self._most[place]
        ]
        return np.array(found, np.float64).T

    @cached_property
    def _ways(self) -> list[tuple[Floats, Floats]]:
        """Of every stage on arrays: crossbars and cycles of a window of all copies that no mixture of others beats."""
        most = zip(self.arrays, self._most, strict=True)
        return [_ways(self.stages[i].windows, self.stages[i].cuts, room) for i, room in most]

    def balanced(self) -> Floats:
        """Crossbars of the stages on arrays with which all take as long for an image, one copy at least."""
        tiles, _, area = self._least
        work = area * np.array([self.stages[i].windows for i in self.arrays])
        low, high = 1e-9, float(work.max())
        for _ in range(HALVINGS):
            middle = (low * high) ** 0.5
            if np.maximum(tiles, work / middle).sum() > self.crossbars:
                low = middle
            else:
                high = middle
        return np.maximum(tiles, work / high)

    def pace(self, given: Floats) -> _Pace:
        """Cycles of the stages on so many crossbars, those of the best mixture of cuts and copies."""
        each, alone = np.zeros(len(self.stages)), np.zeros(len(self.stages))
        each[self.arrays] = [np.interp(room, *own) for room, own in zip(given, self._ways, strict=True)]
        alone[self.arrays] = self._least[1]
        return _Pace(each, alone)

    def seeds(self, given: Floats) -> list[_Pace]:
        """Paces with one stage slower than the others, stages spread evenly over the network."""
        pace = self.pace(given)
        picked = self.arrays[np.unique(np.linspace(0, len(self.arrays) - 1, SEEDS).astype(int))]
        slower = np.where(np.arange(len(self.stages)) == picked[:, None], SLOWER, 1.0)
        return [_Pace(pace.each * factors, pace.alone) for factors in slower]

    def chain(self, pace: _Pace) -> tuple[_Chain, float]:
        """The longest chain at a pace, and its cycles: E of all stages first, then back from the last window."""
        begins, ends = self._earliest(pace)
        together, alone = np.zeros(len(self.stages)), np.zeros(len(self.stages))
        number = max(range(len(ends)), key=lambda i: float(ends[i][-1]))
        k, end = len(ends[number]) - 1, float(ends[number][-1])
        while k > 0 and number != INPUT:
            stage, begun = self.stages[number], begins[number]
            held = [
                take for take in stage.takes if take.side and self._there(take, k, ends) >= ends[number][k]
            ]
            if not held:
                ways = begun[1 : k + 1] + np.arange(k, 0, -1) * pace.each[number]
                first = int(ways.argmax()) + 1
                if ways[first - 1] >= begun[k] + pace.alone[number]:
                    together[number] += k - first + 1
                    k = first
                else:
                    alone[number] += 1
                held = [take for take in stage.takes if not take.side]
            if not held:
                return _Chain(together, alone, 0.0), end
            take = held[int(np.argmax([self._there(taken, k, ends) for taken in held]))]
            k = int(take.needed[k])
            number = take.makers[int(np.argmax([self._made(maker, k, ends) for maker in take.makers]))]
        return _Chain(together, alone, float(self.entered[k]) if number == INPUT else 0.0), end

    def _made(self, maker: int, elements: Any, ends: Sequence[Floats]) -> Any:
        """When a maker has so many elements."""
        return (self.entered if maker == INPUT else ends[maker])[elements]

    def _there(self, take: Taking, windows: Any, ends: Sequence[Floats]) -> Any:
        """When a source has what so many windows need."""
        made = [self._made(maker, take.needed[windows], ends) for maker in take.makers]
        return made[0] if len(made) == 1 else np.max(made, axis=0)

    def _earliest(self, pace: _Pace) -> tuple[list[Floats], list[Floats]]:
        """Of every stage when k windows may have begun and ended, for every k."""
        begins, ends = list[Floats](), list[Floats]()
        for stage, each, alone in zip(self.stages, pace.each, pace.alone, strict=True):
            count = np.arange(stage.windows + 1)
            begun, side = np.zeros(len(count)), np.zeros(len(count))
            for take in stage.takes:
                target = side if take.side else begun
                np.maximum(target, self._there(take, slice(None), ends), out=target)
            ramp = count * each
            ended = np.maximum(np.maximum.accumulate(begun - ramp) + ramp + each, begun + alone)
            ended[0] = 0
            begins.append(begun)
            ends.append(np.maximum(ended, side))
        return begins, ends

    def programme(self, chains: Sequence[_Chain], around: Floats) -> tuple[Floats | None, float]:
        """Crossbars of the stages, a mixture of ways ``around`` what each has, with the shortest longest chain, and the
        bound by the programme's prices; ``None`` where there is no such mixture."""
        from scipy.optimize import linprog
        from scipy.sparse import csr_array

        window = self._least[1]
        near = [_near(own[0], given) for own, given in zip(self._ways, around, strict=True)]
        room, each = (
            np.array([own[kind][at] for own, at in zip(self._ways, near, strict=True)]) for kind in (0, 1)
        )
        stages, ways = room.shape
        sums = np.array([np.append((c.together[self.arrays, None] * each).ravel(), -1.0) for c in chains])
        rest = [-c.entered - float(c.alone[self.arrays] @ window) for c in chains]
        places = np.arange(stages * ways)
        one_each = csr_array((np.ones(len(places)), (places // ways, places)), (stages, len(places) + 1))
        found: Any = linprog(
            np.append(np.zeros(len(places)), 1.0),
            np.vstack([sums, np.append(room.ravel(), 0.0)]),
            np.append(rest, self.crossbars),
            one_each,
            np.ones(stages),
            method="highs-ds",
        )
        if found.status != 0:
            return None, 0.0
        prices = np.maximum(0.0, -np.asarray(found.ineqlin.marginals))
        mixed = (np.asarray(found.x[:-1]).reshape(room.shape) * room).sum(axis=1)
        return mixed, self.dual(chains, prices[:-1], float(prices[-1]))

    def dual(self, chains: Sequence[_Chain], weights: Floats, price: float) -> float:
        """The bound of chains by their weights, at a price of a crossbar."""
        if not weights.sum():
            return 0.0
        share = weights / weights.sum()
        together, alone = (
            np.tensordot(share, np.array([chain[kind] for chain in chains]), 1)[self.arrays]
            for kind in (0, 1)
        )
        place, tiles, cycles, most = self._cuts
        at = place.astype(int)
        best = np.sqrt(together[at] * cycles / (max(price, ROUNDING) * tiles))
        # Convex in the copies: the best whole number is beside the best one.
        copies = np.clip(np.stack([np.floor(best), np.ceil(best)]), 1, most)
        cost = (alone[at] * cycles + together[at] * cycles / copies + price * tiles * copies).min(axis=0)
        least = np.full(len(self.arrays), np.inf)
        np.minimum.at(least, at, cost)
        return float(least.sum() - price * self.crossbars + share @ [chain.entered for chain in chains])


@lru_cache(maxsize=256)
def _ways(windows: int, cuts: tuple[tuple[int, int], ...], most: float) -> tuple[Floats, Floats]:
    """Crossbars and cycles of a window of all copies: the lower hull of all cuts and copies on ``most`` crossbars."""
    copies = [*range(1, FINE), *(FINE * 1.1 ** np.arange(100)).astype(int).tolist()]
    points = sorted(
        (tiles * n, window / n)
        for tiles, window in cuts
        for n in copies
        if n <= windows and tiles * n <= most
    )
    hull: list[tuple[float, float]] = []
    for x, y in points:
        if hull and y >= hull[-1][1]:
            continue
        while len(hull) > 1 and _is_above(hull[-1], hull[-2], (x, y)):
            hull.pop()
        hull.append((x, y))
    room, each = np.array(hull, np.float64).T
    return room, each


def _is_above(point: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether a point is not below the line between two others."""
    wide, high = right[0] - left[0], right[1] - left[1]
    return (point[1] - left[1]) * wide >= high * (point[0] - left[0])


def _near(rooms: Floats, given: float) -> Ints:
    """The ways beside what a stage has, and those that have so much more and less."""
    at = np.searchsorted(rooms, given) - 1
    return np.clip([at, at + 1, *np.searchsorted(rooms, np.multiply(AROUND, given))], 0, len(rooms) - 1)
