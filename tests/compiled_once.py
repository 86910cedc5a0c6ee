"""Networks exported and compiled once for all tests and all processes of a run: artifacts are on disk anyway."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import cimc
from cimc import models
from cimc.models.export import export_module
from cimc.models.tuning import tuned

CALIBRATION = 8
"""Calibration images."""


def shape_of(name: str) -> tuple[int, int, int]:
    """Channels, height and width of a network's images; ``name@64`` takes images of 64 x 64."""
    base, _, size = name.partition("@")
    shape = models.network(base).shape
    return (shape[0], int(size), int(size)) if size else shape


def pictures(name: str, count: int, seed: int) -> npt.NDArray[np.float32]:
    """Seeded pictures for a network's input."""
    return models.images(count, shape_of(name), seed=seed)


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A temporary folder that all worker processes of this run see."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


@dataclass(frozen=True)
class Networks:
    """ONNX files and artifacts in ``folder``, made by whoever asks first."""

    folder: Path

    def onnx_file(self, name: str) -> Path:
        """The ONNX file of a network; ``name@64`` is the same network, tuned for images of 64 x 64."""
        path = self.folder / f"{name}.onnx"
        with self._alone(name):
            if not path.exists():
                draft = self.folder / f"{name}.draft"
                base, _, size = name.partition("@")
                if size:
                    module, function = models.network(base).source.split(":")
                    network = tuned(getattr(import_module(module), function), shape_of(name), seed=0)
                    export_module(network, shape_of(name), draft)
                else:
                    models.export_onnx(name, draft)
                draft.rename(path)
        return path

    def artifact(self, name: str, machine: str) -> cimc.Artifact:
        """The network compiled for the machine, calibrated on seeded pictures."""
        path = self.folder / f"{name}-{machine}"
        model = self.onnx_file(name)
        with self._alone(path.name):
            if path.exists():
                return cimc.load(path)
            return cimc.compile(
                model,
                machine,
                calibration={"x": pictures(name, CALIBRATION, 1)},
                output=path,
                require_arrays=True,
            )

    @contextmanager
    def _alone(self, what: str) -> Generator[None]:
        """One process at a time; the others wait."""
        with (self.folder / f"{what}.once").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def artifacts(networks: Networks) -> Callable[[str, str], cimc.Artifact]:
    """Artifacts of ``networks``, opened once."""
    opened: dict[tuple[str, str], cimc.Artifact] = {}

    def get(name: str, machine: str) -> cimc.Artifact:
        if (name, machine) not in opened:
            opened[name, machine] = networks.artifact(name, machine)
        return opened[name, machine]

    return get
