"""Sums with one order for all levels, and what is built of them (docs/numerics.md section 0, rule 11).

A float sum depends on its order. Ours is the halving tree in float64: pad with zeros to a power of
two, add the upper half to the lower until one is left.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def halving_tree_sum(x: npt.NDArray[np.float64], axis: int = -1) -> npt.NDArray[np.float64]:
    """Sum of ``x`` over ``axis`` in float64 by the halving tree; the axis is removed."""
    values = np.moveaxis(np.asarray(x, np.float64), axis, 0)
    length = values.shape[0]
    if length == 0:
        return np.zeros(values.shape[1:], np.float64)
    half = 1 << (length - 1).bit_length()
    tree = np.zeros((half, *values.shape[1:]), np.float64)
    tree[:length] = values
    while half > 1:
        half //= 2
        tree[:half] += tree[half : 2 * half]
    return tree[0]


def softmax(x: npt.NDArray[np.float32], axis: int = -1) -> npt.NDArray[np.float32]:
    """Softmax over ``axis``: exponentials, sum and quotient in float64, one rounding to float32."""
    wide = np.moveaxis(np.asarray(x, np.float64), axis, -1)
    powers = np.exp(np.ascontiguousarray(wide - wide.max(axis=-1, keepdims=True)))
    powers /= halving_tree_sum(powers)[..., np.newaxis]
    return np.ascontiguousarray(np.moveaxis(powers, -1, axis)).astype(np.float32)
