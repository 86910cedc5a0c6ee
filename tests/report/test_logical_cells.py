"""``logical_cells``: crossbars that hold weights, PIMCOMP's way to count, with the physical count beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc import models
from cimc.backends.loader import load_architecture
from cimc.backends.schema import Architecture
from cimc.mapping_options import MappingOptions
from cimc.runtime.verifier import verify_program


@pytest.fixture(scope="module")
def made(onnx_file: Callable[[str], Path]) -> cimc.Artifact:
    """ResNet-18 on PIMCOMP's machine with logical cells, one copy of each weight."""
    fields = load_architecture("pimcomp").model_dump(mode="json")
    fields["crossbar"]["logical_cells"] = True
    arch = Architecture.model_validate(fields | {"name": "pimcomp-logical"})
    x = models.images(2, models.network("resnet-18").shape, seed=1)
    one = MappingOptions(scheduler="none")
    return cimc.compile(onnx_file("resnet-18"), arch, calibration={"x": x}, mapping=one, require_arrays=True)


def test_activations_are_those_of_pimcomp(made: cimc.Artifact) -> None:
    """Row tiles x windows of 20 convolutions and the product at 128 rows: 132,500; every 128 x 128 weights: 163,888."""
    assert made.report["activations"] == {"array_groups": 132_500, "crossbars": 163_888}


def test_the_physical_count_stands_beside_it(made: cimc.Artifact) -> None:
    """A logical crossbar is four of cells: 8-bit weights on 2-bit cells."""
    bars = made.report["crossbars"]
    logical = sum(ceil(s["weights"][0] / 128) * ceil(s["weights"][1] / 128) for s in made.report["stages"])
    assert (bars["used"], bars["physical"]) == (logical, 4 * logical)
    assert made.report["utilisation"]["arrays"]["most"] == 1.0


def test_it_runs_exactly_and_the_verifier_accepts_it(made: cimc.Artifact) -> None:
    """128 weights side by side fit a crossbar of 128 logical columns; the stream equals level 2."""
    assert verify_program(made.program, weights=dict(made.weights)) == []
    x = {"x": models.images(1, models.network("resnet-18").shape, seed=3)}
    stream = made.run(x)
    reference = made.run(x, engine="quantised")
    np.testing.assert_array_equal(stream.integer_outputs["logits"], reference.integer_outputs["logits"])
    assert stream.array_macs == stream.total_macs


def test_a_tile_of_weights_does_not_fit_a_crossbar_of_cells(made: cimc.Artifact) -> None:
    """The same program on the physical machine breaks rule P062."""
    machine = {
        **made.program.machine,
        "crossbar": {**made.program.machine["crossbar"], "logical_cells": False},
    }
    program = replace(made.program, machine=machine)
    assert "P062" in {finding.rule for finding in verify_program(program)}


def test_time_is_that_of_one_crossbar_and_energy_that_of_all(made: cimc.Artifact) -> None:
    """Reads of a full crossbar take 1,280 cycles busy; array energy is four reads of 155.68 pJ a digit."""
    timing = made.simulate(images=1)
    assert timing.busy_cycles["arrays"] == 1280 * timing.executed_reads
    crossbars = made.report["activations"]["crossbars"]
    assert timing.energy_pj["array"] == pytest.approx(crossbars * 8 * 4 * 155.68)


def test_machines_count_cells_unless_told(tmp_path: Path) -> None:
    """The default of the schema is false, for all machines of the tree."""
    for name in ("isaac", "isaac-ce", "jain", "jia", "pimcomp", "puma"):
        bar = load_architecture(name).crossbar
        assert not bar.logical_cells
        assert bar.weight_columns(8) == bar.columns // bar.cells_per_weight(8)
