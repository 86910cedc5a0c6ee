"""Attributes and types of the ``cim`` dialect: digital functions, windows, codings, programmed arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Attribute, Data, ParametrizedAttribute, SpacedOpaqueSyntaxAttribute, TypeAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from cimc.dialects.graph_types import IntsAttr


class Function(StrEnum):
    """Digital functions of a tail; the types of operands and result give scales and zero points."""

    ADD = "add"
    CLAMP = "clamp"
    QUANTISE = "quantise"
    DEQUANTISE = "dequantise"
    REQUANTISE = "requantise"
    MAX_POOL = "max_pool"
    AVERAGE_POOL = "average_pool"
    GLOBAL_AVERAGE_POOL = "global_average_pool"
    SOFTMAX = "softmax"

    @property
    def windowed(self) -> bool:
        """Whether an output needs more of its input than its own position."""
        return self in (Function.MAX_POOL, Function.AVERAGE_POOL, Function.GLOBAL_AVERAGE_POOL)


@irdl_attr_definition
class FunctionAttr(EnumAttribute[Function], SpacedOpaqueSyntaxAttribute):
    name = "cim.function"


@irdl_attr_definition
class WindowAttr(ParametrizedAttribute):
    """A sliding window over rows: ``#cim.window<3 3 stride 2 2 pad 1 1 1 1 dilation 1 1>``.

    Pads are top, left, bottom, right.
    """

    name = "cim.window"

    extents: IntsAttr = param_def()
    """kh, kw, stride_h, stride_w, top, left, bottom, right, dilation_h, dilation_w."""

    @staticmethod
    def of(
        kernel: Sequence[int],
        strides: Sequence[int] = (1, 1),
        pads: Sequence[int] = (0, 0, 0, 0),
        dilations: Sequence[int] = (1, 1),
    ) -> WindowAttr:
        """A window from ONNX-style lists (pads in ONNX order: begins, then ends)."""
        return WindowAttr(IntsAttr.of([*kernel, *strides, *pads, *dilations]))

    @property
    def kernel(self) -> tuple[int, int]:
        return self.extents.data[0], self.extents.data[1]

    @property
    def strides(self) -> tuple[int, int]:
        return self.extents.data[2], self.extents.data[3]

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right."""
        return self.extents.data[4], self.extents.data[5], self.extents.data[6], self.extents.data[7]

    @property
    def dilations(self) -> tuple[int, int]:
        return self.extents.data[8], self.extents.data[9]

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Output rows and columns over an input of ``height`` x ``width``."""
        (kh, kw), (sh, sw), (top, left, bottom, right), (dh, dw) = (
            self.kernel,
            self.strides,
            self.pads,
            self.dilations,
        )
        rows = (height + top + bottom - (kh - 1) * dh - 1) // sh + 1
        return rows, (width + left + right - (kw - 1) * dw - 1) // sw + 1

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            values = [parser.parse_integer() for _ in range(2)]
            for keyword, count in (("stride", 2), ("pad", 4), ("dilation", 2)):
                parser.parse_keyword(keyword)
                values += [parser.parse_integer() for _ in range(count)]
        return [IntsAttr.of(values)]

    def print_parameters(self, printer: Printer) -> None:
        d = self.extents.data
        with printer.in_angle_brackets():
            printer.print_string(
                f"{d[0]} {d[1]} stride {d[2]} {d[3]} pad {d[4]} {d[5]} {d[6]} {d[7]} dilation {d[8]} {d[9]}"
            )

    def verify(self) -> None:
        d = self.extents.data
        if len(d) != 10 or min(*d[:4], *d[8:]) < 1 or min(d[4:8]) < 0:
            raise VerifyException(f"a window has positive kernel, strides, dilations and pads >= 0, got {d}")


@dataclass(frozen=True)
class Diagonal:
    """The blocks of a weight matrix that a grouped convolution uses, side by side in its columns.

    Block b holds ``groups`` groups: it sees the source channels [b * channels, (b + 1) * channels) and makes the
    columns [b * columns, (b + 1) * columns). A matrix without groups is one block.
    """

    channels: int
    columns: int
    groups: int = 1

    def of_column(self, column: int) -> int:
        """The block that makes ``column``."""
        return column // self.columns

    def channel_range(self, column: int) -> tuple[int, int]:
        """The source channels [first, last) that the block of ``column`` sees."""
        first = self.of_column(column) * self.channels
        return first, first + self.channels


@irdl_attr_definition
class CodingAttr(Data[tuple[tuple[str, int | str], ...]]):
    """The digits of a crossbar product, by the field names of ``runtime.crossbar.Coding``.

    ``#cim.coding<weight_bits 8, weight_encoding offset, cell_bits 2, ...>``: which values are legal is
    docs/crossbar.md's; the dialect only carries them.
    """

    name = "cim.coding"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[tuple[str, int | str], ...]:
        def field() -> tuple[str, int | str]:
            key = parser.parse_identifier()
            number = parser.parse_optional_integer(allow_boolean=False)
            return key, parser.parse_identifier() if number is None else number

        return tuple(parser.parse_comma_separated_list(parser.Delimiter.ANGLE, field))

    def print_parameter(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(", ".join(f"{key} {value}" for key, value in self.data))

    @property
    def fields(self) -> dict[str, int | str]:
        """The coding as keyword arguments."""
        return dict(self.data)


@irdl_attr_definition
class ArraysType(ParametrizedAttribute, TypeAttribute):
    """Programmed arrays that hold a K x N weight matrix: ``!cim.arrays<576x64>``."""

    name = "cim.arrays"

    shape: IntsAttr = param_def()

    @staticmethod
    def of(rows: int, columns: int) -> ArraysType:
        """The type of arrays with ``rows`` (K) by ``columns`` (N) weights."""
        return ArraysType(IntsAttr.of([rows, columns]))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            return [IntsAttr.of(parser.parse_dimension_list())]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string("x".join(map(str, self.shape.data)))

    def verify(self) -> None:
        if len(self.shape.data) != 2 or min(self.shape.data) < 1:
            raise VerifyException(f"arrays hold a K x N matrix, got {self.shape.data}")
