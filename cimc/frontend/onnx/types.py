"""Element types and shapes: between ONNX, numpy and the IR."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from onnx import TensorProto, TypeProto
from xdsl.dialects.builtin import IntegerType, Signedness, TensorType, bf16, f16, f32, f64, i1
from xdsl.ir import Attribute

from cimc.dialects.graph_types import AnyTensor


def _unsigned(width: int) -> IntegerType:
    return IntegerType(width, Signedness.UNSIGNED)


ELEMENTS: Mapping[int, Attribute] = MappingProxyType(
    {
        TensorProto.FLOAT: f32,
        TensorProto.DOUBLE: f64,
        TensorProto.FLOAT16: f16,
        TensorProto.BFLOAT16: bf16,
        TensorProto.BOOL: i1,
        TensorProto.INT8: IntegerType(8),
        TensorProto.INT16: IntegerType(16),
        TensorProto.INT32: IntegerType(32),
        TensorProto.INT64: IntegerType(64),
        TensorProto.UINT8: _unsigned(8),
        TensorProto.UINT16: _unsigned(16),
        TensorProto.UINT32: _unsigned(32),
        TensorProto.UINT64: _unsigned(64),
    }
)
"""ONNX element type to IR element type; signed integers are signless in the IR, as in MLIR."""


def element_name(code: int) -> str:
    """``FLOAT``, ``STRING`` ...: how ONNX calls an element type."""
    return TensorProto.DataType.Name(code) if code in TensorProto.DataType.values() else f"type {code}"


def element_code(element: Attribute) -> int:
    """The ONNX element type of an IR element type. Raises ``ValueError`` for codes."""
    for code, known in ELEMENTS.items():
        if known == element:
            return code
    raise ValueError(f"{element} has no ONNX element type")


def static_shape(proto: TypeProto) -> tuple[int, ...] | None:
    """Extents when all are known and not negative, otherwise ``None``."""
    if not proto.tensor_type.HasField("shape"):
        return None
    dims = proto.tensor_type.shape.dim
    if not all(d.HasField("dim_value") and d.dim_value >= 0 for d in dims):
        return None
    return tuple(d.dim_value for d in dims)


def tensor_type(code: int, shape: tuple[int, ...]) -> AnyTensor:
    """The IR type of an ONNX element type and extents. Raises ``KeyError`` for other elements."""
    return TensorType(ELEMENTS[code], shape)
