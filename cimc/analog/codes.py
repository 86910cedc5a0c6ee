"""Real numbers to codes and back in torch: docs/numerics.md section 0, rules 1, 2, 3 and 6.

Weights have one scale per output channel, inputs one scale and zero point per tensor. A tensor is walked in
pieces, so that no float copy of it is ever whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cimc.diagnostics import UnsupportedError
from cimc.passes.quantise.encodings import SMALLEST_SCALE, Encoding

PIECE = 1 << 16
"""Elements converted at once: 256 KiB of float32."""


@dataclass(frozen=True)
class InputEncoding:
    """``real = scale * (code - zero)`` with codes 0 … 2^bits - 1; ``scale`` is a float32 number."""

    scale: float
    zero: int
    bits: int

    @property
    def low(self) -> float:
        """Least number with a code of its own."""
        return -self.zero * self.scale

    @property
    def high(self) -> float:
        """Largest number with a code of its own."""
        return ((1 << self.bits) - 1 - self.zero) * self.scale


def input_encoding(low: float, high: float, bits: int) -> InputEncoding:
    """Asymmetric codes for ``low … high`` widened to hold 0.

    Raises :class:`ValueError` for ends that are not finite.
    """
    kind = Encoding(bits).type_of(low, high)
    return InputEncoding(float(kind.scale), kind.zero_point, bits)


def finite_range(x: Tensor, where: str) -> tuple[float, float]:
    """Least and largest value of ``x``; (0, 0) of an empty tensor.

    Raises :class:`UnsupportedError` naming ``where`` when a value is not finite.
    """
    if not x.numel():
        return 0.0, 0.0
    low, high = (float(v) for v in torch.aminmax(x))
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise UnsupportedError(
            f"an input reaches {low} … {high} and has no finite range to quantise; look for the layer that made it",
            where=where,
        )
    return low, high


def input_codes(x: Tensor, encoding: InputEncoding, where: str) -> Tensor:
    """Rule 1: ``clamp(rint(x / scale) + zero)``, of the shape of ``x``; uint8 up to 8 bits, else int32.

    Raises :class:`UnsupportedError` naming ``where`` for a NaN.
    """
    top = (1 << encoding.bits) - 1
    codes = torch.empty(x.shape, dtype=torch.uint8 if encoding.bits <= 8 else torch.int32, device=x.device)
    flat, out = x.reshape(-1), codes.view(-1)
    for start in range(0, flat.numel(), PIECE):
        value = flat[start : start + PIECE].to(torch.float32) / encoding.scale
        if value.isnan().any():
            raise UnsupportedError("an input holds NaN; look for the layer that made it", where=where)
        value.round_().clamp_(-encoding.zero, top - encoding.zero).add_(encoding.zero)
        out[start : start + PIECE] = value
    return codes


def traced_codes(x: Tensor, bits: int) -> Tensor:
    """:func:`input_codes` on ``meta``: its allocations without its values."""
    codes = torch.empty(x.shape, dtype=torch.uint8 if bits <= 8 else torch.int32, device=x.device)
    value = x.reshape(-1)[:PIECE].to(torch.float32) / 1.0
    value.isnan()
    return codes


def weight_scales(rows: Tensor, bits: int, where: str) -> Tensor:
    """float32 [n]: largest magnitude of each of ``rows`` (n, K) over 2^(bits-1) - 1; 1 where all are 0.

    Raises :class:`UnsupportedError` naming ``where`` when a weight is not finite.
    """
    reach = rows.abs().amax(dim=1).to(torch.float64)
    if not bool(torch.isfinite(reach).all()):
        raise UnsupportedError("a weight is not a finite number; the model is damaged", where=where)
    scale = (reach / ((1 << (bits - 1)) - 1)).clamp(min=SMALLEST_SCALE)
    return torch.where(reach == 0, 1.0, scale).to(torch.float32)


def weight_codes(rows: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Symmetric codes of ``rows`` (n, K) in the narrow range: int8 up to 8 bits, else int16."""
    top = (1 << (bits - 1)) - 1
    codes = (rows.to(torch.float32) / scales[:, None]).round_().clamp_(-top, top)
    return codes.to(code_type(bits))


def code_type(bits: int) -> torch.dtype:
    """Type of stored weight codes."""
    return torch.int8 if bits <= 8 else torch.int16
