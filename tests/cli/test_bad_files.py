"""Damaged dumps, backends and artifacts: every file of each, and one clear message."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc.backends as machines
from cimc.dialects.weights import WeightStore

Cimc = Callable[..., Any]
Refused = Callable[..., None]
MACHINES = Path(machines.__file__).parent


@dataclass(frozen=True)
class Bad:
    """What is wrong, how it is made, and how it is answered."""

    name: str
    make: Callable[[Path], None]
    message: str
    code: int = 2


@pytest.fixture(scope="module")
def dumps(built: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dumps of a compile of the small model, and the store beside them."""
    import cimc as package

    folder = tmp_path_factory.mktemp("dumps") / "ir"
    package.compile(
        built.model, "isaac", shapes={"x": (1, 3, 6, 6)}, calibration=built.calibration, dump_ir=folder
    )
    return folder


def _edited(pattern: str, old: str, new: str) -> Callable[[Path], None]:
    """The text ``old`` replaced in the dump that ``pattern`` names, which is then called ``start.mlir``."""

    def make(folder: Path) -> None:
        (path,) = folder.glob(pattern)
        text = path.read_text()
        assert old in text, text
        path.write_text(text.replace(old, new))

    return make


def _binary(folder: Path) -> None:
    (path,) = folder.glob("*_graph_graph-choose-products.mlir")
    path.write_bytes(b"builtin.module { \xff\xfe }")


def _store_cut(folder: Path) -> None:
    store = folder / "store.safetensors"
    store.write_bytes(store.read_bytes()[:-40])


def _store_without_weight(folder: Path) -> None:
    store, less = WeightStore.load(folder / "store.safetensors"), WeightStore()
    for key in store.keys():
        if key != "fc.weight":
            less.put(key, store.array(key))
    less.save(folder / "store.safetensors")


GRAPH, MAPPED = "*_graph_graph-choose-products.mlir", "*_mapped_place-contexts.mlir"
DUMPS = (
    (GRAPH, Bad("cut short", _edited(GRAPH, "func.return", "fun"), "cannot read the IR")),
    (GRAPH, Bad("unknown operation", _edited(GRAPH, "graph.conv", "graph.cnov"), "cannot read the IR")),
    (GRAPH, Bad("not text", _binary, "this dump does not compile any further: UnicodeDecodeError")),
    (GRAPH, Bad("other extents", _edited(GRAPH, "tensor<1x8x6x6xf32>", "tensor<1x9x6x6xf32>"), "the IR breaks a rule")),
    (GRAPH, Bad("weight renamed", _edited(GRAPH, '"fc.weight"', '"fc.wieght"'), "no weight 'fc.wieght' in the store")),
    (GRAPH, Bad("weight lost", _store_without_weight, "no weight 'fc.weight' in the store")),
    (GRAPH, Bad("store cut short", _store_cut, "store.safetensors: cannot read the weights")),
    (MAPPED, Bad("coding halved", _edited(MAPPED, "column_flip 0, ", ""), "KeyError: 'column_flip'")),
    (MAPPED, Bad("other codes", _edited(MAPPED, "input_bits 8", "input_bits 7"), "coding has input_bits 7")),
)  # fmt: skip


@pytest.mark.parametrize(("start", "case"), DUMPS, ids=[case.name for _, case in DUMPS])
def test_damaged_dumps(
    refused: Refused, built: Any, dumps: Path, tmp_path: Path, start: str, case: Bad
) -> None:
    """``compile --resume`` from a dump that somebody edited, or whose store is not what it was."""
    folder = tmp_path / "ir"
    shutil.copytree(dumps, folder)
    case.make(folder)
    (dump,) = folder.glob(start)
    (tmp_path / "cimc-crash").mkdir()  # what shows a fault of a pass again may be written there
    refused(case, "compile", dump, "--arch", "isaac", "--calibration", built.calibration, "--resume")


GOOD = (
    "from pathlib import Path\nfrom cimc.backends.protocol import BaseBackend\n"
    f"BACKEND = BaseBackend(Path({str(MACHINES / 'puma.yaml')!r}))\n"
)


def _python(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "chip.py").write_text(text)

    return make


BACKENDS = (
    Bad("no syntax", _python("def broken(:\n"), "chip.py:1: the file fails: SyntaxError"),
    Bad("absent import", _python("import no_such_module_here\n"), "chip.py:1: the file fails: ModuleNotFoundError"),
    Bad("fails late", _python(f"{GOOD}\n\n1 / 0\n"), "chip.py:6: the file fails: ZeroDivisionError"),
    Bad("no backend", _python("MACHINE = 1\n"), "chip.py: defines no BACKEND; assign the backend object"),
    Bad("a class", _python(GOOD.replace("BACKEND = BaseBackend(", "BACKEND = type(").replace("))", "))")), "chip.py: "),
    Bad("a number", _python("BACKEND = 3\n"), "chip.py: "),
    Bad("yaml elsewhere", _python(GOOD.replace("puma.yaml", "pmua.yaml")), "pmua.yaml: cannot read the file"),
    Bad("leaves", _python("import sys\nsys.exit(0)\n"), "chip.py:2: the file fails: SystemExit"),
    Bad("another name", lambda folder: (folder / "chip.py").mkdir(), "chip.py: no such file"),
)  # fmt: skip


@pytest.mark.parametrize("case", BACKENDS, ids=lambda case: case.name)
def test_broken_backends(refused: Refused, built: Any, tmp_path: Path, case: Bad) -> None:
    """``--backend FILE`` that is broken in one way: the file's name, its line where it has one, and the reason."""
    case.make(tmp_path)
    refused(case, "compile", built.model, "--backend", "chip.py", "--shape", "x=1,3,6,6")


def test_every_file_of_an_artifact_is_checked(cimc: Cimc, built: Any, tmp_path: Path) -> None:
    """Cut by a byte, with a byte changed, or gone: whichever file it is, ``run`` says its name and exits with 2."""
    np.savez("in.npz", x=np.ones((2, 3, 6, 6), np.float32))
    files = sorted(p.relative_to(built.artifact) for p in built.artifact.rglob("*") if p.is_file())
    needed = [file for file in files if file.parts[0] != "ir"]
    assert len(needed) > 100  # a column of a table is a file
    damage: tuple[Callable[[bytes], bytes | None], ...] = (
        lambda b: b[:-1],
        lambda b: b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1 :],
        lambda b: None,
    )
    for number, file in enumerate(needed):
        copy = tmp_path / f"{number}.cim"
        shutil.copytree(built.artifact, copy)
        changed = damage[number % 3]((copy / file).read_bytes())
        (copy / file).unlink()
        if changed is not None:
            (copy / file).write_bytes(changed)
        ran = cimc("run", copy, "--input", "in.npz", "--output", "out.npz")
        assert (ran.code, ran.out) == (2, ""), (file, ran.err)
        assert file.name in ran.err or file.name == "program.json", ran.err
        assert not Path("out.npz").exists()
        shutil.rmtree(copy)
