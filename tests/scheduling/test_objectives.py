"""Objectives and the power cap end to end: what the cycle engine reports of a small network stands in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import cimc
from cimc import models
from cimc.achieved import steady_interval
from cimc.passes.schedule.copies.ours import SLACK
from cimc.runtime.cycle.timing import Timing

IMAGES = 12
STATIC_MW = 10_400.0
"""Of both machines."""

Run = Callable[..., Timing]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The timing of the network on a machine with options of the compiler; every combination once."""
    path = models.export_onnx("digits", tmp_path_factory.mktemp("models") / "digits.onnx")
    x = {"x": models.images(2, models.network("digits").shape, seed=1)}
    made: dict[str, Timing] = {}

    def get(machine: str, **options: Any) -> Timing:
        key = f"{machine} {sorted(options.items())}"
        if key not in made:
            made[key] = cimc.compile(path, machine, calibration=x, **options).simulate(images=IMAGES)
        return made[key]

    return get


@pytest.mark.parametrize("machine", ["isaac", "puma"])
def test_objectives_stand_in_their_order(run: Run, machine: str) -> None:
    """None has a shorter interval than throughput, an earlier end than latency, less energy than energy, a lower peak
    than peak power; balanced may have a tenth more than the smallest interval, for an earlier end. A fiftieth is left
    to contention, which no choice of copies sees. On ``puma`` the smallest interval leaves no choice: every array stage
    has a copy for each of its windows."""
    goals = ("balanced", "throughput", "latency", "energy", "peak-power")
    found = {goal: run(machine, objective=goal) for goal in goals}
    assert steady_interval(found["throughput"]) <= 1.02 * min(steady_interval(t) for t in found.values())
    assert steady_interval(found["balanced"]) <= (1.02 + SLACK["balanced"]) * steady_interval(
        found["throughput"]
    )
    assert found["balanced"].latency_cycles <= 1.02 * found["throughput"].latency_cycles
    # How long contexts of a core wait for each other is known roughly only, and is a quarter of an image here.
    assert found["latency"].latency_cycles <= 1.1 * min(t.latency_cycles for t in found.values())
    assert found["energy"].total_energy_pj <= 1.02 * min(t.total_energy_pj for t in found.values())
    assert found["peak-power"].peak_power_mw <= 1.02 * min(t.peak_power_mw for t in found.values())
    lower = found["peak-power"].peak_power_mw < found["throughput"].peak_power_mw
    assert lower == (machine == "isaac")


@pytest.mark.parametrize("machine", ["isaac", "puma"])
def test_caps_cost_cycles_and_hold(run: Run, machine: str) -> None:
    """The lower the cap, the lower the peak and the longer the interval; arrays and converters stay below it, and what
    memories, network and digital units add is a fifth of that at most."""
    free = run(machine)
    drawn = free.peak_power_mw - STATIC_MW
    caps = [STATIC_MW + share * drawn for share in (0.7, 0.35)]
    capped = [run(machine, power_cap_mw=cap) for cap in caps]
    assert free.peak_power_mw > capped[0].peak_power_mw > capped[1].peak_power_mw
    assert steady_interval(free) <= steady_interval(capped[0]) <= steady_interval(capped[1])
    for timing, cap in zip(capped, caps, strict=True):
        assert timing.peak_power_mw - STATIC_MW <= 1.2 * (cap - STATIC_MW)
