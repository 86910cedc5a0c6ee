"""Which blocks stay in memory and which stream, as an optimisation (docs/streaming.md, placement).

Every policy keeps the predicted peak below the budget. ``auto_speed`` first minimises the bytes streamed in a pass,
exactly, then chooses among the placements that stream as little the one whose transfers hide best behind compute.
"""

from __future__ import annotations

import math
from typing import Literal

from cimc.diagnostics import DoesNotFitError, UsageError
from cimc.runtime.device.streaming.knapsack import Choice, Item, fractional_bound, least_left_out
from cimc.runtime.device.streaming.problem import Placement, Problem, made
from cimc.runtime.device.streaming.spread import arrangements

Policy = Literal[False, True, "auto_memory", "auto_speed", "auto"]
POLICIES: tuple[Policy, ...] = (False, True, "auto_memory", "auto_speed", "auto")
DEPTHS = (1, 2, 3)
"""Prefetch depths that ``auto_speed`` tries; a pool has one slot more, for the block in use."""


def place(problem: Problem, policy: Policy, budget_bytes: int | None, depth: int | None = None) -> Placement:
    """The placement of ``policy`` under ``budget_bytes`` (``None``: no limit).

    ``False`` keeps everything, ``True`` streams everything, ``auto_memory`` has the least peak there is,
    ``auto_speed`` (and ``auto``) the least streamed bytes under the budget and then the least time. ``depth`` fixes
    how many transfers may be ahead; by default ``auto_speed`` takes the best of :data:`DEPTHS`, the others 1.

    Raises :class:`UsageError` for an unknown policy or a senseless number, :class:`DoesNotFitError` with the least
    budget that would do.
    """
    _check(policy, budget_bytes, depth)
    everything = frozenset(range(len(problem.blocks)))
    if policy is False:
        return _within(made(problem, frozenset(), 0, True), budget_bytes, problem, "streaming=False")
    slots = 1 + (1 if depth is None else depth)
    if policy is True:
        return _within(made(problem, everything, slots, True), budget_bytes, problem, "streaming=True")
    if policy == "auto_memory":
        return _within(_least_peak(problem, slots), budget_bytes, problem, "auto_memory")
    whole = made(problem, frozenset(), 0, True)
    if budget_bytes is None or whole.peak_bytes <= budget_bytes:
        return whole
    tried = [_fastest(problem, 1 + d, budget_bytes) for d in (DEPTHS if depth is None else (depth,))]
    found = [placement for placement in tried if placement is not None]
    if not found:
        # The error names the least peak, which is that of the shallowest pool.
        return _within(
            _least_peak(problem, 2 if depth is None else slots), budget_bytes, problem, "auto_speed"
        )
    return min(found, key=_speed)


def _check(policy: Policy, budget_bytes: int | None, depth: int | None) -> None:
    # 0 == False and 1 == True in Python; only the words and the two booleans are policies.
    known = policy is True or policy is False or policy in ("auto_memory", "auto_speed", "auto")
    if not known:
        names = ", ".join(repr(name) for name in POLICIES)
        raise UsageError(f"streaming is one of {names}, got {policy!r}", where="streaming")
    if budget_bytes is not None and budget_bytes <= 0:
        raise UsageError(
            f"a memory budget is a positive number of bytes, got {budget_bytes}", where="streaming"
        )
    if depth is not None and depth < 0:
        raise UsageError(f"a prefetch depth is 0 or more, got {depth}", where="streaming")


def _within(placement: Placement, budget_bytes: int | None, problem: Problem, policy: str) -> Placement:
    """``placement``, or the error that says what the least budget is and which block asks for it."""
    if budget_bytes is None or placement.peak_bytes <= budget_bytes:
        return placement
    least = _least_peak(problem, 2)
    largest = max(problem.blocks, key=lambda block: block.streamed_work_bytes)
    if policy == "streaming=False" and least.peak_bytes <= budget_bytes:
        remedy = "let blocks stream (streaming='auto')"
    elif least.peak_bytes <= budget_bytes:
        remedy = f"give at least {placement.peak_bytes} bytes or use streaming='auto'"
    else:
        remedy = f"give at least {least.peak_bytes} bytes, a smaller input or a smaller inference_chunk_size"
    raise DoesNotFitError(
        f"{policy} needs {placement.peak_bytes} bytes of memory, the budget is {budget_bytes} (the block that "
        f"needs most is {largest.name}: {largest.code_bytes} bytes of codes, {largest.streamed_work_bytes} "
        f"bytes while it is in use); {remedy}",
        where="streaming",
    )


def _thresholds(problem: Problem) -> dict[frozenset[int], tuple[int, int]]:
    """What must be resident below a pair of thresholds, with the pair: largest streamed code, largest work.

    Any placement has such a pair, its own maxima, and its resident set holds what that pair forces. Of pairs that
    force the same blocks the smaller serves.
    """
    blocks = problem.blocks
    codes = sorted({b.code_bytes for b in blocks})
    works = sorted(
        {problem.other_work_bytes}
        | {b.streamed_work_bytes for b in blocks}
        | {b.resident_work_bytes for b in blocks}
    )
    found: dict[frozenset[int], tuple[int, int]] = {}
    for code in codes:
        for work in works:
            forced = _forced(problem, code, work)
            if forced is not None and work >= problem.other_work_bytes:
                found.setdefault(forced, (code, work))
    return found


def _forced(problem: Problem, code: int, work: int) -> frozenset[int] | None:
    """Blocks that must be resident below the thresholds; ``None`` where one may be neither."""
    found: set[int] = set()
    for i, block in enumerate(problem.blocks):
        if block.code_bytes <= code and block.streamed_work_bytes <= work:
            continue
        if block.resident_work_bytes > work:
            return None
        found.add(i)
    return frozenset(found)


def _least_peak(problem: Problem, slots: int) -> Placement:
    """Exact: the resident set is one that two thresholds force, since more only adds bytes."""
    everything = frozenset(range(len(problem.blocks)))
    whole = made(problem, frozenset(), 0, True)
    found = [made(problem, everything - forced, slots, True) for forced in _thresholds(problem)]
    return min([whole, *found], key=lambda p: (p.peak_bytes, p.streamed_bytes))


def _fastest(problem: Problem, slots: int, budget_bytes: int) -> Placement | None:
    """Least streamed bytes with ``slots`` slots, then least time; ``None`` when nothing fits."""
    uses = problem.uses()
    tasks: list[tuple[float, list[int], list[Item], int]] = []
    for forced, (code, work) in _thresholds(problem).items():
        room = budget_bytes - problem.base_bytes - slots * code - work
        room -= sum(problem.blocks[i].resident_bytes for i in forced)
        if room < 0:
            continue
        free = [i for i in range(len(problem.blocks)) if i not in forced]
        blocks = [problem.blocks[i] for i in free]
        items = [
            Item(uses[i] * b.code_bytes, b.resident_bytes if b.resident_work_bytes <= work else None)
            for i, b in zip(free, blocks, strict=True)
        ]
        tasks.append((fractional_bound(items, room), free, items, room))
    found: list[tuple[list[int], Choice]] = []
    least = math.inf
    for bound, free, items, room in sorted(tasks, key=lambda task: task[0]):
        if bound > least:
            break
        choice = least_left_out(items, room)
        found.append((free, choice))
        least = min(least, choice.left_out)
    placements = [
        made(problem, streamed, slots, exact)
        for free, choice in found
        if choice.left_out == least
        for streamed, exact in arrangements(problem, free, choice, slots)
    ]
    return min(placements, key=_speed, default=None)


def _speed(placement: Placement) -> tuple[float, int, int]:
    return placement.time.total_ns, placement.streamed_bytes, placement.peak_bytes
