"""Copies, latencies and bounds against enumeration of all copies on small lists."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.passes.schedule.closed_form import cim_mlc, copies, latency
from cimc.passes.schedule.closed_form.copies import Product
from cimc.passes.schedule.closed_form.makespan import makespan, refine, terms
from cimc.passes.schedule.closed_form.networks import resnet
from cimc.passes.schedule.closed_form.operators import REFERENCE, Machine, Operator
from cimc.passes.schedule.closed_form.relaxation import relax
from cimc.passes.schedule.closed_form.scheduler import schedule, with_pools

SMALL = Machine(cores=6, core_crossbars=4)


@st.composite
def lists(draw: st.DrawFn) -> tuple[Operator, ...]:
    """Two to four convolutions with pools between some, at most 12 x 12 pixels."""
    height, channels = draw(st.sampled_from((8, 12))), draw(st.sampled_from((3, 8)))
    ops: list[Operator] = []
    for index in range(draw(st.integers(2, 4))):
        kernel, stride = draw(st.sampled_from((1, 3))), draw(st.sampled_from((1, 1, 2)))
        made = draw(st.sampled_from((8, 16, 40)))
        ops.append(Operator(f"c{index}", "convolution", kernel, stride, channels, made, height))
        channels, height = made, ops[-1].out_height
        if height >= 4 and draw(st.booleans()):
            ops.append(Operator(f"p{index}", "pool", 2, 2, channels, channels, height))
            height //= 2
    return tuple(ops)


def every_choice(ops: tuple[Operator, ...], machine: Machine) -> list[tuple[int, ...]]:
    """All copies of the convolutions that fit the machine."""
    kinds = copies.products(ops, machine)
    spare = machine.crossbars - sum(k.tiles for k in kinds)
    ranges = [range(1, min(k.most, 1 + spare // k.tiles) + 1) for k in kinds]
    return [n for n in product(*ranges) if copies.used(kinds, n) <= machine.crossbars]


@given(lists())
@settings(max_examples=40, deadline=None)
def test_terms_are_the_formula(ops: tuple[Operator, ...]) -> None:
    """The unrolled sums equal the recursion of the column, for any copies."""
    chain = terms(ops, SMALL)
    for chosen in every_choice(ops, SMALL)[::7]:
        formula = latency.pipelined(ops, SMALL, latency.MVM_PIPELINE, with_pools(ops, chosen))
        assert makespan(chain, chosen) == formula


@given(lists())
@settings(max_examples=40, deadline=None)
def test_intervals_are_optimal(ops: tuple[Operator, ...]) -> None:
    """Min-max and greedy have the smallest interval of all copies that fit; min-max leaves the most crossbars."""
    kinds, all_of_them = copies.products(ops, SMALL), every_choice(ops, SMALL)
    best = min(copies.interval(kinds, n) for n in all_of_them)
    smallest = copies.min_max(kinds, SMALL.crossbars)
    assert copies.interval(kinds, smallest) == best
    assert copies.interval(kinds, copies.greedy(kinds, SMALL.crossbars)) == best
    fewest = min(copies.used(kinds, n) for n in all_of_them if copies.interval(kinds, n) == best)
    assert copies.used(kinds, smallest) == fewest
    assert copies.fluid_interval(kinds, SMALL.crossbars) <= best


@given(lists())
@settings(max_examples=25, deadline=None)
def test_latencies_are_within_bounds_and_near_the_optimum(ops: tuple[Operator, ...]) -> None:
    """Relaxation <= optimum by enumeration <= ours; the interval is kept at the min-max in throughput mode."""
    kinds, chain, all_of_them = copies.products(ops, SMALL), terms(ops, SMALL), every_choice(ops, SMALL)
    best = min(makespan(chain, n) for n in all_of_them)
    ours = schedule(ops, SMALL, "latency")
    assert ours.latency_bound <= best * (1 + 1e-9)
    assert best <= ours.latency <= 1.02 * best
    held = schedule(ops, SMALL, "throughput")
    assert held.interval == held.interval_bound == min(copies.interval(kinds, n) for n in all_of_them)
    at_it = min(makespan(chain, n) for n in all_of_them if copies.interval(kinds, n) == held.interval)
    assert held.latency_bound <= at_it * (1 + 1e-9)
    assert at_it <= held.latency <= 1.02 * at_it


def test_one_stage_reaches_its_bound() -> None:
    """A single product with tiles that divide the chip takes all of it: fluid bound, min-max and latency bound meet."""
    kinds = (Product(windows=24, cycles=240, tiles=2, most=24),)
    assert copies.min_max(kinds, 16) == (8,)
    assert copies.interval(kinds, (8,)) == copies.fluid_interval(kinds, 16) == 30
    one = (Operator("c", "convolution", 3, 1, 8, 8, 8),)
    made = schedule(one, SMALL, "latency")
    assert made.latency_bound == pytest.approx(made.latency)


def test_copies_never_exceed_windows() -> None:
    """Products with one window keep one copy, whatever is free."""
    kinds = (Product(1, 128, 1, 1), Product(4, 512, 1, 4))
    assert copies.greedy(kinds, 1000) == (1, 4)
    assert copies.min_max(kinds, 1000) == (1, 4)
    assert copies.polyxb(kinds, 1000) == (1, 4)


def test_what_does_not_fit_is_refused() -> None:
    """One copy each beyond the chip is an error that names need and supply."""
    with pytest.raises(ValueError, match="9 crossbars, given 8"):
        copies.min_max((Product(4, 512, 9, 4),), 8)
    with pytest.raises(ValueError, match="cores more than the 100"):
        cim_mlc.assign(resnet(18), Machine(cores=100))


def test_segments_are_first_fit() -> None:
    """A segment opens with the convolution that no longer fits; pools stay with the segment before them."""
    parts = cim_mlc.segments(resnet(18), Machine(cores=100))
    assert sum(parts, ()) == resnet(18)
    for part, after in zip(parts, (*parts[1:], ()), strict=True):
        cores = sum(map(REFERENCE.cores_of, part))
        assert cores <= 100
        assert not part[0].is_pool
        if after:
            assert cores + REFERENCE.cores_of(after[0]) > 100


def test_whole_windows_move_one_network_only() -> None:
    """With whole windows a copy's turns round up: ResNet101's interval becomes 33,536 cycles, ResNet18's stays."""
    for layers, published in ((18, 6272), (101, 33536)):
        kinds = copies.products(resnet(layers), REFERENCE)
        chosen = copies.min_max(kinds, REFERENCE.crossbars)
        turns = [-(-k.windows // n) * (k.cycles // k.windows) for k, n in zip(kinds, chosen, strict=True)]
        assert max(turns) == published


def test_refinement_keeps_its_promises() -> None:
    """Never slower, never below ``least``, never beyond the chip."""
    ops = resnet(18)
    chain, kinds = terms(ops, REFERENCE), copies.products(ops, REFERENCE)
    least = copies.min_max(kinds, REFERENCE.crossbars)
    better = refine(chain, least, REFERENCE.crossbars, least)
    assert makespan(chain, better) < makespan(chain, least)
    assert all(n >= lo for n, lo in zip(better, least, strict=True))
    assert copies.used(kinds, better) <= REFERENCE.crossbars
    assert copies.interval(kinds, better) == copies.interval(kinds, least) == Fraction(6272)


def test_relaxation_refuses_starts_that_do_not_fit() -> None:
    """The start is checked, so that the first master has a solution."""
    chain = terms(resnet(18), REFERENCE)
    ones = (1,) * len(chain)
    with pytest.raises(ValueError, match="given 100"):
        relax(chain, 100, ones, ones)
