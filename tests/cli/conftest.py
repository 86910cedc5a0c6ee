"""Running the command line as a user does, and small models to run it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cimc.cli import main


@dataclass(frozen=True)
class Ran:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that are errors, without their prefix."""
        return [line.removeprefix("error: ") for line in self.err.splitlines() if line.startswith("error: ")]


Cimc = Callable[..., Ran]


class Expected(Protocol):
    """How a command should fail."""

    @property
    def message(self) -> str: ...

    @property
    def code(self) -> int: ...


@pytest.fixture
def cimc(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cimc:
    """``cimc(*arguments)``: run the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ran(int(left.value.code or 0), out, err)

    return run


@pytest.fixture
def refused(cimc: Cimc, tmp_path: Path) -> Callable[..., None]:
    """``refused(case, *arguments)``: ``case`` has the ``message`` and the ``code`` to expect.

    stdout stays empty, and nothing new lies in the folder: no artifact, no half of one, no reproducer.
    """

    def check(case: Expected, *arguments: str | Path) -> None:
        before = _lying_in(tmp_path)
        ran = cimc(*arguments)
        assert ran.code == case.code, ran.err
        assert ran.out == ""
        assert any(case.message in line for line in ran.errors), ran.err
        assert "Traceback" not in ran.err
        assert _lying_in(tmp_path) == before

    return check


def _lying_in(folder: Path) -> set[Path]:
    """What lies there; Python may keep the byte code of a backend's file beside it."""
    return {path for path in folder.iterdir() if path.name != "__pycache__"}


def small_model() -> onnx.ModelProto:
    """conv 3x3 -> batch norm -> relu -> global average pool (an output) -> flatten -> gemm -> atan (host)."""
    rng = np.random.default_rng(0)

    def stored(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array((0.4 * rng.standard_normal(shape)).astype(np.float32), name)

    variance = numpy_helper.from_array(np.full(8, 0.5, np.float32), "variance")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "variance"], ["n"], name="bn1"),
        helper.make_node("Relu", ["n"], ["r"], name="relu1"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "fw", "fb"], ["logits"], name="fc"),
        helper.make_node("Atan", ["logits"], ["y"], name="squash"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 6, 6])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("p", TensorProto.FLOAT, ["batch", 8, 1, 1]),
        ],
        [
            stored("w", 8, 3, 3, 3),
            *(stored(name, 8) for name in ("s", "b", "m")),
            variance,
            stored("fw", 8, 4),
            stored("fb", 4),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """:func:`small_model` in a file; its batch is open."""
    path = tmp_path / "small.onnx"
    onnx.save(small_model(), path)
    return path


@dataclass(frozen=True)
class Built:
    """An artifact of :func:`small_model` for isaac, with what it was made from."""

    model: Path
    calibration: Path
    artifact: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Compiled once through the command line; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("built")
    model, calibration, artifact = folder / "small.onnx", folder / "calibration.npz", folder / "small.cim"
    onnx.save(small_model(), model)
    np.savez(calibration, x=images(8))
    command = ["compile", model, "--arch", "isaac", "--shape", "x=1,3,6,6", "-o", artifact]
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in [*command, "--calibration", calibration]])
    assert not left.value.code
    return Built(model, calibration, artifact)


def images(count: int) -> npt.NDArray[np.float32]:
    """``count`` inputs of :func:`small_model`, the same ones each time, from faint to bright."""
    noise = np.random.default_rng(1).standard_normal((count, 3, 6, 6)) + 0.5
    return (np.linspace(0.1, 2.0, count)[:, None, None, None] * noise).astype(np.float32)
