"""`cimc verify`: what it prints, what it exits with, and that a broken pass is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import numpy as np
import onnx
import pytest

from cimc.mapping_options import MappingOptions
from cimc.pipeline import pipeline
from cimc.runtime.artifact_files import ArtifactWriter, open_artifact
from cimc.runtime.program.files import save_program

Cimc = Callable[..., Any]


@pytest.fixture
def plain(built: Any, tmp_path: Path) -> list[str]:
    """The small model without its host operator, and the options to verify it on its calibration."""
    model = onnx.load(built.model)
    del model.graph.node[6], model.graph.output[1]
    model.graph.output[0].name = "logits"
    onnx.save(model, tmp_path / "plain.onnx")
    given = ("--arch", "isaac", "--shape", "x=1,3,6,6", "--calibration", str(built.calibration))
    return ["verify", "plain.onnx", *given]


def test_every_pass_is_compared(cimc: Cimc, plain: list[str]) -> None:
    """The JSON has one check or more for each pass of the pipeline, in its order, and all hold."""
    ran = cimc(*plain, "--json")
    report = json.loads(ran.out)
    assert (ran.code, report["ok"], report["machine"]) == (0, True, "isaac"), ran.err
    checked = list(dict.fromkeys(check["after"] for check in report["checks"]))
    passes = [step.run.name for step in pipeline(MappingOptions())]
    assert checked == ["import", *passes, "lower-bodies"]
    assert report["array_macs"] == report["total_macs"] == report["frames"] * (36 * 27 * 8 + 8 * 4)


def test_text_ends_in_the_verdict(cimc: Cimc, plain: list[str], built: Any, tmp_path: Path) -> None:
    """`--input` chooses the frames; the last line says that all is well."""
    with np.load(built.calibration) as data:
        np.savez(tmp_path / "in.npz", x=data["x"][2:5])
    ran = cimc(*plain, "--input", "in.npz")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "verify on isaac, 3 frames"
    assert lines[-1] == "ok: every level means the same"


def test_a_pass_that_lies_is_named(cimc: Cimc, plain: list[str], tmp_path: Path) -> None:
    """A backend's own pass that turns Relu into the identity: exit 1 at that pass and that operation."""
    yaml = tmp_path / "chip.yaml"
    yaml.write_text(cimc("arch", "show", "isaac").out)
    (tmp_path / "chip.py").write_text(
        "from dataclasses import dataclass\n"
        "from pathlib import Path\n"
        "from xdsl.passes import ModulePass\n"
        "from cimc.backends.protocol import BaseBackend\n"
        "from cimc.dialects.graph import ClipOp, ReluOp\n"
        "@dataclass(frozen=True)\n"
        "class Lie(ModulePass):\n"
        "    name = 'drop-relu'\n"
        "    def apply(self, ctx, op):\n"
        "        for relu in [o for o in op.walk() if isinstance(o, ReluOp)]:\n"
        "            block = relu.parent\n"
        "            new = ClipOp(relu.input, min=-9e9, max=9e9, tensors=[t.data for t in relu.tensors])\n"
        "            new.location = relu.location\n"
        "            block.insert_op_before(new, relu)\n"
        "            relu.result.replace_all_uses_with(new.result)\n"
        "            relu.detach()\n"
        "            relu.erase()\n"
        "class Chip(BaseBackend):\n"
        "    def extra_passes(self):\n"
        "        return (('graph', Lie()),)\n"
        "BACKEND = Chip(Path(__file__).with_name('chip.yaml'))\n"
    )
    command = ["chip.py" if word == "isaac" else word for word in plain]
    ran = cimc(*command)
    assert ran.code == 1
    assert ran.errors[0].startswith("relu1 (plain.onnx:2): tensor 'r' differs by ")
    assert ran.errors[0].endswith("(after drop-relu)")
    assert ran.out.splitlines()[-1].startswith("FAILED after drop-relu at relu1 (plain.onnx:2): ")


def test_static_takes_artifacts_and_models(cimc: Cimc, plain: list[str], built: Any) -> None:
    """No data is needed; a program of the compiler breaks no rule."""
    for command in (["verify", built.artifact, "--static"], [*plain, "--static"]):
        ran = cimc(*command)
        assert (ran.code, ran.out) == (0, "ok: the program breaks no rule\n"), ran.err
    ran = cimc("verify", built.artifact, "--static", "--arch", "isaac", "--json")
    assert json.loads(ran.out) == {"ok": True, "findings": []}


def test_static_names_rule_and_place(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """A well-signed program with one wrong operand is found without data; rule and node stand in the message."""
    files = open_artifact(built.artifact)
    program = files.program()
    rows = {name: column.copy() for name, column in program["array_sets"].items()}
    rows["k1"][0] += 100
    with ArtifactWriter(tmp_path / "wrong.cim") as writer:
        copytree(built.artifact, writer.folder, dirs_exist_ok=True)
        (writer.folder / "manifest.json").unlink()
        rmtree(writer.folder / "program")
        save_program(replace(program, tables={**program.tables, "array_sets": rows}), writer.path("program"))
        writer.finish(options=files.options, model_sha256=files.model_sha256, arch_sha256=files.arch_sha256)
    ran = cimc("verify", "wrong.cim", "--static")
    assert ran.code == 1
    assert any("conv1" in line and "[P" in line for line in ran.errors), ran.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--input", "no.npz"], "no.npz: there is no such file"),
        (["--static", "--input", "no.npz"], "--static runs nothing, given --input"),
        (["--network", "mehs"], "did you mean 'mesh'?"),
    ],
)
def test_wrong_options(cimc: Cimc, plain: list[str], more: list[str], message: str) -> None:
    """Exit 2 before anything is compiled."""
    ran = cimc(*plain, *more)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.errors[0]


def test_an_artifact_needs_static(cimc: Cimc, built: Any) -> None:
    """It holds no model to compare with; the remedy is named."""
    ran = cimc("verify", built.artifact, "--arch", "isaac")
    assert (ran.code, ran.out) == (2, "")
    assert "give the model, or add --static" in ran.errors[0]
