"""The state of one import: values so far, constants, and the block that grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, numpy_helper
from xdsl.dialects.builtin import TensorType, f32
from xdsl.ir import Block, Operation, SSAValue

from cimc.diagnostics import CimError, UnsupportedError
from cimc.dialects.graph_types import AnyTensor, shape_of, tensor
from cimc.dialects.locations import describe, node_location
from cimc.dialects.weights import WeightStore
from cimc.frontend.onnx.node import Node, ToHost
from cimc.frontend.onnx.stored_codes import StoredCodes
from cimc.frontend.onnx.submodel import Typed
from cimc.frontend.onnx.types import element_code

MAX_ELEMENTS = 1 << 29
"""More elements in one tensor (2 GiB of float32) than calibration could compute; damaged pads ask for them."""


class Constant:
    """A tensor known at compile time, as protobuf or as array; the other form is made when asked for.

    ``codes`` are the integers behind a dequantised constant; ``array`` holds its real values.
    """

    def __init__(
        self,
        proto: TensorProto | None,
        array: npt.NDArray[Any] | None = None,
        codes: StoredCodes | None = None,
    ):
        self._proto, self._array, self.codes = proto, array, codes

    @staticmethod
    def of(array: npt.NDArray[Any]) -> Constant:
        """The constant that ``array`` holds."""
        return Constant(None, np.asarray(array))

    @staticmethod
    def coded(codes: StoredCodes) -> Constant:
        """The real constant that ``codes`` stand for."""
        return Constant(None, codes=codes)

    @property
    def array(self) -> npt.NDArray[Any]:
        if self._array is None and self.codes is not None:
            self._array = self.codes.real()
        if self._array is None:
            assert self._proto is not None, "one of both is given"
            self._array = _decoded(self._proto)
        return self._array

    @property
    def proto(self) -> TensorProto:
        if self._proto is None:
            self._proto = numpy_helper.from_array(self.array)
        return self._proto


def _decoded(proto: TensorProto) -> npt.NDArray[Any]:
    try:
        return numpy_helper.to_array(proto)
    except (ValueError, TypeError, KeyError) as error:
        raise UnsupportedError(
            f"tensor {proto.name!r} cannot be decoded: {error}; the file is damaged"
        ) from error


@dataclass
class Builder:
    """What converters write into. A tensor name is a constant or a value of the block, never both.

    Codes of a quantised model are in ``coded``; in ``values`` too once somebody reads them as plain integers.
    """

    model: ModelProto
    file: str
    store: WeightStore
    block: Block
    constants: dict[str, Constant] = field(default_factory=dict[str, Constant])
    values: dict[str, SSAValue] = field(default_factory=dict[str, SSAValue])
    coded: dict[str, SSAValue] = field(default_factory=dict[str, SSAValue])
    flags: dict[str, SSAValue] = field(default_factory=dict[str, SSAValue])
    """Booleans of run time as float32, 1 or 0; in ``values`` too once somebody reads them as booleans."""
    zero_pads: dict[str, tuple[str, tuple[int, ...]]] = field(
        default_factory=dict[str, tuple[str, tuple[int, ...]]]
    )
    """Images that are another image with a border of zeros: its name; top, left, bottom, right."""

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """The array behind ``name``; ``None`` when it is not constant."""
        found = self.constants.get(name)
        return None if found is None else found.array

    def known(self, name: str) -> SSAValue:
        """The value called ``name``, as codes where it has some. Raises :class:`ToHost` for constants."""
        found = self.coded.get(name, self.values.get(name, self.flags.get(name)))
        if found is None:
            raise ToHost("its input is a constant")
        return found

    def image_or_vector(self, name: str, what: str = "input") -> SSAValue:
        """The float32 value called ``name``. Raises :class:`ToHost` for constants and other elements."""
        if name not in self.values:
            raise ToHost(f"its {what} is {'booleans' if name in self.flags else 'a constant'}")
        value = self.values[name]
        if tensor(value).get_element_type() != f32:
            raise ToHost(f"its {what} has elements {tensor(value).get_element_type()}, the arrays take f32")
        if 0 in shape_of(value):
            raise ToHost(f"its {what} is empty")
        return value

    def float_constant(self, name: str, what: str) -> npt.NDArray[np.float32]:
        """The float32 constant called ``name``; every element finite.

        Raises :class:`ToHost` when it is not constant and ``UnsupportedError`` for NaN or infinity.
        """
        array = self.any_float_constant(name, what)
        if not array.size:
            raise UnsupportedError(
                f"{what} {name!r} of shape {array.shape} has no elements; export the model again"
            )
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise UnsupportedError(
                f"{what} {name!r} holds {bad} of {array.size} elements that are NaN or infinite; "
                "no cell can store them, so repair the checkpoint"
            )
        return array

    def any_float_constant(self, name: str, what: str) -> npt.NDArray[np.float32]:
        """The float32 constant called ``name``. Raises :class:`ToHost` when it is not one."""
        array = self.constant(name)
        if array is None:
            raise ToHost(f"its {what} is computed at run time, the arrays hold constants")
        if array.dtype != np.float32:
            raise ToHost(f"its {what} has elements {array.dtype}, the arrays take float32")
        return array

    def add(self, op: Operation, node: Node, *outputs: str) -> None:
        """Append ``op`` with the node's location; its results become the tensors ``outputs``.

        Raises ``UnsupportedError`` for results of more than :data:`MAX_ELEMENTS`.
        """
        for name, result in zip(outputs, op.results, strict=True):
            if math.prod(shape_of(result)) > MAX_ELEMENTS:
                raise UnsupportedError(
                    f"its result {name!r} would have the extents {shape_of(result)}, "
                    f"more than {MAX_ELEMENTS} elements; an attribute must be wrong"
                )
        op.location = node_location(node.name, self.file, node.index)
        self.block.add_op(op)
        for name, result in zip(outputs, op.results, strict=True):
            if name:
                self.values[name] = result
                result.name_hint = value_hint(name)

    def add_coded(self, op: Operation, node: Node, output: str) -> None:
        """Append ``op``, whose only result are the codes ``output``."""
        op.location = node_location(node.name, self.file, node.index)
        self.block.add_op(op)
        self.coded[output] = op.results[0]
        op.results[0].name_hint = value_hint(output)

    def alias(self, name: str, other: str) -> None:
        """``name`` is another name of the tensor ``other``."""
        if other in self.constants:
            self.constants[name] = self.constants[other]
        else:
            self.values[name] = self.values[other]

    def put(self, stem: str, array: npt.ArrayLike) -> str:
        """Store a weight under a fresh key that begins with ``stem``."""
        return self.store.put(self.store.fresh(stem), array)

    def typed(self, name: str) -> Typed:
        """ONNX type of the value called ``name``."""
        value = tensor(self.values[name])
        return Typed(element_code(value.get_element_type()), value.get_shape())


def value_hint(name: str) -> str | None:
    """An SSA name that resembles the tensor's; purely numeric names stay numbered by the printer."""
    text = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name).strip("_")
    return text if text and not text[0].isdigit() else None


def float_type(shape: Sequence[int]) -> AnyTensor:
    """``tensor<...xf32>``."""
    return TensorType(f32, list(shape))


def at_node(error: CimError, node: Node, file: str) -> CimError:
    """``error`` with the node's place and type in front."""
    where = describe(node_location(node.name, file, node.index))
    return type(error)(f"{node.op_type}: {error}", where=where)
