"""Functions of two float32 values (docs/numerics.md section 0, rule 11): one rounding each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Real = npt.NDArray[np.float32]


def _power(a: Real, b: Real) -> npt.NDArray[Any]:
    return np.power(a.astype(np.float64), b.astype(np.float64)).astype(np.float32)


BINARY: Mapping[str, Callable[[Real, Real], npt.NDArray[Any]]] = MappingProxyType(
    {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": np.divide,
        "pow": _power,
        # Which of -0 and +0 is greater depends on the vector width of the CPU; + 0 leaves +0.
        "max": lambda a, b: np.maximum(a, b) + np.float32(0.0),
        "min": lambda a, b: np.minimum(a, b) + np.float32(0.0),
        "prelu": lambda a, b: np.where(a < 0, b * a, a),
        "less": np.less,
        "less_equal": np.less_equal,
        "equal": np.equal,
        "keep": lambda a, b: np.where(a != 0, b, np.float32(0.0)),
        "drop": lambda a, b: np.where(a != 0, np.float32(0.0), b),
    }
)
"""The functions by name; ``prelu`` takes the slope second.

Comparisons give flags, 1 for true and 0 for false; ``keep`` and ``drop`` give ``b`` where the flag ``a`` is set, where
it is not, and 0 elsewhere, whatever ``b`` is: no product with a flag would take an infinity away.
"""


def binary(function: str, a: Real, b: Real) -> Real:
    """``function`` of ``a`` and ``b``, whose shapes broadcast. Raises KeyError for one that does not exist."""
    with np.errstate(all="ignore"):  # infinities and NaN are results like others
        return np.asarray(BINARY[function](np.asarray(a, np.float32), np.asarray(b, np.float32)), np.float32)
