"""`arch`, `backends`, `models`: lists a person reads and a program parses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from ruamel.yaml import YAML

import cimc.backends

Cimc = Callable[..., Any]
MACHINES = Path(cimc.backends.__file__).parent


def test_arch_list(cimc: Cimc) -> None:
    """Every machine once, with the numbers of its file."""
    header, *rows = cimc("arch", "list").out.splitlines()
    assert header.split()[:4] == ["name", "mode", "cores", "crossbars"]
    names = [row.split()[0] for row in rows]
    assert {"isaac", "puma"} <= set(names)
    assert names == sorted(set(names))
    yaml = YAML(typ="safe").load(MACHINES / "isaac.yaml")
    crossbars = yaml["chip"]["cores"] * yaml["core"]["crossbars"]
    assert rows[names.index("isaac")].split()[1:4] == [
        yaml["mode"],
        str(yaml["chip"]["cores"]),
        str(crossbars),
    ]
    assert [row["name"] for row in json.loads(cimc("arch", "list", "--json").out)] == names


def test_arch_show_is_an_architecture_file(cimc: Cimc, tmp_path: Path) -> None:
    """What `show` prints validates, and is the same machine: its hash is the one of `--json`."""
    shown = cimc("arch", "show", "puma")
    (tmp_path / "copy.yaml").write_text(shown.out)
    validated = cimc("arch", "validate", "copy.yaml")
    digest = json.loads(cimc("arch", "show", "puma", "--json").out)["sha256"]
    assert (validated.code, validated.out) == (0, f"copy.yaml: ok, puma, sha256 {digest}\n")


def test_arch_validate_reports_all_problems_of_all_files(cimc: Cimc, tmp_path: Path) -> None:
    """Good files are named on stdout, each problem of the others on stderr with its line; exit 2."""
    good = (MACHINES / "isaac.yaml").read_text()
    (tmp_path / "good.yaml").write_text(good)
    (tmp_path / "one.yaml").write_text(good.replace("rows: 128", "row: 128", 1))
    (tmp_path / "two.yaml").write_text(good.replace("clock_ghz: 0.01", "clock_ghz: 0", 1))
    ran = cimc("arch", "validate", "one.yaml", "good.yaml", "two.yaml")
    assert ran.code == 2
    assert ran.out.startswith("good.yaml: ok, isaac")
    line = next(i for i, text in enumerate(good.splitlines(), 1) if "rows: 128" in text)
    assert any(e.startswith(f"one.yaml:{line}:") and "did you mean 'rows'" in e for e in ran.errors)
    assert any(e.startswith("two.yaml:") and "clock_ghz" in e for e in ran.errors)


def test_arch_schema_describes_the_files(cimc: Cimc) -> None:
    """The schema names every key that our own machine files use."""
    schema = json.loads(cimc("arch", "schema").out)
    used = YAML(typ="safe").load(MACHINES / "isaac.yaml")
    assert set(used) <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_backends(cimc: Cimc) -> None:
    """Our own come through the entry points, with package and status."""
    header, *rows = cimc("backends").out.splitlines()
    assert header.split() == ["name", "origin", "version", "status"]
    listed = {row.split()[0]: row.split()[1:] for row in rows}
    for name in ("isaac", "puma"):
        assert listed[name] == ["cimc", version("cimc"), "ok"]


def test_models_list(cimc: Cimc) -> None:
    """Name and input of every network; the JSON says the same."""
    _, *rows = cimc("models", "list").out.splitlines()
    listed = {row.split()[0]: row.split()[1] for row in rows}
    assert listed["resnet-50"] == "3x224x224"
    parsed = json.loads(cimc("models", "list", "--json").out)
    assert {entry["name"]: "x".join(map(str, entry["shape"])) for entry in parsed} == listed


def test_models_export_writes_the_same_bytes_twice(cimc: Cimc, tmp_path: Path) -> None:
    """A seed is a network: equal seeds give equal files, the batch is as asked."""
    first = cimc("models", "export", "digits", "-o", "a.onnx", "--seed", "3", "--batch", "dynamic")
    assert (first.code, first.out) == (0, "a.onnx\n")
    cimc("models", "export", "digits", "-o", "b.onnx", "--seed", "3", "--batch", "dynamic")
    digests = [hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in ("a.onnx", "b.onnx")]
    assert digests[0] == digests[1]
    dims = onnx.load(tmp_path / "a.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 1, 8, 8]
