"""What the peak power of a program is at least, in whatever order its instructions are done.

Every instruction is given the earliest cycle that its data and its context allow: a run in which ports, links, vector
units and host link serve everybody at once (``contention=False``). Without shared units the times are a fixed point of
sums and maxima, so no other order starts anything earlier, and by no cycle has more energy been spent than in that run.
What it spends from cycle t on must therefore be spent from t on in every schedule, and by the deadline: the peak is at
least that energy over the time between, for the t where this is largest.

Assumed: the same contexts on the same crossbars and cores, rings of the same depth, programs in their order within a
context, an instruction's energy spread over its duration as the engine does it. Events order contexts by their numbers,
so a program that has some of its own is bounded by its mean only.
"""

from __future__ import annotations

from dataclasses import dataclass

from cimc.runtime.cycle.engine import simulate
from cimc.runtime.cycle.timing import Timing
from cimc.runtime.program import Program


@dataclass(frozen=True)
class PowerBound:
    """mW without static power that no order goes below, and the cycle from which on they are needed."""

    power_mw: float
    from_cycle: int


def least_peak(program: Program, timed: Timing, *, slack: float) -> PowerBound:
    """The bound on the peak of a run like ``timed`` (of ``program``) that takes at most ``1 + slack`` of its cycles."""
    window = timed.window_cycles
    static = float(program.machine["static_power_mw"])
    earliest = simulate(
        program, images=timed.images, window_cycles=window, resident_weights=True, contention=False
    )
    behind = (earliest.power_mw - static)[::-1].cumsum()[::-1]
    windows = -(-int((1 + slack) * timed.cycles) // window)
    firsts = range(1 if program.count("events") else len(behind))
    power, first = max(((float(behind[i]) / (windows - i), i) for i in firsts), default=(0.0, 0))
    return PowerBound(power, first * window)
