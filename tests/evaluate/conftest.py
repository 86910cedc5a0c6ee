"""A trained digits network, compiled once, and its test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc.models.digits import digits_data, train
from cimc.models.export import export_module


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained network as ONNX, with ``calibration.npz`` and ``test.npz`` (60 images, labels) beside it."""
    folder = tmp_path_factory.mktemp("evaluate")
    data = digits_data()
    np.savez(folder / "calibration.npz", x=data.train_images[:64])
    np.savez(folder / "test.npz", x=data.test_images[:60], labels=data.test_labels[:60])
    return export_module(train(epochs=8), (1, 8, 8), folder / "digits.onnx")


@pytest.fixture(scope="session")
def digits_artifact(digits_model: Path) -> Path:
    """The network for ``isaac``, one copy each: every copy has cells of its own, and 145 take seconds to programme."""
    folder = digits_model.parent
    made = cimc.compile(
        digits_model,
        "isaac",
        calibration=folder / "calibration.npz",
        output=folder / "artifact",
        scheduler="none",
    )
    assert made.path is not None
    return made.path


@pytest.fixture(scope="session")
def digits_test(digits_model: Path) -> Path:
    """Test images and labels."""
    return digits_model.parent / "test.npz"
