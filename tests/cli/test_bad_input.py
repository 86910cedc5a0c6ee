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
Refused = Callable[..., None]
MACHINES = Path(cimc.backends.__file__).parent


@dataclass(frozen=True)
class Bad:
    """What is wrong, how it is made, and how it is answered."""

    name: str
    make: Any
    message: str
    code: int


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
    Bad(
        "weights for other channels",
        _weight(lambda w: w[:, :2].copy()),
        "conv1 (small.onnx:0): Conv: its weights take 2 channels and give 8, in 1 groups; the input (1, 3, 6, 6) has 3",
        1,
    ),
    Bad("groups that do not divide", _node(0, group=3), "take 9 channels and give 8, in 3 groups", 1),
    Bad(
        "weights without elements",
        _weight(lambda w: w[:0].copy()),
        "weight 'w' of shape (0, 3, 3, 3) has no",
        1,
    ),
    Bad(
        "weights of another type",
        _weight(lambda w: w.astype(np.float16)),
        "conv1 (small.onnx:0): Conv: onnx",
        1,
    ),
    Bad("attribute of another type", _node(0, strides=2.5), "Expected: 'INTS', actual: 'FLOAT'", 1),
    Bad(
        "attribute nobody knows",
        _node(0, colour="red"),
        "Unrecognized attribute: colour for operator Conv",
        1,
    ),
    Bad("an attribute twice", _node(0, pads=[0] * 4), "Attribute 'pads' appeared multiple times", 1),
    Bad("a loop of one node", _rewired(2, 0, "r"), "the graph has a cycle through relu1", 1),
    Bad(
        "two weights of a name",
        _proto(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
        "two initializers of the graph are called 'w'",
        1,
    ),
    Bad(
        "two outputs of a name",
        _proto(lambda m: m.graph.output.append(m.graph.output[0])),
        "two outputs of the",
        1,
    ),
    Bad(
        "two inputs of a name",
        _proto(lambda m: m.graph.input.append(m.graph.input[0])),
        "two inputs of the",
        1,
    ),
    Bad(
        "weights cut short",
        _proto(lambda m: setattr(m.graph.initializer[0], "raw_data", m.graph.initializer[0].raw_data[:-5])),
        "tensor 'w' of shape",
        1,
    ),
    Bad(
        "extents that are negative",
        _proto(lambda m: m.graph.initializer[0].dims.__setitem__(0, -4)),
        "tensor 'w' of shape (-4, ",
        1,
    ),
    Bad(
        "elements nobody knows",
        _proto(lambda m: setattr(m.graph.initializer[0], "data_type", 99)),
        "tensor 'w' has element type 99, which does not exist",
        1,
    ),
    Bad("negative offset", _external("small.onnx", offset="-4"), "its bytes -4 .. ", 2),
    Bad("zero stride", _node(0, strides=[0, 0]), "conv1 (small.onnx:0)", 1),
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
def test_models(refused: Refused, model: Path, case: Bad) -> None:
    """A model that is broken in one way; `check` and `compile` answer alike."""
    case.make(model)
    refused(case, "check", "small.onnx", "--arch", "isaac", "--shape", "x=1,3,6,6")
    refused(case, "compile", "small.onnx", "--arch", "isaac", "--shape", "x=1,3,6,6")


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
def test_shapes(refused: Refused, model: Path, case: Bad) -> None:
    """`--shape`, and its absence where the batch is open."""
    words = [word for shape in case.make for word in ("--shape", shape)]
    refused(case, "compile", model, "--arch", "isaac", *words)


def _images(count: int = 2) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 3, 6, 6)).astype(np.float32)


CALIBRATIONS = (
    Bad("absent", None, "data.npz: there is no such file", 2),
    Bad("wrong name", {"y": _images()}, "data.npz: has no array for input 'x'; it holds y", 2),
    Bad("wrong shape", {"x": _images()[:, :2]}, "give (samples, 3, 6, 6), samples along dimension 0", 2),
    Bad(
        "wrong type", {"x": _images().astype(np.complex64)}, "elements complex64; the model takes float32", 2
    ),
    Bad("no samples", {"x": _images(0)}, "array 'x' has 0 samples", 2),
    Bad("NaN", {"x": _images() * np.nan}, "array 'x' holds numbers that are not finite", 2),
    Bad("objects", {"x": np.array([{}], dtype=object)}, "data.npz: array 'x' cannot be read (Object", 2),
    Bad("overflow", {"x": _images() * 1e38}, "its numbers must be finite", 2),
)


@pytest.mark.parametrize("case", CALIBRATIONS, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_calibrations(refused: Refused, model: Path, case: Bad) -> None:
    """`--calibration` files."""
    if case.make is not None:
        np.savez("data.npz", **case.make)
    given = ("--shape", "x=1,3,6,6", "--calibration", "data.npz")
    refused(case, "compile", model, "--arch", "isaac", *given)


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
def test_inputs_of_run(refused: Refused, built: Any, case: Bad) -> None:
    """`--input` files; no output is written."""
    if isinstance(case.make, bytes):
        Path("in.npz").write_bytes(case.make)
    elif case.make is not None:
        np.savez("in.npz", **case.make)
    refused(case, "run", built.artifact, "--input", "in.npz", "--output", "out.npz")


def test_outputs_over_the_inputs(cimc: Cimc, built: Any) -> None:
    """The file that is read is not the one that is written."""
    np.savez("in.npz", x=_images())
    before = Path("in.npz").read_bytes()
    ran = cimc("run", built.artifact, "--input", "in.npz", "--output", "../" + Path.cwd().name + "/in.npz")
    assert ran.code == 2
    assert "--output is the file of --input; give another name" in ran.errors[0]
    assert Path("in.npz").read_bytes() == before


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


def _nested(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 100_000)


def _listed(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


def _unfinished(folder: Path) -> None:
    folder.rename(folder.with_name("small.cim.tmp-0123456789abcdef"))


ARTIFACTS = (
    Bad("absent", shutil.rmtree, "is not an artifact folder; compile one first", 2),
    Bad("no manifest", _no_manifest, "manifest.json is missing", 2),
    Bad("altered manifest", _lied, "manifest.json was altered", 2),
    Bad("manifest nested without end", _nested, "manifest.json cannot be read: maximum recursion depth", 2),
    Bad("manifest of a list", _listed, "manifest.json holds no object", 2),
    Bad("manifest cut short", _cut("manifest.json"), "manifest.json cannot be read", 2),
    Bad("newer version", _newer, "newer than 1.0", 2),
    Bad("weights cut short", _cut("weights.safetensors"), "weights.safetensors is truncated", 2),
    Bad("weights altered", _flipped("weights.safetensors"), "weights.safetensors was altered", 2),
    Bad("program altered", _flipped("program/instructions.opcode.npy"), "instructions.opcode.npy is", 2),
    Bad("header altered", _flipped("program/program.json"), "program.json was altered", 2),
    Bad("unfinished", _unfinished, "is what an interrupted compile left", 2),
)


@pytest.mark.parametrize("case", ARTIFACTS, ids=lambda case: case.name)
def test_artifacts(refused: Refused, built: Any, case: Bad) -> None:
    """What `run` opens is what `compile` wrote, bit for bit, or it is refused."""
    folder = Path("small.cim")
    shutil.copytree(built.artifact, folder)
    case.make(folder)
    given = next(iter(Path().glob("small.cim.tmp-*")), folder)
    np.savez("in.npz", x=_images())
    refused(case, "run", given, "--input", "in.npz", "--output", "out.npz")


def test_several_problems_are_reported_together(cimc: Cimc, model: Path) -> None:
    """Two broken nodes are two lines, not two runs."""
    _proto(lambda m: [setattr(m.graph.node[i], "op_type", "Nope") for i in (0, 2)])(model)
    ran = cimc("check", model, "--arch", "isaac", "--shape", "x=1,3,6,6")
    assert ran.code == 1
    assert [line.split(" ")[0] for line in ran.errors] == ["conv1", "relu1"]
