"""Every model on every machine: does it fit, how long does each step take, is the stream exact.

One cell is one process (``python -m tools.model_table MODEL.onnx NAME MACHINE``) of one thread, bounded in memory
and time. It compiles with calibration on 8 inputs, runs one input through the stream, compares it with level 2 (on a
machine whose converters lose: with the mapped level, and states the distance to level 2), asks the program verifier,
and times 8 inputs on the cycle engine. ``fill`` keeps cells in ``cells.json`` and measures what is missing.

Seconds are CPU seconds of the one thread, which other work on the same cores changes little; a quiet machine's wall
clock shows the same.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MACHINES = ("isaac", "isaac-ce", "puma", "pimcomp", "jia", "jain")
LOSSY = ("jia",)
"""Machines whose converters lose (backends/jia.yaml); elsewhere the stream must equal level 2."""
TRANSFORMERS = ("vit", "bert", "gpt2")
MODELS = (
    "digits",
    "resnet-cifar-20",
    "squeezenet",
    "mobilenet-v2",
    "resnet-18",
    "resnet-50",
    "vgg-16",
    *TRANSFORMERS,
    "light-squeezenet",
    "light-shufflenet",
    "light-inception_v1",
    "light-inception_v2",
    "light-resnet50",
    "light-densenet121",
    "light-bvlc_alexnet",
    "light-zfnet512",
    "light-vgg19",
)
OPSET = 20
"""Of the transformers: attention as products and a softmax."""
IMAGES = 8


@dataclass(frozen=True)
class Limits:
    """What one cell may take."""

    memory_gib: float
    minutes: float


@dataclass(frozen=True)
class Cell:
    """One model on one machine. ``refused``: why it does not fit; ``failed``: what went wrong."""

    model: str
    machine: str
    refused: str = ""
    failed: str = ""
    compile_seconds: float = 0.0
    crossbars: int = 0
    phases: int = 0
    rows: int = 0
    program_bytes: int = 0
    """Of the program's files, without the weights."""
    findings: int = 0
    """Of the program verifier."""
    run_seconds: float = 0.0
    exact: bool = False
    """Stream = level 2, every bit of every output; on lossy machines stream = mapped level."""
    distance: float = 0.0
    """Relative distance (2-norm) of the outputs to level 2."""
    array_share: float = 0.0
    """Of the model's multiply-accumulates, those done by executed reads of the arrays."""
    cycles: int = 0
    """Of one input, from the first row in to the last row out."""
    interval_cycles: int = 0
    """From one input to the next."""
    peak_mib: int = 0
    """Resident size of all of it, the interpreter of level 2 included."""

    @property
    def ok(self) -> bool:
        """Whether it is right, or refused with a reason."""
        return bool(self.refused) or (self.exact and self.array_share == 1 and not self.findings)


def model_file(name: str, folder: Path) -> Path:
    """The ONNX file of a model, exported once into ``folder``."""
    from cimc import models

    path = folder / f"{name}.onnx"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if name.startswith("light-"):
        from cimc.models.light import reseeded

        path.write_bytes(reseeded(name.removeprefix("light-")).SerializeToString(deterministic=True))
        return path
    if name in TRANSFORMERS:
        from cimc.models.transformers import export

        return export(name, OPSET, path)
    return models.export_onnx(name, path)


def inputs_of(name: str, path: Path, count: int, seed: int) -> dict[str, Array]:
    """``count`` seeded inputs of the model in ``path``, by name."""
    from cimc import models

    if name in TRANSFORMERS:
        from cimc.models.transformers import inputs

        return inputs(name, count, seed)
    if name.startswith("light-"):
        import onnx

        from cimc.models.light import SHAPE, image_input

        return {image_input(onnx.load(path)): models.images(count, SHAPE, seed=seed)}
    return {"x": models.images(count, models.network(name).shape, seed=seed)}


def measure_cell(path: Path, name: str, machine: str) -> Cell:
    """All figures of one cell, in this process."""
    import cimc
    from cimc.diagnostics import DoesNotFitError
    from cimc.runtime.verifier import verify_program

    calibration = inputs_of(name, path, IMAGES, 1)
    x = inputs_of(name, path, 1, 2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "artifact")
        start = time.process_time()
        try:
            made = cimc.compile(path, machine, calibration=calibration, output=folder, require_arrays=True)
        except DoesNotFitError as error:
            return Cell(name, machine, refused=str(error))
        compile_seconds = time.process_time() - start
        start = time.process_time()
        stream = made.run(x)
        run_seconds = time.process_time() - start
        level_2 = made.run(x, engine="quantised")
        wanted = made.run(x, engine="mapped") if machine in LOSSY else level_2
        timing = made.simulate(images=IMAGES)
        return Cell(
            name,
            machine,
            compile_seconds=compile_seconds,
            crossbars=made.report["crossbars"]["used"],
            phases=made.report["utilisation"]["phases"],
            rows=made.report["instruction_rows"],
            program_bytes=sum(f.stat().st_size for f in (folder / "program").rglob("*") if f.is_file()),
            findings=len(verify_program(made.program, weights=made.weights)),
            run_seconds=run_seconds,
            exact=_same(stream.outputs, wanted.outputs)
            and _same(stream.integer_outputs, wanted.integer_outputs),
            distance=_distance(stream.outputs, level_2.outputs),
            array_share=stream.array_macs / stream.total_macs,
            cycles=timing.latency_cycles,
            interval_cycles=timing.interval_cycles,
            peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        )


def _same(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> bool:
    return found.keys() == wanted.keys() and all(np.array_equal(found[k], wanted[k]) for k in wanted)


def _distance(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    a, b = (
        np.concatenate([np.ravel(side[k]).astype(np.float64) for k in sorted(wanted)])
        for side in (found, wanted)
    )
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def fill(
    folder: Path, models: Sequence[str], machines: Sequence[str], limits: Limits, *, again: bool
) -> list[Cell]:
    """Measure the cells that ``folder/cells.json`` does not have, keeping each as it comes; return those asked for."""
    store = folder / "cells.json"
    folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, dict[str, Any]] = json.loads(store.read_text()) if store.exists() else {}
    for model in models:
        for machine in machines:
            key = f"{model} on {machine}"
            if key in known and not again:
                continue
            cell = _in_process(model, machine, folder, limits)
            known[key] = asdict(cell)
            store.write_text(json.dumps(known, indent=1) + "\n")
            print(f"{key}: {_said(cell)}", file=sys.stderr, flush=True)
    return [Cell(**known[f"{model} on {machine}"]) for model in models for machine in machines]


def _in_process(model: str, machine: str, folder: Path, limits: Limits) -> Cell:
    """A process for the export, which is not measured, and one for the cell."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tools.model_table", str(folder), model, machine]

    def bound() -> None:
        size = int(limits.memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))

    if not (folder / f"{model}.onnx").exists():
        subprocess.run([*command[:-1], ""], env=environment, capture_output=True, check=True)
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60 * limits.minutes,
            preexec_fn=bound,
        )
    except subprocess.TimeoutExpired:
        return Cell(model, machine, failed=f"more than {limits.minutes:g} minutes")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return Cell(model, machine, failed=last)
    return Cell(**json.loads(done.stdout.splitlines()[-1]))


def _said(cell: Cell) -> str:
    if cell.failed or cell.refused:
        return cell.failed or cell.refused
    return f"{cell.compile_seconds:.1f} s, {cell.run_seconds:.1f} s, exact {cell.exact}, {cell.cycles} cycles"


COLUMNS = (
    "model", "machine", "crossbars", "phases", "compile s", "rows", "program KiB", "run s", "exact",
    "cycles of one", "cycles between", "peak MiB",
)  # fmt: skip


def markdown(cells: Sequence[Cell]) -> str:
    """The table, a row a cell."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([*lines, *(_row(cell) for cell in cells)])


def _row(cell: Cell) -> str:
    if cell.failed or cell.refused:
        text = f"FAILED: {cell.failed}" if cell.failed else f"exit 3: {cell.refused}"
        return f"| {cell.model} | {cell.machine} | {text.replace('|', '/')} |" + " |" * (len(COLUMNS) - 3)
    exact = "no" if not cell.exact else f"mapped; {cell.distance:.3f}" if cell.machine in LOSSY else "yes"
    if cell.findings or cell.array_share != 1:
        exact = f"{cell.findings} findings, {cell.array_share:.3f} on the arrays"
    figures = (
        cell.crossbars,
        cell.phases,
        f"{cell.compile_seconds:.1f}",
        cell.rows,
        f"{cell.program_bytes / 1024:.0f}",
        f"{cell.run_seconds:.2f}",
        exact,
        f"{cell.cycles:,}",
        f"{cell.interval_cycles:,}",
        cell.peak_mib,
    )
    return f"| {cell.model} | {cell.machine} | {' | '.join(map(str, figures))} |"


def main(arguments: Sequence[str]) -> int:
    """Measure the cell FOLDER NAME MACHINE and print it as JSON; without a machine only export the model."""
    folder, name, machine = arguments
    path = model_file(name, Path(folder))
    if machine:
        print(json.dumps(asdict(measure_cell(path, name, machine))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
