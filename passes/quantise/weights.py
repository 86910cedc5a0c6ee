"""Weights and biases as integers (docs/numerics.md section 0, rules 3 and 4)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UnsupportedError
from cimc.dialects.graph import QuantType
from cimc.passes.quantise.encodings import SMALLEST_SCALE
from cimc.runtime.numerics.digital import code_dtype, code_range

_BIAS_LIMIT = (1 << 31) - 1
_BIAS_ROOM = float(1 << 30)
"""A channel's scale is raised until its bias stays below this: half of the int32 range."""


class BiasRequantisedWarning(UserWarning):
    """A quantised model's bias does not count in units of ``sx * sw``; it was quantised again."""


class BiasSaturatedWarning(UserWarning):
    """A bias did not fit 32 bits at the scale its channel has."""


@dataclass(frozen=True)
class QuantisedWeights:
    """Integer codes in the layout of the float weights, their scales, bias, and accumulator width."""

    codes: npt.NDArray[Any]
    bits: int
    scale: npt.NDArray[np.float32]
    """Shape (N,) per channel, (1,) per tensor."""
    bias: npt.NDArray[np.int64] | None
    acc_bits: int


def quantise_weights(
    weight: npt.NDArray[Any],
    channel_axis: int,
    bias: npt.NDArray[Any] | None,
    x: QuantType,
    *,
    bits: int,
    per_channel: bool,
    where: str,
) -> QuantisedWeights:
    """Symmetric codes of ``bits`` bits for ``weight`` whose output channels lie on ``channel_axis``.

    The scale is the largest magnitude of a channel over the narrow range ``2^(bits-1) - 1``, and at
    least what keeps the channel's ``bias`` within 30 bits at input scale ``x.scale``: a channel whose
    weights vanish beside its bias would otherwise lose the bias. Raises UnsupportedError naming
    ``where`` when a number is not finite.
    """
    rows = np.moveaxis(np.asarray(weight, np.float32), channel_axis, 0)
    flat = rows.reshape(rows.shape[0], -1)
    reach = np.abs(flat).max(axis=1).astype(np.float64)
    offset = np.zeros(len(reach)) if bias is None else np.abs(np.asarray(bias, np.float64))
    if not (np.isfinite(reach).all() and np.isfinite(offset).all()):
        raise UnsupportedError("a weight or bias is not a finite number; the model is damaged", where=where)
    _, top = code_range(bits, signed=True)
    scale = channel_scales(reach, offset, top, np.float64(x.scale), per_channel)
    codes = np.divide(flat, scale[:, np.newaxis])
    np.rint(codes, out=codes)
    np.clip(codes, -top, top, out=codes)
    integers = codes.astype(code_dtype(bits, signed=True))
    bias_codes = None if bias is None else quantise_bias(np.asarray(bias), x.scale, scale, where)
    return QuantisedWeights(
        np.ascontiguousarray(np.moveaxis(integers.reshape(rows.shape), 0, channel_axis)),
        bits,
        scale,
        bias_codes,
        accumulator_bits(integers, bias_codes, x),
    )


def keep_weights(
    codes: npt.NDArray[Any],
    bits: int,
    scale: npt.NDArray[np.float32],
    zero: npt.NDArray[np.int64] | None,
    channel_axis: int,
    x: QuantType,
    bias: npt.NDArray[Any] | None,
    bias_scale: npt.NDArray[np.float32] | None,
    *,
    where: str,
) -> QuantisedWeights:
    """The integers a quantised model brings, on input codes ``x``.

    ``scale`` has 1 or N entries, ``zero`` N; ``bias`` is float32, or integer where ``bias_scale`` (1 or N)
    is given (docs/numerics.md section 0 rule 4).
    """
    rows = np.moveaxis(codes, channel_axis, 0)
    centred = rows.reshape(len(rows), -1).astype(np.int64)
    if zero is not None:
        centred = centred - zero[:, np.newaxis]
    if bias is not None and bias_scale is not None:
        bias_codes = keep_bias(bias, bias_scale, x.scale, scale, where)
    else:
        bias_codes = None if bias is None else quantise_bias(bias, x.scale, scale, where)
    return QuantisedWeights(codes, bits, scale, bias_codes, accumulator_bits(centred, bias_codes, x))


def keep_bias(
    bias: npt.NDArray[Any],
    bias_scale: npt.NDArray[np.float32],
    scale_x: np.float32,
    scale_w: npt.NDArray[np.float32],
    where: str,
) -> npt.NDArray[np.int64]:
    """Rule 4 for an integer bias: as it is where its scale is within 2 ulp of ``sx * sw[n]``.

    Elsewhere it is quantised again from its real value, with a warning that says how many channels.
    """
    unit = np.broadcast_to(np.float32(scale_x) * scale_w, bias.shape)
    given = np.broadcast_to(bias_scale, bias.shape)
    near = np.abs(given.astype(np.float64) - unit.astype(np.float64)) <= 2 * np.spacing(unit).astype(
        np.float64
    )
    if near.all():
        return bias.astype(np.int64)
    first = int(np.flatnonzero(~near)[0])
    warnings.warn(
        f"{where}: the bias of {int(np.count_nonzero(~near))} of {bias.size} channels has another scale than "
        f"input times weight (channel {first}: {given[first]}, not {unit[first]}) and is quantised again",
        BiasRequantisedWarning,
        stacklevel=2,
    )
    real = bias.astype(np.float64) * given.astype(np.float64)
    return np.where(near, bias.astype(np.int64), quantise_bias(real, scale_x, scale_w, where))


def channel_scales(
    reach: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    top: int,
    scale_x: np.float64,
    per_channel: bool,
) -> npt.NDArray[np.float32]:
    """Scales for channels of largest weight ``reach`` and bias magnitude ``offset``; 1 where both are 0."""
    scale = np.maximum(reach / top, offset / (scale_x * _BIAS_ROOM))
    if not per_channel:
        scale = scale.max(keepdims=True)
    return np.where(scale == 0, 1.0, np.maximum(scale, SMALLEST_SCALE)).astype(np.float32)


def quantise_bias(
    bias: npt.NDArray[Any], scale_x: np.float32, scale_w: npt.NDArray[np.float32], where: str
) -> npt.NDArray[np.int64]:
    """Rule 4: ``rint(bias / (sx * sw[n]))`` in float64, saturated to 32 bits with a warning."""
    exact = np.rint(bias.astype(np.float64) / (np.float64(scale_x) * scale_w.astype(np.float64)))
    outside = np.flatnonzero(np.abs(exact) > _BIAS_LIMIT)
    if outside.size:
        warnings.warn(
            f"{where}: the bias of channel {outside[0]} (and {outside.size - 1} more) needs more than 32 bits "
            "and saturates; give the layer's input a larger scale",
            BiasSaturatedWarning,
            stacklevel=2,
        )
    return np.clip(exact, -_BIAS_LIMIT, _BIAS_LIMIT).astype(np.int64)


def accumulator_bits(codes: npt.NDArray[Any], bias: npt.NDArray[np.int64] | None, x: QuantType) -> int:
    """Rule 3: 32 when ``max|qx - zx| * sum_k |qw - zw| + |b| < 2^31`` for every column, otherwise 64.

    ``codes``: (N, ...), the channels first, less their zero points.
    """
    swing = max(x.qmax - x.zero_point, x.zero_point - x.qmin)
    sums = np.abs(codes.reshape(len(codes), -1).astype(np.int64, copy=False)).sum(axis=1)
    bound = swing * sums + (0 if bias is None else np.abs(bias))
    return 32 if int(bound.max()) < 1 << 31 else 64
