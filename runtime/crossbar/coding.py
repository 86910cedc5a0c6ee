"""How codes become digits: one frozen record per operator (docs/crossbar.md, steps 1, 2 and 6).

A crossbar product sees neither weights nor activations but digits of them. :class:`Coding` holds every number
that fixes those digits and the converter's codes; two engines with equal codings, cells and steps agree.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import CimError, UsageError, raise_all

WeightEncoding = Literal["offset", "differential", "twos_complement"]
InputEncoding = Literal["offset", "sign_magnitude", "twos_complement"]
Subtract = Literal["analog", "digital"]
InputSource = Literal["value", "positive", "negative"]

WEIGHT_ENCODINGS: tuple[WeightEncoding, ...] = ("offset", "differential", "twos_complement")
INPUT_ENCODINGS: tuple[InputEncoding, ...] = ("offset", "sign_magnitude", "twos_complement")
SUBTRACT: tuple[Subtract, ...] = ("analog", "digital")

MAX_BITS = 16
"""Widest operand, DAC and converter. The fast evaluation's float64 sums are exact up to this width."""
MAX_CELL_BITS = 8
"""Cells are stored as bytes."""
MAX_PARALLEL_ROWS = 1 << 16
MAX_FRAC_BITS = 8
"""Largest F of a converter step h * 2^-F (docs/crossbar.md, step 6)."""


@dataclass(frozen=True)
class Plane:
    """One cell of a weight: bits [shift, shift + bits) of a ``polarity``, worth ``coefficient`` a level.

    ``polarity`` is 1 except for the cells that hold max(-w, 0). ``coefficient`` has the sign of the plane's
    contribution: negative for the sign bit of two's complement and for the negative polarity.
    """

    coefficient: int
    polarity: Literal[1, -1]
    shift: int
    bits: int

    @property
    def top(self) -> int:
        """Largest digit, ``levels - 1`` of column flip: a digit narrower than the cell has fewer levels."""
        return (1 << self.bits) - 1


@dataclass(frozen=True)
class Phase:
    """One input digit: bits [shift, shift + bits) of ``source``, worth ``coefficient`` a unit."""

    coefficient: int
    source: InputSource
    shift: int
    bits: int

    @property
    def top(self) -> int:
        """Largest digit the DAC drives in this phase."""
        return (1 << self.bits) - 1


def _cut(bits: int, width: int) -> list[tuple[int, int]]:
    """(shift, bits) of the digits of a code, least significant first; the last may be narrower."""
    return [(shift, min(width, bits - shift)) for shift in range(0, bits, width)]


def converter_range(bits: int, signed: bool) -> tuple[int, int, int]:
    """(lo, hi, zero) of a converter of ``bits``: 0 … 2^bits - 1, or two's complement around zero."""
    if signed:
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1, 0
    return 0, (1 << bits) - 1, 0


@dataclass(frozen=True)
class Coding:
    """Everything that fixes the digits of one operator on one machine.

    ``input_min`` is qmin of the activation codes. ``max_abs_weight`` is the largest |w| a ``differential``
    operator holds (0: any weight of ``weight_bits``), since -128 needs a bit more than -127. The converter
    delivers ``lo`` … ``hi`` and reads ``zero`` for an empty column; ``frac_bits`` is F, the unit of a read
    being 2^-F.

    Raises :class:`UsageError` (all problems at once) when a width is out of range, a combination cannot be
    built (column flip with analog subtraction), or the converter cannot deliver the signs it is given.
    """

    weight_bits: int = 8
    weight_encoding: WeightEncoding = "offset"
    column_flip: bool = False
    cell_bits: int = 2
    input_bits: int = 8
    input_min: int = 0
    input_encoding: InputEncoding = "offset"
    dac_bits: int = 1
    parallel_rows: int = 128
    subtract: Subtract = "analog"
    converter_lo: int = 0
    converter_hi: int = 255
    converter_zero: int = 0
    frac_bits: int = 0
    max_abs_weight: int = 0

    def __post_init__(self) -> None:
        raise_all(self._problems())

    def _problems(self) -> list[CimError]:
        """One error per broken rule, each with the rule, the given value and a remedy."""
        found: list[str] = []
        for name, low, high in (
            ("weight_bits", 2, MAX_BITS),
            ("cell_bits", 1, MAX_CELL_BITS),
            ("input_bits", 1, MAX_BITS),
            ("dac_bits", 1, MAX_BITS),
            ("frac_bits", 0, MAX_FRAC_BITS),
            ("parallel_rows", 1, MAX_PARALLEL_ROWS),
            ("max_abs_weight", 0, 1 << (MAX_BITS - 1)),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                found.append(
                    f"{name} must be {low} … {high}, got {value}; correct the machine or the mapping"
                )
        for name, value, legal in (
            ("weight_encoding", self.weight_encoding, WEIGHT_ENCODINGS),
            ("input_encoding", self.input_encoding, INPUT_ENCODINGS),
            ("subtract", self.subtract, SUBTRACT),
        ):
            if value not in legal:
                found.append(f"{name} must be one of {', '.join(legal)}, got '{value}'")
        if found:
            return [UsageError(text, where="coding") for text in found]
        found += self._input_problems() + self._converter_problems()
        if self.max_abs_weight > 1 << (self.weight_bits - 1):
            found.append(
                f"max_abs_weight {self.max_abs_weight} needs more than weight_bits {self.weight_bits}; "
                f"give at most {1 << (self.weight_bits - 1)}, or 0 for any weight"
            )
        if self.column_flip and self.analog:
            found.append(
                "column_flip with weight_encoding 'differential' needs one conversion per physical column, "
                "but subtract is 'analog'; set subtract: digital or drop column_flip"
            )
        return [UsageError(text, where="coding") for text in found]

    def _input_problems(self) -> list[str]:
        """The activation codes must be ones the input encoding can cut into digits."""
        half = 1 << (self.input_bits - 1)
        if self.input_encoding == "offset":
            if abs(self.input_min) <= 1 << MAX_BITS:
                return []
            return [f"input_min must be within ±{1 << MAX_BITS}, got {self.input_min}"]
        if self.input_min in (0, -half, 1 - half) and (self.input_bits > 1 or self.input_min == 0):
            return []
        return [
            f"input_encoding '{self.input_encoding}' takes codes that start at 0, {1 - half} or {-half} "
            f"({self.input_bits} bits), got input_min {self.input_min}; use input_encoding: offset for others"
        ]

    def _converter_problems(self) -> list[str]:
        """An empty column must read zero, and a signed partial sum needs codes on both sides."""
        lo, hi, zero = self.converter_lo, self.converter_hi, self.converter_zero
        if hi - lo >= 1 << MAX_BITS or abs(zero) > 1 << MAX_BITS:
            return [f"the converter has at most {MAX_BITS} bits, got codes {lo} … {hi} with zero {zero}"]
        if not lo <= zero < hi:
            return [
                f"converter_zero must be in lo … hi - 1 so that 0 converts to 0, got {lo} … {hi}, zero {zero}"
            ]
        if self.analog and lo == zero:
            return [
                f"subtract 'analog' gives signed partial sums, but the converter ({lo} … {hi}) has no "
                f"code below its zero {zero}; use a signed converter, a zero inside the range, or subtract: digital"
            ]
        return []

    @property
    def analog(self) -> bool:
        """Whether the two polarities are subtracted before the converter: one conversion for the pair."""
        return self.weight_encoding == "differential" and self.subtract == "analog"

    @property
    def weight_offset(self) -> int:
        """What ``offset`` adds to a weight before it is stored: 2^(B-1); 0 for other encodings."""
        return 1 << (self.weight_bits - 1) if self.weight_encoding == "offset" else 0

    @property
    def weight_range(self) -> tuple[int, int]:
        """Least and largest weight the cells can hold."""
        half = 1 << (self.weight_bits - 1)
        if self.weight_encoding != "differential":
            return -half, half - 1
        peak = self.max_abs_weight or half
        return -peak, min(peak, half - 1)

    @cached_property
    def planes(self) -> tuple[Plane, ...]:
        """The D cells of a weight in the order of their columns: digits upwards, then sign or minus."""
        width = self.weight_bits
        if self.weight_encoding == "offset":
            return tuple(Plane(1 << s, 1, s, b) for s, b in _cut(width, self.cell_bits))
        if self.weight_encoding == "twos_complement":
            rest = tuple(Plane(1 << s, 1, s, b) for s, b in _cut(width - 1, self.cell_bits))
            return (*rest, Plane(-(1 << (width - 1)), 1, width - 1, 1))
        digits = _cut(max(1, -self.weight_range[0]).bit_length(), self.cell_bits)
        plus = tuple(Plane(1 << s, 1, s, b) for s, b in digits)
        return plus + tuple(Plane(-(1 << s), -1, s, b) for s, b in digits)

    @property
    def cells_per_weight(self) -> int:
        """D, physical columns per logical column (the table of docs/crossbar.md, step 2)."""
        return len(self.planes)

    @property
    def conversions(self) -> tuple[Plane, ...]:
        """The J conversions of a column per group and phase; analog subtraction converts a pair once."""
        return self.planes[: len(self.planes) // 2] if self.analog else self.planes

    @property
    def step_count(self) -> int:
        """Converter steps of an operator: one per phase and conversion, phases outermost."""
        return self.digit_cycles * len(self.conversions)

    @property
    def input_offset(self) -> int:
        """What is subtracted from a code to give the value that is cut into digits."""
        return self.input_min if self.input_encoding == "offset" else 0

    @property
    def input_max(self) -> int:
        """Largest legal activation code."""
        if self.input_encoding == "offset" or self.input_min == 0:
            return self.input_min + (1 << self.input_bits) - 1
        return (1 << (self.input_bits - 1)) - 1

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The I digit cycles of a read in order. A digit that no legal code uses takes no cycle."""
        if self.input_encoding == "offset" or self.input_min == 0:
            return tuple(Phase(1 << s, "value", s, b) for s, b in _cut(self.input_bits, self.dac_bits))
        sign = self.input_bits - 1
        if self.input_encoding == "twos_complement":
            rest = tuple(Phase(1 << s, "value", s, b) for s, b in _cut(sign, self.dac_bits))
            return (*rest, Phase(-(1 << sign), "value", sign, 1))
        up = _cut(self.input_max.bit_length(), self.dac_bits)
        down = _cut((-self.input_min).bit_length(), self.dac_bits)
        positive = tuple(Phase(1 << s, "positive", s, b) for s, b in up)
        return positive + tuple(Phase(-(1 << s), "negative", s, b) for s, b in down)

    @property
    def digit_cycles(self) -> int:
        """I, reads of a row group per input vector."""
        return len(self.phases)

    def worst_range(self, rows: int) -> tuple[int, int]:
        """[p_min, p_max] of one partial sum over ``rows`` wordlines, whatever the weights and inputs."""
        drive = max(phase.top for phase in self.phases)
        peak = 0
        for plane in self.conversions:
            column = plane.top * rows
            peak = max(peak, column // 2 if self.column_flip else column)
        return (-drive * peak if self.analog else 0), drive * peak

    def always_lossless(self, rows: int) -> bool:
        """Whether step 1 loses nothing on any weights, for groups of at most ``rows`` used wordlines."""
        low, high = self.worst_range(min(rows, self.parallel_rows))
        return (
            self.converter_lo - self.converter_zero <= low and high <= self.converter_hi - self.converter_zero
        )

    def to_row(self) -> npt.NDArray[np.int64]:
        """int64 [:data:`ROW_FIELDS`]; words are stored as their index in the tables above."""
        row = [
            _WORDS[name].index(getattr(self, name)) if name in _WORDS else int(getattr(self, name))
            for name in ROW_FIELDS
        ]
        return np.array(row, dtype=np.int64)

    @classmethod
    def from_row(cls, row: npt.NDArray[np.integer[Any]]) -> Coding:
        """The inverse of :meth:`to_row`. :class:`UsageError` when the row cannot come from it."""
        if row.shape != (len(ROW_FIELDS),):
            raise UsageError(f"a row has {len(ROW_FIELDS)} numbers, got shape {row.shape}", where="coding")
        values: dict[str, Any] = {name: int(value) for name, value in zip(ROW_FIELDS, row, strict=True)}
        for name, words in _WORDS.items():
            if not 0 <= values[name] < len(words):
                raise UsageError(f"{name} is an index into {words}, got {values[name]}", where="coding")
            values[name] = words[values[name]]
        if values["column_flip"] not in (0, 1):
            raise UsageError(f"column_flip must be 0 or 1, got {values['column_flip']}", where="coding")
        values["column_flip"] = bool(values["column_flip"])
        return cls(**values)


_WORDS: dict[str, tuple[str, ...]] = {
    "weight_encoding": WEIGHT_ENCODINGS,
    "input_encoding": INPUT_ENCODINGS,
    "subtract": SUBTRACT,
}

ROW_FIELDS: tuple[str, ...] = tuple(field.name for field in fields(Coding))
"""Column names of a stored coding, in order."""


def constant_correction(w: npt.NDArray[np.integer[Any]], coding: Coding, zx: int) -> npt.NDArray[np.int64]:
    """The constant a read lacks to be ``sum_k (qx - zx) * w``: int64 [N], in units of 2^-F.

    ``w`` are the intended weights (K, N), ``zx`` the zero point of the activation codes. A read delivers
    ``sum_k value * w`` with ``value = qx - input_min`` (``offset``) or ``qx`` (the signed encodings), so the
    constant is ``-(zx - input_min) * sum_k w`` or ``-zx * sum_k w`` (docs/crossbar.md, step 7).
    """
    total = w.sum(axis=0, dtype=np.int64)
    return -(zx - coding.input_offset) * total * (1 << coding.frac_bits)
