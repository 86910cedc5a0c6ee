"""Scales and zero points of a quantised model, checked: bad numbers are errors, dynamic ones go to the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from cimc.diagnostics import UnsupportedError
from cimc.dialects.graph import QuantType
from cimc.dialects.graph_types import MAX_BITS
from cimc.frontend.onnx.builder import Builder
from cimc.frontend.onnx.node import Node, ToHost
from cimc.frontend.onnx.stored_codes import Storage, StoredCodes, storage_of


@dataclass(frozen=True)
class Parameters:
    """Scale and zero point, one entry or one per entry along an axis; storage where the zero point tells."""

    scale: npt.NDArray[np.float32]
    zero: npt.NDArray[np.int64]
    storage: Storage | None

    @property
    def per_tensor(self) -> bool:
        return self.scale.size == 1

    def quant_type(self, storage: Storage) -> QuantType:
        """The type of an edge. Raises :class:`ToHost` for one scale per channel."""
        if not self.per_tensor:
            raise ToHost(f"{self.scale.size} scales along an axis; an edge between operators has one")
        return QuantType.of(storage.bits, storage.signed, self.scale[0], int(self.zero[0]))


def parameters(build: Builder, scale_name: str, zero_name: str) -> Parameters:
    """The constants ``scale_name`` and ``zero_name`` (empty: zero).

    Raises :class:`ToHost` when one is computed at run time or is not float32 and integer, and
    ``UnsupportedError`` for scales that are not positive and finite and for parameters of unequal shape.
    """
    scale = build.constant(scale_name)
    if scale is None:
        raise ToHost("its scale is computed at run time")
    if scale.dtype != np.float32:
        raise ToHost(f"its scale has elements {scale.dtype}, codes have float32 scales")
    bad = scale[~(np.isfinite(scale) & (scale > 0))]
    if bad.size:
        raise UnsupportedError(f"scale {scale_name!r} holds {bad.flat[0]}; a scale is positive and finite")
    if scale.ndim > 1:
        raise ToHost(f"its scales of shape {scale.shape} are per block")
    flat = scale.reshape(-1)
    if not zero_name:
        return Parameters(flat, np.zeros(flat.shape, np.int64), None)
    zero = build.constant(zero_name)
    if zero is None:
        raise ToHost("its zero point is computed at run time")
    storage = storage_of(zero.dtype)
    if storage is None:
        raise ToHost(f"its codes have elements {zero.dtype}, the arrays take integers")
    if zero.size != flat.size:
        raise UnsupportedError(
            f"zero point {zero_name!r} has {zero.size} entries, its scale {scale_name!r} has {flat.size}"
        )
    return Parameters(flat, zero.reshape(-1).astype(np.int64), storage)


def activation_type(found: Parameters, storage: Storage | None) -> QuantType:
    """The type of an edge whose codes are stored as ``storage``, where that is known from elsewhere.

    Raises ``UnsupportedError`` when the zero point is of another type.
    """
    agreed = agreed_storage(found, storage)
    if agreed.bits > MAX_BITS:
        raise ToHost(f"its codes are {agreed}; edges have at most {MAX_BITS} bits")
    return found.quant_type(agreed)


def agreed_storage(found: Parameters, storage: Storage | None) -> Storage:
    """The storage that codes and zero point agree on; without either it is uint8, as ONNX says."""
    if found.storage is not None and storage is not None and found.storage != storage:
        raise UnsupportedError(f"the codes are {storage}, but their zero point is {found.storage}")
    return storage or found.storage or Storage(8, False)


def axis_for(found: Parameters, axis: int, shape: tuple[int, ...]) -> int | None:
    """The axis the parameters run along, counted from the front; ``None`` for one entry.

    Raises ``UnsupportedError`` for an axis the tensor does not have, or of another extent.
    """
    if found.per_tensor:
        return None
    if not -len(shape) <= axis < len(shape):
        raise UnsupportedError(f"axis {axis} does not exist in {len(shape)} dimensions")
    axis %= len(shape)
    if shape[axis] != found.scale.size:
        raise UnsupportedError(
            f"{found.scale.size} scales for {shape[axis]} entries along axis {axis} of {shape}"
        )
    return axis


def stored_codes(build: Builder, name: str, scale_name: str, zero_name: str, axis: int) -> StoredCodes:
    """The constant integers ``name`` under constant parameters. Raises as :func:`parameters` does."""
    codes = build.constant(name)
    if codes is None:
        raise ToHost("its weight is computed at run time, the arrays hold constants")
    storage = storage_of(codes.dtype)
    if storage is None:
        raise ToHost(f"its codes have elements {codes.dtype}, the arrays take integers")
    found = parameters(build, scale_name, zero_name)
    agreed_storage(found, storage)
    width = max(8, storage.bits)
    plain = codes.astype(f"{'' if storage.signed else 'u'}int{width}")
    return StoredCodes(plain, storage, found.scale, found.zero, axis_for(found, axis, codes.shape))


def output_storage(node: Node) -> Storage | None:
    """What QuantizeLinear's attribute ``output_dtype`` asks for; ``None`` without it."""
    code = node.integer("output_dtype", 0)
    if code == TensorProto.UNDEFINED:
        return None
    storage = storage_of(helper.tensor_dtype_to_np_dtype(code))
    if storage is None:
        raise ToHost(f"its codes are {TensorProto.DataType.Name(code)}, the arrays take integers")
    return storage


def check_precision(node: Node) -> None:
    """Opset 25's ``precision``: the type of the division. Raises :class:`ToHost` unless it is float32."""
    code = node.integer("precision", TensorProto.UNDEFINED)
    if code not in (TensorProto.UNDEFINED, TensorProto.FLOAT):
        raise ToHost(f"it divides in {TensorProto.DataType.Name(code)}, codes are made in float32")


def codes_like(values: npt.NDArray[np.float32], found: Parameters, storage: Storage, axis: int | None) -> Any:
    """``values`` as integers of ``storage``, by docs/numerics.md section 0 rule 1."""
    shape = [-1 if a == axis else 1 for a in range(values.ndim)] if axis is not None else []
    scale, zero = found.scale.reshape(shape), found.zero.reshape(shape)
    with np.errstate(over="ignore"):
        steps = np.rint(values / scale).astype(np.float64) + zero
    codes = np.clip(steps, storage.least, storage.most)
    kind = TensorProto.DataType.Value(str(storage).upper())
    return codes.astype(np.int64).astype(helper.tensor_dtype_to_np_dtype(kind))
