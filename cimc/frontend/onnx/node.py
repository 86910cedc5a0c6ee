"""A node as converters read it: attributes by name, defaults stated, no protobuf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto


class ToHost(Exception):
    """The operator has no mapping here; the message is the constraint, with its number."""


@dataclass(frozen=True)
class Node:
    """One ONNX node. ``opset`` is the version of the standard operators the model uses."""

    index: int
    name: str
    opset: int
    proto: NodeProto
    attributes: dict[str, Any]

    @staticmethod
    def of(proto: NodeProto, index: int, name: str, opset: int) -> Node:
        """Read the attributes of ``proto``."""
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        return Node(index, name, opset, proto, attributes)

    @property
    def op_type(self) -> str:
        return self.proto.op_type

    @property
    def output(self) -> str:
        """The first output's name."""
        return self.proto.output[0]

    def input(self, position: int) -> str:
        """Name of an input; empty when it is left out."""
        return self.proto.input[position] if position < len(self.proto.input) else ""

    def output_used(self, position: int) -> bool:
        """Whether the node names its output ``position``."""
        return position < len(self.proto.output) and bool(self.proto.output[position])

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.attributes.get(name, default))

    def number(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self.attributes.get(name, default))

    def integers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """A list of integers."""
        return tuple(int(v) for v in self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)


def axis_of(axis: int, rank: int) -> int:
    """``axis`` counted from the front. Raises :class:`ToHost` when there is no such axis."""
    if not -rank <= axis < max(rank, 1):
        raise ToHost(f"axis {axis} does not exist in {rank} dimensions")
    return axis + rank if axis < 0 else axis
