"""The seeded pictures."""

from __future__ import annotations

import numpy as np
import pytest

from cimc.diagnostics import UsageError
from cimc.models import images


def test_a_picture_depends_on_seed_and_index_only() -> None:
    """More pictures of one seed begin with the same pictures; another seed gives others."""
    eight = images(8, (3, 20, 30), seed=4)
    assert np.array_equal(eight[:3], images(3, (3, 20, 30), seed=4))
    assert not np.isclose(eight, images(8, (3, 20, 30), seed=5)).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 224, 224), (2, 1, 5)])
def test_pictures_are_bounded_and_differ_from_each_other(shape: tuple[int, int, int]) -> None:
    """Values stay in a pixel's range, and no picture is a scaled copy of another."""
    pictures = images(8, shape)
    assert pictures.dtype == np.float32
    assert pictures.shape == (8, *shape)
    assert np.abs(pictures).max() <= 2.2
    flat = pictures.reshape(8, -1) / np.linalg.norm(pictures.reshape(8, -1), axis=1, keepdims=True)
    similarity = np.abs(flat @ flat.T - np.eye(8))
    assert similarity.max() < 0.995


def test_pictures_are_smooth_but_not_flat() -> None:
    """Neighbouring pixels resemble each other, which noise does not; local averages differ."""
    pictures = images(8, (3, 224, 224))
    steps = np.diff(pictures, axis=3).std(axis=(1, 2, 3))
    spread = pictures.std(axis=(2, 3)).mean(axis=1)
    assert (steps < 0.5 * spread).all()
    assert (spread > 0.2).all()


@pytest.mark.parametrize(("n", "shape"), [(0, (1, 8, 8)), (1, (1, 0, 8)), (-1, (3, 2, 2))])
def test_empty_requests_are_refused(n: int, shape: tuple[int, int, int]) -> None:
    """The message names the values given."""
    with pytest.raises(UsageError, match=f"n={n}"):
        images(n, shape)
