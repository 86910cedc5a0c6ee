"""The pipelined latency of a list as sums of terms, each of one convolution's copies, and copies that make it short.

Unrolled, the column "+MVM pipeline" of :mod:`~cimc.passes.schedule.closed_form.latency` is
``max_i [sum_{j<i} step_j(n_j) + body_i(n_i) + sum_{j>i} tail_j(n_j)]`` with i over the
operators: the begin of operator i, its own work, and the last rows of the operators after it (docs/scheduling.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cimc.passes.schedule.closed_form.operators import Machine, Operator, ceil_div

Ints = npt.NDArray[np.int64]

MOVES = (1, 2, 4, 8, 16, 32)
"""Copies that a move gives or takes."""


@dataclass(frozen=True)
class Terms:
    """What one convolution with n copies (index n - 1) adds to the sums; pools belong to the convolution before them.

    A convolution and the pool behind it are one element of two paths: through the convolution, and through the pool.
    """

    tiles: int
    """Crossbars of one copy."""
    step: Ints
    """Cycles from its begin to that of the next convolution."""
    body: Ints
    """Cycles from its begin to the end of its pool, or its own without one: the longer of the two paths."""
    tail: Ints
    """Cycles from the end of the convolution before it to that of its pool, or its own without one."""


def terms(ops: Sequence[Operator], machine: Machine) -> tuple[Terms, ...]:
    """The terms of every convolution, for 1 to at most one copy a window, as many as fit beside one copy of the others.

    Raises ``ValueError`` for lists that do not begin with a convolution or have two pools in a row.
    """
    if not ops or ops[0].is_pool or any(a.is_pool and b.is_pool for a, b in pairwise(ops)):
        raise ValueError("the list begins with a convolution and has at most one pool between two")
    spare = machine.crossbars - sum(map(machine.tiles, ops))
    found: list[Terms] = []
    for i, op in enumerate(ops):
        if op.is_pool:
            continue
        most = max(1, min(op.windows, 1 + spare // machine.tiles(op)))
        pool = next((p for p in ops[i + 1 : i + 2] if p.is_pool), None)
        after = next((c for c in ops[i + 1 : i + 3] if not c.is_pool), None)
        found.append(_terms(op, ops[i - 1] if i else None, pool, after, machine, most))
    return tuple(found)


def _ceil(a: Ints | int, b: Ints | int) -> Ints:
    return -(-np.asarray(a, np.int64) // np.asarray(b, np.int64))


def _terms(
    op: Operator,
    before: Operator | None,
    pool: Operator | None,
    after: Operator | None,
    machine: Machine,
    most: int,
) -> Terms:
    """The terms of a convolution with its neighbours in the list, ``after`` the next convolution."""
    n = np.arange(1, most + 1, dtype=np.int64)
    chip, groups = machine.chip_bus, machine.row_groups
    if before is None:
        load = ceil_div(op.height**2 * op.inputs, chip)
    else:
        load = ceil_div(min(machine.rows, op.depth if before.is_pool else op.inputs), chip)
    core = ceil_div(min(op.depth, machine.rows * machine.core_crossbars), machine.core_bus)
    store = ceil_div(op.outputs, machine.core_bus) + _ceil(op.outputs * n, chip)
    body = load + core + _ceil(op.work, n) * groups + store
    tail = _ceil(op.work, op.height * n) * groups + store
    step = np.zeros_like(n)
    if pool is None and after is not None:
        step = load + core + _first_window(op, after, n, machine) + _ceil(after.outputs * n, chip)
    if pool is not None:
        begin = load + _first_window(op, pool, n, machine)
        shift = ceil_div(4 * pool.outputs, machine.alu) + ceil_div(pool.outputs, chip)
        own = ceil_div(pool.work, machine.alu) + ceil_div(pool.outputs, chip)
        body, tail = np.maximum(body + shift, begin + own), tail + shift
        if after is not None:
            pixels = after.height * (after.kernel - 1) + after.kernel
            step = begin + _ceil(pool.inputs * n, machine.core_bus)
            step = step + ceil_div(pool.work * pixels, after.height**2 * machine.alu)
    return Terms(machine.tiles(op), step, body, tail)


def _first_window(op: Operator, consumer: Operator, n: Ints, machine: Machine) -> Ints:
    """Cycles of ``op`` until the first window of its consumer is there."""
    window = _ceil(consumer.height * (consumer.kernel - 1), n) + consumer.kernel
    return _ceil(op.work * window, consumer.height**2) * machine.row_groups


def makespan(given: Sequence[Terms], copies: Sequence[int]) -> int:
    """Cycles of one image; equal to the column "+MVM pipeline" with these copies."""
    return int(paths(given, copies).max())


def paths(given: Sequence[Terms], copies: Sequence[int]) -> Ints:
    """Length of the path through each convolution's body."""
    return _Chosen.of(given, np.asarray(copies, np.int64)).paths()


@dataclass(frozen=True)
class _Chosen:
    """The terms at some copies, one entry a convolution."""

    step: Ints
    body: Ints
    tail: Ints

    @staticmethod
    def of(given: Sequence[Terms], copies: Ints) -> _Chosen:
        def at(name: str) -> Ints:
            return np.array([getattr(t, name)[n - 1] for t, n in zip(given, copies, strict=True)], np.int64)

        return _Chosen(at("step"), at("body"), at("tail"))

    def paths(self) -> Ints:
        before = np.cumsum(self.step) - self.step
        behind = np.cumsum(self.tail[::-1])[::-1] - self.tail
        return before + self.body + behind


def refine(
    given: Sequence[Terms], copies: Sequence[int], crossbars: int, least: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Hill climbing over single and paired moves of 1, 2, 4, ... 32 copies, the best move each time.

    A single move changes one convolution's copies; a pair also changes another's. ``least``: copies that every
    convolution keeps, as an interval asks for (default 1). The result fits ``crossbars`` and is never
    slower.
    """
    floor = np.ones(len(given), np.int64) if least is None else np.asarray(least, np.int64)
    search = _Search(tuple(given), floor, crossbars)
    now = np.asarray(copies, np.int64)
    while (better := search.step(now)) is not None:
        now = better
    return tuple(now.tolist())


_MOVED = np.array([0, *MOVES, *(-m for m in MOVES)], np.int64)


@dataclass(frozen=True)
class _Search:
    """One step of the climb, all pairs of moves evaluated at once."""

    given: tuple[Terms, ...]
    least: Ints
    crossbars: int

    def step(self, copies: Ints) -> Ints | None:
        """Copies after the best move; ``None`` if no move is better. Of equally fast, the one with fewer crossbars."""
        chosen = _Chosen.of(self.given, copies)
        paths = chosen.paths()
        tiles = np.array([t.tiles for t in self.given], np.int64)
        left = self.crossbars - int(tiles @ copies)
        most = np.array([len(t.step) for t in self.given], np.int64)
        target = copies[:, None] + _MOVED
        legal = (target >= self.least[:, None]) & (target <= most[:, None])
        index = np.clip(target, 1, most[:, None]) - 1
        steps, bodies, tails = (
            np.stack([getattr(t, name)[i] for t, i in zip(self.given, index, strict=True)])
            - getattr(chosen, name)[:, None]
            for name in ("step", "body", "tail")
        )
        cost = tiles[:, None] * _MOVED
        best = self._best_pair(paths, (steps, bodies, tails), cost, legal, left)
        if best is None:
            return None
        moved = copies.copy()
        for convolution, move in best:
            moved[convolution] = target[convolution, move]
        return moved

    def _best_pair(
        self,
        paths: Ints,
        change: tuple[Ints, Ints, Ints],
        cost: Ints,
        legal: npt.NDArray[np.bool_],
        left: int,
    ) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Moves of two convolutions, the first before the second; the move 0 stands still."""
        steps, bodies, tails = change
        count, now = len(paths), int(paths.max())
        # A key orders by length, then by crossbars, so that climbs end.
        scale = 2 * self.crossbars + 1
        best, found = now * scale, None
        prefix = np.maximum.accumulate(paths)
        suffix = np.maximum.accumulate(paths[::-1])[::-1]
        for a in range(count - 1):
            b = np.arange(a + 1, count)
            between = np.full(len(b), np.iinfo(np.int64).min // 4)
            between[1:] = np.maximum.accumulate(paths[a + 1 : count - 1])
            behind = np.append(suffix[a + 2 :], np.iinfo(np.int64).min // 4)
            lead = prefix[a - 1] if a else np.iinfo(np.int64).min // 4
            s, o, t = (x[a][None, :, None] for x in (steps, bodies, tails))
            sb, ob, tb = (x[b][:, None, :] for x in (steps, bodies, tails))
            length = np.maximum(lead + t, paths[a] + o) + tb
            length = np.maximum(length, between[:, None, None] + s + tb)
            length = np.maximum(length, paths[b][:, None, None] + s + ob)
            length = np.maximum(length, behind[:, None, None] + s + sb)
            spent = cost[a][None, :, None] + cost[b][:, None, :]
            allowed = legal[a][None, :, None] & legal[b][:, None, :] & (spent <= left)
            key = np.where(allowed, length * scale + spent, np.iinfo(np.int64).max)
            at = int(key.argmin())
            if key.flat[at] < best:
                best = int(key.flat[at])
                other, one, two = np.unravel_index(at, key.shape)
                found = ((a, int(one)), (a + 1 + int(other), int(two)))
        return found
