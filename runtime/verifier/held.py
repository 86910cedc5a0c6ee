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
    """Per step of one context, for each ring it receives or frees: places held before the step.

    ``steps`` are those that run, ``loop`` and ``end`` included.
    """
    nets = net_of_loops(steps)
    rings = sorted({step.row.a for step in steps if change(step)})
    gained: list[Counter[int]] = [Counter()]
    """What was gained since the present iteration of each open loop began, the context itself first."""
    trips: list[int] = []
    result: list[dict[int, Affine]] = []
    for step in steps:
        while len(trips) > len(step.trips):
            inner, count = gained.pop(), trips.pop()
            for ring, amount in inner.items():
                gained[-1][ring] += amount * count
        while len(trips) < len(step.trips):
            trips.append(step.trips[len(trips)])
            gained.append(Counter())
        result.append(
            {
                ring: Affine(
                    sum(amounts[ring] for amounts in gained),
                    tuple(nets[loop][ring] if loop in nets else 0 for loop in step.loops),
                )
                for ring in rings
            }
        )
        amount = change(step)
        if amount:
            gained[-1][step.row.a] += amount
    return result


def left_at_end(steps: Sequence[Step]) -> Counter[int]:
    """By ring: places received and never freed."""
    left: Counter[int] = Counter()
    for step in steps:
        amount = change(step)
        if amount:
            left[step.row.a] += amount * prod(step.trips)
    return left
