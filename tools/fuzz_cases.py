"""One damaged input of each kind, as a function that uses it the way a user would.

Byte damage meets parsers; structured damage (a number in its place, hashes made right again) meets what stands behind.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

import cimc
from cimc.arrays_io import read_arrays
from cimc.backends.loader import load_architecture
from cimc.mapping_options import load_mapping
from cimc.runtime.program.files import HEADER, sha256_of, signed_json
from cimc.runtime.verifier import check_program
from tools.fuzz_models import ABSURD, damaged, input_shape, seed_models

Case = Callable[[], object]

MAPPING = """\
weight_bits: 8
activation_bits: 8
copies: 2
converter: calibrated
scheduler: given
calibration:
  method: percentile
  percentile: 99.9
overrides:
  - match: "*conv*"
    weight_bits: 4
    copies: 3
"""

VALUES = (
    "-1", "0", "1", "2", "7", "1e999", "nan", "yes", "[]", "{}", "'a'", "1000000000", "99999999999", "1099511627776",
    "0.5", "1.0e-9", "1.0e+17", "&a [*a]", "!!python/object:os.system x", "core", "crossbar", "wordline", "bus",
    "mesh", "offset", "differential", "twos_complement", "digital", "analog", "false", "true", "polyxb", "full",
)  # fmt: skip
"""What a mutated line of YAML says."""


def mutated_bytes(content: bytes, generator: np.random.Generator) -> bytes:
    """One to four changes: bytes set, spans removed, doubled or swapped, the end cut off."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        if not data:
            break
        at = int(generator.integers(len(data)))
        size = int(generator.integers(1, 1 + min(64, len(data) - at)))
        match int(generator.integers(5)):
            case 0:
                data[at] = int(generator.integers(256))
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size]
            case 3:
                data[at : at + size] = generator.bytes(size)
            case _:
                del data[at:]
    return bytes(data)


def mutated_text(text: str, generator: np.random.Generator) -> str:
    """One to three changes to lines: removed, doubled, moved, misspelt, another indentation; mostly another value."""
    lines = text.splitlines()
    for _ in range(1 + int(generator.integers(4)) // 2):
        at = int(generator.integers(len(lines)))
        match int(generator.integers(14)):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, lines[at])
            case 2:
                lines.insert(int(generator.integers(len(lines))), lines.pop(at))
            case 3:
                cut = int(generator.integers(1 + len(lines[at])))
                lines[at] = lines[at][:cut] + chr(int(generator.integers(32, 126))) + lines[at][cut:]
            case 4:
                lines[at] = " " * int(generator.integers(6)) + lines[at].lstrip()
            case _ if ":" in lines[at]:
                lines[at] = lines[at].split(":")[0] + ": " + str(generator.choice(VALUES))
            case _:
                pass
        if not lines:
            break
    return "\n".join(lines) + "\n"


def _leaf_replaced(tree: Any, generator: np.random.Generator) -> Any:
    """``tree`` of JSON with one of its leaves another number, word or kind."""
    if isinstance(tree, dict) and tree:
        key = sorted(tree)[int(generator.integers(len(tree)))]
        return {**tree, key: _leaf_replaced(tree[key], generator)}
    if isinstance(tree, list) and tree:
        at = int(generator.integers(len(tree)))
        return [*tree[:at], _leaf_replaced(tree[at], generator), *tree[at + 1 :]]
    others: tuple[Any, ...] = (*ABSURD, 0.5, "a", None, [], {}, [1], True)
    return others[int(generator.integers(len(others)))]


def _column_damaged(column: npt.NDArray[Any], generator: np.random.Generator) -> npt.NDArray[Any]:
    """A column of the program with absurd numbers, or of another length, width or type."""
    match int(generator.integers(8)):
        case 0:
            return column[: len(column) // 2]
        case 1:
            return column.astype(str(generator.choice(["float64", "int64", "uint8", "U3", "complex64"])))
        case 2:
            return column.reshape(-1, 1) if column.ndim == 1 else column.reshape(-1)
        case _ if not column.size or column.dtype.kind not in "iu":
            return np.concatenate([column, column])
        case _:
            bounds = np.iinfo(column.dtype)
            number = ABSURD[int(generator.integers(len(ABSURD)))]
            column.reshape(-1)[int(generator.integers(column.size))] = min(
                max(number, bounds.min), bounds.max
            )
            return column


def sign_again(folder: Path) -> None:
    """Make hashes and sizes of an artifact those of its files, as a careless tool would leave them."""
    header = json.loads((folder / "program" / HEADER).read_text())
    header.pop("header_sha256", None)
    for name in header["files"]:
        if (folder / "program" / name).is_file():
            header["files"][name] = sha256_of(folder / "program" / name)
    (folder / "program" / HEADER).write_bytes(signed_json(header, "header_sha256"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("manifest_sha256", None)
    for name in manifest["files"]:
        file = folder / name
        if file.is_file():
            manifest["files"][name] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
    (folder / "manifest.json").write_bytes(signed_json(manifest, "manifest_sha256"))


@dataclass(frozen=True)
class Cases:
    """Valid inputs, and one damaged case of each kind."""

    models: tuple[ModelProto, ...]
    machines: tuple[Path, ...]
    artifact: Path
    dumps: Path

    @staticmethod
    def prepared(folder: Path) -> Cases:
        """Compile what damage is done to, into ``folder``."""
        models = tuple(seed_models())
        machines = sorted((Path(cimc.__path__[0]) / "backends").glob("*.yaml"))
        made = cimc.compile(
            models[0],
            "isaac",
            calibration=_data(models[0], 4),
            output=folder / "artifact",
            dump_ir=folder / "dumps",
        )
        for model in models[1:]:  # what is imported lazily is imported before cases fork
            cimc.compile(model, "isaac", calibration=_data(model, 4)).run(_data(model, 1))
        made.run(_data(models[0], 1))
        made.simulate(2)
        assert made.path is not None
        return Cases(models, tuple(machines), made.path, folder / "dumps")

    def _model(self, generator: np.random.Generator) -> ModelProto:
        return self.models[int(generator.integers(len(self.models)))]

    def model_bytes(self, work: Path, generator: np.random.Generator) -> Case:
        """A damaged ONNX file, compiled."""
        model, path = self._model(generator), work / "model.onnx"
        path.write_bytes(mutated_bytes(model.SerializeToString(), generator))
        return lambda: cimc.compile(path, "isaac", calibration=_data(model, 4))

    def model_fields(self, work: Path, generator: np.random.Generator) -> Case:
        """A readable ONNX file with wrong numbers in it, compiled with and without data, and run."""
        seed, path = self._model(generator), work / "model.onnx"
        path.write_bytes(damaged(seed, generator).SerializeToString())
        given = _data(seed, 4) if generator.integers(4) else None

        def compile_and_run() -> None:
            cimc.compile(path, "isaac", calibration=given).run(_data(seed, 1))

        return compile_and_run

    def machine(self, work: Path, generator: np.random.Generator) -> Case:
        """A damaged architecture file; where it is accepted, a compile for it, a run and a simulation."""
        path = work / "machine.yaml"
        source = self.machines[int(generator.integers(len(self.machines)))]
        path.write_text(mutated_text(source.read_text(), generator))
        model = self.models[int(generator.integers(2)) * 3]

        def use() -> None:
            chip = load_architecture(path)
            made = cimc.compile(model, chip, calibration=_data(model, 4))
            made.run(_data(model, 1))
            made.simulate(2)

        return use

    def mapping(self, work: Path, generator: np.random.Generator) -> Case:
        """A damaged mapping file, read, and used in a compile."""
        path, model = work / "mapping.yaml", self.models[0]
        path.write_text(mutated_text(MAPPING, generator))

        def use() -> None:
            load_mapping(path)
            cimc.compile(model, "isaac", calibration=_data(model, 4), mapping=path)

        return use

    def artifact_bytes(self, work: Path, generator: np.random.Generator) -> Case:
        """A damaged artifact, loaded and run."""
        copy = work / "artifact"
        shutil.copytree(self.artifact, copy)
        files = sorted(p for p in copy.rglob("*") if p.is_file())
        victim = files[int(generator.integers(len(files)))]
        if generator.integers(8) == 0:
            victim.unlink()
        else:
            victim.write_bytes(mutated_bytes(victim.read_bytes(), generator))
        engine = str(generator.choice(["program", "mapped", "graph"]))
        return lambda: cimc.load(copy).run(_data(self.models[0], 1), engine=engine)

    def artifact_fields(self, work: Path, generator: np.random.Generator) -> Case:
        """An artifact with wrong numbers and right hashes: checked as a program, then run and simulated."""
        copy = work / "artifact"
        shutil.copytree(self.artifact, copy)
        match int(generator.integers(6)):
            case 0:
                victim = copy / "program" / HEADER
                victim.write_text(json.dumps(_leaf_replaced(json.loads(victim.read_text()), generator)))
            case 1:
                victim = copy / "report.json"
                victim.write_text(json.dumps(_leaf_replaced(json.loads(victim.read_text()), generator)))
            case 2:
                victim = copy / "weights.safetensors"
                victim.write_bytes(
                    mutated_bytes(victim.read_bytes()[:2000], generator) + victim.read_bytes()[2000:]
                )
            case _:
                columns = sorted((copy / "program").glob("*.npy"))
                victim = columns[int(generator.integers(len(columns)))]
                np.save(victim, _column_damaged(np.load(victim), generator))
        _sign_if_possible(copy)

        def use() -> None:
            made = cimc.load(copy)
            check_program(made.program, weights=made.weights)
            made.run(_data(self.models[0], 1))
            made.simulate(2)

        return use

    def inputs(self, work: Path, generator: np.random.Generator) -> Case:
        """Inputs of another name, shape, element type or content."""
        del work
        shape = tuple(int(generator.integers(0, 10)) for _ in range(int(generator.integers(0, 5))))
        kinds = ("float32", "float64", "int64", "uint8", "complex64", "bool", "U3", "datetime64[s]", "V4")
        given = np.zeros(shape, str(generator.choice(kinds)))
        name, tap = str(generator.choice(["x", "x", "y", ""])), str(generator.choice(["x", "y", "?"]))
        engine = str(generator.choice(["program", "mapped", "quantised", "graph", "?"]))
        return lambda: cimc.load(self.artifact).run({name: given}, taps=[tap], engine=engine)

    def array_file(self, work: Path, generator: np.random.Generator) -> Case:
        """A damaged ``.npz``: bytes, headers of absurd shapes, gigabytes of zeros; as input and as calibration."""
        path = work / "data.npz"
        path.write_bytes(_npz(_data(self.models[0], 4)["x"], generator))
        if generator.integers(2):
            return lambda: cimc.load(self.artifact).run(read_arrays(path))
        return lambda: cimc.compile(self.models[0], "isaac", calibration=path)

    def array_folder(self, work: Path, generator: np.random.Generator) -> Case:
        """A calibration folder of ``.npy``, one of them damaged."""
        folder = work / "data"
        folder.mkdir()
        array = _data(self.models[0], 2)["x"]
        np.save(folder / "0.npy", array)
        (folder / "1.npy").write_bytes(_npy(array, generator))
        return lambda: cimc.compile(self.models[0], "isaac", calibration=folder)

    def dump(self, work: Path, generator: np.random.Generator) -> Case:
        """A compile that goes on from a damaged IR file, or from one with a damaged store beside it."""
        folder = work / "dumps"
        shutil.copytree(self.dumps, folder)
        files = sorted(p for p in folder.glob("*.mlir") if "_isa_" not in p.name)
        start = files[int(generator.integers(len(files)))]
        if generator.integers(4) == 0:
            store = folder / "store.safetensors"
            store.write_bytes(mutated_bytes(store.read_bytes(), generator))
        else:
            start.write_text(_mutated_ir(start.read_text(), generator))
        return lambda: cimc.compile(start, "isaac", calibration=_data(self.models[0], 4), resume=True)

    def kinds(self) -> tuple[Callable[[Path, np.random.Generator], Case], ...]:
        """All kinds, the larger doors more often."""
        return (
            self.model_bytes, self.model_fields, self.model_fields, self.model_fields, self.machine, self.machine,
            self.mapping, self.artifact_bytes, self.artifact_fields, self.artifact_fields, self.inputs,
            self.array_file, self.array_folder, self.dump,
        )  # fmt: skip


def _data(model: ModelProto, samples: int) -> Mapping[str, npt.NDArray[np.float32]]:
    shape = (samples, *input_shape(model)[1:])
    return {"x": np.random.default_rng(samples).normal(size=shape).astype(np.float32)}


def _sign_if_possible(folder: Path) -> None:
    """A header that is no longer one is left as it is, with the manifest's hash wrong."""
    try:
        sign_again(folder)
    except (TypeError, KeyError, AttributeError):
        return


def _npy(array: npt.NDArray[Any], generator: np.random.Generator) -> bytes:
    """A ``.npy`` file: damaged bytes, or a header that states another shape or type than what follows."""
    file = io.BytesIO()
    np.save(file, array)
    if generator.integers(2):
        return mutated_bytes(file.getvalue(), generator)
    number = ABSURD[int(generator.integers(len(ABSURD)))]
    shape = list(array.shape)
    shape[int(generator.integers(len(shape)))] = number
    kind = str(generator.choice(["<f4", "<f4", "<f8", "|O", "<U9", "|V100000000", "<M8[s]"]))
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": tuple(shape)})
    return file.getvalue() + array.tobytes()


def _npz(array: npt.NDArray[Any], generator: np.random.Generator) -> bytes:
    """An ``.npz`` with one member, damaged in one way."""
    member = _npy(array, generator)
    file = io.BytesIO()
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        if generator.integers(6) == 0:  # a few megabytes that unpack to six gigabytes
            with archive.open("x.npy", "w", force_zip64=True) as opened:
                header = {"descr": "<f4", "fortran_order": False, "shape": (13981013, *array.shape[1:])}
                np.lib.format.write_array_header_1_0(opened, header)
                for _ in range(int(generator.integers(5)) * 24):
                    opened.write(bytes(1 << 26))
        else:
            archive.writestr(str(generator.choice(["x.npy", "x.npy", "x", "../x.npy"])), member)
    return mutated_bytes(file.getvalue(), generator) if generator.integers(3) == 0 else file.getvalue()


def _mutated_ir(text: str, generator: np.random.Generator) -> str:
    """A number of the text replaced by an absurd one, or a line of it damaged."""
    lines = text.splitlines()
    for _ in range(int(generator.integers(1, 3))):
        at = int(generator.integers(len(lines)))
        digits = [i for i, c in enumerate(lines[at]) if c.isdigit()]
        if digits and generator.integers(3):
            cut = digits[int(generator.integers(len(digits)))]
            number = str(ABSURD[int(generator.integers(len(ABSURD)))])
            lines[at] = lines[at][:cut] + number + lines[at][cut + 1 :]
        elif generator.integers(2):
            lines[at] = mutated_bytes(lines[at].encode(), generator).decode(errors="replace")
        else:
            lines.insert(int(generator.integers(len(lines))), lines[at])
    return "\n".join(lines) + "\n"
