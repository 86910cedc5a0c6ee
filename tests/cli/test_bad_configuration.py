"""Bad options and configuration files: one row each, as test_bad_input.py has them for data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc.backends as machines

Cimc = Callable[..., Any]
Refused = Callable[..., None]
MACHINES = Path(machines.__file__).parent


@dataclass(frozen=True)
class Bad:
    """What is wrong, how it is made, and how it is answered."""

    name: str
    make: Any
    message: str
    code: int


MAPPINGS = (
    Bad("absent", None, "mapping.yaml: cannot read the file", 2),
    Bad("empty", "", "mapping.yaml:1:1: the file is empty", 2),
    Bad("not YAML", "copies: [1\n", "mapping.yaml:2:1: not YAML", 2),
    Bad("a list", "- 1\n", "mapping.yaml:1:1: must be a section of keys", 2),
    Bad("typo", "copies: 1\nweigth_bits: 8\n", "mapping.yaml:2:1: weigth_bits: unknown key; did you mean", 2),
    Bad("zero", "copies: 0\n", "mapping.yaml:1:9: copies: must be greater than or equal to 1, given 0", 2),
    Bad("negative", "weight_bits: -3\n", "mapping.yaml:1:14: weight_bits: must be greater than", 2),
    Bad(
        "word for a number", "weight_bits: eight\n", "mapping.yaml:1:14: weight_bits: must be a valid int", 2
    ),
    Bad("wrong choice", "network: mehs\n", "given 'mehs'; did you mean 'mesh'?", 2),
    Bad(
        "twice", "copies: 1\ncopies: 2\n", "mapping.yaml:2:1: copies: duplicate key, first given in line 1", 2
    ),
    Bad("no such node", "overrides:\n- {match: conv2, copies: 2}\n", "did you mean 'conv1'?", 2),
)


@pytest.mark.parametrize("case", MAPPINGS, ids=lambda case: case.name)
def test_mappings(refused: Refused, model: Path, case: Bad) -> None:
    """`--mapping` files, with line and column."""
    if case.make is not None:
        Path("mapping.yaml").write_text(case.make)
    given = ("--shape", "x=1,3,6,6", "--mapping", "mapping.yaml")
    refused(case, "compile", model, "--arch", "isaac", *given)


ARCHITECTURES = (
    Bad("absent", None, "chip.yaml: cannot read the file", 2),
    Bad("typo", ("  columns: 128", "  colums: 128"), "colums: unknown key; did you mean 'columns'?", 2),
    Bad("key lost", ("  cell_bits: 2", "  #"), "crossbar.cell_bits: required key is missing", 2),
    Bad("zero rows", ("  rows: 128", "  rows: 0"), "crossbar.rows: must be greater than", 2),
    Bad("negative cores", ("  cores: 768", "  cores: -4"), "chip.cores: must be greater than", 2),
    Bad(
        "endless cores", ("  cores: 768", "  cores: 99999999999"), "chip.cores: must be less than or equal", 2
    ),
    Bad(
        "endless rows", ("  rows: 128", "  rows: 1000000000"), "crossbar.rows: must be less than or equal", 2
    ),
    Bad("endless columns", ("  columns: 128", "  columns: 9000"), "equal to 8192, given 9000", 2),
    Bad(
        "endless mesh",
        ("  rows: 24", "  rows: 1000000000"),
        "must make at most 1048576 nodes with columns",
        2,
    ),
    Bad(
        "seconds",
        ("read_latency_ns: 100.0", "read_latency_ns: 1.0e+12"),
        "read_latency_ns: must be less than",
        2,
    ),
    Bad("unit in a value", ("read_latency_ns: 100.0", "read_latency_ns: 100 ns"), "plain number", 2),
    Bad("infinite", ("clock_ghz: 0.01", "clock_ghz: .inf"), "clock_ghz: must be ", 2),
    Bad("rules across keys", ("  parallel_rows: 8", "  parallel_rows: 129"), "must be at most rows (128)", 2),
)


@pytest.mark.parametrize("case", ARCHITECTURES, ids=lambda case: case.name)
def test_architectures(refused: Refused, cimc: Cimc, model: Path, case: Bad) -> None:
    """`--arch` files; a line that is in the file is named."""
    if case.make is not None:
        old, new = case.make
        text = (MACHINES / "isaac.yaml").read_text()
        assert old in text
        changed = text.replace(old, new, 1)
        Path("chip.yaml").write_text(changed)
        if new.strip() != "#":
            line = next(n for n, t in enumerate(changed.splitlines(), 1) if new in t)
            assert f"chip.yaml:{line}:" in cimc("arch", "validate", "chip.yaml").err
    refused(case, "compile", model, "--arch", "chip.yaml", "--shape", "x=1,3,6,6")


MACHINE_OPTIONS = (
    Bad("none", [], "no machine given; add --arch", 2),
    Bad("misspelt", ["--arch", "issac"], "did you mean 'isaac'?", 2),
    Bad("two", ["--arch", "isaac", "--backend", "chip.py"], "name two machines (the file's is 'puma')", 2),
    Bad(
        "no file", ["--backend", "no.py"], "no.py: no such file; give the Python file that defines BACKEND", 2
    ),
    Bad("failing file", ["--backend", "fails.py"], "the file fails: RuntimeError: no licence", 2),
    Bad("network", ["--arch", "isaac", "--network", "mehs"], "did you mean 'mesh'?", 2),
    Bad("level", ["--arch", "isaac", "--stop-after", "quantized"], "did you mean 'quantised'?", 2),
    Bad("dumps on a file", ["--arch", "isaac", "--dump-ir=fails.py"], "exists and is not a folder", 2),
    Bad("resume a model", ["--arch", "isaac", "--resume"], "give an .mlir of --dump-ir", 2),
)


@pytest.mark.parametrize("case", MACHINE_OPTIONS, ids=lambda case: case.name)
def test_options_of_compile(refused: Refused, model: Path, case: Bad) -> None:
    """Machines that are not there, and words that are not among the choices."""
    Path("chip.py").write_text(
        "from pathlib import Path\nfrom cimc.backends.protocol import BaseBackend\n"
        f"BACKEND = BaseBackend(Path({str(MACHINES / 'puma.yaml')!r}))\n"
    )
    Path("fails.py").write_text("\nraise RuntimeError('no licence')\n")
    refused(case, "compile", model, *case.make, "--shape", "x=1,3,6,6")


OUTPUTS = (
    Bad("a file", "file", "exists and is not a folder", 2),
    Bad("somebody's folder", "folder", "exists and is not an artifact", 2),
    Bad("below a file", "file/sub", "cannot write there", 2),
)


@pytest.mark.parametrize("case", OUTPUTS, ids=lambda case: case.name)
def test_outputs_of_compile(refused: Refused, model: Path, case: Bad) -> None:
    """`-o` never destroys what is not an artifact."""
    Path("file").write_text("mine")
    Path("folder").mkdir()
    Path("folder/notes").write_text("mine")
    refused(case, "compile", model, "--arch", "isaac", "--shape", "x=1,3,6,6", "-o", case.make)
    assert Path("file").read_text() == Path("folder/notes").read_text() == "mine"


RUN_OPTIONS = (
    Bad("tap", ["--output", "out.npz", "--tap", "zzz"], "the program has no tap zzz; it has x, r, p", 2),
    Bad("engine", ["--output", "out.npz", "--engine", "mappd"], "did you mean 'mapped'?", 2),
    Bad("walking a level", ["--output", "out.npz", "--engine", "graph", "--walk"], "drop one of the two", 2),
    Bad("other machine", ["--output", "out.npz", "--arch", "puma"], "was compiled for architecture", 2),
    Bad("output below nothing", ["--output", "no/out.npz"], "no/out.npz: its folder does not exist", 2),
    Bad("output on a folder", ["--output", "."], "this is a folder; give the name of a file", 2),
)


@pytest.mark.parametrize("case", RUN_OPTIONS, ids=lambda case: case.name)
def test_options_of_run(refused: Refused, built: Any, case: Bad) -> None:
    """Names that do not exist, machines the artifact is not for, places that cannot be written."""
    np.savez("in.npz", x=np.ones((2, 3, 6, 6), np.float32))
    refused(case, "run", built.artifact, "--input", "in.npz", *case.make)


SIMULATIONS = (
    Bad("no images", ["--images", "0"], "0 is not in the range 1<=x<=1000000", 2),
    Bad("no window", ["--window-cycles", "0"], "0 is not in the range x>=1", 2),
    Bad("trace below nothing", ["--trace", "no/t.json"], "no/t.json: its folder does not exist", 2),
    Bad("other machine", ["--arch", "puma"], "was compiled for architecture", 2),
)


@pytest.mark.parametrize("case", SIMULATIONS, ids=lambda case: case.name)
def test_options_of_simulate(refused: Refused, built: Any, case: Bad) -> None:
    """Counts below 1, places that cannot be written, the wrong machine."""
    refused(case, "simulate", built.artifact, *case.make)


DUMPS = (
    Bad("not numbered", "x.mlir", "a dump to resume from is called NNN_<level>_<pass>.mlir", 2),
    Bad("not there", "002_graph_nothing.mlir", "no such dump", 2),
    Bad("no store beside it", "002_graph_graph-canonicalise.mlir", "store.safetensors", 2),
    Bad("instructions", "013_isa_lower-bodies.mlir", "resume from the last mapped dump", 2),
)


@pytest.mark.parametrize("case", DUMPS, ids=lambda case: case.name)
def test_resuming(refused: Refused, case: Bad) -> None:
    """What `--resume` cannot go on from."""
    for name in ("x.mlir", "002_graph_graph-canonicalise.mlir", "013_isa_lower-bodies.mlir"):
        Path(name).write_text("builtin.module {}\n")
    refused(case, "compile", case.make, "--arch", "isaac", "--resume")


def test_read_only_folder_is_no_internal_error(
    cimc: Cimc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A full or read-only disk is said as such (exit 2). As root every folder can be written: raised by hand."""

    def refuse() -> None:
        raise OSError(28, "No space left on device", "results")

    monkeypatch.setattr("cimc.backends.registry.list_backends", refuse)
    ran = cimc("backends")
    assert (ran.code, ran.errors) == (2, ["results: No space left on device"])
    assert list(tmp_path.iterdir()) == []
