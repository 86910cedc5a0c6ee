"""`cimc check`: where operators go, why, and how many crossbars they take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

import cimc.backends
from cimc.backends.registry import resolve_backend
from cimc.checking import check_model

Cimc = Callable[..., Any]
ISAAC = Path(cimc.backends.__file__).parent / "isaac.yaml"


def _isaac(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """isaac with lines changed."""
    text = ISAAC.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "chip.yaml"
    path.write_text(text)
    return path


def test_every_operator_has_a_place_and_a_reason(cimc: Cimc, model: Path) -> None:
    """Array, digital unit, host; a folded BatchNormalization is not lost from the list."""
    ran = cimc("check", model, "--arch", "isaac", "--shape", "x=1,3,6,6", "--json")
    assert ran.code == 0
    report = json.loads(ran.out)
    assert {row["node"]: (row["operator"], row["where"]) for row in report["operators"]} == {
        "conv1": ("Conv", "array"),
        "bn1": ("BatchNormalization", "array"),
        "relu1": ("Relu", "digital"),
        "pool": ("GlobalAveragePool", "digital"),
        "flat": ("Reshape", "digital"),
        "fc": ("Gemm", "array"),
        "squash": ("Atan", "host"),
    }
    reasons = {row["node"]: row["reason"] for row in report["operators"]}
    assert "Atan is not an operator" in reasons["squash"]
    assert "folded" in reasons["bn1"]
    assert reasons["conv1"] == "27 x 8 weights of 8 bits: 1 x 1 crossbars of 128 x 32"


def test_table_groups_operators(cimc: Cimc, model: Path) -> None:
    """One line a kind, place and reason; the sum of crossbars below."""
    ran = cimc("check", model, "--arch", "isaac", "--shape", "x=1,3,6,6")
    header, *rows, last = ran.out.splitlines()
    assert header.split() == ["operator", "count", "where", "crossbars", "reason", "nodes"]
    assert rows[0].split()[:4] == ["Conv", "1", "array", "1"]
    assert rows[0].split()[-1] == "conv1"
    assert last == "crossbars: 2 of 12288 of isaac"


def test_crossbars_by_hand(model: Path, tmp_path: Path) -> None:
    """27 x 8 weights of 8 bits in 2-bit cells on 16 x 8 crossbars: 2 row tiles x 4 column tiles, 3 copies."""
    chip = _isaac(
        tmp_path,
        ("  rows: 128", "  rows: 16"),
        ("  columns: 128", "  columns: 8"),
        ("  adcs: 128", "  adcs: 1"),
    )
    (tmp_path / "mapping.yaml").write_text("overrides:\n  - {match: conv1, copies: 3}\n")
    from cimc.mapping_options import load_mapping

    report = check_model(
        model,
        resolve_backend(chip),
        shapes={"x": (1, 3, 6, 6)},
        mapping=load_mapping(tmp_path / "mapping.yaml"),
    )
    cells = resolve_backend(chip).architecture().crossbar.cells_per_weight(8)
    assert cells == 4
    found = {row.node: row.crossbars for row in report.rows if row.crossbars}
    assert found == {"conv1": 2 * 4 * 3, "fc": 1 * 2}


@pytest.mark.parametrize("machine", ["isaac", "puma", "chip.yaml"])
def test_the_compiler_takes_as_many_crossbars(cimc: Cimc, built: Any, tmp_path: Path, machine: str) -> None:
    """The count of `check` is the one of the placement that a compile makes, on large and tiny crossbars."""
    _isaac(
        tmp_path,
        ("  rows: 128", "  rows: 16"),
        ("  columns: 128", "  columns: 8"),
        ("  adcs: 128", "  adcs: 1"),
    )
    (tmp_path / "mapping.yaml").write_text("overrides:\n  - {match: conv1, copies: 3}\n")
    given = (built.model, "--arch", machine, "--shape", "x=1,3,6,6", "--mapping", "mapping.yaml")
    compiled = cimc("compile", *given, "--calibration", built.calibration)
    assert compiled.code == 0, compiled.err
    used = json.loads((tmp_path / "small.cim" / "report.json").read_text())["crossbars"]["used"]
    assert json.loads(cimc("check", *given, "--json").out)["crossbars_needed"] == used


def test_too_few_crossbars_is_exit_3(cimc: Cimc, model: Path, tmp_path: Path) -> None:
    """Need and supply are named; the table is printed all the same."""
    small = (("  cores: 768", "  cores: 1"), ("  crossbars: 16", "  crossbars: 1"))
    _isaac(tmp_path, *small, ("  allow_writes: true", "  allow_writes: false"))
    ran = cimc("check", model, "--arch", "chip.yaml", "--shape", "x=1,3,6,6")
    assert ran.code == 3
    assert "the model needs 2 crossbars, isaac has 1 and writes no weights at run time" in ran.errors[0]
    assert ran.out.splitlines()[-1] == "crossbars: 2 of 1 of isaac"


def test_a_machine_that_writes_weights_takes_larger_models_in_phases(cimc: Cimc) -> None:
    """What compiles in phases is not refused: digits needs 16 of the 8 crossbars of jain."""
    assert cimc("models", "export", "digits", "-o", "digits.onnx").code == 0
    ran = cimc("check", "digits.onnx", "--arch", "jain")
    assert ran.code == 0
    last = ran.out.splitlines()[-1]
    assert last == "crossbars: 16 of 8 of jain; 2 phases or more, with weights written between them"


def test_a_backends_own_rule_is_printed(cimc: Cimc, model: Path, tmp_path: Path) -> None:
    """`--backend chip.py`: the reason is the backend's sentence, the exit code that of a compile (1)."""
    _isaac(tmp_path)
    (tmp_path / "chip.py").write_text(
        "from pathlib import Path\n"
        "from cimc.backends.protocol import BaseBackend\n"
        "class Chip(BaseBackend):\n"
        "    def legal_on_arrays(self, op):\n"
        "        if op.name == 'graph.conv':\n"
        "            return f'kernel of {max(op.kernel.data)} steps, the counter has at most 2'\n"
        "        return super().legal_on_arrays(op)\n"
        "BACKEND = Chip(Path(__file__).with_name('chip.yaml'))\n"
    )
    ran = cimc("check", model, "--backend", "chip.py", "--shape", "x=1,3,6,6")
    assert ran.code == 1
    assert ran.errors == ["conv1: Conv has no place on isaac: kernel of 3 steps, the counter has at most 2"]


def test_groups_share_a_crossbar(tmp_path: Path, model: Path) -> None:
    """A convolution in 3 groups takes one crossbar, not one a group, and none on the host."""
    proto = onnx.load(model)
    node = next(n for n in proto.graph.node if n.name == "conv1")
    node.attribute.append(helper.make_attribute("group", 3))
    weight = next(t for t in proto.graph.initializer if t.name == "w")
    from onnx import numpy_helper

    array = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(array[:6, :1].copy(), "w"))
    for name in ("s", "b", "m", "variance"):
        stored = next(t for t in proto.graph.initializer if t.name == name)
        stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored)[:6].copy(), name))
    last = next(t for t in proto.graph.initializer if t.name == "fw")
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last)[:6].copy(), "fw"))
    report = check_model(proto, resolve_backend("isaac"), shapes={"x": (1, 3, 6, 6)})
    (row,) = [row for row in report.rows if row.node == "conv1"]
    assert (row.where, row.crossbars) == ("array", 1)


@pytest.mark.parametrize("bits", [8, 16])
def test_wide_weights_name_cells_and_columns(bits: int, tmp_path: Path, model: Path) -> None:
    """A weight that one row of cells does not hold is refused with both numbers."""
    chip = _isaac(tmp_path, ("  columns: 128", "  columns: 4"), ("  adcs: 128", "  adcs: 1"))
    (tmp_path / "mapping.yaml").write_text(f"weight_bits: {bits}\n")
    from cimc.mapping_options import load_mapping

    options = load_mapping(tmp_path / "mapping.yaml")
    report = check_model(model, resolve_backend(chip), shapes={"x": (1, 3, 6, 6)}, mapping=options)
    (row,) = [row for row in report.rows if row.node == "conv1"]
    if bits == 8:
        assert row.where == "array"
    else:
        assert row.where == "nowhere"
        assert row.reason == "a weight of 16 bits takes 8 cells of one row, which has 4"


def test_mapping_pattern_without_a_node(cimc: Cimc, model: Path, tmp_path: Path) -> None:
    """A pattern that matches nothing is a typo: exit 2 with the nearest name."""
    (tmp_path / "mapping.yaml").write_text("overrides:\n  - {match: conv2, copies: 3}\n")
    ran = cimc("check", model, "--arch", "isaac", "--shape", "x=1,3,6,6", "--mapping", "mapping.yaml")
    assert ran.code == 2
    assert "did you mean 'conv1'" in ran.errors[0]
