"""The linear relaxation of the shortest latency: a sound bound, and copies to start a search from.

Choose one copy count a convolution and minimise the longest path
(:mod:`~cimc.passes.schedule.closed_form.makespan`) under the number of crossbars.
Relaxed, a convolution may mix counts; columns (one count of one convolution) are priced in as they help, so that
thousands of counts cost little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.passes.schedule.closed_form.makespan import Ints, Terms

Floats = npt.NDArray[np.float64]

GAP = 1e-6
"""Relative distance of relaxation and dual bound at which pricing ends."""
ROUNDS = 200
"""Pricing rounds at most; the bound is sound after each."""


@dataclass(frozen=True)
class Relaxation:
    """What the relaxation tells."""

    bound: float
    """No integer copies have a shorter latency, in cycles."""
    copies: tuple[float, ...]
    """Mean copies of every convolution in the relaxed optimum."""
    prices: tuple[float, ...]
    """Weight of every path in the bound; they sum to 1."""
    crossbar_price: float
    """Cycles that one crossbar more would save."""


def relax(given: Sequence[Terms], crossbars: int, least: Sequence[int], start: Sequence[int]) -> Relaxation:
    """Solve the relaxation by column generation from the copies ``start``, which must fit.

    ``least``: the fewest copies of each. Raises ``ValueError`` when ``start`` does not fit or is below them.
    """
    cost = sum(t.tiles * n for t, n in zip(given, start, strict=True))
    if cost > crossbars or any(n < lo for n, lo in zip(start, least, strict=True)):
        raise ValueError(
            f"the start needs {cost} crossbars, given {crossbars}, and at least {tuple(least)} copies"
        )
    columns = [sorted({lo, n}) for lo, n in zip(least, start, strict=True)]
    best = Relaxation(-np.inf, tuple(map(float, start)), (), 0.0)
    for _ in range(ROUNDS):
        solved = _master(given, columns, crossbars)
        bound, chosen = _price(given, solved, crossbars, least)
        if bound > best.bound:
            best = Relaxation(bound, solved.mean, tuple(solved.paths.tolist()), solved.crossbar)
        if solved.value - best.bound <= GAP * solved.value:
            return Relaxation(best.bound, solved.mean, best.prices, best.crossbar_price)
        for own, n in zip(columns, chosen, strict=True):
            if n not in own:
                own.append(n)
    return best


@dataclass(frozen=True)
class _Solved:
    """Optimum of the master over the present columns, with its dual prices."""

    value: float
    mean: tuple[float, ...]
    paths: Floats
    crossbar: float


def _master(given: Sequence[Terms], columns: Sequence[Sequence[int]], crossbars: int) -> _Solved:
    """The relaxation over the present columns."""
    from scipy.optimize import linprog

    owner = np.repeat(np.arange(len(given)), [len(c) for c in columns])
    counts = np.concatenate([np.asarray(c, np.int64) for c in columns])
    tiles = np.array([t.tiles for t in given], np.int64)
    rows = _path_rows(given, owner, counts)
    upper = np.vstack([np.hstack([rows, -np.ones((len(given), 1))]), np.append(tiles[owner] * counts, 0.0)])
    one_each = np.hstack([owner == np.arange(len(given))[:, None], np.zeros((len(given), 1))])
    objective = np.append(np.zeros(len(counts)), 1.0)
    limits = np.append(np.zeros(len(given)), float(crossbars))
    found: Any = linprog(objective, upper, limits, one_each, np.ones(len(given)), method="highs")
    if found.status != 0:
        raise ValueError(f"the relaxation has no optimum: {found.message}")
    prices = -np.asarray(found.ineqlin.marginals, np.float64)
    mean = np.bincount(owner, found.x[:-1] * counts, len(given))
    return _Solved(float(found.fun), tuple(mean.tolist()), prices[:-1], float(prices[-1]))


def _path_rows(given: Sequence[Terms], owner: Ints, counts: Ints) -> Floats:
    """Cycles that each column (``counts`` copies of convolution ``owner``) adds to each path, [paths, columns]."""
    step, body, tail = (
        np.array([getattr(given[j], name)[n - 1] for j, n in zip(owner, counts, strict=True)], np.float64)
        for name in ("step", "body", "tail")
    )
    path = np.arange(len(given))[:, None]
    return np.where(path > owner, step, np.where(path == owner, body, tail))


def _price(
    given: Sequence[Terms], solved: _Solved, crossbars: int, least: Sequence[int]
) -> tuple[float, list[int]]:
    """The dual bound at the master's prices, and the count of each convolution that it takes."""
    weights = solved.paths / solved.paths.sum()
    bound, chosen = -solved.crossbar * crossbars, list[int]()
    for j, (own, lo) in enumerate(zip(given, least, strict=True)):
        counts = np.arange(lo, len(own.step) + 1)
        value = (
            own.step[lo - 1 :] * weights[j + 1 :].sum()
            + own.body[lo - 1 :] * weights[j]
            + own.tail[lo - 1 :] * weights[:j].sum()
            + solved.crossbar * own.tiles * counts
        )
        at = int(value.argmin())
        bound += float(value[at])
        chosen.append(int(counts[at]))
    return bound, chosen
