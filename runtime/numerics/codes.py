"""Codes and real numbers, ``real = scale * (code - zero_point)``: docs/numerics.md section 0.

Every function takes arrays of any shape and works element by element, so that a tensor cut into
rows gives the bits of the whole tensor. Float operations are float32 with one rounding each, in
the order written, never contracted: numpy keeps each intermediate, so no fused multiply-add can arise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UnsupportedError
from cimc.runtime.numerics.blocks import row_blocks

CodeDType = type[np.signedinteger[Any]] | type[np.unsignedinteger[Any]]


def code_range(bits: int, signed: bool) -> tuple[int, int]:
    """Least and greatest code of ``bits`` bits (2 … 16): ``(-128, 127)`` or ``(0, 255)`` at 8."""
    _check_bits(bits)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def code_dtype(bits: int, signed: bool) -> CodeDType:
    """The narrowest numpy type that holds codes of ``bits`` bits (2 … 16)."""
    _check_bits(bits)
    if bits <= 8:
        return np.int8 if signed else np.uint8
    return np.int16 if signed else np.uint16


def _check_bits(bits: int) -> None:
    if not 2 <= bits <= 16:
        raise UnsupportedError(f"codes have 2 to 16 bits, not {bits}; choose a width in that range")


def quantise(
    x: npt.NDArray[np.float32],
    scale: np.float32,
    zero_point: int,
    lo: int,
    hi: int,
    *,
    dtype: npt.DTypeLike = np.int32,
    tensor: str = "",
) -> npt.NDArray[Any]:
    """Rule 1: ``clamp(rint(x / scale) + zero_point, lo, hi)``, a division and ties to even.

    ``x``: float32 of any shape; the result has its shape and ``dtype``. Infinities saturate.
    Raises UnsupportedError naming ``tensor`` when ``x`` holds a NaN.
    """
    flat = np.ascontiguousarray(x, dtype=np.float32).reshape(-1)
    out = np.empty(flat.shape, dtype)
    for block in row_blocks(flat.size, 1):
        with np.errstate(over="ignore"):  # an infinite quotient saturates, as it must
            value = flat[block] / np.float32(scale)
        if np.isnan(value).any():
            raise UnsupportedError(
                "a value is not a number (NaN) and cannot be quantised; look for the operator that made it",
                where=tensor or "quantise",
            )
        round_to_codes(value, zero_point, lo, hi, out[block])
    return out.reshape(x.shape)


def round_to_codes(
    value: npt.NDArray[np.float32], zero_point: int, lo: int, hi: int, out: npt.NDArray[Any]
) -> None:
    """``out = clamp(rint(value) + zero_point, lo, hi)``; ``value`` is overwritten.

    The clamp stands before the zero point is added: there every number is below 2^24, so float32
    adds it exactly, which it would not for a value far out of range.
    """
    np.rint(value, out=value)
    np.clip(value, np.float32(lo - zero_point), np.float32(hi - zero_point), out=value)
    value += np.float32(zero_point)
    np.copyto(out, value, casting="unsafe")


def dequantise(codes: npt.NDArray[Any], scale: np.float32, zero_point: int) -> npt.NDArray[np.float32]:
    """Rule 2: ``f32(code - zero_point) * scale``. Codes of at most 16 bits, so the difference is exact."""
    value = codes.astype(np.float32)
    value -= np.float32(zero_point)
    value *= np.float32(scale)
    return value


def requantise_codes(
    codes: npt.NDArray[Any],
    scale: np.float32,
    zero_point: int,
    new_scale: np.float32,
    new_zero_point: int,
    lo: int,
    hi: int,
    *,
    dtype: npt.DTypeLike = np.int32,
) -> npt.NDArray[Any]:
    """Codes of one (scale, zero point) in another: rule 2, then rule 1. Keeps the shape."""
    flat = np.ascontiguousarray(codes).reshape(-1)
    out = np.empty(flat.shape, dtype)
    for block in row_blocks(flat.size, 1):
        value = dequantise(flat[block], scale, zero_point)
        value /= np.float32(new_scale)
        round_to_codes(value, new_zero_point, lo, hi, out[block])
    return out.reshape(codes.shape)


def product_scale(scale_x: np.float32, scale_w: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``sx * sw[n]`` in float32: the scale of an accumulator, one per output channel."""
    return np.float32(scale_x) * np.asarray(scale_w, np.float32)


def requantise_multiplier(
    scale_x: np.float32, scale_w: npt.NDArray[np.float32], scale_y: np.float32
) -> npt.NDArray[np.float32]:
    """Rule 5's ``m[n] = (sx * sw[n]) / sy``: two float32 operations in this order."""
    return product_scale(scale_x, scale_w) / np.float32(scale_y)


def requantise_acc(
    acc: npt.NDArray[Any],
    m: npt.NDArray[np.float32],
    zero_point: int,
    lo: int,
    hi: int,
    *,
    dtype: npt.DTypeLike = np.int32,
) -> npt.NDArray[Any]:
    """Rule 5: ``clamp(rint(f32(acc) * m[n]) + zero_point, lo, hi)``.

    ``acc``: shape (..., N), integers in an integer type or held exactly in float64; ``m``: float32
    of shape (N,) or (1,). The result has the shape of ``acc`` and ``dtype``.
    """
    factor = np.asarray(m, np.float32)
    rows = np.ascontiguousarray(acc).reshape(-1, acc.shape[-1])
    out = np.empty(rows.shape, dtype)
    for block in row_blocks(*rows.shape):
        value = rows[block].astype(np.float32)
        value *= factor
        round_to_codes(value, zero_point, lo, hi, out[block])
    return out.reshape(acc.shape)


def acc_to_float(acc: npt.NDArray[Any], scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rule 6: ``f32(acc) * (sx * sw[n])``; ``acc`` (..., N), ``scale`` of :func:`product_scale`."""
    value = acc.astype(np.float32)
    value *= np.asarray(scale, np.float32)
    return value
