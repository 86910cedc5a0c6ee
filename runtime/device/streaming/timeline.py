"""How long a pass takes when some blocks stream their codes while others compute (docs/streaming.md, time).

One in-order link fills the slots of a pool, one in-order processor uses them. Transfers follow the order of
use and wrap around, so that the first blocks of the next pass arrive during the last blocks of this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PASSES = 4
"""Passes simulated; the time of the last is the answer. Filling the pool is over after ``slots`` transfers."""


@dataclass(frozen=True)
class Step:
    """One use of a block. ``transfer_ns`` is 0 for a resident block; ``hold_ns`` how long its slot stays busy."""

    compute_ns: float
    transfer_ns: float = 0.0
    hold_ns: float = 0.0


@dataclass(frozen=True)
class PassTime:
    """One steady pass: its time, and what of it the processor only waited for the link."""

    total_ns: float
    waiting_ns: float


def steady_pass(steps: Sequence[Step], slots: int) -> PassTime:
    """Time of a pass that follows others, with ``slots`` buffers.

    The k-th transfer starts when the link has finished the one before and the slot of the (k - slots)-th
    use is free again; a use starts when its codes are there and the use before has ended.

    Raises :class:`ValueError` when something streams and there is no slot.
    """
    streamed = [step for step in steps if step.transfer_ns > 0]
    computing = sum(step.compute_ns for step in steps)
    if not streamed:
        return PassTime(computing, 0.0)
    if slots < 1:
        raise ValueError(f"{len(streamed)} uses stream and need at least one slot, got {slots}")
    now, link, before = 0.0, 0.0, 0.0
    freed = [0.0] * slots
    index = 0
    for _ in range(PASSES):
        before = now
        for step in steps:
            if step.transfer_ns > 0:
                link = max(link, freed[index % slots]) + step.transfer_ns
                now = max(now, link)
                freed[index % slots] = now + step.hold_ns
                index += 1
            now += step.compute_ns
    total = now - before
    return PassTime(total, total - computing)
