"""Types and attributes of the ``graph`` dialect: quantised elements and integer lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from xdsl.dialects.builtin import FloatData, IntAttr, IntegerType, Signedness, StringAttr, TensorType, f32
from xdsl.ir import Attribute, Data, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

_STORAGE = re.compile(r"([ui])([1-9][0-9]?)")

MIN_BITS, MAX_BITS = 2, 16
"""Widths of codes that the quantiser offers."""

AnyTensor: TypeAlias = TensorType[Any]


def _decimal(scale: np.float32) -> str:
    """The shortest decimal that parses back, through float64, to the same float32."""
    plain = 1e-4 <= scale < 1e6
    text = (
        np.format_float_positional(scale, unique=True, trim="0")
        if plain
        else np.format_float_scientific(scale, unique=True, trim="0")
    )
    # Shortest digits are shortest for a direct conversion; ours rounds twice. Seventeen digits of
    # the float64 are always exact.
    return text if np.float32(float(text)) == scale else f"{float(scale):.17e}"


def _nearest_float32(scale: float | np.float32) -> float:
    """``scale`` rounded to float32; infinite beyond its range, for the verifier to refuse."""
    with np.errstate(over="ignore"):
        return float(np.float32(scale))


@irdl_attr_definition
class QuantType(ParametrizedAttribute, TypeAttribute):
    """An integer code that stands for ``scale * (code - zero_point)``: ``!graph.quant<u8, 0.0123, 128>``.

    Storage is ``u`` or ``i`` and 2 to 16 bits; the scale is a positive, finite float32, printed so
    that it parses back to the same bits; the zero point lies in the storage's range
    (docs/numerics.md section 0).
    """

    name = "graph.quant"

    storage: StringAttr = param_def()
    step: FloatData = param_def()
    zero: IntAttr = param_def()

    @staticmethod
    def of(bits: int, signed: bool, scale: float | np.float32, zero_point: int) -> QuantType:
        """The type of ``bits``-wide codes; ``scale`` is rounded to float32."""
        kind = "i" if signed else "u"
        return QuantType(
            StringAttr(f"{kind}{bits}"), FloatData(_nearest_float32(scale)), IntAttr(int(zero_point))
        )

    @property
    def signed(self) -> bool:
        return self.storage.data[0] == "i"

    @property
    def bits(self) -> int:
        return int(self.storage.data[1:])

    @property
    def scale(self) -> np.float32:
        return np.float32(self.step.data)

    @property
    def zero_point(self) -> int:
        return self.zero.data

    @property
    def qmin(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest numpy integer type that holds the codes."""
        width = 8 if self.bits <= 8 else 16
        return np.dtype(f"{'' if self.signed else 'u'}int{width}")

    @property
    def stored_as(self) -> IntegerType | None:
        """The plain integers of the same storage, signed ones signless; ``None`` where no machine has such words."""
        if self.bits not in (8, 16):
            return None
        return IntegerType(self.bits, Signedness.SIGNLESS if self.signed else Signedness.UNSIGNED)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            storage = parser.parse_identifier()
            if not _STORAGE.fullmatch(storage):
                parser.raise_error(
                    f"codes are stored as u or i and {MIN_BITS} to {MAX_BITS} bits, not {storage}"
                )
            parser.parse_punctuation(",")
            scale = _nearest_float32(parser.parse_number())
            parser.parse_punctuation(",")
            zero = parser.parse_integer(allow_boolean=False)
        return StringAttr(storage), FloatData(scale), IntAttr(zero)

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(f"{self.storage.data}, {_decimal(self.scale)}, {self.zero.data}")

    def verify(self) -> None:
        if not _STORAGE.fullmatch(self.storage.data):
            raise VerifyException(f"codes are stored as u or i and a width, not {self.storage.data!r}")
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise VerifyException(f"codes have {MIN_BITS} to {MAX_BITS} bits, not {self.bits}")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise VerifyException(f"a scale is positive and finite, not {self.step.data}")
        if not self.qmin <= self.zero_point <= self.qmax:
            raise VerifyException(
                f"zero point {self.zero_point} is outside {self.qmin} .. {self.qmax} of {self.storage.data}"
            )


@irdl_attr_definition
class IntsAttr(Data[tuple[int, ...]]):
    """A short list of integers, as strides and pads are: ``#graph.ints<3, 3>``."""

    name = "graph.ints"

    @staticmethod
    def of(values: Sequence[int]) -> IntsAttr:
        """The list of ``values``."""
        return IntsAttr(tuple(int(v) for v in values))

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[int, ...]:
        return tuple(parser.parse_comma_separated_list(parser.Delimiter.ANGLE, parser.parse_integer))

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"<{', '.join(map(str, self.data))}>")


def tensor(value: SSAValue) -> AnyTensor:
    """The tensor type of ``value``. Raises ``VerifyException`` for anything else."""
    if not isinstance(value.type, TensorType):
        raise VerifyException(f"expected a tensor, got {value.type}")
    return value.type


def shape_of(value: SSAValue) -> tuple[int, ...]:
    """Extents of a tensor value."""
    return tensor(value).get_shape()


def quant_of(value: SSAValue) -> QuantType | None:
    """The quantised element type of a tensor value; ``None`` for plain elements."""
    element = tensor(value).get_element_type()
    return element if isinstance(element, QuantType) else None


def is_float(value: SSAValue) -> bool:
    """Whether ``value`` is a tensor of float32."""
    return tensor(value).get_element_type() == f32


def check_storage_cast(given: SSAValue, result: SSAValue) -> None:
    """Raises ``VerifyException`` unless one side holds codes and the other, of the same shape, the integers of their
    storage."""
    if shape_of(given) != shape_of(result):
        raise VerifyException(f"keeps the shape, got {shape_of(given)} to {shape_of(result)}")
    codes = [found for value in (given, result) if (found := quant_of(value)) is not None]
    elements = [tensor(value).get_element_type() for value in (given, result)]
    if len(codes) != 1 or codes[0].stored_as not in elements:
        raise VerifyException(
            f"one side holds codes, the other integers of their storage, got {given.type} to {result.type}"
        )


def retyped(type: AnyTensor, element: Attribute) -> AnyTensor:
    """The same extents with another element type."""
    return TensorType(element, type.get_shape())
