"""Seeded pictures that differ strongly from each other, for calibration and for tests.

White noise will not do: its local averages are all alike, so every picture gives the same features and
every network answers one class. These are sums of smooth random fields of several scales, mixed into
colours, with a hard-edged shape on top and a contrast and brightness of their own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UsageError

_GRIDS = (2, 4, 8, 16, 32)
_DECAY = (0.2, 1.0)
_FIELDS = 3
_LIMIT = 2.2


def images(n: int, shape: tuple[int, int, int], seed: int = 0) -> npt.NDArray[np.float32]:
    """Return ``n`` pictures of ``shape`` (channels, height, width) as float32 [n, *shape].

    Values lie in -2.2 to 2.2 around 0, as pixels do after the usual normalisation. Picture i depends on
    ``(seed, i)`` only: the first 4 of 8 pictures are the 4 pictures of the same seed.

    Raises
    ------
    UsageError
        If ``n`` or a dimension is less than 1.

    """
    if n < 1 or min(shape) < 1:
        raise UsageError(f"images: n and every dimension must be at least 1, got n={n}, shape={shape}")
    return np.stack([_picture(np.random.default_rng([seed, i]), shape) for i in range(n)])


def _picture(rng: np.random.Generator, shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    channels, height, width = shape
    fields = np.stack([_field(rng, height, width) for _ in range(_FIELDS)])
    mixing = rng.standard_normal((channels, _FIELDS))
    picture = np.tensordot(mixing, fields, axes=1)
    inside = _field(rng, height, width) > rng.normal(0.0, 0.5)
    picture += rng.standard_normal((channels, 1, 1)) * inside
    picture = (picture - picture.mean()) / (picture.std() + 1e-6)
    picture = rng.uniform(0.5, 1.0) * picture + rng.normal(0.0, 0.5, (channels, 1, 1))
    # Bounded as pixels are: one loud spot, amplified by a deep network, would set every calibrated range.
    return np.asarray(_LIMIT * np.tanh(picture / _LIMIT), dtype=np.float32)


def _field(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.float64]:
    """Sum interpolated random grids, the finer the fainter, as in nature; of about unit variance."""
    decay = rng.uniform(*_DECAY)
    amplitudes = np.array([pitch**-decay for pitch in _GRIDS])
    field = np.zeros((height, width))
    for pitch, amplitude in zip(_GRIDS, amplitudes, strict=True):
        values = amplitude * rng.standard_normal((pitch, pitch))
        field += _interpolation(height, pitch) @ values @ _interpolation(width, pitch).T
    return field / np.linalg.norm(amplitudes)


def _interpolation(size: int, grid: int) -> npt.NDArray[np.float64]:
    """Linear interpolation from ``grid`` to ``size`` points as a matrix [size, grid]."""
    at = np.linspace(0.0, grid - 1.0, size)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(grid)[None, :]))
