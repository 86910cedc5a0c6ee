"""Element-wise operators of the digital unit (docs/numerics.md section 0, rules 8, 10 and 11).

Float32 operators are one rounding each. Relu and Clip never return a negative zero: which of -0
and +0 a maximum picks depends on the vector width of the CPU, and a level must not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.numerics.blocks import row_blocks
from cimc.runtime.numerics.codes import dequantise, round_to_codes


def add_codes(
    a: npt.NDArray[Any],
    scale_a: np.float32,
    zero_a: int,
    b: npt.NDArray[Any],
    scale_b: np.float32,
    zero_b: int,
    scale_y: np.float32,
    zero_y: int,
    lo: int,
    hi: int,
    *,
    dtype: npt.DTypeLike = np.int32,
) -> npt.NDArray[Any]:
    """Rule 10: ``clamp(rint(((a-za)*sa + (b-zb)*sb) / sy) + zy, lo, hi)``; equal shapes, codes of <= 16 bits.

    Raises ValueError when the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"add_codes takes equal shapes, not {a.shape} and {b.shape}")
    flat_a = np.ascontiguousarray(a).reshape(-1)
    flat_b = np.ascontiguousarray(b).reshape(-1)
    out = np.empty(flat_a.shape, dtype)
    for block in row_blocks(flat_a.size, 1):
        value = dequantise(flat_a[block], scale_a, zero_a)
        value += dequantise(flat_b[block], scale_b, zero_b)
        value /= np.float32(scale_y)
        round_to_codes(value, zero_y, lo, hi, out[block])
    return out.reshape(a.shape)


def add_float(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Float32 sum, one rounding; shapes broadcast."""
    return np.add(a, b, dtype=np.float32)


def clip_codes(codes: npt.NDArray[Any], lo: int, hi: int) -> npt.NDArray[Any]:
    """Rule 8's Relu and Clip on codes: ``lo = Q(a)``, ``hi = Q(b)``; keeps the type."""
    return np.clip(codes, lo, hi).astype(codes.dtype, copy=False)


def relu_float(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``max(x, 0)``; NaN stays NaN, the result holds no negative zero."""
    return clip_float(x, 0.0, None)


def clip_float(
    x: npt.NDArray[np.float32], minimum: float | None, maximum: float | None
) -> npt.NDArray[np.float32]:
    """ONNX Clip: ``min(max(x, minimum), maximum)``, either bound absent; bounds are rounded to float32."""
    out = np.array(x, np.float32)
    if minimum is not None:
        np.maximum(out, np.float32(minimum), out=out)
    if maximum is not None:
        np.minimum(out, np.float32(maximum), out=out)
    out += np.float32(0.0)  # -0 + 0 = +0, anything else stays
    return out
