"""Placements: bytes and time against search over every subset; policies, monotony, errors."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from cimc.diagnostics import CimError, DoesNotFitError, UsageError
from cimc.runtime.device.streaming.knapsack import Item, fractional_bound, least_left_out
from cimc.runtime.device.streaming.placement import place
from cimc.runtime.device.streaming.problem import BlockCost, Problem, pass_time, peak_bytes
from cimc.runtime.device.streaming.timeline import Step, steady_pass


def block(name: str, code: int, ns: float, *, kept: int = 4, work: int = 10) -> BlockCost:
    """A block whose resident form has ``kept`` bytes a byte of code and which needs as much while it streams."""
    return BlockCost(name, code, kept * code, work, work + kept * code, ns, 1.5 * ns, 0.5 * ns)


def network(seed: int, blocks: int = 8) -> Problem:
    """Random blocks of few sizes, in order, one of them used twice."""
    rng = random.Random(seed)
    made = tuple(
        block(str(i), rng.choice([2, 3, 5, 8]), rng.choice([1.0, 4.0, 9.0]), work=rng.choice([4, 12]))
        for i in range(blocks)
    )
    order = (*range(blocks), rng.randrange(blocks))
    return Problem(made, order, base_bytes=7, other_work_bytes=rng.choice([0, 20]), link_bytes_per_s=1e9)


def every_subset(problem: Problem) -> list[frozenset[int]]:
    """All sets of blocks that may stream."""
    indices = range(len(problem.blocks))
    return [frozenset(s) for n in range(len(indices) + 1) for s in itertools.combinations(indices, n)]


def streamed_bytes(problem: Problem, streamed: frozenset[int]) -> int:
    """Bytes over the link in a pass, use by use."""
    return sum(problem.blocks[i].code_bytes for i in problem.order if i in streamed)


# auto_speed streams the fewest bytes that any subset under the budget streams and, of those subsets, takes the
# shortest pass; no other subset is faster with as few bytes.
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [0.35, 0.6, 0.85])
def test_speed_equals_exhaustive_search(seed: int, share: float) -> None:
    problem = network(seed)
    budget = int(peak_bytes(problem, frozenset(), 0) * share)
    for depth in (1, 2):
        slots = depth + 1
        fitting = [s for s in every_subset(problem) if peak_bytes(problem, s, slots if s else 0) <= budget]
        if not fitting:
            with pytest.raises(DoesNotFitError):
                place(problem, "auto_speed", budget, depth)
            continue
        least = min(streamed_bytes(problem, s) for s in fitting)
        fastest = min(
            pass_time(problem, s, slots).total_ns for s in fitting if streamed_bytes(problem, s) == least
        )
        found = place(problem, "auto_speed", budget, depth)
        assert found.exact
        assert found.streamed_bytes == least == streamed_bytes(problem, found.streamed)
        assert found.time.total_ns == fastest
        assert found.peak_bytes == peak_bytes(problem, found.streamed, found.slots) <= budget


# auto_memory has the least peak of all subsets.
@pytest.mark.parametrize("seed", range(12))
def test_memory_equals_exhaustive_search(seed: int) -> None:
    problem = network(seed)
    least = min(peak_bytes(problem, s, 2 if s else 0) for s in every_subset(problem))
    assert place(problem, "auto_memory", None).peak_bytes == least


# A knapsack with unequal weights a value: the value left out is that of exhaustive search, every vector is worth
# it and weighs no more than the capacity, and the fractional bound is below.
@pytest.mark.parametrize("seed", range(20))
def test_knapsack_equals_exhaustive_search(seed: int) -> None:
    rng = random.Random(seed)
    items = [Item(rng.randint(1, 9), rng.choice([None, *range(1, 9)])) for _ in range(9)]
    capacity = rng.randint(0, 30)
    found = least_left_out(items, capacity)
    best = min(
        sum(item.value for i, item in enumerate(items) if i not in kept)
        for n in range(10)
        for kept in itertools.combinations(range(9), n)
        if all(items[i].weight is not None for i in kept)
        and sum(items[i].weight or 0 for i in kept) <= capacity
    )
    assert found.left_out == best
    assert found.exact
    assert fractional_bound(items, capacity) <= best + 1e-9
    for vector in found.kept:
        kept = [items[m[0]] for m, n in zip(found.classes, vector, strict=True) for _ in range(n)]
        assert sum(item.value for item in items) - sum(item.value for item in kept) == best
        assert sum(item.weight or 0 for item in kept) <= capacity


# Values without a common divisor that make a table too long are rounded: the answer still fits, is near the bound,
# and does not claim to be exact.
def test_long_tables_are_rounded() -> None:
    rng = random.Random(3)
    items = [Item(rng.randint(10**7, 10**8), rng.randint(10**7, 10**8)) for _ in range(40)]
    found = least_left_out(items, 10**9)
    assert not found.exact
    assert not found.complete
    total = sum(item.value for item in items)
    assert fractional_bound(items, 10**9) <= found.left_out <= fractional_bound(items, 10**9) + 0.01 * total


# With one slot that is free as soon as its block starts, a transfer of 18 hides behind two blocks of 10: every other
# block may stream, and four in a row wait.
def test_streamed_blocks_are_spread() -> None:
    blocks = tuple(BlockCost(str(i), 18, 72, 0, 0, 10.0, 10.0, 0.0) for i in range(8))
    problem = Problem(blocks, tuple(range(8)), 0, 0, 1e9)
    assert pass_time(problem, frozenset({0, 1, 2, 3}), 1).waiting_ns > 0
    found = place(problem, "auto_speed", 4 * 72 + 18, depth=0)
    assert found.streamed_bytes == 4 * 18
    assert found.time.waiting_ns == 0
    assert found.streamed in ({0, 2, 4, 6}, {1, 3, 5, 7})


# Twenty-four equal layers, twelve of which stream: too many sets to try, and spreading evenly is still found.
def test_many_equal_layers() -> None:
    blocks = tuple(BlockCost(str(i), 18, 72, 0, 0, 10.0, 10.0, 0.0) for i in range(24))
    problem = Problem(blocks, tuple(range(24)), 0, 0, 1e9)
    found = place(problem, "auto_speed", 12 * 72 + 2 * 18, depth=1)
    assert found.time.waiting_ns == 0
    assert not found.exact


# One slot overlaps nothing: a pass is the sum of transfers and computing. With two, and all blocks streamed, the
# longer of the two chains rules (an in-order pipeline of equal stages).
@pytest.mark.parametrize(("transfer", "compute"), [(5.0, 3.0), (3.0, 5.0)])
def test_pipeline_of_equal_stages(transfer: float, compute: float) -> None:
    steps = [Step(compute, transfer, compute)] * 6
    assert steady_pass(steps, 1).total_ns == 6 * (transfer + compute)
    assert steady_pass(steps, 2).total_ns == 6 * max(transfer, compute)
    assert steady_pass(steps, 2).waiting_ns == 6 * max(0.0, transfer - compute)


# More budget never streams more bytes; from the resident need on nothing streams.
def test_budgets_are_monotone() -> None:
    problem = network(5)
    whole = peak_bytes(problem, frozenset(), 0)
    least = place(problem, "auto_memory", None).peak_bytes
    bytes_at = [place(problem, "auto_speed", b, 1).streamed_bytes for b in range(least, whole + 1)]
    assert bytes_at == sorted(bytes_at, reverse=True)
    assert bytes_at[-1] == 0
    assert place(problem, "auto", whole).slots == 0


# False keeps all, True streams all, through as many slots as the depth asks for.
def test_plain_policies() -> None:
    problem = network(1)
    kept, streamed = place(problem, False, None), place(problem, True, None, depth=3)
    assert (kept.streamed, kept.slots, kept.streamed_bytes) == (frozenset(), 0, 0)
    assert streamed.streamed == frozenset(range(8))
    assert (streamed.slots, streamed.depth) == (4, 3)
    assert streamed.streamed_bytes == sum(problem.blocks[i].code_bytes for i in problem.order)


# Senseless requests end before any work, with the number that would do.
@pytest.mark.parametrize(
    ("policy", "budget", "depth", "kind", "words"),
    [
        ("fast", 100, None, UsageError, "streaming is one of"),
        (0, 100, None, UsageError, "streaming is one of"),
        ("auto", 0, None, UsageError, "positive number of bytes"),
        ("auto", -5, None, UsageError, "positive number of bytes"),
        ("auto", 100, -1, UsageError, "prefetch depth"),
        ("auto", 20, None, DoesNotFitError, "give at least"),
        (False, 60, None, DoesNotFitError, "let blocks stream"),
        (True, 20, None, DoesNotFitError, "the block that needs most is big"),
    ],
)
def test_bad_requests(policy: Any, budget: int, depth: int | None, kind: type[CimError], words: str) -> None:
    blocks = (block("big", 8, 1.0, work=0), block("small", 4, 1.0, work=0), block("other", 4, 1.0, work=0))
    problem = Problem(blocks, (0, 1, 2), 2, 0, 1e9)
    with pytest.raises(kind, match=words):
        place(problem, policy, budget, depth)


# The number in the error is the least budget: one byte less is refused again.
def test_the_least_budget_is_named() -> None:
    problem = network(2)
    with pytest.raises(DoesNotFitError) as caught:
        place(problem, "auto", 10)
    least = int(str(caught.value).split("give at least ")[1].split()[0])
    assert place(problem, "auto", least).peak_bytes <= least
    with pytest.raises(DoesNotFitError):
        place(problem, "auto", least - 1)
