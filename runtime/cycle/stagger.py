"""Staggered activation: the limit on what arrays draw at once that lowers the peak for little or no time.

:mod:`~cimc.runtime.cycle.power_blocks` puts the blocks of reads behind an event; here its count is searched with the
cycle engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from cimc.runtime.cycle.engine import simulate
from cimc.runtime.cycle.power_blocks import UNIT_MW, with_blocks
from cimc.runtime.cycle.repeated import RepeatedRun, weights_stay
from cimc.runtime.cycle.timing import Timing
from cimc.runtime.program import Program

STEP, STEPS = 0.97, 45
"""Limits that are tried: each this share of the one before, from the peak down to a quarter of it."""

MISSES = 4
"""Limits in a row that cost too much time before the search ends: time does not grow evenly."""

TILTS = (0.0, 0.25, 0.5, 0.75, -0.1)
"""How much more than they draw the blocks of the first stages take, or of the last ones."""

FITS = 3
"""Limits that keep the time of the run, from the lowest on, before the search ends: peaks do not grow evenly."""

FINE_STEP, FINE_STEPS, FINE_FITS = 0.9975, 10, 8
"""Limits that are tried around the best of these, up and down to the next; those that keep the time of the run, from
the lowest on, before that search ends."""


@dataclass(frozen=True)
class Staggered:
    """What a limit brings: the program, its times, and the program it was made from with its times."""

    given: Program
    program: Program
    limit_mw: float | None
    """``None`` where no limit lowers the peak in the time allowed: the program is then the one given."""
    tilt: float
    """How much more than they draw the blocks of the first stages take (below 0: of the last ones)."""
    before: Timing
    after: Timing

    def to_dict(self) -> dict[str, Any]:
        """Peaks, limit and times for ``report.json``; powers in mW, static power included in peaks and means."""
        return {
            "limit_mw": self.limit_mw,
            "tilt": self.tilt,
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
    before = simulate(program, images=images, resident_weights=True)
    if not with_blocks(program).draws.any():
        return Staggered(program, program, None, 0.0, before, before)
    alone = before if images == 1 else simulate(program, images=1, resident_weights=True)
    searches = [_Search(program, tilt, before, alone.cycles, slack) for tilt in TILTS]
    tried = [trial for search in searches for trial in search.coarse()]
    if tried:
        best = min(tried)
        tried += searches[TILTS.index(best.tilt)].fine(best.limit_mw)
    for trial in sorted(tried):
        found = _timed(program, trial.tilt, trial.limit_mw, before)
        if found.after.cycles <= (1 + slack) * before.cycles:
            if found.after.latency_cycles <= (1 + slack) * before.latency_cycles:
                return found
    return Staggered(program, program, None, 0.0, before, before)


def stagger_to(program: Program, limit_mw: float, *, images: int = 1) -> Staggered:
    """The program with the given limit, whatever that costs.

    Raises :class:`~cimc.diagnostics.UsageError` where one block of reads draws more.
    """
    before = simulate(program, images=images, resident_weights=True)
    return _timed(program, 0.0, limit_mw, before)


def _timed(program: Program, tilt: float, limit_mw: float, before: Timing) -> Staggered:
    limited = with_blocks(program, tilt).limited(limit_mw)
    window = before.window_cycles
    after = simulate(limited, images=before.images, window_cycles=window, resident_weights=True)
    return Staggered(program, limited, limit_mw, tilt, before, after)


class _Trial(NamedTuple):
    """A limit that keeps the time of the run and lowers its peak; the lowest peak comes first."""

    peak_mw: float
    limit_mw: float
    tilt: float


class _Search:
    """Limits for one tilt: those that keep the latency of an image, and of these the ones that keep the run's time.

    An image alone is timed quickly, so it is asked first, from high limits to low ones; runs of more images begin with
    the lowest limit that is left and end where limits that are higher bring higher peaks only. Below the floor, what
    the arrays take over the time allowed, none can do.
    """

    def __init__(self, program: Program, tilt: float, before: Timing, alone_cycles: int, slack: float):
        self._blocks = with_blocks(program, tilt)
        self._tilt, self._before, self._slack = tilt, before, slack
        self._present = before.peak_power_mw - static_mw(program)
        self._alone = self._repeated(1, before.latency_cycles)
        self._run = self._alone if before.images == 1 else self._repeated(before.images, before.cycles)
        self._alone_cycles = alone_cycles
        self._floor_mw = 0.0
        if weights_stay(program):  # else arrays are busy with writes, too
            self._alone.run(int(self._blocks.takes.sum()))
            taken = int((self._blocks.takes * self._alone.array_cycles()).sum()) * before.images
            self._floor_mw = taken * UNIT_MW / ((1 + slack) * before.cycles)

    def coarse(self) -> list[_Trial]:
        """Limits from the peak downwards."""
        return self._among([self._present * STEP**step for step in range(1, STEPS)], FITS)

    def fine(self, limit_mw: float) -> list[_Trial]:
        """Limits around one."""
        steps = range(1, FINE_STEPS + 1)
        above = [limit_mw / FINE_STEP**step for step in reversed(steps)]
        return self._among([*above, *(limit_mw * FINE_STEP**step for step in steps)], FINE_FITS)

    def _among(self, limits_mw: list[float], fits: int) -> list[_Trial]:
        """What fits of limits that fall, the lowest ``fits``."""
        left: list[float] = []
        misses = 0
        for limit_mw in limits_mw:
            if misses == MISSES or limit_mw < max(self._floor_mw, self._blocks.least_mw):
                break
            cycles, _ = self._alone.run(self._blocks.counts(limit_mw))
            if cycles <= (1 + self._slack) * self._alone_cycles:
                left.append(limit_mw)
                misses = 0
            else:
                misses += 1
        found: list[_Trial] = []
        for limit_mw in reversed(left):
            if len(found) == fits:
                break
            cycles, peak_mw = self._run.run(self._blocks.counts(limit_mw))
            if cycles <= (1 + self._slack) * self._before.cycles and peak_mw < self._present:
                found.append(_Trial(peak_mw, limit_mw, self._tilt))
        return found

    def _repeated(self, images: int, cycles: int) -> RepeatedRun:
        return RepeatedRun(
            self._blocks.program,
            self._blocks.event,
            images=images,
            window_cycles=self._before.window_cycles,
            expected_cycles=cycles,
        )
