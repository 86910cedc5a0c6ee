"""A compiled network on simulated devices: equal to the stream where nothing is wrong, one chip always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc.cli import main
from cimc.device_run import DeviceArrays, DeviceRun, run_device
from cimc.diagnostics import UsageError
from cimc.models import images, network
from cimc.runtime.device.loader import load_device, parse_device

NOISY = """\
name: noisy
description: programming variation and read noise
cell: {g_off_us: 1.0, g_on_us: 50.0}
programming: {gaussian: {absolute_us: 1.5}}
read_noise: {gaussian: {relative: 0.02}}
"""


@pytest.fixture(scope="module")
def artifact(digits_artifact: Path) -> cimc.Artifact:
    return cimc.load(digits_artifact)


@pytest.fixture(scope="module")
def pictures(digits_test: Path) -> np.ndarray:
    return np.load(digits_test)["x"][:6]


def codes(artifact: cimc.Artifact, pictures: np.ndarray, run: DeviceRun) -> np.ndarray:
    return artifact.run({"x": pictures}, engine="device", device=run).integer_outputs["logits"]


@pytest.mark.parametrize("machine", ["isaac", "jia"])
def test_ideal_devices_give_the_stream(digits_model: Path, pictures: np.ndarray, machine: str) -> None:
    """Ideal cells behind the machine's converters: every integer of the instruction stream, taps included, also where
    converters lose information (jia)."""
    made = cimc.compile(digits_model, machine, calibration=digits_model.parent / "calibration.npz")
    taps = [t.name for t in made.program.taps]
    stream = made.run({"x": pictures}, taps=taps)
    device = made.run({"x": pictures}, taps=taps, engine="device", device=DeviceRun(load_device("ideal")))
    assert len(np.unique(stream.integer_outputs["logits"])) > 16
    np.testing.assert_array_equal(device.integer_outputs["logits"], stream.integer_outputs["logits"])
    for tap in taps:
        np.testing.assert_array_equal(device.taps[tap], stream.taps[tap], err_msg=tap)


def test_a_chip_is_itself_and_no_other(artifact: cimc.Artifact, pictures: np.ndarray) -> None:
    """The same seed and instance give the same codes; another instance or seed gives others, and so does time."""
    device = parse_device(NOISY, "noisy")
    first = codes(artifact, pictures, DeviceRun(device, seed=3, chip=1))
    np.testing.assert_array_equal(codes(artifact, pictures, DeviceRun(device, seed=3, chip=1)), first)
    for other in (DeviceRun(device, seed=3, chip=2), DeviceRun(device, seed=4, chip=1)):
        assert (codes(artifact, pictures, other) != first).any()
    ideal = codes(artifact, pictures, DeviceRun(load_device("ideal")))
    assert (first != ideal).any()


def test_how_frames_are_split_changes_nothing(artifact: cimc.Artifact, pictures: np.ndarray) -> None:
    """Read noise belongs to a window of the run: six frames at once are two and four."""
    run = DeviceRun(parse_device(NOISY, "noisy"), seed=8)
    module, ctx = artifact.level("mapped")
    arrays = DeviceArrays(run)
    parts = [
        run_device(module, ctx, {"x": pictures[a:b]}, (), arrays).integer_outputs["logits"]
        for a, b in ((0, 2), (2, 6))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), codes(artifact, pictures, run))


def test_every_copy_has_cells_of_its_own(digits_model: Path, pictures: np.ndarray) -> None:
    """With the scheduler's copies there are as many programmed blocks as contexts with arrays."""
    made = cimc.compile(digits_model, "isaac", calibration=digits_model.parent / "calibration.npz")
    arrays = DeviceArrays(DeviceRun(parse_device(NOISY, "noisy")))
    run_device(*made.level("mapped"), {"x": pictures[:1]}, (), arrays)
    copies = {s["name"]: s["copies"] for s in made.report["stages"] if s["crossbars"]}
    found = {name: {tuple(at[:2]) for stage, *at in arrays.readers if stage == name} for name in copies}
    assert {name: len(of) for name, of in found.items()} == copies


def test_digital_stages_have_no_devices(artifact: cimc.Artifact, pictures: np.ndarray) -> None:
    """All stages digital is the ideal machine; explanations say what was done with each."""
    run = DeviceRun(parse_device(NOISY, "noisy"), digital=("*",))
    arrays = DeviceArrays(run)
    found = run_device(*artifact.level("mapped"), {"x": pictures}, (), arrays).integer_outputs["logits"]
    np.testing.assert_array_equal(found, artifact.run({"x": pictures}).integer_outputs["logits"])
    assert set(map(tuple, arrays.explanations().values())) == {("computed digitally",)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet-18", "mobilenet-v2", "resnet-cifar-20"])
def test_networks_on_ideal_devices(name: str, tmp_path: Path) -> None:
    """Ideal devices and lossless converters: every output integer of the functional engine, on large networks."""
    from cimc import models

    model = models.export_onnx(name, tmp_path / "m.onnx")
    given = images(2, network(name).shape, seed=1)
    made = cimc.compile(model, "isaac", calibration={"x": given})
    stream = made.run({"x": given})
    device = made.run({"x": given}, engine="device", device=DeviceRun(load_device("ideal")))
    for output, expected in stream.integer_outputs.items():
        assert len(np.unique(expected)) > 16
        np.testing.assert_array_equal(device.integer_outputs[output], expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--engine device and --device-model go together"),
        (["--device-model", "pcn"], "no device is called 'pcn'"),
        (["--device-model", "ideal", "--digital", "nothing*"], "no array stage matches the glob 'nothing*'"),
        (["--device-model", "absent.yaml"], "absent.yaml"),
    ],
)
def test_command_line_errors(
    digits_artifact: Path,
    digits_test: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    """Exit 2, the reason, and no output file."""
    np.savez(tmp_path / "in.npz", x=np.load(digits_test)["x"][:1])
    target = tmp_path / "out.npz"
    command = ["run", str(digits_artifact), "--input", str(tmp_path / "in.npz"), "--output", str(target)]
    with pytest.raises(SystemExit) as left:
        main([*command, "--engine", "device", *options])
    assert left.value.code == 2
    assert words in capsys.readouterr().err
    assert not target.exists()


def test_an_unknown_device_engine_without_a_chip(artifact: cimc.Artifact, pictures: np.ndarray) -> None:
    """The engine needs its chip."""
    with pytest.raises(UsageError, match="give device="):
        artifact.run({"x": pictures}, engine="device")
