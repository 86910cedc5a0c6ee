"""Our choice of copies on small problems: against enumeration, its objectives, caps and the retry for cores."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.passes.schedule.closed_form import copies as closed_form
from cimc.passes.schedule.closed_form.copies import Product
from cimc.passes.schedule.copies.anneal import Choice, Space, anneal
from cimc.passes.schedule.copies.choose import Goal, Problem, choose, shorten
from cimc.passes.schedule.copies.ours import ADDED_CONTEXTS, climb, even, fewest, least_energy, min_max
from cimc.passes.schedule.copies.stage_costs import Source, StageCost
from cimc.passes.schedule.copies.ways import Limits, Options, Way, Ways, power_mw
from tests.mapping.small_machine import small_machine
from tests.scheduling.sums import Sums

SOURCE = Source(height=3, stride=1, width=3, step=1, columns=8, pixel_bytes=4)


def stage(
    rows: int, positions: int, window: int, tiles: int, power: float = 1.0, sizes: tuple[int, ...] = ()
) -> Options:
    """An array stage of so many windows, its weights cut in one way."""
    return Options((StageCost("s", rows, positions, window, tiles, 1, positions, power, SOURCE, sizes),), 4)


def limits_of(crossbars: int, contexts: int = 10**6, static: float = 0.0, cap: float | None = None) -> Limits:
    """Limits of cores of one crossbar, so that packing is exact."""
    return Limits(crossbars, 1, contexts, static, cap)


def copies_of(ways: Ways | None) -> dict[int, int]:
    """Copies alone."""
    assert ways is not None
    return {i: way.copies for i, way in ways.items()}


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[int, Options], Limits]:
    """A few small stages, and room for at least one copy each."""
    sizes = st.tuples(
        st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(1, 5)
    )
    found = draw(st.lists(sizes, min_size=1, max_size=3))
    stages = {i: stage(r, p, w, t, float(power)) for i, (r, p, w, t, power) in enumerate(found)}
    one = {i: own.one for i, own in stages.items()}
    least = sum(way.tiles for way in one.values())
    cap = power_mw(one.values(), 2.0) + draw(st.integers(0, 20))
    capped = draw(st.booleans())
    return stages, limits_of(
        least + draw(st.integers(0, 20)), draw(st.integers(0, 12)), 2.0, cap if capped else None
    )


def all_ways(stages: Mapping[int, Options], limits: Limits) -> list[dict[int, Way]]:
    """Every choice of copies that can be dealt and is allowed."""
    ranges = [
        [own.way(n) for n in range(1, own.base.most + 1) if own.base.possible(n) == n]
        for own in stages.values()
    ]
    choices = (dict(zip(stages, ways, strict=True)) for ways in product(*ranges))
    return [ways for ways in choices if limits.allow(ways)]


def slowest(ways: Ways, floor: Fraction = Fraction(0)) -> Fraction:
    """The interval."""
    return max(floor, *(Fraction(way.cycles) for way in ways.values()))


@given(problems(), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_min_max_is_optimal(case: tuple[dict[int, Options], Limits], floor: int) -> None:
    """Against enumeration: the smallest interval above the floor that crossbars, contexts and power allow, with the
    fewest copies of every stage."""
    stages, limits = case
    choices = all_ways(stages, limits)
    best = min(slowest(c, Fraction(floor)) for c in choices)
    found = min_max(stages, limits, Fraction(floor))
    assert found is not None
    assert limits.allow(found)
    assert slowest(found, Fraction(floor)) == best
    for i, way in found.items():
        assert way.copies == min(c[i].copies for c in choices if c[i].cycles <= best)


@st.composite
def cut_stages(draw: st.DrawFn) -> dict[int, Options]:
    """Stages whose weights can be cut in two ways: more crossbars a copy, fewer cycles a window."""
    stages: dict[int, Options] = {}
    for i in range(draw(st.integers(1, 3))):
        rows, window, tiles = draw(st.integers(1, 4)), draw(st.integers(2, 9)), draw(st.integers(1, 3))
        wide = draw(st.integers(tiles, 2 * tiles)), draw(st.integers(1, window))
        stages[i] = Options(
            tuple(
                StageCost("s", rows, 1, w, t, 1, 1, 1.0, SOURCE, row_tiles=t)
                for t, w in ((tiles, window), wide)
            ),
            1,
        )
    return stages


@given(cut_stages(), st.integers(0, 12))
@settings(max_examples=100, deadline=None)
def test_min_max_chooses_among_cuts(stages: dict[int, Options], more: int) -> None:
    """Against enumeration of copies and cuts: the smallest interval; and the bound of the arrays is not above it."""
    limits = limits_of(sum(own.base.tiles for own in stages.values()) + more)
    ranges = [
        [Way(cost, cost.dealt(n), cost.interval(n)) for cost in own.variants for n in range(1, cost.most + 1)]
        for own in stages.values()
    ]
    choices = [dict(zip(stages, ways, strict=True)) for ways in product(*ranges)]
    best = min(slowest(c) for c in choices if limits.allow(c))
    found = min_max(stages, limits, Fraction(0))
    assert found is not None
    assert slowest(found) == best
    kinds = [
        [Product(c.windows, c.cycles, c.tiles, c.windows) for c in own.variants] for own in stages.values()
    ]
    assert closed_form.min_max_interval(kinds, limits.cores) <= best


@given(problems())
@settings(max_examples=60, deadline=None)
def test_moves_never_lengthen_and_stay_allowed(case: tuple[dict[int, Options], Limits]) -> None:
    """Climb and annealing end no later than they began, within the limits, with nothing slower than it may be."""
    stages, limits = case
    known = Sums(stages, rest=100)
    start = min_max(stages, limits, Fraction(0))
    assert start is not None
    held = {i: way.cycles for i, way in start.items()}
    found = climb(stages, start, limits, known.latency, held, 5)
    assert known.latency(found) <= known.latency(start)
    assert limits.allow(found)
    assert all(way.cycles <= held[i] for i, way in found.items())
    free = climb(stages, start, limits, known.latency, {i: own.one.cycles for i, own in stages.items()}, 5)
    assert limits.allow(free)
    assert known.latency(free) <= known.latency(start)
    space = Space(stages, {}, limits, float(slowest(start)))
    paced = anneal(space, Choice(start, {}), known, lambda _: True).ways
    assert limits.allow(paced)
    assert known.latency(paced) <= known.latency(start)
    assert slowest(paced) <= slowest(start)


@given(problems())
@settings(max_examples=60, deadline=None)
def test_the_arrays_bound_is_below_the_optimum(case: tuple[dict[int, Options], Limits]) -> None:
    """Against enumeration of all copies that can be dealt: the bound over whole copies is never above the best."""
    stages, limits = case
    alone = limits_of(limits.cores)
    best = min(slowest(ways) for ways in all_ways(stages, alone))
    bases = [own.base for own in stages.values()]
    kinds = [Product(c.windows, c.cycles, c.tiles, c.windows) for c in bases]
    bound = closed_form.interval(kinds, closed_form.min_max(kinds, alone.cores))
    assert bound <= best
    assert closed_form.min_max_interval([[kind] for kind in kinds], alone.cores) == bound


def test_a_move_is_paid_by_the_stage_that_loses_least() -> None:
    """Without spare crossbars a slow stage gets the copies of one whose cycles do not matter."""
    stages = {0: stage(8, 1, 100, 1), 1: stage(8, 1, 1, 1)}
    known, full = Sums(stages), limits_of(8, 100)
    start = {0: stages[0].way(4), 1: stages[1].way(4)}
    best = min(known.latency(ways) for ways in all_ways(stages, full))
    found = climb(stages, start, full, known.latency, {0: 800, 1: 8}, 5)
    assert known.latency(found) == best
    space = Space(stages, {}, full, 800)
    assert known.latency(anneal(space, Choice(start, {}), known, lambda _: True).ways) == best


def test_the_cap_bounds_what_works_together() -> None:
    """A power cap takes copies away, down to where the sum of all copies' arrays stays below it."""
    stages = {0: stage(8, 8, 10, 1, power=5.0), 1: stage(8, 8, 20, 1, power=1.0)}
    free = min_max(stages, limits_of(100, 1000, 10.0), Fraction(0))
    capped = min_max(stages, limits_of(100, 1000, 10.0, 100.0), Fraction(0))
    assert free is not None
    assert capped is not None
    assert power_mw(free.values(), 10.0) > 100.0 >= power_mw(capped.values(), 10.0)
    assert slowest(free) < slowest(capped)


@pytest.mark.parametrize("static_power_mw", [0.0, 1.0, 10400.0])
def test_energy_weighs_static_power_against_traffic(static_power_mw: float) -> None:
    """Against enumeration: without static power one copy each, with much of it the smallest interval."""
    arch = small_machine(cores=40, crossbars=4).model_copy(update={"static_power_mw": static_power_mw})
    stages = {0: stage(6, 4, 10, 1), 1: stage(6, 4, 20, 2)}
    limits = limits_of(60, 1000, static_power_mw)

    def energy(ways: Ways) -> float:
        moved = sum(way.cost.arriving_bytes(way.copies) for way in ways.values())
        byte = arch.core.local_buffer_energy_pj_per_byte + arch.network.energy_pj_per_byte_hop
        return static_power_mw * float(slowest(ways)) / arch.clock_ghz + moved * byte

    found = least_energy(stages, limits, Fraction(0), arch, Sums(stages))
    assert found is not None
    quickest = min_max(stages, limits, Fraction(0))
    if static_power_mw == 0:
        assert copies_of(found) == {0: 1, 1: 1}
    if static_power_mw == 10400.0:
        assert found == quickest
    known = (fewest(stages, limits, value) for own in stages.values() for value in own.cycles)
    best = min(energy(ways) for ways in known if ways is not None)
    assert energy(found) <= best * (1 + 1e-12)


def test_stages_of_equal_extent_get_equal_copies() -> None:
    """A stage slower than one of its extent becomes as quick, as far as the limits go, the cheapest first."""
    stages = {0: stage(8, 1, 10, 1), 1: stage(8, 1, 10, 2), 2: stage(8, 1, 10, 3), 3: stage(4, 1, 10, 1)}
    chosen = {0: stages[0].way(8), **{i: stages[i].one for i in (1, 2, 3)}}
    assert copies_of(even(stages, chosen, limits_of(100, 100))) == {0: 8, 1: 8, 2: 8, 3: 1}
    assert copies_of(even(stages, chosen, limits_of(30, 100))) == {0: 8, 1: 8, 2: 1, 3: 1}


def test_a_share_at_a_time_until_it_fits() -> None:
    """The scheduler retries with fewer cores while ``fits`` refuses, and gives up below one copy each."""
    arch = small_machine(cores=25, crossbars=4)
    own = stage(64, 8, 10, 1)
    problem = Problem((own, None), (1, 2), {}, Fraction(0), Sums({0: own}))
    ours, baseline = Goal("cimc", "peak-power"), Goal("polyxb")

    def copies(goal: Goal, most: int) -> int:
        found = choose(problem, goal, arch, lambda ways: ways[0] is not None and ways[0].copies <= most)
        assert found is not None
        assert found[0] is not None
        assert found[1] is None
        return found[0].copies

    assert (
        copies(ours, 1000) == copies_of(fewest({0: own}, limits_of(100), 60))[0]
    )  # 86 copies take 6 windows each
    assert copies(ours, 20) == 20 - 20 % 4
    assert copies(baseline, 20) == 20
    assert choose(problem, ours, arch, lambda _: False) is None


def test_objectives_differ() -> None:
    """Peak power takes the fewest copies of the smallest interval, throughput adds moves, latency gives some of it."""
    arch = small_machine(cores=25, crossbars=4)
    stages = (stage(16, 4, 50, 1), stage(16, 4, 10, 1), stage(1, 1, 400, 4))
    known = Sums(dict(enumerate(stages)))
    problem = Problem(stages, (1, 1, 1), {}, Fraction(0), known)
    found = [
        {i: way for i, way in enumerate(choose(problem, Goal("cimc", o), arch, lambda _: True) or ()) if way}
        for o in ("peak-power", "throughput", "latency")
    ]
    fewest_copies, *starts = found
    held, quick = (
        shorten(problem, Goal("cimc", o), ways, {}, arch, lambda _: True).ways
        for o, ways in zip(("throughput", "latency"), starts, strict=True)
    )
    assert slowest(fewest_copies) == slowest(held)
    assert sum(copies_of(fewest_copies).values()) < sum(copies_of(held).values())
    assert known.latency(quick) <= known.latency(held) < known.latency(fewest_copies)


def test_one_stage_reaches_its_bound() -> None:
    """A single product whose windows deal evenly and whose copies fill the chip works at the bound of the arrays."""
    arch = small_machine(cores=4, crossbars=4)
    own = stage(16, 1, 10, 1)
    problem = Problem((own,), (1,), {}, Fraction(0), Sums({0: own}))
    found = choose(problem, Goal("cimc"), arch, lambda _: True)
    assert copies_of(dict(enumerate(way for way in found or () if way is not None))) == {0: 16}
    assert Fraction(own.way(16).cycles) == Fraction(own.base.cycles * own.base.tiles, 16)


@pytest.mark.parametrize(
    "goal", [Goal("cimc", "latency"), Goal("cimc", "throughput"), Goal("polyxb"), Goal("cim-mlc-matmul")]
)
def test_copies_add_so_many_contexts(goal: Goal) -> None:
    """Contexts of one crossbar, 300 in one copy, and crossbars for 133 copies: no scheduler's copies add more contexts
    than the limit, and the fastest dealing below it is taken by ours."""
    arch = small_machine(cores=40_000, crossbars=1, contexts=8)
    own = stage(50, 50, 100, 300, sizes=(1,) * 300)
    problem = Problem((own,), (1,), {}, Fraction(0), Sums({0: own}))
    found = choose(problem, goal, arch, lambda _: True)
    assert found is not None
    assert found[0] is not None
    most = 1 + ADDED_CONTEXTS // 300
    assert 1 < found[0].copies <= most
    quickest = min(own.way(n).cycles for n in range(1, most + 1))
    assert goal.scheduler != "cimc" or found[0].cycles == quickest
