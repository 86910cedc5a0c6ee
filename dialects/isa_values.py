"""Operands of instructions: immediates, parameters, and addresses with their increments per loop."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.ir import Data
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from cimc.dialects.base import CimOperation

Value = int | str
"""An immediate, or the name of a parameter."""


def _print_value(value: Value) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _parse_value(parser: AttrParser) -> Value:
    name = parser.parse_optional_str_literal()
    return parser.parse_integer(allow_boolean=False) if name is None else name


@irdl_attr_definition
class ValueAttr(Data[Value]):
    """An immediate or a parameter: ``#isa.value<7>``, ``#isa.value<"turns">``."""

    name = "isa.value"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Value:
        with parser.in_angle_brackets():
            return _parse_value(parser)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"<{_print_value(self.data)}>")


@dataclass(frozen=True)
class Address:
    """An operand: buffer, row, column, and their increments per enclosing loop, outermost first."""

    buffer: Value
    row: Value = 0
    col: Value = 0
    row_steps: tuple[int, ...] = ()
    col_steps: tuple[int, ...] = ()


@irdl_attr_definition
class AddressAttr(Data[Address]):
    """Where an operand lies: ``#isa.at<"x"[0, 0] rows [0, 1] cols [0, 0, 64]>``.

    A buffer of -1 is no buffer: row and column are then plain numbers.
    """

    name = "isa.at"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Address:
        with parser.in_angle_brackets():
            buffer = _parse_value(parser)
            parser.parse_punctuation("[")
            row = _parse_value(parser)
            parser.parse_punctuation(",")
            col = _parse_value(parser)
            parser.parse_punctuation("]")
            steps: list[tuple[int, ...]] = []
            for keyword in ("rows", "cols"):
                found = parser.parse_optional_keyword(keyword) is not None
                square = parser.Delimiter.SQUARE
                steps.append(
                    tuple(parser.parse_comma_separated_list(square, parser.parse_integer)) if found else ()
                )
        return Address(buffer, row, col, *steps)

    def print_parameter(self, printer: Printer) -> None:
        at = self.data
        text = f"<{_print_value(at.buffer)}[{_print_value(at.row)}, {_print_value(at.col)}]"
        for keyword, steps in (("rows", at.row_steps), ("cols", at.col_steps)):
            if any(steps):
                text += f" {keyword} [{', '.join(map(str, steps))}]"
        printer.print_string(text + ">")


def value_or_none(value: Value | None) -> ValueAttr | None:
    return None if value is None else ValueAttr(value)


def address_or_none(address: Address | None) -> AddressAttr | None:
    return None if address is None else AddressAttr(address)


class IsaOperation(CimOperation):
    """One row of the instruction table."""
