"""The converter and its steps (docs/crossbar.md, step 6)."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimc.diagnostics import UnsupportedError
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.converter import broadcast_steps, convert, full_step, is_lossless
from cimc.runtime.crossbar.kernels import fold


# convert is floor(p / step + 1/2) + zero, clamped, of the exact rational p and step.
@given(
    st.integers(-(2**22), 2**22),
    st.integers(1, 65535),
    st.integers(0, 8),
    st.integers(0, 13),
    st.integers(-300, 300),
    st.integers(1, 600),
    st.integers(-300, 300),
)
def test_convert_is_half_up(partial: int, h: int, frac: int, grid: int, lo: int, span: int, zero: int):
    quotient = Fraction(partial, 2**grid) / Fraction(h, 2**frac)
    expected = min(max(floor(quotient + Fraction(1, 2)) + zero, lo), lo + span)
    got = convert(np.array([partial]), h, frac_bits=frac, lo=lo, hi=lo + span, zero=zero, grid_bits=grid)
    assert got.tolist() == [expected]


# Ties go up, on both sides of zero.
def test_ties():
    partial = np.array([-6, -3, -2, -1, 1, 2, 3, 6])
    codes = convert(partial, 4, frac_bits=0, lo=-128, hi=127, zero=0)
    assert codes.tolist() == [-1, -1, 0, 0, 0, 1, 1, 2]


# The stacked evaluation's float64 conversion equals the integer one over all P, for steps of every kind.
@pytest.mark.parametrize("h", [1, 2, 3, 255, 256, 257, 300, 4097, 65534, 65535])
@pytest.mark.parametrize("frac", [0, 3, 8])
def test_fold_equals_convert_over_all_partial_sums(h: int, frac: int):
    partial = np.arange(-(1 << 17), 1 << 17)
    lo, hi, zero = -100, 32000, 17
    codes = convert(partial, h, frac_bits=frac, lo=lo, hi=hi, zero=zero)
    total = np.zeros((1, len(partial)), dtype=np.int64)
    fold(
        partial.astype(np.float64).reshape(1, 1, 1, -1),
        np.array([[float(h)]]),
        np.full((1, len(partial)), -8.0),
        np.array([-2]),
        float(2 << frac),
        float(lo - zero),
        float(hi - zero),
        total,
    )
    assert np.array_equal(total[0], 16 * (codes - zero) * h)


# The largest numerators that MAX_BITS allows, around every rounding edge: still exact in float64.
def test_fold_is_exact_at_the_largest_partial_sums():
    h, frac = 65535, 8
    edge = (np.arange(60_000, 65_535) * 2 + 1) * h // (2 << frac)
    far = edge + (1 << 40)
    partial = np.concatenate([edge - 1, edge, edge + 1, far])
    codes = convert(partial, h, frac_bits=frac, lo=0, hi=1 << 45, zero=0)
    total = np.zeros((1, len(partial)), dtype=np.int64)
    one = np.ones((1, len(partial)))
    stacked = partial.astype(np.float64).reshape(1, 1, 1, -1)
    fold(stacked, np.array([[float(h)]]), one, np.array([1]), 512.0, 0.0, float(1 << 45), total)
    assert np.array_equal(total[0][: 3 * len(edge)], codes[: 3 * len(edge)] * h)


def _coding(lo: int, hi: int, zero: int = 0, frac: int = 0) -> Coding:
    return Coding(
        weight_encoding="differential",
        subtract="digital",
        converter_lo=lo,
        converter_hi=hi,
        converter_zero=zero,
        frac_bits=frac,
    )


def _clamps(partial: int, h: int, frac: int, coding: Coding) -> bool:
    free = floor(Fraction(partial * 2**frac, h) + Fraction(1, 2)) + coding.converter_zero
    return not coding.converter_lo <= free <= coding.converter_hi


def _needed(low: int, high: int, coding: Coding, frac: int) -> int:
    """The least h at ``frac`` bits by bisection on the clamping test."""
    below, above = 0, 1 << 30
    while above - below > 1:
        middle = (below + above) // 2
        clamps = _clamps(low, middle, frac, coding) or _clamps(high, middle, frac, coding)
        below, above = (middle, above) if clamps else (below, middle)
    return max(above, 1 << frac)


# The step is the least, not below 1, that clamps no end of the range; F is 8 unless h would leave 16 bits.
@given(st.integers(-(2**16), 0), st.integers(0, 2**16), st.integers(2, 9), st.integers(1, 99))
def test_full_step_is_the_least(low: int, high: int, bits: int, percent: int):
    codes = 1 << bits
    coding = _coding(0, codes - 1, max(1, (codes - 2) * percent // 100))
    choice = full_step(low, high, coding)
    h, frac = int(choice.h), choice.frac_bits
    assert not _clamps(low, h, frac, coding)
    assert not _clamps(high, h, frac, coding)
    if h > 1 << frac:
        assert _clamps(low, h - 1, frac, coding) or _clamps(high, h - 1, frac, coding)
        assert frac == 8 or _needed(low, high, coding, frac + 1) > 65535
    else:
        assert (h, frac) == (1, 0)


# By hand: 384 on 8 bits needs 384/255.5 = 1.5029..., 385 in units of 1/256; one F serves all planes.
def test_full_step_by_hand():
    coding = Coding()
    assert (full_step(0, 384, coding).h.tolist(), full_step(0, 384, coding).frac_bits) == (385, 8)
    both = full_step(np.array([0, 0]), np.array([384, 100]), coding)
    assert (both.h.tolist(), both.frac_bits) == ([385, 256], 8)
    none = full_step(np.array([0, 0]), np.array([255, 100]), coding)
    assert (none.h.tolist(), none.frac_bits) == ([1, 1], 0)
    wide = full_step(np.array([0, 0]), np.array([100_000, 384]), coding)
    assert wide.frac_bits == 7
    assert wide.h.tolist() == [100_000 * 256 // 511 + 1, 384 * 256 // 511 + 1]


# What no step can cover is refused: negative sums on an unsigned converter, steps above 16 bits.
def test_full_step_errors():
    with pytest.raises(UnsupportedError, match="no codes below zero"):
        full_step(-1, 5, Coding())
    with pytest.raises(UnsupportedError, match="step above 65535"):
        full_step(0, 1 << 30, Coding())


# Lossless is step 1 and a range inside the codes; step 1 beside other steps is h = 2^F.
@pytest.mark.parametrize(
    ("low", "high", "h", "frac", "expected"),
    [
        (-5, 7, 1, 0, True),
        (-6, 7, 1, 0, False),
        (-5, 8, 1, 0, False),
        (0, 1, 2, 0, False),
        (-5, 7, 16, 4, True),
        (-5, 7, 1, 4, False),
    ],
)
def test_is_lossless(low: int, high: int, h: int, frac: int, expected: bool):
    coding = _coding(-4, 8, 1, frac)
    assert bool(is_lossless(low, high, h, coding)) is expected
    if expected:
        p = np.arange(low, high + 1)
        codes = convert(p, h, frac_bits=frac, lo=-4, hi=8, zero=1)
        assert np.array_equal((codes - 1) * h, p << frac)


# Steps are one for all, per conversion, per phase and conversion, or per group too.
def test_broadcast_steps():
    coding = Coding()  # 8 phases, 4 conversions
    assert broadcast_steps(3, 2, coding).shape == (2, 8, 4)
    assert broadcast_steps(np.array([1, 2, 3, 4]), 2, coding)[1, 7].tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"broadcast to .* \(2, 8, 4\), got \(3,\)"):
        broadcast_steps(np.array([1, 2, 3]), 2, coding)
    with pytest.raises(ValueError, match="1 … 65535, got 0"):
        broadcast_steps(0, 2, coding)
