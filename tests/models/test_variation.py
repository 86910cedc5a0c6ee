"""The rule that outputs must vary over inputs, each part broken alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from cimc.diagnostics import UnsupportedError, UsageError
from cimc.models import spread


def varied() -> npt.NDArray[np.float64]:
    """Outputs of 8 images and 10 classes that pass."""
    return np.random.default_rng(0).standard_normal((8, 10))


def test_measures_are_those_of_the_definition() -> None:
    """Every measure equals its formula, written out over the values."""
    outputs = varied() + np.arange(10.0) / 10
    measured = spread(outputs)
    assert measured.top1 == len({int(np.argmax(row)) for row in outputs})
    assert measured.std == pytest.approx(outputs.std())
    variances = [np.mean((outputs[:, c] - outputs[:, c].mean()) ** 2) for c in range(10)]
    assert measured.std_inputs == pytest.approx(np.sqrt(np.mean(variances)))
    means = [outputs[:, c].mean() for c in range(10)]
    assert measured.std_classes == pytest.approx(np.std(means))
    assert measured.distinct == 80


def test_a_bias_over_classes_is_no_variation() -> None:
    """Outputs that differ over classes but hardly over images are refused, whatever their spread."""
    classes = np.random.default_rng(1).standard_normal(10)
    with pytest.raises(UnsupportedError, match="over images"):
        spread(10 * classes + 0.01 * varied())


def test_one_class_for_all_images_is_refused() -> None:
    """A winner that never changes hides a wrong compiler."""
    outputs = varied()
    outputs[:, 3] += 10
    with pytest.raises(UnsupportedError, match="1 top-1 class"):
        spread(outputs)


def test_vanished_outputs_are_refused() -> None:
    """Outputs near 0 agree with anything under an absolute tolerance."""
    with pytest.raises(UnsupportedError, match=r"standard deviation .* below 0.001"):
        spread(1e-6 * varied())


def test_few_values_are_refused() -> None:
    """Outputs saturated to a few codes are refused."""
    with pytest.raises(UnsupportedError, match="2 distinct values"):
        spread((varied() > 0).astype(np.int64))


def test_values_that_are_not_finite_are_refused() -> None:
    """A NaN is counted and named, not averaged away."""
    outputs = varied()
    outputs[2, 1:3] = np.nan
    with pytest.raises(UnsupportedError, match="2 values are not finite"):
        spread(outputs)


def test_too_few_images_are_refused() -> None:
    """Seven images are not evidence."""
    with pytest.raises(UsageError, match="at least 8 images"):
        spread(varied()[:7])
