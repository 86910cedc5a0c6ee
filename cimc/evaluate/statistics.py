"""What a number of chip instances says about all chips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from cimc.diagnostics import UsageError


@dataclass(frozen=True)
class Summary:
    """Mean over chip instances with its confidence interval."""

    count: int
    mean: float
    std: float
    """Standard deviation between chips (n - 1); 0 for one chip."""
    low: float
    high: float
    """Bounds of the confidence interval of the mean; infinite for one chip."""


def summarise(values: Sequence[float], *, confidence: float = 0.95) -> Summary:
    """Mean and Student's t interval of the mean over independent chips.

    Raises ``UsageError`` without a value, and for a confidence outside (0, 1).
    """
    if not values:
        raise UsageError("no chip instance has been evaluated; give at least one")
    if not 0 < confidence < 1:
        raise UsageError(f"a confidence lies between 0 and 1, given {confidence}")
    data = np.asarray(values, np.float64)
    mean = float(data.mean())
    if len(data) == 1:
        return Summary(1, mean, 0.0, -np.inf, np.inf)
    from scipy.stats import t

    std = float(data.std(ddof=1))
    half = float(t.ppf((1 + confidence) / 2, len(data) - 1)) * std / sqrt(len(data))
    return Summary(len(data), mean, std, mean - half, mean + half)
