"""A node as converters read it: attributes by name, defaults stated, no protobuf."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto


class ToHost(Exception):
    """The operator has no mapping here; the message is the constraint, with its number."""


@dataclass(frozen=True)
class Node:
    """One ONNX node. ``opset`` is the version of the standard operators the model uses.

    ``outputs`` has an entry for every output, empty where nobody reads it. The node itself keeps all
    its names: onnxruntime 1.31 crashes on a Split with an output left out (*measured* 2026-11-21).
    """

    index: int
    name: str
    opset: int
    proto: NodeProto
    attributes: dict[str, Any]
    outputs: tuple[str, ...]

    @staticmethod
    def of(proto: NodeProto, index: int, name: str, opset: int, used: Collection[str]) -> Node:
        """Read ``proto``; ``used`` are the names somebody reads."""
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        outputs = tuple(output if output in used else "" for output in proto.output)
        return Node(index, name, opset, proto, attributes, outputs)

    @property
    def op_type(self) -> str:
        return self.proto.op_type

    @property
    def output(self) -> str:
        """The first output's name."""
        return self.proto.output[0]

    @property
    def results(self) -> tuple[str, ...]:
        """The outputs that somebody reads."""
        return tuple(name for name in self.outputs if name)

    def input(self, position: int) -> str:
        """Name of an input; empty when it is left out."""
        return self.proto.input[position] if position < len(self.proto.input) else ""

    def output_used(self, position: int) -> bool:
        """Whether somebody reads the output ``position``."""
        return position < len(self.outputs) and bool(self.outputs[position])

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
