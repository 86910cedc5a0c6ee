"""Functions of one float32 value (docs/numerics.md section 0, rule 11).

What float32 gives in one operation is one float32 operation; everything else is evaluated in float64
from float32 inputs and rounded once at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Real = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]

_erf: Any = np.frompyfunc(math.erf, 1, 1)


def erf_wide(x: Wide) -> Wide:
    """The error function in float64, by the C library: one definition whatever is installed."""
    return np.asarray(_erf(x), np.float64)


def _sigmoid(x: Wide) -> Wide:
    return 1.0 / (1.0 + np.exp(-x))


def _gelu_tanh(x: Wide) -> Wide:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


_EXACT: Mapping[str, Callable[..., npt.NDArray[Any]]] = MappingProxyType(
    {
        "neg": np.negative,
        "abs": np.abs,
        "sqrt": np.sqrt,
        "reciprocal": lambda x: np.float32(1.0) / x,
        "floor": np.floor,
        "ceil": np.ceil,
        "round": np.rint,
        "sign": np.sign,
        "leaky_relu": lambda x, slope: np.where(x < 0, np.float32(slope) * x, x),
    }
)
"""One float32 operation each."""

_WIDE: Mapping[str, Callable[..., npt.NDArray[Any]]] = MappingProxyType(
    {
        "exp": np.exp,
        "log": np.log,
        "erf": erf_wide,
        "tanh": np.tanh,
        "sigmoid": _sigmoid,
        "silu": lambda x: x * _sigmoid(x),
        "gelu": lambda x: 0.5 * x * (1.0 + erf_wide(x / math.sqrt(2.0))),
        "gelu_tanh": _gelu_tanh,
        "hard_sigmoid": lambda x, slope, offset: np.clip(slope * x + offset, 0.0, 1.0),
        "hard_swish": lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
        "elu": lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0.0)), x),
        "softplus": lambda x: np.logaddexp(0.0, x),
        "sin": np.sin,
        "cos": np.cos,
    }
)
"""Evaluated in float64."""

UNARY_PARAMETERS: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys((*_EXACT, *_WIDE), 0),
        **{"leaky_relu": 1, "elu": 1, "hard_sigmoid": 2},
    }
)
"""The functions by name, and how many float32 parameters each takes."""


def unary(function: str, x: Real, parameters: tuple[float, ...] = ()) -> Real:
    """``function`` of every element of ``x``; ``parameters`` as :data:`UNARY_PARAMETERS` counts them.

    Raises KeyError for a function that does not exist.
    """
    rounded = [float(np.float32(p)) for p in parameters]
    with np.errstate(all="ignore"):  # infinities and NaN are results like others
        if function in _EXACT:
            return np.asarray(_EXACT[function](np.asarray(x, np.float32), *rounded), np.float32)
        return np.asarray(_WIDE[function](np.asarray(x, np.float64), *rounded)).astype(np.float32)
