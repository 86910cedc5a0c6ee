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
from cimc.passes.schedule.copies.choose import Goal, Problem, choose
from cimc.passes.schedule.copies.ours import Limits, climb, even, fewest, least_energy, min_max, power_mw
from cimc.passes.schedule.copies.stage_costs import Source, StageCost
from tests.mapping.small_machine import small_machine

SOURCE = Source(height=3, stride=1, width=3, step=1, columns=8, pixel_bytes=4)


def stage(
    rows: int, positions: int, window: int, tiles: int, power: float = 1.0, contexts: int = 1
) -> StageCost:
    """An array stage of so many windows."""
    return StageCost("s", rows, positions, window, tiles, 1, positions, power, SOURCE, contexts)


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[int, StageCost], Limits]:
    """A few small stages, and room for at least one copy each."""
    sizes = st.tuples(
        st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(1, 5)
    )
    found = draw(st.lists(sizes, min_size=1, max_size=3))
    stages = {i: stage(r, p, w, t, float(power)) for i, (r, p, w, t, power) in enumerate(found)}
    least = sum(cost.tiles for cost in stages.values())
    cap = power_mw(stages, dict.fromkeys(stages, 1), 2.0) + draw(st.integers(0, 20))
    capped = draw(st.booleans())
    return stages, Limits(
        least + draw(st.integers(0, 20)), draw(st.integers(0, 12)), 2.0, cap if capped else None
    )


def all_copies(stages: Mapping[int, StageCost], limits: Limits) -> list[dict[int, int]]:
    """Every choice of copies that can be dealt and is allowed."""
    ranges = [[n for n in range(1, cost.most + 1) if cost.possible(n) == n] for cost in stages.values()]
    choices = (dict(zip(stages, numbers, strict=True)) for numbers in product(*ranges))
    return [copies for copies in choices if limits.allow(stages, copies)]


def slowest(stages: Mapping[int, StageCost], copies: Mapping[int, int], floor: Fraction) -> Fraction:
    """The interval."""
    return max(floor, *(Fraction(stages[i].interval(n)) for i, n in copies.items()))


@given(problems(), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_min_max_is_optimal(case: tuple[dict[int, StageCost], Limits], floor: int) -> None:
    """Against enumeration: the smallest interval above the floor that crossbars, contexts and power allow, with the
    fewest copies of every stage."""
    stages, limits = case
    choices = all_copies(stages, limits)
    best = min(slowest(stages, c, Fraction(floor)) for c in choices)
    found = min_max(stages, limits, Fraction(floor))
    assert found is not None
    assert limits.allow(stages, found)
    assert slowest(stages, found, Fraction(floor)) == best
    for i, n in found.items():
        assert n == min(c[i] for c in choices if stages[i].interval(c[i]) <= best)


@given(problems())
@settings(max_examples=60, deadline=None)
def test_moves_never_lengthen_and_stay_allowed(case: tuple[dict[int, StageCost], Limits]) -> None:
    """A climb ends no later than it began, within the limits, with nothing below ``least``."""
    stages, limits = case

    def latency(copies: Mapping[int, int]) -> int:
        return 100 + sum(stages[i].interval(n) for i, n in copies.items())

    least = min_max(stages, limits, Fraction(0))
    assert least is not None
    found = climb(stages, least, limits, latency, least, 5)
    assert latency(found) <= latency(least)
    assert limits.allow(stages, found)
    assert all(found[i] >= n for i, n in least.items())
    free = climb(stages, least, limits, latency, dict.fromkeys(stages, 1), 5)
    assert limits.allow(stages, free)
    assert latency(free) <= latency(least)


@given(problems())
@settings(max_examples=60, deadline=None)
def test_the_arrays_bound_is_below_the_optimum(case: tuple[dict[int, StageCost], Limits]) -> None:
    """Against enumeration of all copies that can be dealt: the bound over whole copies is never above the best."""
    stages, limits = case
    alone = Limits(limits.crossbars, 10**6, 0.0)
    best = min(slowest(stages, copies, Fraction(0)) for copies in all_copies(stages, alone))
    kinds = [Product(c.windows, c.cycles, c.tiles, c.windows) for c in stages.values()]
    bound = closed_form.interval(kinds, closed_form.min_max(kinds, alone.crossbars))
    assert bound <= best


def test_a_move_is_paid_by_the_stage_that_loses_least() -> None:
    """Without spare crossbars a slow stage gets the copies of one whose cycles do not matter."""
    stages = {0: stage(8, 1, 100, 1), 1: stage(8, 1, 1, 1)}

    def latency(copies: Mapping[int, int]) -> int:
        return sum(stages[i].interval(n) for i, n in copies.items())

    full = Limits(8, 100, 0.0)
    found = climb(stages, {0: 4, 1: 4}, full, latency, {0: 1, 1: 1}, 5)
    assert latency(found) == min(latency(c) for c in all_copies(stages, full))


def test_the_cap_bounds_what_works_together() -> None:
    """A power cap takes copies away, down to where the sum of all copies' arrays stays below it."""
    stages = {0: stage(8, 8, 10, 1, power=5.0), 1: stage(8, 8, 20, 1, power=1.0)}
    free = min_max(stages, Limits(100, 1000, 10.0), Fraction(0))
    capped = min_max(stages, Limits(100, 1000, 10.0, 100.0), Fraction(0))
    assert free is not None
    assert capped is not None
    assert power_mw(stages, free, 10.0) > 100.0 >= power_mw(stages, capped, 10.0)
    assert slowest(stages, free, Fraction(0)) < slowest(stages, capped, Fraction(0))


@pytest.mark.parametrize("static_power_mw", [0.0, 1.0, 10400.0])
def test_energy_weighs_static_power_against_traffic(static_power_mw: float) -> None:
    """Against enumeration: without static power one copy each, with much of it the smallest interval."""
    arch = small_machine(cores=40, crossbars=4).model_copy(update={"static_power_mw": static_power_mw})
    stages = {0: stage(6, 4, 10, 1), 1: stage(6, 4, 20, 2)}
    limits = Limits(60, 1000, static_power_mw)

    def energy_pj(copies: Mapping[int, int]) -> float:
        moved = sum(stages[i].arriving_bytes(n) for i, n in copies.items())
        byte = arch.core.local_buffer_energy_pj_per_byte + arch.network.energy_pj_per_byte_hop
        return static_power_mw * float(slowest(stages, copies, Fraction(0))) / arch.clock_ghz + moved * byte

    found = least_energy(stages, limits, Fraction(0), arch)
    assert found is not None
    quickest = min_max(stages, limits, Fraction(0))
    if static_power_mw == 0:
        assert found == {0: 1, 1: 1}
    if static_power_mw == 10400.0:
        assert found == quickest
    best = min(
        energy_pj(fewest(stages, v) or {})
        for _, cost in stages.items()
        for _, v in cost.ways
        if fewest(stages, v)
    )
    assert energy_pj(found) <= best * (1 + 1e-12) or found == quickest


def test_stages_of_equal_extent_get_equal_copies() -> None:
    """A quick stage gets the copies of a slow one beside it, as far as the limits go, the cheapest first."""
    stages = {0: stage(8, 1, 100, 1), 1: stage(8, 1, 10, 2), 2: stage(8, 1, 10, 3), 3: stage(4, 1, 10, 1)}
    chosen = {0: 8, 1: 1, 2: 1, 3: 1}
    assert even(stages, chosen, Limits(100, 100, 0.0)) == {0: 8, 1: 8, 2: 8, 3: 1}
    assert even(stages, chosen, Limits(30, 100, 0.0)) == {0: 8, 1: 8, 2: 1, 3: 1}


def test_a_share_at_a_time_until_it_fits() -> None:
    """The scheduler retries with fewer crossbars while ``fits`` refuses, and gives up below one copy each."""
    arch = small_machine(cores=25, crossbars=4)
    cost = stage(64, 8, 10, 1)
    problem = Problem((cost, None), (1, 2), {}, Fraction(0), lambda copies: cost.interval(copies.get(0, 1)))
    ours, baseline = Goal("cimc", "peak-power"), Goal("polyxb")
    assert choose(problem, ours, arch, lambda _: True) == (fewest({0: cost}, 60)[0], 1)  # pyright: ignore[reportOptionalSubscript] # 86 copies take 6 windows each
    assert choose(problem, ours, arch, lambda copies: copies[0] <= 20) == (20 - 20 % 4, 1)
    assert choose(problem, baseline, arch, lambda copies: copies[0] <= 20) == (20, 1)
    assert choose(problem, ours, arch, lambda _: False) is None


def test_objectives_differ() -> None:
    """Peak power takes the fewest copies of the smallest interval, throughput adds moves, latency gives it up."""
    arch = small_machine(cores=25, crossbars=4)
    stages = (stage(16, 4, 50, 1), stage(16, 4, 10, 1), stage(1, 1, 400, 4))

    def latency(copies: Mapping[int, int]) -> int:
        return sum(cost.interval(copies.get(i, 1)) for i, cost in enumerate(stages))

    problem = Problem(stages, (1, 1, 1), {}, Fraction(0), latency)
    found = {
        o: choose(problem, Goal("cimc", o), arch, lambda _: True)
        for o in ("peak-power", "throughput", "latency")
    }
    fewest_copies, held, quick = (
        dict(enumerate(found[o] or ())) for o in ("peak-power", "throughput", "latency")
    )
    costs = dict(enumerate(stages))
    assert slowest(costs, fewest_copies, Fraction(0)) == slowest(costs, held, Fraction(0))
    assert sum(fewest_copies.values()) < sum(held.values())
    assert latency(quick) <= latency(held) < latency(fewest_copies)


def test_one_stage_reaches_its_bound() -> None:
    """A single product whose windows deal evenly and whose copies fill the chip works at the bound of the arrays."""
    arch = small_machine(cores=4, crossbars=4)
    cost = stage(16, 1, 10, 1)
    problem = Problem((cost,), (1,), {}, Fraction(0), lambda copies: cost.interval(copies.get(0, 1)))
    assert choose(problem, Goal("cimc"), arch, lambda _: True) == (16,)
    assert Fraction(cost.interval(16)) == Fraction(cost.cycles * cost.tiles, 16)
