"""Do a network's outputs vary over its inputs? The rule that test networks and their images must pass.

A network whose answer hardly depends on the image passes every comparison, however wrong the compiler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UnsupportedError, UsageError

MIN_IMAGES = 8
MIN_STD = 1e-3
MIN_TOP1 = 2
MIN_RATIO = 0.3
MIN_DISTINCT = 16


@dataclass(frozen=True)
class Spread:
    """How outputs [images, classes] vary."""

    top1: int
    """Number of different top-1 classes over the images."""
    std: float
    """Standard deviation of all values."""
    std_inputs: float
    """Root mean square over the classes of the standard deviation over the images."""
    std_classes: float
    """Standard deviation over the classes of the mean over the images: what every image has in common."""
    distinct: int
    """Number of distinct values."""


def spread(outputs: npt.NDArray[Any]) -> Spread:
    """Measure ``outputs`` [images, classes, ...] and refuse those that would test nothing.

    Returns the measures when over at least 8 images there are at least 2 top-1 classes, the standard
    deviation over images is at least 0.3 of that over classes, there are at least 16 distinct values,
    and the standard deviation of all is at least 1e-3.

    Raises
    ------
    UsageError
        If there are fewer than 8 images or fewer than 2 classes.
    UnsupportedError
        If a value is not finite or the rule fails; every failed part is named.

    """
    values = np.asarray(outputs, dtype=np.float64).reshape(len(outputs), -1)
    if values.shape[0] < MIN_IMAGES or values.shape[1] < 2:
        raise UsageError(f"spread needs at least {MIN_IMAGES} images and 2 classes, got {values.shape}")
    if not np.isfinite(values).all():
        raise UnsupportedError(f"outputs: {np.count_nonzero(~np.isfinite(values))} values are not finite")
    measured = Spread(
        top1=len(np.unique(values.argmax(axis=1))),
        std=float(values.std()),
        std_inputs=float(np.sqrt(values.var(axis=0).mean())),
        std_classes=float(values.mean(axis=0).std()),
        distinct=len(np.unique(values)),
    )
    violations = _violations(measured)
    if violations:
        remedy = "use other images or weights: such outputs test nothing"
        raise UnsupportedError(f"outputs do not vary: {', and '.join(violations)}; {remedy}")
    return measured


def _violations(measured: Spread) -> list[str]:
    least = MIN_RATIO * measured.std_classes
    rules = (
        (measured.std >= MIN_STD, f"standard deviation {measured.std:.3g} is below {MIN_STD:g}"),
        (measured.top1 >= MIN_TOP1, f"{measured.top1} top-1 class, at least {MIN_TOP1} are needed"),
        (
            measured.std_inputs >= least,
            f"standard deviation over images {measured.std_inputs:.3g} is below {MIN_RATIO} of that "
            f"over classes, {measured.std_classes:.3g}",
        ),
        (
            measured.distinct >= MIN_DISTINCT,
            f"{measured.distinct} distinct values, at least {MIN_DISTINCT} are needed",
        ),
    )
    return [text for kept, text in rules if not kept]
