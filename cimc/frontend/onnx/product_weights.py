"""Weights and bias of a product on their way into the store: float32, or the model's own integers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cimc.dialects.graph import ProductCodes
from cimc.dialects.graph_types import MAX_BITS
from cimc.dialects.locations import describe, node_location
from cimc.frontend.onnx.builder import Builder
from cimc.frontend.onnx.node import Node
from cimc.frontend.onnx.stored_codes import StoredCodes

_BIAS_BITS = 32


class RequantisedWeightWarning(UserWarning):
    """A quantised model's integers cannot be kept: the weights are quantised again from their real values."""


@dataclass(frozen=True)
class StoredProduct:
    """Keys of the store, as ``graph.conv`` and ``graph.gemm`` take them."""

    weight: str
    bias: str | None
    codes: ProductCodes | None


def store_product(
    build: Builder,
    node: Node,
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    channel_axis: int,
    *,
    weight_codes: StoredCodes | None = None,
    bias_codes: StoredCodes | None = None,
) -> StoredProduct:
    """Put the weights into the store, as integers where ``weight_codes`` can be kept.

    They can when they have 2 to 16 bits and one scale, or one per output channel (``channel_axis``).
    Unsigned codes are stored lowered by half their range, with their zero point, which changes no value.
    """
    weight_key, bias_key = f"{node.name}.weight", f"{node.name}.bias"
    columns = weight.shape[channel_axis]
    if weight_codes is not None and not _can_be_kept(weight_codes, channel_axis):
        warnings.warn(
            f"{describe(node_location(node.name, build.file, node.index))}: its weights are {weight_codes.storage} "
            f"with {weight_codes.scale.size} scales along axis {weight_codes.axis}; the arrays take 2 to {MAX_BITS} "
            "bits with one scale or one per output channel, so they are quantised again from their real values",
            RequantisedWeightWarning,
            stacklevel=2,
        )
        weight_codes = None
    if weight_codes is None:
        return StoredProduct(
            build.put(weight_key, weight), None if bias is None else build.put(bias_key, bias), None
        )
    signed = weight_codes.as_signed()
    zero = np.broadcast_to(signed.zero, (columns,)) if signed.zero.any() else None
    bias_parts = _bias(build, bias_key, bias, bias_codes, columns)
    codes = ProductCodes(
        signed.storage.bits,
        build.put(f"{node.name}.weight_scale", signed.scale),
        weight_zero=None if zero is None else build.put(f"{node.name}.weight_zero", zero),
        bias_scale=bias_parts[1],
    )
    return StoredProduct(build.put(weight_key, signed.codes), bias_parts[0], codes)


def _can_be_kept(codes: StoredCodes, channel_axis: int) -> bool:
    return codes.storage.bits <= MAX_BITS and codes.axis in (None, channel_axis)


def _bias(
    build: Builder,
    key: str,
    bias: npt.NDArray[np.float32] | None,
    codes: StoredCodes | None,
    columns: int,
) -> tuple[str | None, str | None]:
    """Keys of the bias and of its scale, which a float bias does not have."""
    if bias is None:
        return None, None
    if codes is None or codes.codes.size != columns or codes.storage.bits > _BIAS_BITS:
        return build.put(key, bias), None
    integers = codes.codes.reshape(-1).astype(np.int64) - codes.zero
    return build.put(key, integers), build.put(f"{key}_scale", codes.scale)


def codes_of(build: Builder, name: str) -> StoredCodes | None:
    """The integers behind the constant ``name``, if the model stores it so."""
    found = build.constants.get(name)
    return None if found is None else found.codes


def swapped(codes: StoredCodes | None) -> StoredCodes | None:
    """The codes of a transposed matrix."""
    return None if codes is None or codes.codes.ndim != 2 else codes.transposed((1, 0))


def times(codes: StoredCodes | None, factor: np.float32) -> StoredCodes | None:
    """The codes of a tensor times a positive number: its scales times the number."""
    if codes is None or factor <= 0:
        return None
    return replace(codes, scale=codes.scale * factor)


def as_matrix(codes: StoredCodes | None, shape: tuple[int, ...]) -> StoredCodes | None:
    """The codes of a stack of one matrix, without the leading extents of 1."""
    if codes is None or codes.codes.ndim == len(shape):
        return codes
    lost = codes.codes.ndim - len(shape)
    axis = None if codes.axis is None else codes.axis - lost
    if axis is not None and axis < 0:
        return None
    return replace(codes, codes=codes.codes.reshape(shape), axis=axis)
