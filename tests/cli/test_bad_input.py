"""Bad input: one row each. A clear message, the right exit code, and nothing left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import cimc.backends
from cimc.runtime.program.files import read_signed_json, signed_json

Cimc = Callable[..., Any]
MACHINES = Path(cimc.backends.__file__).parent


@dataclass(frozen=True)
class Bad:
    """What is wrong, how it is made, and how it is answered."""

    name: str
    make: Any
    message: str
    code: int


def _refused(cimc: Cimc, case: Bad, *command: str | Path) -> None:
    """Exit code and message; stdout empty, no traceback, no reproducer, no artifact, no half of one."""
    before = set(Path().iterdir())
    ran = cimc(*command)
    assert ran.code == case.code, ran.err
    assert ran.out == ""
    assert any(case.message in line for line in ran.errors), ran.err
    assert "Traceback" not in ran.err
    assert set(Path().iterdir()) == before


# --- models -------------------------------------------------------------------------------------------


def _bytes(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(edit(path.read_bytes()))

    return make


def _proto(edit: Callable[[ModelProto], Any]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        model = onnx.load(path)
        edit(model)
        onnx.save(model, path)

    return make


def _opset(version: int) -> Callable[[Path], None]:
    return _proto(lambda m: setattr(m.opset_import[0], "version", version))


def _weight(edit: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Callable[[Path], None]:
    def change(model: ModelProto) -> None:
        stored = model.graph.initializer[0]
        array = edit(numpy_helper.to_array(stored).copy())
        stored.CopyFrom(numpy_helper.from_array(array, stored.name))

    return _proto(change)


def _nan(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array[0, 0, 0, :2] = np.nan, np.inf
    return array


def _external(location: str, **more: str) -> Callable[[Path], None]:
    def change(model: ModelProto) -> None:
        stored = model.graph.initializer[0]
        stored.ClearField("raw_data")
        stored.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **more}.items():
            entry = stored.external_data.add()
            entry.key, entry.value = key, value

    return _proto(change)


def _node(index: int, **attributes: Any) -> Callable[[Path], None]:
    made = [helper.make_attribute(name, value) for name, value in attributes.items()]
    return _proto(lambda m: m.graph.node[index].attribute.extend(made))


def _rewired(index: int, position: int, name: str) -> Callable[[Path], None]:
    def change(model: ModelProto) -> None:
        model.graph.node[index].input[position] = name

    return _proto(change)


def _element(code: int) -> Callable[[Path], None]:
    return _proto(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", code))


def _absent(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


MODELS = (
    Bad("absent", _absent, "there is no such file", 2),
    Bad("folder", _folder, "this is a folder", 2),
    Bad("empty file", _bytes(lambda b: b""), "the model holds no graph", 1),
    Bad("broken protobuf", _bytes(lambda b: b"these are not the bytes of a model"), "not an ONNX model", 1),
    Bad("cut protobuf", _bytes(lambda b: b[:-200]), "the protobuf is damaged or cut short", 1),
    Bad("opset too new", _opset(99), "opset 99 is outside 7 .. 26", 1),
    Bad("opset too old", _opset(3), "opset 3 is outside 7 .. 26", 1),
    Bad(
        "container too new", _proto(lambda m: setattr(m, "ir_version", 99)), "IR version 99 is newer than", 1
    ),
    Bad("no opset", _proto(lambda m: m.ClearField("opset_import")), "imports no version of the standard", 1),
    Bad("no outputs", _proto(lambda m: m.graph.ClearField("output")), "the graph has no outputs", 1),
    Bad("no nodes", _proto(lambda m: m.graph.ClearField("node")), "a graph without nodes", 1),
    Bad(
        "unknown operator",
        _proto(lambda m: setattr(m.graph.node[2], "op_type", "Rleu")),
        "relu1 (small.onnx:2): opset 17 has no operator 'Rleu'",
        1,
    ),
    Bad(
        "unknown domain",
        _proto(lambda m: setattr(m.graph.node[2], "domain", "com.acme")),
        "relu1 (small.onnx:2): domain 'com.acme' of Relu is not imported",
        1,
    ),
    Bad("undefined tensor", _rewired(2, 0, "lost"), "input 'lost' is produced by nothing in the graph", 1),
    Bad("cycle", _rewired(0, 0, "r"), "the graph has a cycle through conv1", 1),
    Bad(
        "name defined twice",
        _proto(lambda m: m.graph.node[2].output.__setitem__(0, "c")),
        "tensor 'c' is defined already, by conv1 (small.onnx:0)",
        1,
    ),
    Bad("NaN in weights", _weight(_nan), "conv1 (small.onnx:0): Conv: weight 'w' holds 2 of 216 elements", 1),
    Bad("negative stride", _node(0, strides=[-1, 1]), "conv1 (small.onnx:0)", 1),
    Bad("external data absent", _external("w.bin"), "its data file 'w.bin' is missing", 2),
    Bad("external data above", _external("../w.bin"), "'../w.bin' is outside the model's folder", 2),
    Bad(
        "external data elsewhere", _external("/etc/passwd"), "'/etc/passwd' is outside the model's folder", 2
    ),
    Bad(
        "external data too short",
        _external("small.onnx", offset="0", length="99999999"),
        "its bytes 0 .. 99999999 are not in 'small.onnx'",
        2,
    ),
    Bad("text input", _element(TensorProto.STRING), "input 'x' is a tensor of STRING", 1),
    Bad("type mismatch", _element(TensorProto.DOUBLE), "conv1 (small.onnx:0): Conv: ", 1),
)


@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_models(cimc: Cimc, model: Path, case: Bad) -> None:
    """A model that is broken in one way; `check` and `compile` answer alike."""
    case.make(model)
    _refused(cimc, case, "check", "small.onnx", "--arch", "isaac", "--shape", "x=1,3,6,6")
    _refused(cimc, case, "compile", "small.onnx", "--arch", "isaac", "--shape", "x=1,3,6,6")


def test_weights_that_contradict_the_input(cimc: Cimc, model: Path) -> None:
    """onnxruntime alone knows every operator's rules: it refuses on the first data, by the node's name."""
    _weight(lambda w: w[:, :2].copy())(model)
    case = Bad("", None, "conv1 (small.onnx:0): graph.host: Conv fails on the host: ", 1)
    _refused(cimc, case, "compile", "small.onnx", "--arch", "isaac", "--shape", "x=1,3,6,6")


# --- shapes -------------------------------------------------------------------------------------------

SHAPES = (
    Bad("missing", [], "input 'x' has the open dimension 0 ('batch'); bind it, for example with --shape", 2),
    Bad("unknown input", ["z=1,3,6,6"], "--shape names 'z', but the inputs are x", 2),
    Bad("zero", ["x=0,3,6,6"], "whole numbers of at least 1, such as x=1,3,224,224, given 'x=0,3,6,6'", 2),
    Bad("negative", ["x=-1,3,6,6"], "given 'x=-1,3,6,6'", 2),
    Bad("not a number", ["x=one,3,6,6"], "given 'x=one,3,6,6'", 2),
    Bad("no name", ["1,3,6,6"], "given '1,3,6,6'", 2),
    Bad("twice", ["x=1,3,6,6", "x=2,3,6,6"], "input 'x' has two shapes; give one", 2),
    Bad("wrong rank", ["x=1,3,6"], "--shape x=1,3,6 contradicts the model's shape batch,3,6,6", 2),
    Bad("contradiction", ["x=1,3,7,6"], "--shape x=1,3,7,6 contradicts the model's shape batch,3,6,6", 2),
)


@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case.name)
def test_shapes(cimc: Cimc, model: Path, case: Bad) -> None:
    """`--shape`, and its absence where the batch is open."""
    words = [word for shape in case.make for word in ("--shape", shape)]
    _refused(cimc, case, "compile", model, "--arch", "isaac", *words)


# --- calibration --------------------------------------------------------------------------------------


def _images(count: int = 2) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 3, 6, 6)).astype(np.float32)


CALIBRATIONS = (
    Bad("absent", None, "data.npz: cannot be read as .npz", 2),
    Bad("wrong name", {"y": _images()}, "data.npz: has no array for input 'x'; it holds y", 2),
    Bad("wrong shape", {"x": _images()[:, :2]}, "give (samples, 3, 6, 6), samples along dimension 0", 2),
    Bad(
        "wrong type", {"x": _images().astype(np.complex64)}, "elements complex64; the model takes float32", 2
    ),
    Bad("no samples", {"x": _images(0)}, "array 'x' has 0 samples", 2),
    Bad("NaN", {"x": _images() * np.nan}, "array 'x' holds numbers that are not finite", 2),
    Bad("objects", {"x": np.array([{}], dtype=object)}, "data.npz: cannot be read as .npz", 2),
    Bad("overflow", {"x": _images() * 1e38}, "its numbers must be finite", 2),
)


@pytest.mark.parametrize("case", CALIBRATIONS, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_calibrations(cimc: Cimc, model: Path, case: Bad) -> None:
    """`--calibration` files."""
    if case.make is not None:
        np.savez("data.npz", **case.make)
    given = ("--shape", "x=1,3,6,6", "--calibration", "data.npz")
    _refused(cimc, case, "compile", model, "--arch", "isaac", *given)


# --- configuration ------------------------------------------------------------------------------------

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
def test_mappings(cimc: Cimc, model: Path, case: Bad) -> None:
    """`--mapping` files, with line and column."""
    if case.make is not None:
        Path("mapping.yaml").write_text(case.make)
    given = ("--shape", "x=1,3,6,6", "--mapping", "mapping.yaml")
    _refused(cimc, case, "compile", model, "--arch", "isaac", *given)


ARCHITECTURES = (
    Bad("absent", None, "chip.yaml: cannot read the file", 2),
    Bad("typo", ("  columns: 128", "  colums: 128"), "colums: unknown key; did you mean 'columns'?", 2),
    Bad("key lost", ("  cell_bits: 2", "  #"), "crossbar.cell_bits: required key is missing", 2),
    Bad("zero rows", ("  rows: 128", "  rows: 0"), "crossbar.rows: must be greater than", 2),
    Bad("negative cores", ("  cores: 768", "  cores: -4"), "chip.cores: must be greater than", 2),
    Bad("unit in a value", ("read_latency_ns: 100.0", "read_latency_ns: 100 ns"), "plain number", 2),
    Bad("infinite", ("clock_ghz: 0.01", "clock_ghz: .inf"), "clock_ghz: must be ", 2),
    Bad("rules across keys", ("  parallel_rows: 8", "  parallel_rows: 129"), "must be at most rows (128)", 2),
)


@pytest.mark.parametrize("case", ARCHITECTURES, ids=lambda case: case.name)
def test_architectures(cimc: Cimc, model: Path, case: Bad) -> None:
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
    _refused(cimc, case, "compile", model, "--arch", "chip.yaml", "--shape", "x=1,3,6,6")


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
def test_options_of_compile(cimc: Cimc, model: Path, case: Bad) -> None:
    """Machines that are not there, and words that are not among the choices."""
    Path("chip.py").write_text(
        "from pathlib import Path\nfrom cimc.backends.protocol import BaseBackend\n"
        f"BACKEND = BaseBackend(Path({str(MACHINES / 'puma.yaml')!r}))\n"
    )
    Path("fails.py").write_text("\nraise RuntimeError('no licence')\n")
    _refused(cimc, case, "compile", model, *case.make, "--shape", "x=1,3,6,6")


OUTPUTS = (
    Bad("a file", "file", "exists and is not a folder", 2),
    Bad("somebody's folder", "folder", "exists and is not an artifact", 2),
    Bad("below a file", "file/sub", "cannot write there", 2),
)


@pytest.mark.parametrize("case", OUTPUTS, ids=lambda case: case.name)
def test_outputs_of_compile(cimc: Cimc, model: Path, case: Bad) -> None:
    """`-o` never destroys what is not an artifact."""
    Path("file").write_text("mine")
    Path("folder").mkdir()
    Path("folder/notes").write_text("mine")
    _refused(cimc, case, "compile", model, "--arch", "isaac", "--shape", "x=1,3,6,6", "-o", case.make)
    assert Path("file").read_text() == Path("folder/notes").read_text() == "mine"


# --- running ------------------------------------------------------------------------------------------

INPUTS = (
    Bad("absent", None, "in.npz: there is no such file", 2),
    Bad("wrong name", {"z": _images()}, "input 'x': is missing; give an array of shape (frames, 3, 6, 6)", 2),
    Bad("one too many", {"x": _images(), "z": _images()}, "the program has no such input; it takes 'x'", 2),
    Bad("wrong shape", {"x": _images()[0]}, "must have shape (frames, 3, 6, 6), given (3, 6, 6)", 2),
    Bad("wrong type", {"x": _images().astype(np.int64)}, "input 'x': must hold float32, given int64", 2),
    Bad("no frames", {"x": _images(0)}, "given (0, 3, 6, 6)", 2),
    Bad("NaN", {"x": _images() * np.nan}, "a value is not a number (NaN)", 1),
    Bad("objects", {"x": np.array([{}], dtype=object)}, "in.npz: array 'x' cannot be read (Object arrays", 2),
    Bad("no arrays", {}, "in.npz: holds no arrays", 2),
    Bad("text", b"x = 1", "in.npz: this is not an .npz file", 2),
    Bad("empty file", b"", "in.npz: this is not an .npz file", 2),
    Bad("damaged", b"PK\x03\x04 and then nothing", "in.npz: this .npz is damaged", 2),
)


@pytest.mark.parametrize("case", INPUTS, ids=lambda case: case.name)
def test_inputs_of_run(cimc: Cimc, built: Any, case: Bad) -> None:
    """`--input` files; no output is written."""
    if isinstance(case.make, bytes):
        Path("in.npz").write_bytes(case.make)
    elif case.make is not None:
        np.savez("in.npz", **case.make)
    _refused(cimc, case, "run", built.artifact, "--input", "in.npz", "--output", "out.npz")


RUN_OPTIONS = (
    Bad("tap", ["--output", "out.npz", "--tap", "zzz"], "the program has no tap zzz; it has x, r, p", 2),
    Bad("engine", ["--output", "out.npz", "--engine", "mappd"], "did you mean 'mapped'?", 2),
    Bad("walking a level", ["--output", "out.npz", "--engine", "graph", "--walk"], "drop one of the two", 2),
    Bad("other machine", ["--output", "out.npz", "--arch", "puma"], "was compiled for architecture", 2),
    Bad("output below nothing", ["--output", "no/out.npz"], "no/out.npz: its folder does not exist", 2),
    Bad("output on a folder", ["--output", "."], "this is a folder; give the name of a file", 2),
)


@pytest.mark.parametrize("case", RUN_OPTIONS, ids=lambda case: case.name)
def test_options_of_run(cimc: Cimc, built: Any, case: Bad) -> None:
    """Names that do not exist, machines the artifact is not for, places that cannot be written."""
    np.savez("in.npz", x=_images())
    _refused(cimc, case, "run", built.artifact, "--input", "in.npz", *case.make)


# --- artifacts ----------------------------------------------------------------------------------------


def _flipped(file: str) -> Callable[[Path], None]:
    """One bit of the last byte of a file, same size."""

    def make(folder: Path) -> None:
        data = bytearray((folder / file).read_bytes())
        data[-1] ^= 1
        (folder / file).write_bytes(data)

    return make


def _cut(file: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / file).write_bytes((folder / file).read_bytes()[:-3])

    return make


def _newer(folder: Path) -> None:
    manifest = read_signed_json(folder / "manifest.json", "manifest_sha256")
    del manifest["manifest_sha256"]
    (folder / "manifest.json").write_bytes(signed_json({**manifest, "version": [99, 0]}, "manifest_sha256"))


def _lied(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"weight_bits": 8', '"weight_bits": 4'))


def _no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _unfinished(folder: Path) -> None:
    folder.rename(folder.with_name("small.cim.tmp-0123456789abcdef"))


ARTIFACTS = (
    Bad("absent", shutil.rmtree, "is not an artifact folder; compile one first", 2),
    Bad("no manifest", _no_manifest, "manifest.json is missing", 2),
    Bad("altered manifest", _lied, "manifest.json was altered", 2),
    Bad("manifest cut short", _cut("manifest.json"), "manifest.json cannot be read", 2),
    Bad("newer version", _newer, "artifact version 99.0 is newer than", 2),
    Bad("weights cut short", _cut("weights.safetensors"), "weights.safetensors is truncated", 2),
    Bad("weights altered", _flipped("weights.safetensors"), "weights.safetensors was altered", 2),
    Bad("program altered", _flipped("program/instructions.opcode.npy"), "instructions.opcode.npy is", 2),
    Bad("header altered", _flipped("program/program.json"), "program.json was altered", 2),
    Bad("unfinished", _unfinished, "is what an interrupted compile left", 2),
)


@pytest.mark.parametrize("case", ARTIFACTS, ids=lambda case: case.name)
def test_artifacts(cimc: Cimc, built: Any, case: Bad) -> None:
    """What `run` opens is what `compile` wrote, bit for bit, or it is refused."""
    folder = Path("small.cim")
    shutil.copytree(built.artifact, folder)
    case.make(folder)
    given = next(iter(Path().glob("small.cim.tmp-*")), folder)
    np.savez("in.npz", x=_images())
    _refused(cimc, case, "run", given, "--input", "in.npz", "--output", "out.npz")


SIMULATIONS = (
    Bad("no images", ["--images", "0"], "0 is not in the range x>=1", 2),
    Bad("no window", ["--window-cycles", "0"], "0 is not in the range x>=1", 2),
    Bad("trace below nothing", ["--trace", "no/t.json"], "no/t.json: its folder does not exist", 2),
    Bad("other machine", ["--arch", "puma"], "was compiled for architecture", 2),
)


@pytest.mark.parametrize("case", SIMULATIONS, ids=lambda case: case.name)
def test_options_of_simulate(cimc: Cimc, built: Any, case: Bad) -> None:
    """Counts below 1, places that cannot be written, the wrong machine."""
    _refused(cimc, case, "simulate", built.artifact, *case.make)


# --- resuming -----------------------------------------------------------------------------------------

DUMPS = (
    Bad("not numbered", "x.mlir", "a dump to resume from is called NNN_<level>_<pass>.mlir", 2),
    Bad("not there", "002_graph_nothing.mlir", "no such dump", 2),
    Bad("no store beside it", "002_graph_graph-canonicalise.mlir", "store.safetensors", 2),
    Bad("instructions", "013_isa_lower-bodies.mlir", "resume from the last mapped dump", 2),
)


@pytest.mark.parametrize("case", DUMPS, ids=lambda case: case.name)
def test_resuming(cimc: Cimc, case: Bad) -> None:
    """What `--resume` cannot go on from."""
    for name in ("x.mlir", "002_graph_graph-canonicalise.mlir", "013_isa_lower-bodies.mlir"):
        Path(name).write_text("builtin.module {}\n")
    _refused(cimc, case, "compile", case.make, "--arch", "isaac", "--resume")


def test_several_problems_are_reported_together(cimc: Cimc, model: Path) -> None:
    """Two broken nodes are two lines, not two runs."""
    _proto(lambda m: [setattr(m.graph.node[i], "op_type", "Nope") for i in (0, 2)])(model)
    ran = cimc("check", model, "--arch", "isaac", "--shape", "x=1,3,6,6")
    assert ran.code == 1
    assert [line.split(" ")[0] for line in ran.errors] == ["conv1", "relu1"]


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
