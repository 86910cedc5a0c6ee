"""Chains of convolutions over one column, as the bounds on the latency see them, and their best schedules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product

from hypothesis import strategies as st

from cimc.dialects.cim_types import WindowAttr
from cimc.passes.schedule.copies.latency_bound import Link, Work
from cimc.passes.schedule.copies.receptive import Field, least_users

Chain = Sequence[tuple[int, int, int]]
"""Kernel, crossbars of a copy and cycles of a window of every stage; columns of one pixel, stride 1, padded."""

SMALL = st.tuples(
    st.lists(
        st.tuples(st.sampled_from([1, 3]), st.integers(1, 2), st.integers(1, 4)), min_size=1, max_size=2
    ),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 3),
)
"""Chains small enough to try all schedules, rows, crossbars beyond those of one copy each, cycles of a row."""


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


def best_latency(chain: Chain, rows: int, copies: tuple[int, ...], row_cycles: int) -> int:
    """The earliest end over every order in which rows enter and windows run: a search over sets of finished windows.

    State: what is in, what is done, what runs until when; branches over all sets of windows that may begin.
    """
    windows = [
        [frozenset(r for r in range(o - k // 2, o + k // 2 + 1) if 0 <= r < rows) for o in range(rows)]
        for k, _, _ in chain
    ]
    best = 10**9
    seen: dict[tuple[object, ...], int] = {}

    def begins(free: int, ready: list[int]) -> Iterator[tuple[int, ...]]:
        """Never idle on purpose: with equal times of a stage's windows waiting brings nothing but other choices."""
        count = min(free, len(ready))
        yield from combinations(ready, count)

    def go(
        time: int,
        entered: frozenset[int],
        done: tuple[frozenset[int], ...],
        running: tuple[tuple[int, int, int], ...],
    ) -> None:
        nonlocal best
        if time >= best:
            return
        if len(done[-1]) == rows:
            best = time
            return
        key = (entered, done, tuple(sorted((end - time, s, o) for end, s, o in running)), time % row_cycles)
        if seen.get(key, 10**9) <= time:
            return
        seen[key] = time
        choices: list[list[tuple[int, ...]]] = []
        for s, (_, _, _) in enumerate(chain):
            have = entered if s == 0 else done[s - 1]
            busy = {o for _, stage, o in running if stage == s}
            ready = [o for o in range(rows) if o not in done[s] and o not in busy and windows[s][o] <= have]
            choices.append(list(begins(copies[s] - len(busy), ready)))
        coming = (
            [entered | {r} for r in range(rows) if r not in entered] if len(entered) < rows else [entered]
        )
        for chosen in product(*choices):
            now = running + tuple(
                (time + chain[s][2], s, o) for s, started in enumerate(chosen) for o in started
            )
            row_at = (time // row_cycles + 1) * row_cycles
            at = min([end for end, _, _ in now] + ([row_at] if len(entered) < rows else []))
            ended = tuple(
                done[s] | {o for end, stage, o in now if stage == s and end == at} for s in range(len(chain))
            )
            left = tuple(item for item in now if item[0] > at)
            for more in coming if at == row_at and len(entered) < rows else [entered]:
                go(at, more, ended, left)

    go(0, frozenset(), (frozenset(),) * len(chain), ())
    return best


def best_of_all_copies(chain: Chain, rows: int, crossbars: int, row_cycles: int) -> int:
    """The least latency of all numbers of copies that fit, orders of rows and orders of windows."""
    return min(
        best_latency(chain, rows, copies, row_cycles)
        for copies in product(range(1, rows + 1), repeat=len(chain))
        if sum(tiles * n for (_, tiles, _), n in zip(chain, copies, strict=True)) <= crossbars
    )
