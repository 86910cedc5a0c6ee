"""Running the command line as a user does, and small models to run it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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


def small_model() -> onnx.ModelProto:
    """conv 3x3 -> batch norm -> relu -> global average pool -> flatten -> gemm -> sigmoid, opset 17."""
    rng = np.random.default_rng(0)

    def stored(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    variance = numpy_helper.from_array(np.full(8, 0.5, np.float32), "variance")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "variance"], ["n"], name="bn1"),
        helper.make_node("Relu", ["n"], ["r"], name="relu1"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "fw", "fb"], ["logits"], name="fc"),
        helper.make_node("Sigmoid", ["logits"], ["y"], name="squash"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
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
