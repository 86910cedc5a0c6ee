"""Digits of weights and inputs, and what a machine's converter can lose (docs/crossbar.md, steps 1, 2, 6)."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimc.diagnostics import ErrorList, UsageError
from cimc.runtime.crossbar.cells import encode
from cimc.runtime.crossbar.coding import (
    INPUT_ENCODINGS,
    ROW_FIELDS,
    WEIGHT_ENCODINGS,
    Coding,
    InputEncoding,
    WeightEncoding,
    constant_correction,
    converter_range,
)
from cimc.runtime.crossbar.reference import phase_digits

SIGNED: dict[str, Any] = {"converter_lo": -128, "converter_hi": 127}


# Step 2's table, by its closed forms written out as numbers.
@pytest.mark.parametrize(
    ("encoding", "bits", "cell", "peak", "cells"),
    [
        ("offset", 8, 2, 0, 4),
        ("offset", 8, 1, 0, 8),
        ("offset", 8, 3, 0, 3),
        ("offset", 16, 2, 0, 8),
        ("offset", 4, 4, 0, 1),
        ("offset", 5, 2, 0, 3),
        ("differential", 8, 2, 127, 8),
        ("differential", 8, 2, 128, 8),
        ("differential", 8, 7, 127, 2),
        ("differential", 8, 7, 128, 4),  # -128 needs 8 bits
        ("differential", 8, 7, 0, 4),  # any 8-bit weight may be -128
        ("differential", 8, 2, 15, 4),
        ("differential", 4, 3, 7, 2),
        ("twos_complement", 8, 1, 0, 8),
        ("twos_complement", 8, 2, 0, 5),
        ("twos_complement", 8, 7, 0, 2),
        ("twos_complement", 8, 8, 0, 2),  # the sign bit never shares a cell
        ("twos_complement", 16, 4, 0, 5),
    ],
)
def test_cells_per_weight(encoding: WeightEncoding, bits: int, cell: int, peak: int, cells: int):
    coding = Coding(
        weight_bits=bits, weight_encoding=encoding, cell_bits=cell, max_abs_weight=peak, subtract="digital"
    )
    assert coding.cells_per_weight == cells
    assert len(coding.conversions) == cells


# Analog subtraction converts a pair of columns once; the cells stay.
def test_analog_subtraction_halves_the_conversions():
    coding = Coding(weight_encoding="differential", max_abs_weight=127, **SIGNED)
    assert (coding.cells_per_weight, len(coding.conversions)) == (8, 4)


# The machines of docs/crossbar.md: largest group sum of 8-bit operands against the converter.
@pytest.mark.parametrize(
    ("rows", "cell", "encoding", "flip", "adc", "largest", "lossless"),
    [
        (8, 2, "offset", False, 8, 24, True),  # isaac
        (128, 2, "offset", True, 8, 192, True),  # puma, isaac-ce, pimcomp
        (128, 2, "offset", False, 8, 384, False),  # the same without the flip
        (1152, 1, "twos_complement", False, 8, 1152, False),  # jia
        (32, 1, "twos_complement", False, 6, 32, True),  # jain
    ],
)
def test_machines(
    rows: int, cell: int, encoding: WeightEncoding, flip: bool, adc: int, largest: int, lossless: bool
):
    lo, hi, zero = converter_range(adc, signed=False)
    coding = Coding(
        weight_encoding=encoding,
        column_flip=flip,
        cell_bits=cell,
        parallel_rows=rows,
        converter_lo=lo,
        converter_hi=hi,
        converter_zero=zero,
    )
    assert coding.worst_range(rows) == (0, largest)
    assert coding.always_lossless(rows) is lossless
    assert coding.digit_cycles == 8


# The worst group sum is reached: all-ones digits, or half of them where flips forbid more.
@pytest.mark.parametrize(("flip", "largest"), [(False, 384), (True, 192)])
def test_worst_range_is_attained(flip: bool, largest: int):
    coding = Coding(column_flip=flip)
    rows = 128 if not flip else 64
    digits = encode(np.full((rows, 1), 127, np.int8), coding)
    assert int(digits.astype(int).sum(axis=0).max()) == largest == coding.worst_range(128)[1]


# Two signs: analog subtraction doubles the range, digital does not; wide digits multiply.
def test_worst_range_of_differential_and_wide_digits():
    analog = Coding(weight_encoding="differential", dac_bits=2, **SIGNED)
    assert analog.worst_range(10) == (-90, 90)
    assert replace(analog, subtract="digital").worst_range(10) == (0, 90)


def _codings() -> st.SearchStrategy[Coding]:
    def build(
        bits: int,
        encoding: WeightEncoding,
        flip: bool,
        cell: int,
        a: int,
        kind: InputEncoding,
        low: int,
        dac: int,
    ) -> Coding:
        half = 1 << (a - 1)
        minimum = {0: 0, 1: -half, 2: 1 - half}[low]
        return Coding(
            weight_bits=bits,
            weight_encoding=encoding,
            column_flip=flip,
            cell_bits=cell,
            input_bits=a,
            input_min=minimum,
            input_encoding=kind,
            dac_bits=dac,
            subtract="digital",
        )

    names = st.sampled_from(WEIGHT_ENCODINGS)
    inputs = st.sampled_from(INPUT_ENCODINGS)
    return st.builds(
        build,
        st.integers(2, 16),
        names,
        st.booleans(),
        st.integers(1, 8),
        st.integers(2, 9),
        inputs,
        st.integers(0, 2),
        st.integers(1, 9),
    )


# Every legal code is the sum of its digits times their worth, and no digit exceeds its DAC.
@given(_codings())
def test_input_digits_add_up(coding: Coding):
    codes = np.arange(coding.input_min, coding.input_max + 1)
    values = codes - coding.input_offset
    total = np.zeros_like(values)
    for phase in coding.phases:
        digits = phase_digits(values, phase)
        assert digits.min() >= 0
        assert digits.max() == phase.top < 1 << coding.dac_bits or phase.source == "negative"
        assert digits.any()  # a cycle that no code uses is not one
        total += phase.coefficient * digits
    assert np.array_equal(total, values)


# A stored row gives the coding back, so that the program format can hold it.
@given(_codings())
def test_row_round_trip(coding: Coding):
    row = coding.to_row()
    assert row.dtype == np.int64
    assert row.shape == (len(ROW_FIELDS),)
    assert Coding.from_row(row) == coding


# An altered row is refused, whatever the field.
@pytest.mark.parametrize(
    ("field", "value"),
    [("weight_encoding", 3), ("subtract", -1), ("column_flip", 2), ("weight_bits", 0), ("dac_bits", 99)],
)
def test_altered_row(field: str, value: int):
    row = Coding().to_row()
    row[ROW_FIELDS.index(field)] = value
    with pytest.raises(UsageError, match=field):
        Coding.from_row(row)
    with pytest.raises(UsageError, match="numbers"):
        Coding.from_row(row[:-1])


# Errors name the field, the rule, and the given value.
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"weight_bits": 1}, "weight_bits must be 2 … 16, got 1"),
        ({"cell_bits": 9}, "cell_bits must be 1 … 8, got 9"),
        ({"parallel_rows": 0}, "parallel_rows must be 1 … 65536, got 0"),
        ({"frac_bits": 9}, "frac_bits must be 0 … 8, got 9"),
        ({"weight_encoding": "gray"}, "weight_encoding must be one of offset, .*, got 'gray'"),
        ({"weight_encoding": "differential"}, "signed partial sums, but the converter \\(0 … 255\\)"),
        ({"weight_encoding": "differential", "column_flip": True, **SIGNED}, "set subtract: digital"),
        ({"converter_hi": 0}, "converter_zero must be in lo … hi - 1"),
        ({"converter_hi": 1 << 16}, "at most 16 bits"),
        ({"input_encoding": "twos_complement", "input_min": -7}, "starts? at 0, -127 or -128"),
        ({"input_min": 1 << 17}, "input_min must be within"),
        ({"weight_bits": 4, "max_abs_weight": 9}, "max_abs_weight 9 needs more than weight_bits 4"),
    ],
)
def test_errors(change: dict[str, Any], text: str):
    with pytest.raises(UsageError, match=text):
        Coding(**change)


# All problems of one coding arrive together.
def test_errors_are_collected():
    with pytest.raises(ErrorList) as caught:
        Coding(weight_bits=0, dac_bits=0, subtract="never")  # pyright: ignore[reportArgumentType]
    assert len(caught.value.errors) == 3


# constant_correction is what turns sum value * w into sum (qx - zx) * w.
@pytest.mark.parametrize("encoding", ["offset", "sign_magnitude", "twos_complement"])
@pytest.mark.parametrize("frac", [0, 5])
def test_constant_correction(encoding: InputEncoding, frac: int):
    coding = Coding(input_encoding=encoding, input_min=-128, frac_bits=frac)
    rng = np.random.default_rng(1)
    w, qx = rng.integers(-128, 128, (9, 4)), rng.integers(-128, 128, (3, 9))
    read = (qx - coding.input_offset) @ w * 2**frac
    assert np.array_equal(read + constant_correction(w, coding, 17), (qx - 17) @ w * 2**frac)
