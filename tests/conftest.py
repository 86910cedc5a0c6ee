"""What holds for every test: one thread a process, and hypothesis examples that are the same each run."""

from __future__ import annotations

import os

import hypothesis
import pytest

# Before any test imports torch or onnxruntime. Tests run in several processes; threads would compete.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Seeded and without deadlines: a test fails because of the code, not because of the day or the load.
hypothesis.settings.register_profile("cimc", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("cimc")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden``: write the reviewed figures of ``tests/golden`` anew instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/metrics.json anew")
