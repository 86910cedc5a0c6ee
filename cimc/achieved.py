"""What a timed run achieves, measured against the bounds of its report (docs/scheduling.md, Bounds)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cimc.runtime.cycle.timing import Timing


def over_bounds(report: Mapping[str, Any], timing: Timing) -> dict[str, Any] | None:
    """Bounds in cycles and achieved / bound of interval and latency; ``None`` for reports that hold no bounds.

    A ratio below 1 is a bug in the schedule's clock or in the bound.
    """
    found = report.get("bounds")
    if found is None:
        return None

    def ratio(achieved: int, bound: float) -> float | None:
        return achieved / bound if bound else None

    return {
        "interval_bound_cycles": found["interval"],
        "interval_over_bound": ratio(timing.interval_cycles, found["interval"]),
        "interval_over_arrays": ratio(timing.interval_cycles, found["interval_cycles"]["arrays"]),
        "latency_bound_cycles": found["latency"],
        "latency_over_bound": ratio(timing.latency_cycles, found["latency"]),
        "binding": found["binding"],
    }
