"""The demo's verdict: it must be able to say that stream and reference differ."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    """Load ``tools/demo.py``, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("demo", ROOT / "tools" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equal_integers_differ_nowhere(demo: ModuleType) -> None:
    """All integers of all outputs are counted."""
    reference = {"a": np.arange(6).reshape(2, 3), "b": np.arange(4)}
    assert demo.differences({name: codes.copy() for name, codes in reference.items()}, reference) == (0, 10)


def test_every_differing_integer_counts(demo: ModuleType) -> None:
    """One bit in one place is one difference."""
    reference = {"a": np.arange(6).reshape(2, 3)}
    stream = {"a": reference["a"] ^ np.array([[0, 1, 0], [0, 0, 1]])}
    assert demo.differences(stream, reference) == (2, 6)


@pytest.mark.parametrize("stream", [{}, {"a": np.arange(6)}, {"b": np.arange(6).reshape(2, 3)}])
def test_an_absent_or_misshapen_output_differs_throughout(
    demo: ModuleType, stream: dict[str, np.ndarray]
) -> None:
    """No output can pass by not being there, or by broadcasting."""
    assert demo.differences(stream, {"a": np.arange(6).reshape(2, 3)}) == (6, 6)


def test_accuracy_is_the_share_of_right_answers(demo: ModuleType) -> None:
    """Two of four images right is one half."""
    logits = np.eye(4, dtype=np.float32)
    assert demo.accuracy(logits, np.array([0, 1, 0, 0])) == 0.5
