"""The fuzz command: a case's end is what it was, and damage is damage."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto

import tools.fuzz
from cimc.diagnostics import UsageError
from tools.fuzz import BROKEN, OK, REFUSED, run_case
from tools.fuzz_models import damaged, seed_models


def _raise(error: Exception) -> Callable[[], object]:
    def case() -> None:
        raise error

    return case


@pytest.mark.parametrize(
    ("case", "code"),
    [
        (lambda: None, OK),
        (_raise(UsageError("x.yaml: no such key")), REFUSED),
        (_raise(UsageError("")), BROKEN),
        (_raise(KeyError("x")), BROKEN),
        (lambda: np.ones(5 << 27, np.float64), BROKEN),
    ],
    ids=["accepted", "refused", "refused without a word", "traceback", "5 GiB"],
)
def test_ends(case: Callable[[], object], code: int) -> None:
    """A clear error is the only end but a good one that passes; memory beyond 4 GiB is not given."""
    assert run_case(case).code == code


def test_a_hang_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a case does, it ends with its time."""
    monkeypatch.setattr(tools.fuzz, "SECONDS", 1)
    end = run_case(lambda: time.sleep(60))
    assert end.code == -signal.SIGALRM
    assert 1 <= end.seconds < 30


def test_memory_is_measured() -> None:
    """The peak is the case's own, not the command's."""
    small, large = run_case(lambda: None), run_case(lambda: np.ones(1 << 25, np.float64))
    assert large.peak_bytes - small.peak_bytes > 200 << 20


@pytest.mark.parametrize("model", seed_models(), ids=["images", "moves", "tokens", "codes"])
def test_structured_damage(model: ModelProto) -> None:
    """The same seed damages alike, most damage changes the model, and all of it can still be parsed."""
    whole, changed = model.SerializeToString(), 0
    for seed in range(60):
        one, two = (damaged(model, np.random.default_rng(seed)).SerializeToString() for _ in range(2))
        assert one == two
        assert ModelProto.FromString(one).graph.output
        changed += one != whole
    assert changed > 45
    assert model.SerializeToString() == whole
