"""Mutated models, machine files, mapping files and artifacts: each ends well or in one clear error.

    python -m tools.fuzz --count 2000 --seed 0

Every case runs in a process of its own with 30 seconds and 4 GiB. A traceback, a crash, a hang or running out of
memory is a failure; failing inputs are kept in ``--keep`` and the command exits 1.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

import cimc
from cimc import models
from cimc.backends.loader import load_architecture
from cimc.diagnostics import CimError
from cimc.mapping_options import load_mapping

SECONDS, BYTES = 30, 4 << 30
"""What a case may take."""

OK, REFUSED, BROKEN = 0, 1, 99
"""Exit codes of a case's process; a signal's number, negated, when it was killed."""

MAPPING = """\
weight_bits: 8
activation_bits: 8
copies: 2
converter: calibrated
calibration:
  method: percentile
  percentile: 99.9
overrides:
  - match: "*features.0*"
    weight_bits: 4
    copies: 3
"""


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
    """One to three changes to lines: removed, doubled, moved, misspelt, another value, another indentation."""
    lines = text.splitlines()
    values = [
        "-1",
        "0",
        "1e999",
        "nan",
        "yes",
        "[]",
        "{}",
        "'a'",
        "99999999999",
        "0.5",
        "&a [*a]",
        "!!python/object:os.system x",
    ]
    for _ in range(int(generator.integers(1, 4))):
        at = int(generator.integers(len(lines)))
        match int(generator.integers(6)):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, lines[at])
            case 2:
                lines.insert(int(generator.integers(len(lines))), lines.pop(at))
            case 3:
                cut = int(generator.integers(1 + len(lines[at])))
                lines[at] = lines[at][:cut] + chr(int(generator.integers(32, 126))) + lines[at][cut:]
            case 4 if ":" in lines[at]:
                lines[at] = lines[at].split(":")[0] + ": " + str(generator.choice(values))
            case _:
                lines[at] = " " * int(generator.integers(6)) + lines[at].lstrip()
        if not lines:
            break
    return "\n".join(lines) + "\n"


class Cases:
    """Valid inputs, and one mutated case of each kind."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = models.export_onnx("digits", folder / "digits.onnx")
        self.images = models.images(8, models.network("digits").shape, seed=1)
        self.machines = [Path(cimc.__path__[0]) / "backends" / f"{name}.yaml" for name in ("isaac", "puma")]
        self.artifact = cimc.compile(
            self.model, "isaac", calibration={"x": self.images}, output=folder / "artifact"
        ).path

    def model_case(self, work: Path, generator: np.random.Generator) -> Callable[[], object]:
        """A damaged ONNX file, compiled."""
        path = work / "model.onnx"
        path.write_bytes(mutated_bytes(self.model.read_bytes(), generator))
        return lambda: cimc.compile(path, "isaac", calibration={"x": self.images})

    def machine_case(self, work: Path, generator: np.random.Generator) -> Callable[[], object]:
        """A damaged architecture file, read."""
        path = work / "machine.yaml"
        source = self.machines[int(generator.integers(len(self.machines)))]
        path.write_text(mutated_text(source.read_text(), generator))
        return lambda: load_architecture(path)

    def mapping_case(self, work: Path, generator: np.random.Generator) -> Callable[[], object]:
        """A damaged mapping file, used in a compile."""
        path = work / "mapping.yaml"
        path.write_text(mutated_text(MAPPING, generator))
        load_mapping_only = generator.integers(4) > 0
        if load_mapping_only:
            return lambda: load_mapping(path)
        return lambda: cimc.compile(self.model, "isaac", calibration={"x": self.images}, mapping=path)

    def artifact_case(self, work: Path, generator: np.random.Generator) -> Callable[[], object]:
        """A damaged artifact, loaded and run."""
        assert self.artifact is not None
        copy = work / "artifact"
        shutil.copytree(self.artifact, copy)
        files = sorted(p for p in copy.rglob("*") if p.is_file())
        victim = files[int(generator.integers(len(files)))]
        if generator.integers(8) == 0:
            victim.unlink()
        else:
            victim.write_bytes(mutated_bytes(victim.read_bytes(), generator))
        return lambda: cimc.load(copy).run({"x": self.images[:1]})

    def input_case(self, work: Path, generator: np.random.Generator) -> Callable[[], object]:
        """Inputs of another name, shape, element type or content."""
        del work
        assert self.artifact is not None
        shape = tuple(int(generator.integers(0, 10)) for _ in range(int(generator.integers(0, 5))))
        kinds = ("float32", "float64", "int64", "uint8", "complex64", "bool", "U3")
        given = np.zeros(shape, str(generator.choice(kinds)))
        name = str(generator.choice(["x", "y", ""]))
        artifact = self.artifact
        return lambda: cimc.load(artifact).run(
            {name: given}, taps=[str(generator.choice(["x", "logits", "?"]))]
        )


def run_case(case: Callable[[], object]) -> int:
    """Run a case in a process of its own and return how it ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = BROKEN
    try:
        signal.alarm(SECONDS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case()
        code = OK
    except CimError as error:
        code = REFUSED if str(error).strip() and "Traceback" not in str(error) else BROKEN
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


@click.command()
@click.option("--count", default=2000, help="Cases in all.")
@click.option("--seed", default=0, help="Seed of the mutations.")
@click.option(
    "--keep", type=click.Path(path_type=Path), default=Path("out/fuzz"), help="Folder of failing inputs."
)
def main(count: int, seed: int, keep: Path) -> None:
    """Mutate inputs and report how each case ended."""
    with tempfile.TemporaryDirectory() as folder:
        cases = Cases(Path(folder))
        kinds = (
            cases.model_case,
            cases.machine_case,
            cases.mapping_case,
            cases.artifact_case,
            cases.input_case,
        )
        ends: Counter[tuple[str, str]] = Counter()
        failures: list[str] = []
        for number in range(count):
            kind = kinds[number % len(kinds)]
            generator = np.random.default_rng((seed, number))
            work = Path(folder) / "case"
            work.mkdir()
            code = run_case(kind(work, generator))
            end = {OK: "accepted", REFUSED: "refused"}.get(code, "failed")
            ends[kind.__name__, end] += 1
            if end == "failed":
                failures.append(f"case {number} ({kind.__name__}): exit {code}")
                shutil.copytree(work, keep / str(number), dirs_exist_ok=True)
            shutil.rmtree(work)
    for kind in kinds:
        counts = "  ".join(f"{end} {ends[kind.__name__, end]}" for end in ("accepted", "refused", "failed"))
        print(f"{kind.__name__:14} {counts}")
    print(f"{count} cases, {len(failures)} failed")
    for line in failures:
        print(f"  {line}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
