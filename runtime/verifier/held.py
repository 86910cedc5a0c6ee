"""How many places of a ring a context holds at each of its steps.

Each iteration of a loop receives and frees a constant number of places, so what is held is an affine
function of the loop counters, like an address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod

from cimc.runtime.program.opcodes import Opcode
from cimc.runtime.verifier.code import Step
from cimc.runtime.verifier.operands import Affine


def change(step: Step) -> int:
    """Places a step adds to what its context holds of the ring it names."""
    if step.row.opcode == Opcode.RECV:
        return step.row.n
    return -step.row.n if step.row.opcode == Opcode.FREE else 0


def net_of_loops(steps: Sequence[Step]) -> dict[int, Counter[int]]:
    """By loop (its row) and ring: places gained in one iteration."""
    nets: dict[int, Counter[int]] = {}
    for step in steps:
        amount = change(step)
        if not amount:
            continue
        for level, loop in enumerate(step.loops):
            nets.setdefault(loop, Counter())[step.row.a] += amount * prod(step.trips[level + 1 :])
    return nets


def held_places(steps: Sequence[Step]) -> list[dict[int, Affine]]:
    """Per step of one context, for each ring it names and the context receives or frees: places held before the step.

    ``steps`` are those that run, ``loop`` and ``end`` included.
    """
    nets = net_of_loops(steps)
    held = dict.fromkeys((step.row.a for step in steps if change(step)), 0)
    outside: list[tuple[dict[int, int], int]] = []
    """What was held before each open loop, and its iterations."""
    gains: dict[tuple[int, tuple[int, ...]], tuple[int, ...]] = {}
    result: list[dict[int, Affine]] = []
    for step in steps:
        while len(outside) > len(step.trips):
            before, count = outside.pop()
            held = {ring: n + (n - before[ring]) * (count - 1) for ring, n in held.items()}
        while len(outside) < len(step.trips):
            outside.append((dict(held), step.trips[len(outside)]))
        row = step.row
        named: dict[int, Affine] = {}
        for ring in (row.dst, row.a, row.b):
            if ring not in held:
                continue
            key = ring, step.loops
            if key not in gains:
                gains[key] = tuple(nets[loop][ring] if loop in nets else 0 for loop in step.loops)
            named[ring] = Affine(held[ring], gains[key])
        result.append(named)
        amount = change(step)
        if amount:
            held[row.a] += amount
    return result


def left_at_end(steps: Sequence[Step]) -> Counter[int]:
    """By ring: places received and never freed."""
    left: Counter[int] = Counter()
    for step in steps:
        amount = change(step)
        if amount:
            left[step.row.a] += amount * prod(step.trips)
    return left
