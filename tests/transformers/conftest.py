"""Exported transformers, one export and one compile for all tests of a form."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import cimc
from cimc.models.transformers import export, inputs
from tests.fewer_cores import with_fewer_cores


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], tuple[Path, cimc.Artifact]]:
    """``made(name, opset)``: path of the model and its artifact for isaac with 192 of its cores."""
    known: dict[tuple[str, int], tuple[Path, cimc.Artifact]] = {}
    folder = tmp_path_factory.mktemp("transformers")

    def make(name: str, opset: int) -> tuple[Path, cimc.Artifact]:
        if (name, opset) not in known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter's own
                path = export(name, opset, folder / f"{name}{opset}.onnx")
            machine = with_fewer_cores("isaac", 12, 16)
            known[name, opset] = path, cimc.compile(path, machine, calibration=inputs(name, 8, 1))
        return known[name, opset]

    return make
