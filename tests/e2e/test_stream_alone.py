"""What counts as running the stream: program, tables and weight image, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import cimc
from cimc.runtime.functional.engine import run_program
from cimc.runtime.functional.problems import ExecutionError

Images = Callable[[str, int, int], npt.NDArray[np.float32]]

BLOCKED = ("onnx", "onnxruntime", "torch", "sklearn")

SCRIPT = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is not to be imported")

sys.meta_path.insert(0, Block())
import numpy as np, cimc
found = cimc.load({artifact!r}).run(dict(np.load({inputs!r})))
np.savez({outputs!r}, **found.integer_outputs)
"""


def test_the_stream_needs_neither_ir_nor_model_nor_frameworks(
    artifact: Callable[[str, str], cimc.Artifact], images: Images, tmp_path: Path
) -> None:
    """With `ir/` deleted and onnx, onnxruntime and torch not importable, the stream gives the same integers."""
    made = artifact("resnet-cifar-20", "isaac")
    assert made.path is not None
    folder = tmp_path / "copy"
    shutil.copytree(made.path, folder)
    shutil.rmtree(folder / "ir")
    x = {"x": images("resnet-cifar-20", 2, 3)}
    inputs, outputs = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(inputs, x=x["x"])
    script = SCRIPT.format(blocked=BLOCKED, artifact=str(folder), inputs=str(inputs), outputs=str(outputs))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    expected = made.run(x, engine="quantised").integer_outputs
    with np.load(outputs) as found:
        for name, codes in expected.items():
            np.testing.assert_array_equal(found[name], codes)


def test_results_come_from_the_cells(artifact: Callable[[str, str], cimc.Artifact], images: Images) -> None:
    """Another weight image under the same program gives other integers; the image is read by writes alone."""
    made = artifact("resnet-cifar-20", "isaac")
    x = {"x": images("resnet-cifar-20", 1, 3)}
    weights = {name: np.array(array) for name, array in made.weights.items()}
    first = next(iter(weights))
    right = run_program(made.program, weights, x).outputs["logits"]
    weights[first][0, 0] = -weights[first][0, 0] - 1
    wrong = run_program(made.program, weights, x).outputs["logits"]
    assert not np.array_equal(right, wrong)


def test_a_program_without_its_writes_stops(
    artifact: Callable[[str, str], cimc.Artifact], images: Images
) -> None:
    """Cells change only through `write_*`: turned into empty loops, the first read meets unwritten crossbars."""
    made = artifact("resnet-cifar-20", "isaac")
    program = made.program
    rows = {name: np.array(column) for name, column in program["instructions"].items()}
    writes = np.isin(rows["opcode"], (3, 4))
    assert writes.any()
    rows["opcode"][writes] = 11  # free of nothing
    rows["n"][writes] = 0
    rows["a"][writes] = 0
    rings = np.flatnonzero(program["buffers"]["kind"] == 1)
    rows["a"][writes] = rings[0]
    broken = replace(program, tables={**program.tables, "instructions": rows})
    with pytest.raises(ExecutionError):
        run_program(broken, made.weights, {"x": images("resnet-cifar-20", 1, 3)})


def test_walk_equals_the_fast_path(artifact: Callable[[str, str], cimc.Artifact], images: Images) -> None:
    """A window, a digit and a conversion at a time gives what collapsed products give."""
    made = artifact("digits", "puma")
    x = {"x": images("digits", 1, 4)}
    fast, slow = made.run(x), made.run(x, walk=True)
    for name, codes in fast.integer_outputs.items():
        np.testing.assert_array_equal(slow.integer_outputs[name], codes)
    assert slow.array_macs == fast.array_macs
