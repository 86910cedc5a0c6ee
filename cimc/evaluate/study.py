"""An evaluation from its options to summaries: artifacts, reference, points, statistics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from cimc.api import Artifact, load
from cimc.api import compile as compile_model
from cimc.arrays_io import read_arrays, write_arrays
from cimc.backends.loader import load_architecture
from cimc.diagnostics import UsageError
from cimc.evaluate.point import NEEDS, REFERENCE, Request, check_data, output_name
from cimc.evaluate.results import ResultsFile
from cimc.evaluate.settings import ARCH, TIME, Settings, Value, arch_settings, arch_with, device_with
from cimc.evaluate.statistics import Summary, summarise
from cimc.evaluate.sweep import Artifacts, Cluster, Task, run_tasks
from cimc.runtime.device.loader import load_device

ARTIFACTS, DATA = "artifacts", "data.npz"


@dataclass(frozen=True)
class Source:
    """What is evaluated: an artifact's folder, or a model that is compiled for every machine of a sweep."""

    path: Path
    arch: str | None = None
    calibration: Path | None = None
    mapping: Path | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])


@dataclass(frozen=True)
class Outcome:
    """The chips of one group of settings, per metric."""

    settings: Settings
    summaries: dict[str, Summary]


def check_settings(device_name: str, groups: Sequence[Settings]) -> None:
    """Raise ``CimError`` unless every group gives a device and a time it can be read at."""
    device = load_device(device_name)
    for settings in groups:
        given: dict[str, Value] = dict(settings)
        chosen = device_with(device, given)
        time_s = given.get(TIME, 0.0)
        if isinstance(time_s, str | bool):
            raise UsageError(f"a time is a number of seconds, given '{time_s}'", where=TIME)
        chosen.check_time(time_s)


def prepared(source: Source, groups: Sequence[Settings], folder: Path) -> Artifacts:
    """The artifact of every machine among ``groups``; compiled into ``folder`` where ``source`` is a model.

    An artifact that is there already is used again. Raises ``CimError`` as a compile does, and for a sweep over
    machines of an artifact.
    """
    machines = sorted({arch_settings(settings) for settings in groups})
    if source.path.is_dir():
        if machines != [()]:
            raise UsageError(
                f"an axis below '{ARCH}' changes the machine, so the model is compiled again; give the ONNX file, "
                "--arch and --calibration instead of an artifact",
                where=str(source.path),
            )
        load(source.path)
        return {(): str(source.path)}
    if source.arch is None:
        raise UsageError("a model is compiled before it is evaluated; add --arch", where=str(source.path))
    return {machine: _compiled(source, source.arch, machine, folder) for machine in machines}


def _compiled(source: Source, arch_name: str, machine: Settings, folder: Path) -> str:
    arch = arch_with(load_architecture(arch_name), dict(machine))
    target = folder / ARTIFACTS / arch.sha256[:16]
    if not (target / "manifest.json").exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        compile_model(
            source.path,
            arch,
            shapes=source.shapes,
            calibration=source.calibration,
            mapping=source.mapping,
            output=target,
            require_arrays=True,
        )
    return str(target)


class Study:
    """One evaluation in a folder: ``results.csv``, ``plan.json`` and, where the reference is made, ``data.npz``.

    Checks settings and data, and takes the float model's outputs as reference where the data has none, before the
    first chip. ``keys`` are the settings that vary. Raises ``CimError``.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        request: Request,
        keys: Sequence[str],
        folder: Path,
        *,
        confidence: float = 0.95,
    ):
        self._artifacts, self._confidence = artifacts, confidence
        folder.mkdir(parents=True, exist_ok=True)
        self.artifact: Artifact = load(next(iter(artifacts.values())))
        self._request = replace(request, data=str(self._data(request, folder)))
        plan: dict[str, object] = {
            "artifacts": [_digest(load(path).manifest) for path in artifacts.values()],
            "data_sha256": sha256(Path(request.data).read_bytes()).hexdigest(),
            "device": load_device(request.device).file.model_dump(mode="json"),
            "metrics": list(request.metrics),
            "output": request.output,
            "seed": request.seed,
            "keys": sorted(keys),
        }
        self._results = ResultsFile(folder, plan, sorted(keys), request.metrics)

    def missing(self, tasks: Sequence[Task]) -> int:
        """Points of ``tasks`` that are not measured yet."""
        return sum((task.settings, task.chip) not in self._results.done for task in tasks)

    def run(
        self, tasks: Sequence[Task], cluster: Cluster, advance: Callable[[], None] = lambda: None
    ) -> list[Outcome]:
        """Measure what is missing of ``tasks`` and summarise them by settings, in their order."""
        run_tasks(tasks, self._request, self._artifacts, self._results, cluster, advance)
        found: list[Outcome] = []
        for settings in dict.fromkeys(task.settings for task in tasks):
            measured = [self._results.done[t.settings, t.chip] for t in tasks if t.settings == settings]
            summaries = {
                metric: summarise([values[metric] for values in measured], confidence=self._confidence)
                for metric in self._request.metrics
            }
            found.append(Outcome(settings, summaries))
        return found

    def _data(self, request: Request, folder: Path) -> Path:
        """The data with the reference that comparing metrics need; the file itself where nothing is added."""
        path = Path(request.data)
        data = read_arrays(path)
        check_data(self.artifact, data, request.metrics, str(path))
        if REFERENCE in data or not any(NEEDS[metric] == REFERENCE for metric in request.metrics):
            return path
        made = folder / DATA
        inputs = {name: array for name, array in data.items() if name not in NEEDS.values()}
        outputs = self.artifact.run(inputs, engine="graph").outputs
        reference = outputs[output_name(self.artifact, request.output)]
        write_arrays(made, {**data, REFERENCE: np.asarray(reference)})
        return made


def _digest(manifest: Mapping[str, object]) -> str:
    """One hash for all files of an artifact."""
    return sha256(json.dumps(dict(manifest), sort_keys=True).encode()).hexdigest()
