"""Networks exported once a session, their images, and artifacts compiled once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import cimc
from cimc import models

CALIBRATION = 8
"""Calibration images."""

Images = Callable[[str, int, int], npt.NDArray[np.float32]]


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The ONNX file of a network."""
    folder = tmp_path_factory.mktemp("models")

    def get(name: str) -> Path:
        path = folder / f"{name}.onnx"
        return path if path.exists() else models.export_onnx(name, path)

    return get


@pytest.fixture(scope="session")
def images() -> Images:
    """Seeded pictures for a network's input: name, count, seed."""
    return lambda name, count, seed: models.images(count, models.network(name).shape, seed=seed)


@pytest.fixture(scope="session")
def artifact(
    onnx_file: Callable[[str], Path], images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], cimc.Artifact]:
    """A network compiled for a machine, on disk."""
    folder = tmp_path_factory.mktemp("artifacts")
    made: dict[tuple[str, str], Any] = {}

    def get(name: str, machine: str) -> cimc.Artifact:
        if (name, machine) not in made:
            made[name, machine] = cimc.compile(
                onnx_file(name),
                machine,
                calibration={"x": images(name, CALIBRATION, 1)},
                output=folder / f"{name}-{machine}",
                require_arrays=True,
            )
        return made[name, machine]

    return get
