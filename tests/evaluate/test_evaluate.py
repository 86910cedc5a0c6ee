"""`cimc eval`: sweeps that resume, clusters, sensitivity, figures, and what is refused before any work."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc.cli import main
from cimc.device_run import DeviceRun
from cimc.evaluate.metrics import top_k
from cimc.runtime.device.loader import parse_device

NOISY = """\
name: noisy
description: programming variation
cell: {g_off_us: 1.0, g_on_us: 50.0}
programming: {gaussian: {absolute_us: 3.0}}
"""


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "noisy.yaml"
    path.write_text(NOISY)
    return path


def run(*arguments: object) -> int:
    """Exit code of ``cimc``."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return int(left.value.code or 0)


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_sweep_over_chips_and_noise(
    digits_artifact: Path, digits_test: Path, device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every line is what the engine gives for that chip; means and intervals are those of the lines; more noise is
    worse; figures are written."""
    axis = "device.programming.gaussian.absolute_us"
    options = [
        "--data",
        digits_test,
        "--device-model",
        device,
        "--metric",
        "top1",
        "--metric",
        "relative_error",
    ]
    options += [
        "--chips",
        3,
        "--seed",
        5,
        "--sweep",
        f"{axis}=0.5,6.0",
        "-o",
        tmp_path / "out",
        "--plot",
        "--json",
    ]
    assert run("eval", digits_artifact, *options) == 0
    found = json.loads(capsys.readouterr().out)
    rows = lines(tmp_path / "out")
    assert [(float(r[axis]), int(r["chip"])) for r in rows] == [(s, c) for s in (0.5, 6.0) for c in range(3)]

    data, artifact = np.load(digits_test), cimc.load(digits_artifact)
    chip = DeviceRun(parse_device(NOISY.replace("3.0", "6.0"), "noisy"), seed=5, chip=2)
    logits = artifact.run({"x": data["x"]}, engine="device", device=chip).outputs["logits"]
    assert float(rows[-1]["top1"]) == top_k(logits, data["labels"], 1)

    errors = [np.array([float(r["relative_error"]) for r in rows[i : i + 3]]) for i in (0, 3)]
    assert errors[0].max() < errors[1].min()
    summary = found[1]["metrics"]["relative_error"]
    assert summary["mean"] == pytest.approx(errors[1].mean())
    assert summary["low"] < summary["mean"] < summary["high"]
    assert "<svg" in (tmp_path / "out" / f"relative_error-{axis}.svg").read_text()


def test_a_killed_sweep_continues(
    digits_artifact: Path, digits_test: Path, device: Path, tmp_path: Path
) -> None:
    """Killed after the second chip: the next run keeps these lines, drops a torn one, and ends as if never killed."""
    folder = tmp_path / "out"
    command = [
        "eval",
        digits_artifact,
        "--data",
        digits_test,
        "--device-model",
        device,
        "--chips",
        8,
        "-o",
        folder,
    ]
    process = subprocess.Popen([sys.executable, "-m", "cimc", *map(str, command)], stdout=subprocess.DEVNULL)
    while not (folder / "results.csv").exists() or len((folder / "results.csv").read_text().splitlines()) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    kept = (folder / "results.csv").read_text().splitlines()[:3]
    with (folder / "results.csv").open("a") as file:
        file.write("3,0.9")  # a line cut off while it was written
    stamp = os.stat(folder / "results.csv").st_ino
    assert run(*command) == 0
    after = (folder / "results.csv").read_text()
    assert after.splitlines()[:3] == kept
    assert os.stat(folder / "results.csv").st_ino == stamp
    assert run(*command[:-1], tmp_path / "whole") == 0
    assert (tmp_path / "whole" / "results.csv").read_text() == after


def test_a_local_cluster_gives_the_same(
    digits_artifact: Path, digits_test: Path, device: Path, tmp_path: Path
) -> None:
    """A process of a dask cluster continues what was begun here: the same lines, in whatever order."""
    command = ["eval", digits_artifact, "--data", digits_test, "--device-model", device, "--chips", 3]
    assert run(*command, "-o", tmp_path / "here") == 0
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    begun = "".join((tmp_path / "here" / "results.csv").read_text().splitlines(keepends=True)[:2])
    (tmp_path / "there" / "results.csv").write_text(begun)
    assert run(*command, "-o", tmp_path / "there", "--scheduler", "local", "--workers", 1) == 0
    assert (tmp_path / "there" / "results.csv").read_text().startswith(begun)
    ordered = [sorted(lines(tmp_path / name), key=lambda row: row["chip"]) for name in ("here", "there")]
    assert ordered[0] == ordered[1]


def test_time_and_ablation(
    digits_artifact: Path, digits_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cells an hour old: without programming error or without drift the outputs are nearer, fresh cells are as good as
    cells without drift. top-5 and cosine are those of the run."""
    device = tmp_path / "pcm2.yaml"
    fit = "{{slope: 0, intercept: {0}, low: 0, high: 0.1}}"
    mean, sigma = fit.format(0.003), fit.format(0.0005)
    device.write_text(f"{NOISY}drift: {{power_law: {{t0_s: 20, mean: {mean}, sigma: {sigma}}}}}\n")
    data = np.load(digits_test)
    np.savez(tmp_path / "few.npz", x=data["x"][:12], labels=data["labels"][:12])
    options = ["--data", tmp_path / "few.npz", "--device-model", device, "--chips", 1, "--json"]
    for metric in ("relative_error", "cosine", "top5"):
        options += ["--metric", metric]
    sweep = ["--sweep", "without=none,programming,drift", "--sweep", "time_s=0,3600"]
    assert run("eval", digits_artifact, *options, *sweep, "-o", tmp_path / "out", "--plot") == 0
    found = {
        (one["settings"]["without"], one["settings"]["time_s"]): one["metrics"]
        for one in json.loads(capsys.readouterr().out)
    }
    error = {key: metrics["relative_error"]["mean"] for key, metrics in found.items()}
    assert error["none", 3600] > max(error[name, 3600] for name in ("programming", "drift"))
    assert error["drift", 3600] == error["none", 0] == error["drift", 0]
    assert (tmp_path / "out" / "cosine-without.svg").exists()

    chip = DeviceRun(parse_device(device.read_text(), "noisy"), seed=0, chip=0, time_s=3600.0)
    artifact = cimc.load(digits_artifact)
    logits = artifact.run({"x": data["x"][:12]}, engine="device", device=chip).outputs["logits"]
    real = artifact.run({"x": data["x"][:12]}, engine="graph").outputs["logits"]
    (row,) = (
        r
        for r in lines(tmp_path / "out")
        if (r["without"], r["time_s"], r["chip"]) == ('"none"', "3600", "0")
    )
    inner = (logits * real).sum(axis=1) / (np.linalg.norm(logits, axis=1) * np.linalg.norm(real, axis=1))
    assert float(row["cosine"]) == pytest.approx(inner.mean(), rel=1e-6)
    best = np.argsort(-logits, axis=1)[:, :5]
    assert float(row["top5"]) == np.mean(
        [label in five for label, five in zip(data["labels"], best, strict=False)]
    )


def test_a_sweep_over_machines_compiles_each(
    digits_model: Path, digits_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ADC bits of the core-mode machine: one artifact per value, and fewer bits are not better."""
    calibration = digits_model.parent / "calibration.npz"
    options = ["--data", digits_test, "--device-model", "ideal", "--metric", "relative_error"]
    options += ["--sweep", "arch.crossbar.adc_bits=5,9", "--arch", "jia", "--calibration", calibration]
    assert run("eval", digits_model, *options, "-o", tmp_path / "out", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    few, many = (one["metrics"]["relative_error"]["mean"] for one in found)
    assert few > many
    assert len(list((tmp_path / "out" / "artifacts").iterdir())) == 2


def test_a_sweep_over_cell_bits(
    digits_model: Path, digits_test: Path, device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One artifact for each width of the cells, of the same integers where cells are ideal. 1 uS of 49 is 0.02 levels
    of a 1-bit cell: sums of 8 rows are off by 0.06, and the converter's rounding at 0.5 takes all of it away. With 15
    steps a cell they are off by 0.9, which no rounding can tell from another sum."""
    data = np.load(digits_test)
    np.savez(tmp_path / "few.npz", x=data["x"][:12], labels=data["labels"][:12])
    (tmp_path / "mapping.yaml").write_text("scheduler: none\n")
    device.write_text(NOISY.replace("3.0", "1.0"))
    options = ["--data", tmp_path / "few.npz", "--metric", "relative_error", "--json"]
    options += ["--arch", "isaac", "--mapping", tmp_path / "mapping.yaml"]
    options += ["--calibration", digits_model.parent / "calibration.npz"]
    options += ["--sweep", "arch.crossbar.cell_bits=1,4"]
    found: dict[str, list[float]] = {}
    for name in ("ideal", str(device)):
        out = tmp_path / f"out-{len(found)}"
        assert run("eval", digits_model, *options, "--device-model", name, "-o", out) == 0
        outcomes = json.loads(capsys.readouterr().out)
        assert [one["settings"]["arch.crossbar.cell_bits"] for one in outcomes] == [1, 4]
        found[name] = [one["metrics"]["relative_error"]["mean"] for one in outcomes]
        machines = [cimc.load(path).level("mapped")[1].arch for path in (out / "artifacts").iterdir()]
        assert sorted(machine.crossbar.cell_bits for machine in machines if machine) == [1, 4]
    assert found["ideal"][0] == found["ideal"][1] == found[str(device)][0]
    assert found[str(device)][1] > 2 * found["ideal"][1]


def test_stages_ranked_and_selected(
    digits_artifact: Path, digits_test: Path, device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each stage alone on devices loses something; those above the threshold run digitally and the rest loses less
    than all together."""
    command = ["eval", digits_artifact, "--data", digits_test, "--device-model", device]
    command += ["--metric", "relative_error", "--chips", 2]
    sensitive = [*command, "--sensitivity", "-o", tmp_path / "out", "--json", "--plot"]
    assert run(*sensitive) == 0
    ranked = json.loads(capsys.readouterr().out)["stages"]
    losses = [one["loss"] for one in ranked]
    assert len(ranked) == 4
    assert losses == sorted(losses, reverse=True)
    assert min(losses) > 0
    threshold = (losses[0] + losses[1]) / 2
    assert run(*sensitive, "--threshold", threshold) == 0
    chosen = json.loads(capsys.readouterr().out)["selection"]
    assert chosen["digital"] == [ranked[0]["stage"]]
    macs = {one["stage"]: one["macs"] for one in ranked}
    assert chosen["analog_share"] == pytest.approx(1 - macs[ranked[0]["stage"]] / sum(macs.values()))
    assert run(*command, "-o", tmp_path / "all", "--json") == 0
    everything = json.loads(capsys.readouterr().out)[0]["metrics"]["relative_error"]["mean"]
    assert chosen["metrics"]["relative_error"]["mean"] < everything
    assert (tmp_path / "out" / "relative_error-by-stage.svg").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device-model", "pcx"], "no device is called 'pcx'"),
        (["--sweep", "noise=1"], "an axis is KEY=V1,V2"),
        (["--sweep", "time_s=1,1"], "a value twice"),
        (["--sweep", "time_s=1", "--sweep", "time_s=2"], "given twice"),
        (["--sweep", "time_s=-1"], "0 s or more"),
        (["--sweep", "time_s=soon"], "a number of seconds"),
        (["--sweep", "without=none,wires"], "has no section 'wires' to go without"),
        (["--sweep", "device.programming.gaussian.absolute_us=-1"], "greater than or equal to 0"),
        (["--sweep", "device.cell.g_on=3"], "did you mean 'g_on_us'"),
        (["--sweep", "arch.crossbar.adc_bits=4"], "give the ONNX file"),
        (["--metric", "perplexity"], "lacks tokens"),
        (["--metric", "top9"], "top9"),
        (["--chips", "0"], "--chips"),
        (["--threshold", "1"], "add --sensitivity"),
        (["--sensitivity", "--sweep", "time_s=1"], "drop --sweep"),
        (["--digital", "conv9"], "no array stage is called conv9"),
        (["--workers", "2"], "--scheduler local"),
        (["--plot"], "add --sweep"),
        (["--output-name", "nothing"], "the model has the outputs logits"),
        (["--confidence", "1.5"], "--confidence"),
    ],
)
def test_what_is_refused(
    digits_artifact: Path,
    digits_test: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    """Exit 2 with the reason, and no result of a chip."""
    base = ["eval", digits_artifact, "--data", digits_test, "--device-model", "ideal", "-o", tmp_path / "out"]
    assert run(*base, *options) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "results.csv").exists() or not lines(tmp_path / "out")


def test_another_sweep_does_not_mix_in(
    digits_artifact: Path, digits_test: Path, device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of another seed is refused by what differs; a damaged file by its line."""
    command = [
        "eval",
        digits_artifact,
        "--data",
        digits_test,
        "--device-model",
        device,
        "-o",
        tmp_path / "out",
    ]
    assert run(*command) == 0
    assert run(*command, "--seed", 1) == 2
    assert "differ in seed" in capsys.readouterr().err
    (tmp_path / "out" / "results.csv").write_text("chip,top1\n0,much\n")
    assert run(*command) == 2
    assert "results.csv:2" in capsys.readouterr().err
