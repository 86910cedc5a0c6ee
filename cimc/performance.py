"""Throughput and efficiency of an artifact on its machine, from a simulated run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cimc.api import Artifact

OPERATIONS_PER_MAC = 2
"""A multiply and an add."""


@dataclass(frozen=True)
class Performance:
    """One artifact in steady state. ``tops``: 10^12 operations a second at the interval of images."""

    images: int
    cycles: int
    latency_ns: float
    interval_cycles: int
    interval_ns: float
    energy_pj_per_image: float
    tops: float
    tops_per_watt: float
    """Operations per pJ: all energy of the run, static power included."""
    tops_per_mm2: float | None
    """Over the area of the whole chip; ``None`` where the machine does not state it."""
    lifetime_days: float | None
    """Until the most written cell is worn, one inference after the other; ``None`` where nothing wears."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def performance(artifact: Artifact, images: int = 8) -> Performance:
    """Simulate ``images`` frames and relate cycles and energy to the products the model asks for.

    Raises ``UsageError`` when the compile stopped before the program.
    """
    timing = artifact.simulate(images=images)
    operations = OPERATIONS_PER_MAC * int(artifact.report["total_macs"])
    interval_ns = timing.interval_cycles / timing.clock_ghz
    tops = operations / interval_ns / 1000
    chip = artifact.report["area"].get("chip_mm2")
    worn = artifact.report["writes"]["inferences_until_worn"]
    return Performance(
        images=timing.images,
        cycles=timing.cycles,
        latency_ns=timing.latency_ns,
        interval_cycles=timing.interval_cycles,
        interval_ns=interval_ns,
        energy_pj_per_image=timing.total_energy_pj / timing.images,
        tops=tops,
        tops_per_watt=operations * timing.images / timing.total_energy_pj,
        tops_per_mm2=tops / chip if chip is not None else None,
        lifetime_days=worn * interval_ns * 1e-9 / 86400 if worn is not None else None,
    )
