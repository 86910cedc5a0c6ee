"""Products of two activations (docs/numerics.md section 0, rule 11)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Real = npt.NDArray[np.float32]


def matmul_float(a: Real, b: Real) -> Real:
    """``sum_k a[..., m, k] * b[..., k, n]``: a float64 accumulator, k ascending, one rounding at the end.

    Products of float32 are exact in float64, and every output has its own sum, so the result does not
    depend on how rows are cut. Leading axes broadcast.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    total = left[..., :, 0, np.newaxis] * right[..., np.newaxis, 0, :]
    for k in range(1, left.shape[-1]):
        total += left[..., :, k, np.newaxis] * right[..., np.newaxis, k, :]
    return total.astype(np.float32)
