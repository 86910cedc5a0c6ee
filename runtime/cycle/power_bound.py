"""What the peak power of a program is at least, in whatever order its instructions are done.

Every instruction is given the earliest cycle that its data and its context allow: a run in which ports, links, vector
units and host link serve everybody at once (``contention=False``). Without shared units the times are a fixed point of
sums and maxima, so no other order starts anything earlier, and by no cycle has more energy been spent than in that run.
What it spends from cycle t on must therefore be spent from t on in every schedule, and by the deadline: the peak is at
least that energy over the time between, for the t where this is largest.

The deadline says as well how late every instruction may issue (:mod:`~cimc.runtime.cycle.slack`): rings hold few
rows, so in a stream no stage runs far ahead of the slowest one or falls far behind. Between any two cycles at least
that part of a read, digital function, copy or send is done that lies there both at its earliest and at its latest;
what it spends over the time between bounds the peak, too ("energetic reasoning" of Baptiste, Le Pape and Nuijten,
Constraint-Based Scheduling, 2001, chapter 3).

Assumed: the same contexts on the same crossbars and cores, rings of the same depth, programs in their order within a
context, an instruction's energy spread over its duration as the engine does it. Events order contexts by their numbers,
so a program that has some of its own is bounded by its mean only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from cimc.runtime.cycle.engine import simulate
from cimc.runtime.cycle.layout import Int
from cimc.runtime.cycle.slack import work
from cimc.runtime.cycle.timing import Timing
from cimc.runtime.program import Program

STEPS = 256
"""Into so many stretches of whole windows a run is cut at most to look for the densest part."""


@dataclass(frozen=True)
class PowerBound:
    """mW without static power that no order goes below, and the cycles between which they are needed."""

    power_mw: float
    from_cycle: int
    to_cycle: int


def least_peak(program: Program, timed: Timing, *, slack: float) -> PowerBound:
    """The bound on the peak of a run like ``timed`` (of ``program``) that takes at most ``1 + slack`` of its cycles."""
    window = timed.window_cycles
    static = float(program.machine["static_power_mw"])
    earliest = simulate(
        program, images=timed.images, window_cycles=window, resident_weights=True, contention=False
    )
    behind = (earliest.power_mw - static)[::-1].cumsum()[::-1]
    deadline = int((1 + slack) * timed.cycles)
    windows = -(-deadline // window)
    firsts = range(1 if program.count("events") else len(behind))
    power, first = max(((float(behind[i]) / (windows - i), i) for i in firsts), default=(0.0, 0))
    found = PowerBound(power, first * window, windows * window)
    if program.count("events") or earliest.cycles > deadline:
        return found
    pieces = work(program, images=timed.images, window_cycles=window, deadline=deadline)
    if pieces is None:
        return found
    step = window * -(-windows // STEPS)
    energy_aj, first, last = densest(
        pieces.earliest, pieces.latest, pieces.cycles, pieces.energy_aj, step, -(-deadline // step)
    )
    power = energy_aj / 1e6 * timed.clock_ghz / ((last - first) * step)
    between = PowerBound(power, first * step, last * step)
    return max(found, between, key=lambda bound: bound.power_mw)


@njit(cache=True)
def densest(
    earliest: Int, latest: Int, cycles: Int, energy: Int, step: int, steps: int
) -> tuple[float, int, int]:
    """The energy that must be spent between two multiples of ``step``, and these, where it is most for the time."""
    most, spent, begin, end = 0.0, 0.0, 0, 1
    for first in range(steps):
        start = first * step
        whole, parts = np.zeros(steps + 2), np.zeros(steps + 2)
        for i in range(len(earliest)):
            inside = min(cycles[i], earliest[i] + cycles[i] - start)
            if inside <= 0:
                continue
            share = energy[i] / cycles[i]
            begins = max(latest[i], start)
            last = begins // step + 1
            while last <= steps and last * step < begins + inside:
                parts[last] += share * (last * step - begins)
                last += 1
            if last <= steps:
                whole[last] += share * inside
        total = 0.0
        for last in range(first + 1, steps + 1):
            total += whole[last]
            if (total + parts[last]) / (last - first) > most:
                most, spent = (total + parts[last]) / (last - first), total + parts[last]
                begin, end = first, last
    return spent, begin, end
