"""The demo's network: data, training, accuracy."""

from __future__ import annotations

import numpy as np
import torch

from cimc.models.digits import digits_data, train


def test_the_split_is_stratified_and_complete() -> None:
    """All 1797 images occur, 360 of them to test, each digit in proportion."""
    data = digits_data()
    assert data.train_images.shape == (1437, 1, 8, 8)
    assert data.test_images.shape == (360, 1, 8, 8)
    assert data.train_images.dtype == data.test_images.dtype == np.float32
    assert 0.0 == data.train_images.min() < data.train_images.max() == 1.0
    whole = np.bincount(np.concatenate([data.train_labels, data.test_labels]))
    assert whole.sum() == 1797
    assert np.abs(np.bincount(data.test_labels) - whole * 360 / 1797).max() < 1


def test_training_reaches_the_stated_accuracy() -> None:
    """Seed 0 gets at least 98.5 % of the test images right."""
    data = digits_data()
    first = train()
    with torch.no_grad():
        logits = first(torch.from_numpy(data.test_images))
    assert (logits.argmax(dim=1).numpy() == data.test_labels).mean() >= 0.985
    assert not first.training


def test_training_twice_gives_the_same_bits() -> None:
    """Draws of weights and order of images come from the seed alone, from the first epoch on."""
    first, second = train(epochs=2), train(epochs=2)
    states = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
