"""What holds for every test: one thread a process, hypothesis examples that are the same each run, and networks that
are exported and compiled once for all processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    import cimc
    from tests.compiled_once import Networks

# Before any test imports torch or onnxruntime. Tests run in several processes; threads would compete.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Seeded and without deadlines: a test fails because of the code, not because of the day or the load.
hypothesis.settings.register_profile("cimc", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("cimc")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden``: write the reviewed figures of ``tests/golden`` anew instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/metrics.json anew")


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """Where exported and compiled networks are."""
    # Here and below: it loads cimc, which many files of tests do without.
    from tests.compiled_once import Networks, shared_folder

    return Networks(shared_folder(tmp_path_factory, "networks"))


@pytest.fixture(scope="session")
def onnx_file(networks: Networks) -> Callable[[str], Path]:
    """The ONNX file of a network."""
    return networks.onnx_file


@pytest.fixture(scope="session")
def images() -> Callable[[str, int, int], npt.NDArray[np.float32]]:
    """Seeded pictures for a network's input: name, count, seed."""
    from tests.compiled_once import pictures

    return pictures


@pytest.fixture(scope="session")
def artifact(networks: Networks) -> Callable[[str, str], cimc.Artifact]:
    """A network compiled for a machine, on disk."""
    from tests.compiled_once import artifacts

    return artifacts(networks)
