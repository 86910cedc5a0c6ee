"""Float32 operators once more, from docs/numerics.md section 0 rule 11 alone, for the reference of the random networks.

Nothing here comes from the package: a fault in its library is then no fault of both sides. Elements are computed one by
one with Python's ``math``, which is slow and plain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

WIDE: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "erf": math.erf,
        "exp": math.exp,
        "tanh": math.tanh,
        "gelu": lambda v: 0.5 * v * (1.0 + math.erf(v / math.sqrt(2.0))),
        "abs": abs,
        "neg": lambda v: -v,
    }
)
"""Functions of one value, in float64 with one rounding behind them."""

PAIRS: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
)
"""Functions of two values: one float32 operation each."""


def of_one(function: str, x: Array) -> Array:
    """A function of every element."""
    return np.array([WIDE[function](float(v)) for v in x.reshape(-1)], np.float32).reshape(x.shape)


def of_two(function: str, a: Array, b: Array) -> Array:
    """A function of two tensors that broadcast."""
    return PAIRS[function](a.astype(np.float32), b.astype(np.float32))


def total(values: Sequence[float]) -> float:
    """The halving tree: zeros up to a power of two, the upper half onto the lower until one is left."""
    tree = [*values]
    while len(tree) & (len(tree) - 1):
        tree.append(0.0)
    while len(tree) > 1:
        half = len(tree) // 2
        tree = [tree[i] + tree[i + half] for i in range(half)]
    return tree[0]


def _rows(x: Array, of_row: Callable[[list[float]], list[float]]) -> Array:
    rows = [of_row([float(v) for v in row]) for row in x.reshape(-1, x.shape[-1])]
    return np.array(rows, np.float32).reshape(x.shape)


def softmax(x: Array, axis: int) -> Array:
    """Exponentials of the distance to the greatest, over their sum."""

    def row(values: list[float]) -> list[float]:
        # The vector library's exponential may differ from the C library's in the last bit of float64.
        powers = np.exp(np.array(values) - max(values)).tolist()
        whole = total(powers)
        return [power / whole for power in powers]

    return np.moveaxis(_rows(np.moveaxis(x, axis, -1), row), -1, axis)


def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """Mean, then variance around it, then scale and bias, over the last axis."""

    def row(values: list[float]) -> list[float]:
        mean = total(values) / len(values)
        centred = [v - mean for v in values]
        spread = math.sqrt(total([c * c for c in centred]) / len(values) + float(np.float32(epsilon)))
        return [c / spread * float(w) + float(b) for c, w, b in zip(centred, scale, bias, strict=True)]

    return _rows(x, row)


def product(a: Array, b: Array) -> Array:
    """Matrices of float32: a float64 sum an element, k ascending."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left = np.broadcast_to(a, (*lead, *a.shape[-2:])).astype(np.float64)
    right = np.broadcast_to(b, (*lead, *b.shape[-2:])).astype(np.float64)
    found = np.zeros((*lead, a.shape[-2], b.shape[-1]), np.float64)
    for place in np.ndindex(*found.shape):
        *matrix, m, n = place
        row, column = left[(*matrix, m)].tolist(), right[(*matrix, slice(None), n)].tolist()
        found[place] = sum((u * v for u, v in zip(row, column, strict=True)), start=0.0)
    return found.astype(np.float32)


def clipped(x: Array, low: float | None, high: float | None) -> Array:
    """Between the bounds; zeros are positive."""
    least, most = (-math.inf if low is None else low), (math.inf if high is None else high)
    return np.minimum(np.maximum(x, np.float32(least)), np.float32(most)) + np.float32(0.0)


def greatest(cells: Array) -> Array:
    """The greatest of the first axis; zeros are positive."""
    return cells.max(axis=0) + np.float32(0.0)


def mean(cells: Sequence[Array], count: int) -> Array:
    """The tree's sum of the cells, over ``count``; rounded once."""
    found = [
        total([float(v) for v in column]) / count for column in np.stack(cells).reshape(len(cells), -1).T
    ]
    return np.array(found, np.float32).reshape(cells[0].shape)
