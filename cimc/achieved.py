"""What a timed run achieves, measured against the bounds of its report (docs/scheduling.md, Bounds)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cimc.runtime.cycle.timing import Timing


def steady_interval(timing: Timing) -> float:
    """Mean distance of the ends of the first two thirds of the images, in cycles, and no less than the busiest unit
    works for an image.

    Towards the end of a run nothing comes behind the last images, which then leave faster than any steady state. So do
    those that have queued up behind the first one, where a network is deep and the run short: in the long run its
    busiest unit sets the pace. Units that write weights in front of the images work longer than for these.
    """
    ends = timing.image_end_cycles
    last = max(1, 2 * len(ends) // 3)
    if len(ends) < 2:
        return float(timing.interval_cycles)
    distance = float(ends[last] - ends[0]) / last
    if timing.setup_cycles:
        return distance
    return max(distance, max(timing.busiest_cycles.values()) / timing.images)


def over_bounds(report: Mapping[str, Any], timing: Timing) -> dict[str, Any] | None:
    """Bounds in cycles and achieved / bound of interval and latency; ``None`` for reports that hold no bounds.

    A ratio below 1 is a bug in the schedule's clock or in the bound. Intervals are those of :func:`steady_interval`.
    """
    found = report.get("bounds")
    if found is None:
        return None

    steady = steady_interval(timing)

    def ratio(achieved: float, bound: float) -> float | None:
        return achieved / bound if bound else None

    return {
        "steady_interval_cycles": steady,
        "interval_bound_cycles": found["interval"],
        "interval_over_bound": ratio(steady, found["interval"]),
        "interval_over_arrays": ratio(steady, found["interval_cycles"]["arrays"]),
        "latency_bound_cycles": found["latency"],
        "latency_over_bound": ratio(timing.latency_cycles, found["latency"]),
        "binding": found["binding"],
        **_busiest(timing),
    }


def _busiest(timing: Timing) -> dict[str, Any]:
    """The unit that works most of an interval, and its share: what to widen when the bound is missed.

    A share well below 1 says that no unit binds but the order of rows does: waiting for windows, or for room in rings.
    """
    kind, cycles = max(timing.busiest_cycles.items(), key=lambda pair: pair[1])
    return {"busiest": kind, "busiest_share": cycles / timing.images / max(1.0, steady_interval(timing))}
