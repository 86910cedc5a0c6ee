"""Staggered activation: the limit on what arrays draw at once that lowers the peak for little or no time.

:mod:`~cimc.runtime.cycle.power_blocks` puts the blocks of reads behind an event; here its count is searched with the
cycle engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cimc.runtime.cycle.engine import simulate
from cimc.runtime.cycle.power_blocks import UNIT_MW, Blocks, with_blocks
from cimc.runtime.cycle.repeated import RepeatedRun, weights_stay
from cimc.runtime.cycle.timing import Timing
from cimc.runtime.program import Program

STEP, STEPS = 0.97, 45
"""Limits that are tried first: each this share of the one before, from the peak down to a quarter of it."""

MISSES = 4
"""Limits in a row that cost too much time before the search ends: time does not grow evenly."""

FINE_STEP, FINE_STEPS = 0.995, 5
"""Limits that are tried below the best of these, down to the next."""


@dataclass(frozen=True)
class Staggered:
    """What a limit brings: the program, its times, and those of the program it was made from."""

    program: Program
    limit_mw: float | None
    """``None`` where no limit lowers the peak in the time allowed: the program is then the one given."""
    before: Timing
    after: Timing

    def to_dict(self) -> dict[str, Any]:
        """Peaks, limit and times for ``report.json``; powers in mW, static power included in peaks and means."""
        return {
            "limit_mw": self.limit_mw,
            "images": self.before.images,
            "window_cycles": self.before.window_cycles,
            **{
                name: {
                    "peak_power_mw": timed.peak_power_mw,
                    "mean_power_mw": float(timed.power_mw.mean()),
                    "cycles": timed.cycles,
                    "latency_cycles": timed.latency_cycles,
                }
                for name, timed in (("before", self.before), ("after", self.after))
            },
        }


def static_mw(program: Program) -> float:
    """Power that no schedule changes."""
    return float(program.machine["static_power_mw"])


def stagger(program: Program, *, slack: float = 0.02, images: int = 1) -> Staggered:
    """The limit with the lowest peak of ``images`` images, whose run and whose latency take at most ``1 + slack``.

    Weights that stay are in the arrays. With one image the run is its latency.
    """
    before = simulate(program, images=images, resident_weights=weights_stay(program))
    blocks = with_blocks(program)
    if not blocks.draws.any():
        return Staggered(program, None, before, before)
    for _, limit_mw in sorted(_lower_peaks(blocks, before, slack)):
        found = _timed(blocks, limit_mw, before)
        if found.after.latency_cycles <= (1 + slack) * before.latency_cycles:
            return found
    return Staggered(program, None, before, before)


def stagger_to(program: Program, limit_mw: float, *, images: int = 1) -> Staggered:
    """The program with the given limit, whatever that costs.

    Raises :class:`~cimc.diagnostics.UsageError` where one block of reads draws more.
    """
    before = simulate(program, images=images, resident_weights=weights_stay(program))
    return _timed(with_blocks(program), limit_mw, before)


def _timed(blocks: Blocks, limit_mw: float, before: Timing) -> Staggered:
    limited = blocks.limited(limit_mw)
    window = before.window_cycles
    resident = weights_stay(limited)
    after = simulate(limited, images=before.images, window_cycles=window, resident_weights=resident)
    return Staggered(limited, limit_mw, before, after)


def _lower_peaks(blocks: Blocks, before: Timing, slack: float) -> list[tuple[float, float]]:
    """Peaks below the present one and their limits, of those tried that keep the time of the run."""
    present = before.peak_power_mw - static_mw(blocks.program)
    window, cycles = before.window_cycles, before.cycles
    trial = RepeatedRun(
        blocks.program, blocks.event, images=before.images, window_cycles=window, expected_cycles=cycles
    )
    found: list[tuple[float, float]] = []

    def fits(limit_mw: float) -> bool:
        taken, peak = trial.run(blocks.counts(limit_mw))
        in_time = taken <= (1 + slack) * cycles
        if in_time and peak < present:
            found.append((peak, limit_mw))
        return in_time

    least = blocks.draws.max() * UNIT_MW
    misses = 0
    for step in range(1, STEPS):
        limit_mw = present * STEP**step
        if misses == MISSES or limit_mw < least:
            break
        misses = 0 if fits(limit_mw) else misses + 1
    if found:
        best = min(found)[1]
        for step in range(1, FINE_STEPS + 1):
            if best * FINE_STEP**step >= least:
                fits(best * FINE_STEP**step)
    return found
