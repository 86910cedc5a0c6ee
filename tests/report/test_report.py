"""The report of an artifact: figures that follow from its tables, the commands that print and compare them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cimc
from cimc import models
from cimc.backends.loader import load_architecture
from cimc.backends.schema import Architecture
from cimc.cli.entry import cimc as command
from cimc.difference import difference
from cimc.performance import performance
from cimc.quantisation_error import quantisation_error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network and its calibration images."""
    place = tmp_path_factory.mktemp("report")
    models.export_onnx("digits", place / "digits.onnx")
    np.savez(place / "x.npz", x=models.images(8, models.network("digits").shape, seed=1))
    return place


def compiled(folder: Path, arch: Any, name: str, **options: Any) -> cimc.Artifact:
    """The network for a machine, on disk."""
    return cimc.compile(
        folder / "digits.onnx", arch, calibration=folder / "x.npz", output=folder / name, **options
    )


@pytest.fixture(scope="module")
def isaac_ce(folder: Path) -> cimc.Artifact:
    """On a machine that states its area."""
    return compiled(folder, "isaac-ce", "isaac-ce")


@pytest.fixture(scope="module")
def rewritten(folder: Path) -> cimc.Artifact:
    """On two cores of jia with cells that wear: several phases."""
    fields = load_architecture("jia").model_dump(mode="json")
    fields["chip"] |= {"cores": 2}
    fields["crossbar"] |= {"endurance_writes": 1_000_000}
    return compiled(folder, Architecture.model_validate(fields | {"name": "jia-2"}), "jia-2")


def invoke(*arguments: str) -> str:
    """What a command prints."""
    done = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_throughput_and_efficiency_follow_from_cycles_and_energy(isaac_ce: cimc.Artifact) -> None:
    """TOPS are two operations a product over the interval; TOPS/W is operations per pJ of the run."""
    timing = isaac_ce.simulate(images=4)
    found = performance(isaac_ce, images=4)
    operations = 2 * isaac_ce.report["total_macs"]
    seconds = timing.interval_cycles / (timing.clock_ghz * 1e9)
    assert found.tops == pytest.approx(operations / seconds / 1e12)
    watts = timing.total_energy_pj * 1e-12 / (timing.cycles / (timing.clock_ghz * 1e9))
    mean_tops = 4 * operations / (timing.cycles / (timing.clock_ghz * 1e9)) / 1e12
    assert found.tops_per_watt == pytest.approx(mean_tops / watts)
    assert found.tops_per_mm2 == pytest.approx(found.tops / 85.4)
    assert found.lifetime_days is None


def test_utilisation_counts_cells(isaac_ce: cimc.Artifact) -> None:
    """Cells of all weights over cells of all crossbars in use, and crossbars over those of the cores in use."""
    report = isaac_ce.report
    weights = sum(s["copies"] * s["weights"][0] * s["weights"][1] for s in report["stages"])
    cells = report["crossbars"]["used"] * 128 * 128
    arrays = report["utilisation"]["arrays"]
    assert arrays["mean"] == pytest.approx(4 * weights / cells)
    assert 0 < arrays["least"] <= arrays["mean"] <= arrays["most"] <= 1
    in_cores = sum(core["crossbars"] for core in report["utilisation"]["cores"])
    assert in_cores == report["crossbars"]["used"] == report["crossbars"]["physical"]
    for stage in report["stages"]:
        if stage["crossbars"]:
            k, n = stage["weights"]
            held = 4 * k * n * stage["copies"]
            assert stage["utilisation"] == pytest.approx(held / (stage["crossbars"] * 128 * 128))
    assert report["area"]["chip_mm2"] == 85.4
    assert report["area"]["crossbars_in_use_mm2"] == pytest.approx(2.5e-5 * report["crossbars"]["used"])


def test_writes_and_lifetime_of_a_program_that_rewrites_its_weights(rewritten: cimc.Artifact) -> None:
    """The cell that most phases program lives for endurance over writes inferences; time follows from the interval."""
    report = rewritten.report
    program = rewritten.program
    sets = program["array_sets"]
    phases = report["utilisation"]["phases"]
    assert phases == int(program["contexts"]["phase"].max()) + 1 >= 2
    written: dict[int, int] = {}
    for core in sets["core"].tolist():  # one array a core
        written[core] = written.get(core, 0) + 1
    assert report["writes"]["per_cell_and_inference"] == max(written.values()) / program.frames >= 1
    lifetime = 1_000_000 / report["writes"]["per_cell_and_inference"]
    assert report["writes"]["inferences_until_worn"] == lifetime
    found = performance(rewritten, images=1)
    assert found.lifetime_days == pytest.approx(lifetime * found.interval_ns * 1e-9 / 86400)


def test_weights_that_stay_wear_nothing(isaac_ce: cimc.Artifact) -> None:
    """A program of one phase writes before the first inference only."""
    assert isaac_ce.report["writes"]["per_cell_and_inference"] == 0
    assert isaac_ce.report["writes"]["inferences_until_worn"] is None


def test_quantisation_error_of_every_layer(isaac_ce: cimc.Artifact, folder: Path) -> None:
    """The error of the last tensor is that of the outputs; fewer weight bits make every layer worse."""
    x = {"x": np.load(folder / "x.npz")["x"]}
    errors = {error.tensor: error for error in quantisation_error(isaac_ce, x)}
    real, coded = (isaac_ce.run(x, engine=e).outputs["logits"] for e in ("graph", "quantised"))
    relative = float(
        np.linalg.norm(coded.astype(np.float64) - real) / np.linalg.norm(real.astype(np.float64))
    )
    assert errors["logits"].relative_error == pytest.approx(relative, rel=1e-6)
    assert errors["logits"].sqnr_db == pytest.approx(-20 * np.log10(relative), rel=1e-6)
    assert len(errors) >= 6
    coarse = compiled(folder, "isaac-ce", "coarse", mapping=cimc_mapping(4))
    worse = {error.tensor: error for error in quantisation_error(coarse, x)}
    assert worse["logits"].sqnr_db < errors["logits"].sqnr_db - 6


def cimc_mapping(bits: int) -> Any:
    """Mapping options with weights of ``bits`` bits."""
    from cimc.mapping_options import MappingOptions

    return MappingOptions(weight_bits=bits)


def test_the_report_command(isaac_ce: cimc.Artifact, folder: Path) -> None:
    """It prints a line a layer and the figures of the machine; its JSON is report.json with timing and errors."""
    text = invoke("report", str(folder / "isaac-ce"), "--calibration", str(folder / "x.npz"), "--images", "2")
    assert all(stage["name"] in text for stage in isaac_ce.report["stages"])
    assert "TOPS/W" in text
    assert "SQNR dB" in text
    found = json.loads(invoke("report", str(folder / "isaac-ce"), "--images", "0", "--json"))
    assert found == json.loads((folder / "isaac-ce" / "report.json").read_text())


def test_diff_of_an_artifact_with_itself_and_with_another(
    isaac_ce: cimc.Artifact, rewritten: cimc.Artifact, folder: Path
) -> None:
    """Nothing differs from itself; machines differ in what layers need and in time."""
    assert difference(isaac_ce, isaac_ce, images=2) == []
    changes = {(c.part, c.name): (c.before, c.after) for c in difference(isaac_ce, rewritten, images=1)}
    assert changes["options", "machine"] == ("isaac-ce", "jia-2")
    assert changes["sizes", "phases"] == (1, rewritten.report["utilisation"]["phases"])
    assert any(part.startswith("layer ") and name == "crossbars" for part, name in changes)
    assert ("timing", "cycles") in changes
    assert ("sizes", "total_macs") not in changes
    text = invoke("diff", str(folder / "isaac-ce"), str(folder / "jia-2"), "--images", "0")
    assert "isaac-ce" in text
    assert invoke("diff", str(folder / "jia-2"), str(folder / "jia-2"), "--images", "0") == "no difference\n"
