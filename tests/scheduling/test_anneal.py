"""Annealing of ways: what fits, what it is worth; and what contexts of a core cost each other."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.passes.schedule.copies.anneal import Choice, Space, anneal
from cimc.passes.schedule.copies.stage_costs import Source, StageCost
from cimc.passes.schedule.copies.ways import Limits, Options, Ways
from cimc.passes.schedule.crowding import BUSY, Crowding
from tests.scheduling.sums import Sums

SOURCE = Source(height=3, stride=1, width=3, step=1, columns=8, pixel_bytes=4)
ROOM = Limits(cores=40, size=1, contexts=1000, static_mw=0.0)


def stages_of(*windows: int) -> dict[int, Options]:
    """Stages of 16 rows and one crossbar a copy, with so many cycles a window."""
    return {
        i: Options((StageCost("s", 16, 1, window, 1, 1, 1, 1.0, SOURCE),), 1)
        for i, window in enumerate(windows)
    }


def one_each(stages: dict[int, Options]) -> Choice:
    """One copy of every stage."""
    return Choice({i: own.one for i, own in stages.items()}, {})


def copies(choice: Choice) -> list[int]:
    """Of every stage."""
    return [way.copies for _, way in sorted(choice.ways.items())]


@given(st.integers(2, 16), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_what_is_found_fits(most: int, first: int, second: int) -> None:
    """Whatever cores are there beside what the limits know, the choice found has room; it is the same every time, and
    no later than where the search began."""
    stages = stages_of(first, second)
    known = Sums(stages)

    def fits(ways: Ways) -> bool:
        return sum(way.copies for way in ways.values()) <= most

    start = one_each(stages)
    found = anneal(Space(stages, {}, ROOM, float("inf")), start, known, fits)
    assert fits(found.ways)
    assert known.latency(found.ways) <= known.latency(start.ways)
    assert found == anneal(Space(stages, {}, ROOM, float("inf")), start, Sums(stages), fits)


def test_crossbars_that_bring_nothing_stay_free() -> None:
    """A stage that no sum counts gives its copies back, though nothing else wants them; the one that decides has all of
    its windows' copies."""
    stages = stages_of(10, 10)
    start = Choice({i: own.way(16) for i, own in stages.items()}, {})
    found = anneal(Space(stages, {}, ROOM, float("inf")), start, Sums(stages, [[1, 0]]), lambda _: True)
    assert copies(found) == [16, 1]


def test_an_interval_is_kept() -> None:
    """No stage gets slower than may be, though the latency does not ask for it."""
    stages = stages_of(10, 10)
    start = Choice({i: own.way(16) for i, own in stages.items()}, {})
    found = anneal(Space(stages, {}, ROOM, 40), start, Sums(stages, [[1, 0]]), lambda _: True)
    assert copies(found) == [16, 4]


@given(st.integers(1, 5), st.data())
def test_memory_of_cores_full_of_contexts_of_one_size(size: int, data: st.DataObject) -> None:
    """Contexts that fill whole cores: the interval of a memory is what all ask of it over the cores they fill, and a
    stage waits for its own contexts alone."""
    core = 16
    together = core // size
    counts = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    counts[-1] += -sum(counts) % together
    ports = np.array(data.draw(st.lists(st.integers(0, 999), min_size=len(counts), max_size=len(counts))))
    crowding = Crowding(len(counts), core)
    for stage, count in enumerate(counts):
        crowding.put(stage, np.bincount([size], [count]).astype(np.int64))
    intervals = np.full(len(counts), 500)
    interval, waits = crowding.judge(ports, intervals)
    cores = sum(counts) // together
    assert interval == int(ports @ counts / cores + 1e-9)
    own = ports * counts / cores / BUSY
    np.testing.assert_allclose(waits, np.maximum(0, own - intervals), rtol=1e-12, atol=1e-9)


def test_contexts_of_other_sizes_have_other_cores() -> None:
    """Sizes do not share cores; what was held comes back, and a stage that changes its size leaves the old one."""
    crowding, none = Crowding(2, 16), np.zeros(2, np.int64)
    ports = np.array([100, 30])
    crowding.put(0, np.array([0, 0, 0, 0, 0, 0, 0, 0, 2]))
    crowding.put(1, np.array([0, 0, 0, 0, 4]))
    assert crowding.judge(ports, none)[0] == 200
    crowding.keep()
    crowding.put(0, np.array([0, 0, 0, 0, 4]))
    assert crowding.judge(ports, none)[0] == 2 * 100 + 2 * 30
    crowding.back()
    assert crowding.judge(ports, none)[0] == 200
