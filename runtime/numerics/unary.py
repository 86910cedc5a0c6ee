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


Parameters = tuple[float, ...]

_EXACT: Mapping[str, Callable[[Real, Parameters], npt.NDArray[Any]]] = MappingProxyType(
    {
        "neg": lambda x, p: np.negative(x),
        "abs": lambda x, p: np.abs(x),
        "sqrt": lambda x, p: np.sqrt(x),
        "reciprocal": lambda x, p: np.divide(np.float32(1.0), x),
        "floor": lambda x, p: np.floor(x),
        "ceil": lambda x, p: np.ceil(x),
        "round": lambda x, p: np.rint(x),
        "sign": lambda x, p: np.sign(x),
        "leaky_relu": lambda x, p: np.where(x < 0, np.float32(p[0]) * x, x),
    }
)
"""One float32 operation each."""

_WIDE: Mapping[str, Callable[[Wide, Parameters], npt.NDArray[Any]]] = MappingProxyType(
    {
        "exp": lambda x, p: np.exp(x),
        "log": lambda x, p: np.log(x),
        "erf": lambda x, p: erf_wide(x),
        "tanh": lambda x, p: np.tanh(x),
        "sigmoid": lambda x, p: _sigmoid(x),
        "silu": lambda x, p: x * _sigmoid(x),
        "gelu": lambda x, p: 0.5 * x * (1.0 + erf_wide(x / math.sqrt(2.0))),
        "gelu_tanh": lambda x, p: _gelu_tanh(x),
        "hard_sigmoid": lambda x, p: np.clip(p[0] * x + p[1], 0.0, 1.0),
        "hard_swish": lambda x, p: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
        "elu": lambda x, p: np.where(x < 0, p[0] * np.expm1(np.minimum(x, 0.0)), x),
        "softplus": lambda x, p: np.logaddexp(0.0, x),
        "sin": lambda x, p: np.sin(x),
        "cos": lambda x, p: np.cos(x),
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
    rounded = tuple(float(np.float32(p)) for p in parameters)
    with np.errstate(all="ignore"):  # infinities and NaN are results like others
        if function in _EXACT:
            return np.asarray(_EXACT[function](np.asarray(x, np.float32), rounded), np.float32)
        return np.asarray(_WIDE[function](np.asarray(x, np.float64), rounded)).astype(np.float32)
