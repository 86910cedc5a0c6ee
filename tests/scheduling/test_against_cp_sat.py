"""Copies, cuts, latencies and bounds against the proven optimum of an exact solver (CP-SAT), beyond what enumeration
reaches.

Every instance is solved to optimality; the models know nothing of the algorithms under test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import product
from math import lcm

import numpy as np
import pytest
from ortools.sat.python import cp_model

from cimc.passes.schedule.closed_form import copies as closed_form
from cimc.passes.schedule.closed_form.copies import Product
from cimc.passes.schedule.closed_form.makespan import Terms, terms
from cimc.passes.schedule.closed_form.operators import Machine, Operator
from cimc.passes.schedule.closed_form.scheduler import schedule
from cimc.passes.schedule.copies.choose import Goal, Problem, choose, shorten
from cimc.passes.schedule.copies.latency_bound import latency_bound
from cimc.passes.schedule.copies.ours import SLACK, Objective, min_max
from cimc.passes.schedule.copies.stage_costs import Source, StageCost
from cimc.passes.schedule.copies.ways import Limits, Options, Way
from tests.mapping.small_machine import small_machine
from tests.scheduling.chains import Chain, works
from tests.scheduling.sums import Sums

SMALL = Machine(cores=12, core_crossbars=4)
MOST = 8
"""Copies of a product of the first test; the solver's integers are multiples of all fractions of them."""


def optimum(model: cp_model.CpModel) -> int:
    """The least value of the model's objective, proven."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    assert solver.solve(model) == cp_model.OPTIMAL
    return round(solver.objective_value)


def one_of(model: cp_model.CpModel, count: int) -> list[cp_model.IntVar]:
    """Exactly one of so many choices."""
    chosen = [model.new_bool_var("") for _ in range(count)]
    model.add_exactly_one(chosen)
    return chosen


def value(chosen: Sequence[cp_model.IntVar], numbers: Sequence[int]) -> cp_model.LinearExpr:
    """The number of the choice that is taken."""
    return cp_model.LinearExpr.weighted_sum(list(chosen), list(numbers))


def total(parts: Sequence[cp_model.LinearExpr | cp_model.IntVar]) -> cp_model.LinearExpr:
    """The sum of expressions."""
    return cp_model.LinearExpr.sum(list(parts))


def kinds_of(rng: np.random.Generator, cuts: int) -> list[list[Product]]:
    """Operators, each as one of several products: a cut with more crossbars takes fewer cycles."""
    found: list[list[Product]] = []
    for _ in range(int(rng.integers(4, 8))):
        windows, cycles, tiles = (int(n) for n in rng.integers((2, 20, 1), (40, 400, 6)))
        most = min(MOST, windows)
        found.append([Product(windows, max(1, cycles // (1 + c)), tiles + 2 * c, most) for c in range(cuts)])
    return found


def least_interval(kinds: Sequence[Sequence[Product]], crossbars: int) -> Fraction:
    """The smallest interval over whole copies of one product of each operator."""
    model, unit = cp_model.CpModel(), lcm(*range(1, MOST + 1))
    slowest = model.new_int_var(0, unit * max(p.cycles for own in kinds for p in own), "")
    taken: list[cp_model.LinearExpr] = []
    for own in kinds:
        ways = [(p, n) for p in own for n in range(1, p.most + 1)]
        chosen = one_of(model, len(ways))
        model.add(value(chosen, [p.cycles * unit // n for p, n in ways]) <= slowest)
        taken.append(value(chosen, [p.tiles * n for p, n in ways]))
    model.add(total(taken) <= crossbars)
    model.minimize(slowest)
    return Fraction(optimum(model), unit)


@pytest.mark.parametrize("seed", range(12))
def test_the_closed_forms_interval_is_the_optimum(seed: int) -> None:
    """``min_max`` and ``greedy`` without cuts and ``min_max_interval`` with them; the fluid bound is not above it."""
    rng = np.random.default_rng(seed)
    kinds = kinds_of(rng, 3)
    first = [own[0] for own in kinds]
    crossbars = sum(p.tiles for p in first) + int(rng.integers(0, 60))
    best = least_interval([[p] for p in first], crossbars)
    assert closed_form.interval(first, closed_form.min_max(first, crossbars)) == best
    assert closed_form.interval(first, closed_form.greedy(first, crossbars)) == best
    assert closed_form.min_max_interval([[p] for p in first], crossbars) == best
    assert closed_form.fluid_interval(first, crossbars) <= best
    assert closed_form.min_max_interval(kinds, crossbars) == least_interval(kinds, crossbars) <= best


def stages_of(rng: np.random.Generator) -> dict[int, Options]:
    """Stages of a compiled model with up to three cuts of their weights."""
    source = Source(height=3, stride=1, width=3, step=1, columns=8, pixel_bytes=4)
    found: dict[int, Options] = {}
    for i in range(int(rng.integers(4, 8))):
        rows, positions, window, tiles = (int(n) for n in rng.integers((2, 1, 4, 1), (9, 7, 40, 5)))
        costs = [
            StageCost(
                "s",
                rows,
                positions,
                max(1, window // (1 + c)),
                tiles + c,
                1,
                positions,
                1.0,
                source,
                (),
                None,
                c,
            )
            for c in range(int(rng.integers(1, 4)))
        ]
        found[i] = Options(tuple(costs), 1)
    return found


def ways_of(own: Options) -> list[Way]:
    """Every number of copies that can be dealt, in every cut."""
    return [
        Way(cost, cost.dealt(n), cost.interval(n))
        for cost in own.variants
        for n in range(1, cost.most + 1)
        if cost.possible(n) == n
    ]


def least_of_ways(stages: Mapping[int, Options], limits: Limits, floor: int) -> int:
    """The smallest interval over all ways within crossbars, contexts and power."""
    model = cp_model.CpModel()
    slowest = model.new_int_var(floor, 10**6, "")
    taken: list[tuple[cp_model.LinearExpr, cp_model.LinearExpr]] = []
    for own in stages.values():
        ways = ways_of(own)
        chosen = one_of(model, len(ways))
        model.add(value(chosen, [way.cycles for way in ways]) <= slowest)
        taken.append((value(chosen, [w.tiles for w in ways]), value(chosen, [w.contexts for w in ways])))
    model.add(total([tiles for tiles, _ in taken]) <= limits.cores)
    model.add(total([contexts for _, contexts in taken]) <= limits.contexts)
    model.minimize(slowest)
    return optimum(model)


@pytest.mark.parametrize("seed", range(12))
def test_the_interval_of_compiled_stages_is_the_optimum(seed: int) -> None:
    """Copies that can be dealt, cuts, a limit of contexts and a floor; the bound of the arrays is not above it."""
    rng = np.random.default_rng(seed)
    stages = stages_of(rng)
    least = sum(own.one.tiles for own in stages.values())
    limits = Limits(least + int(rng.integers(0, 60)), 1, int(rng.integers(10, 60)), 0.0)
    floor = int(rng.integers(0, 80))
    found = min_max(stages, limits, Fraction(floor))
    assert found is not None
    assert limits.allow(found)
    best = least_of_ways(stages, limits, floor)
    assert max(floor, *(way.cycles for way in found.values())) == best
    kinds = [
        [Product(c.windows, c.cycles, c.tiles, c.windows) for c in own.variants] for own in stages.values()
    ]
    assert closed_form.min_max_interval(kinds, limits.cores) <= best


def least_sum(known: Sums, crossbars: int, most: float) -> int:
    """The smallest of the largest sums over all ways within the crossbars, none slower than ``most``."""
    model = cp_model.CpModel()
    latency = model.new_int_var(0, 10**9, "")
    cycles: list[cp_model.LinearExpr] = []
    taken: list[cp_model.LinearExpr] = []
    for own in known.stages.values():
        ways = [way for way in ways_of(own) if way.cycles <= most]
        chosen = one_of(model, len(ways))
        cycles.append(value(chosen, [way.cycles for way in ways]))
        taken.append(value(chosen, [way.tiles for way in ways]))
    for row in known.weights:
        model.add(total([w * c for w, c in zip(row, cycles, strict=True)]) <= latency)
    model.add(total(taken) <= crossbars)
    model.minimize(latency)
    return optimum(model)


@pytest.mark.parametrize("objective", ["latency", "throughput"])
@pytest.mark.parametrize("seed", range(12))
def test_latencies_of_compiled_stages_are_near_the_optimum(seed: int, objective: Objective) -> None:
    """From the smallest interval on, with three sums that take turns in deciding; the interval held, or a quarter
    longer."""
    rng = np.random.default_rng(seed)
    stages = stages_of(rng)
    known = Sums(stages, rng.integers(1, 5, (3, len(stages))).tolist())
    least = sum(own.one.tiles for own in stages.values())
    arch = small_machine(cores=least + int(rng.integers(10, 80)), crossbars=1)
    problem = Problem(tuple(stages.values()), (1,) * len(stages), {}, Fraction(0), known)
    goal = Goal("cimc", objective)
    found = choose(problem, goal, arch, lambda _: True)
    start = {i: way for i, way in enumerate(found or ()) if way is not None}
    ways = shorten(problem, goal, start, {}, arch, lambda _: True).ways
    slowest = (1 + SLACK[objective]) * max(way.cycles for way in start.values())
    best = least_sum(known, arch.chip.cores, slowest)
    assert best <= known.latency(ways) <= 1.02 * best


def operators(rng: np.random.Generator) -> tuple[Operator, ...]:
    """Five to seven convolutions, some of them followed by a pool."""
    height, channels = int(rng.choice((12, 16))), 3
    ops: list[Operator] = []
    for index in range(int(rng.integers(5, 8))):
        made, kernel = int(rng.choice((8, 16, 24))), int(rng.choice((1, 3)))
        stride = 2 if height >= 8 and rng.random() < 0.2 else 1
        ops.append(Operator(f"c{index}", "convolution", kernel, stride, channels, made, height))
        channels, height = made, ops[-1].out_height
        if height >= 8 and rng.random() < 0.3:
            ops.append(Operator(f"p{index}", "pool", 2, 2, channels, channels, height))
            height //= 2
    return tuple(ops)


def least_latency(chain: Sequence[Terms], crossbars: int, least: Sequence[int]) -> int:
    """The shortest pipelined latency over copies, none below ``least``: the largest of the sums, one an operator."""
    model = cp_model.CpModel()
    latency = model.new_int_var(0, 10**9, "")
    chosen = [one_of(model, len(own.body)) for own in chain]
    for lo, picked in zip(least, chosen, strict=True):
        for n in range(1, lo):
            model.add(picked[n - 1] == 0)
    steps, bodies, tails = (
        [value(picked, getattr(own, name).tolist()) for own, picked in zip(chain, chosen, strict=True)]
        for name in ("step", "body", "tail")
    )
    for i in range(len(chain)):
        model.add(total([*steps[:i], bodies[i], *tails[i + 1 :]]) <= latency)
    numbers = (range(1, 1 + len(own.body)) for own in chain)
    taken = [
        value(picked, [own.tiles * n for n in count])
        for own, picked, count in zip(chain, chosen, numbers, strict=True)
    ]
    model.add(total(taken) <= crossbars)
    model.minimize(latency)
    return optimum(model)


@pytest.mark.parametrize("seed", range(10))
def test_latencies_are_near_the_optimum(seed: int) -> None:
    """Both modes of the closed form end within 2 % of the optimum, with the interval held or not, and no bound is
    above it."""
    ops = operators(np.random.default_rng(seed))
    chain, kinds = terms(ops, SMALL), closed_form.products(ops, SMALL)
    free = least_latency(chain, SMALL.crossbars, [1] * len(chain))
    ours = schedule(ops, SMALL, "latency")
    assert ours.latency_bound <= free * (1 + 1e-9)
    assert free <= ours.latency <= 1.02 * free
    held = schedule(ops, SMALL, "throughput")
    at_it = least_latency(chain, SMALL.crossbars, closed_form.min_max(kinds, SMALL.crossbars))
    assert held.interval == held.interval_bound
    assert held.latency_bound <= at_it * (1 + 1e-9)
    assert at_it <= held.latency <= 1.02 * at_it


def earliest_end(chain: Chain, rows: int, copies: Sequence[int], row_cycles: int) -> int:
    """The earliest end over all orders in which rows enter and windows run."""
    horizon = row_cycles * rows + sum(rows * window for _, _, window in chain)
    model = cp_model.CpModel()
    place = [model.new_int_var(1, rows, "") for _ in range(rows)]
    model.add_all_different(place)
    there: list[cp_model.LinearExpr] = [row_cycles * at for at in place]
    for (kernel, _, window), n in zip(chain, copies, strict=True):
        starts = [model.new_int_var(0, horizon, "") for _ in range(rows)]
        for row, start in enumerate(starts):
            for needed in range(max(0, row - kernel // 2), min(rows, row + kernel // 2 + 1)):
                model.add(start >= there[needed])
        windows = [model.new_fixed_size_interval_var(start, window, "") for start in starts]
        model.add_cumulative(windows, [1] * rows, n)
        there = [start + window for start in starts]
    end = model.new_int_var(0, horizon, "")
    for at in there:
        model.add(at <= end)
    model.minimize(end)
    return optimum(model)


@pytest.mark.parametrize("seed", range(8))
def test_no_schedule_is_below_the_bound_on_the_latency(seed: int) -> None:
    """Chains of three stages over five rows: the best of all copies, orders of rows and orders of windows."""
    rng = np.random.default_rng(seed)
    rows, row_cycles = 5, int(rng.integers(1, 5))
    chain = [(int(rng.choice((1, 3))), int(rng.integers(1, 3)), int(rng.integers(1, 9))) for _ in range(3)]
    crossbars = sum(tiles for _, tiles, _ in chain) + int(rng.integers(1, 5))
    fitting = [
        n
        for n in product(range(1, rows + 1), repeat=len(chain))
        if sum(tiles * c for (_, tiles, _), c in zip(chain, n, strict=True)) <= crossbars
    ]
    # Copies that others have as many of, and more of one, are never slower.
    largest = [
        n
        for n in fitting
        if not any(n != m and all(a <= b for a, b in zip(n, m, strict=True)) for m in fitting)
    ]
    best = min(earliest_end(chain, rows, n, row_cycles) for n in largest)
    bound = latency_bound(works(chain, rows), crossbars, Fraction(row_cycles), 0)
    assert best / 2 <= bound <= best
