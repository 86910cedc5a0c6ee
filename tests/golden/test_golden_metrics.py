"""Golden metrics: cycles, energy and sizes of every model on every machine, in a file that people review.

A change of any integer fails here until ``pytest tests/golden --update-golden`` writes it down; the diff of
``metrics.json`` is then part of the review.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cimc
from cimc.diagnostics import DoesNotFitError

FILE = Path(__file__).with_name("metrics.json")
MACHINES = ("isaac", "isaac-ce", "jain", "jia", "pimcomp", "puma")
NETWORKS = ("digits", "resnet-cifar-20", "squeezenet", "resnet-18")
IMAGES = 4
"""Frames of the timing; a program of several phases is timed on one call, a frame."""

SLOW = ("resnet-18",)


def metrics(name: str, machine: str, artifact: Callable[[str, str], cimc.Artifact]) -> dict[str, Any]:
    """What is golden of one model on one machine; the resource that is short where it does not fit."""
    try:
        made = artifact(name, machine)
    except DoesNotFitError as error:
        return {"does_not_fit": str(error)}
    timing = made.simulate(images=IMAGES)
    report = made.report
    return {
        "cycles": timing.cycles,
        "latency_cycles": timing.latency_cycles,
        "interval_cycles": timing.interval_cycles,
        "energy_nj": round(timing.total_energy_pj / 1000),
        "executed_instructions": timing.executed_instructions,
        "crossbars": report["crossbars"]["used"],
        "crossbar_activations": report["activations"]["crossbars"],
        "instruction_rows": report["instruction_rows"],
        "contexts": report["contexts"],
        "phases": report["utilisation"]["phases"],
    }


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Iterator[dict[str, dict[str, Any]]]:
    """The reviewed figures; with ``--update-golden`` whatever the tests put in is written at the end."""
    known: dict[str, dict[str, Any]] = json.loads(FILE.read_text()) if FILE.exists() else {}
    yield known
    if request.config.getoption("--update-golden"):
        FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        pytest.param(name, machine, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in NETWORKS
        for machine in MACHINES
    ],
)
def test_metrics_are_the_reviewed_ones(
    name: str,
    machine: str,
    golden: dict[str, dict[str, Any]],
    artifact: Callable[[str, str], cimc.Artifact],
    request: pytest.FixtureRequest,
) -> None:
    """Every integer as reviewed; that the programs are right is what tests/e2e says."""
    found = metrics(name, machine, artifact)
    if request.config.getoption("--update-golden"):
        golden.setdefault(name, {})[machine] = found
        return
    assert found == golden[name][machine]


def test_the_file_has_all_models_and_machines() -> None:
    """No row is missing and none is left over."""
    known = json.loads(FILE.read_text())
    assert {name: set(machines) for name, machines in known.items()} == {n: set(MACHINES) for n in NETWORKS}
