"""The crossbar product: definition, reference walk, fast evaluation (docs/crossbar.md, steps 1 to 7)."""

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.runtime.crossbar.cells import Cells, Flips, store
from cimc.runtime.crossbar.coding import (
    INPUT_ENCODINGS,
    SUBTRACT,
    WEIGHT_ENCODINGS,
    Coding,
    constant_correction,
    converter_range,
)
from cimc.runtime.crossbar.product import ArrayProduct
from cimc.runtime.crossbar.reference import read_reference
from cimc.runtime.crossbar.rows import Bounds, group_bounds

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """One random product: codes, intended weights, and what is stored."""

    coding: Coding
    qx: npt.NDArray[Any]
    w: Ints
    bounds: Bounds
    cells: Cells
    flips: Flips
    h: Ints


@st.composite
def cases(draw: st.DrawFn, largest_k: int = 300, largest_n: int = 6, lossless: bool = False) -> Case:
    """Random codings, odd sizes, partly filled groups and several row tiles."""
    encoding = draw(st.sampled_from(WEIGHT_ENCODINGS))
    subtract = draw(st.sampled_from(SUBTRACT))
    analog = encoding == "differential" and subtract == "analog"
    a = draw(st.integers(2, 9))
    kind = draw(st.sampled_from(INPUT_ENCODINGS))
    lowest = draw(st.sampled_from([0, -(1 << (a - 1)), 1 - (1 << (a - 1))]))
    if lossless:
        adc, signed = 16, analog
    else:
        adc, signed = draw(st.integers(2, 9)), analog or draw(st.booleans())
    lo, hi, zero = converter_range(adc, signed)
    coding = Coding(
        weight_bits=draw(st.integers(2, 9)),
        weight_encoding=encoding,
        column_flip=not analog and draw(st.booleans()),
        cell_bits=draw(st.integers(1, 4)),
        input_bits=a,
        input_min=lowest,
        input_encoding=kind,
        dac_bits=draw(st.integers(1, 3)),
        parallel_rows=draw(st.integers(1, 140)),
        subtract=subtract,
        converter_lo=lo,
        converter_hi=hi,
        converter_zero=zero,
        frac_bits=0 if lossless else draw(st.integers(0, 8)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    segments: list[tuple[int, int]] = []
    for _ in range(draw(st.integers(1, 3))):
        segments.append((draw(st.integers(1, max(1, largest_k // 3))), draw(st.integers(0, 9))))
    bounds = group_bounds(segments, coding.parallel_rows)
    rows, columns = int(bounds[-1]), draw(st.integers(1, largest_n))
    half = 1 << (coding.weight_bits - 1)
    w = rng.integers(-half, half, (rows, columns))
    if draw(st.booleans()):
        w = np.clip(np.rint(rng.normal(0, half / 6, w.shape)), -half, half - 1).astype(np.int64)
    qx = rng.integers(coding.input_min, coding.input_max + 1, (draw(st.integers(1, 4)), rows))
    qx = qx.astype(draw(st.sampled_from([np.int16, np.int32, np.int64])))
    cells, flips = store(w, coding, bounds)
    shape = (len(bounds) - 1, coding.digit_cycles, len(coding.conversions))
    unit = 1 << coding.frac_bits
    h = np.full(shape, unit) if lossless else rng.choice([unit, unit, unit + 1, 3 * unit, 1], shape)
    return Case(coding, qx, w, bounds, cells, flips, h)


def _read(case: Case) -> Ints:
    return read_reference(case.qx, case.cells, case.flips, case.coding, case.bounds, case.h)


def _fast(case: Case, chunk_bytes: int = 4 << 20) -> Ints:
    product = ArrayProduct(case.cells, case.flips, case.coding, case.bounds, case.h)
    return product.read(case.qx, chunk_bytes)


def _by_definition(case: Case) -> list[list[int]]:
    """The definition on single cells in exact rationals, sharing no code with the package but the digit tables."""
    coding = case.coding
    step_unit = Fraction(1, 2**coding.frac_bits)
    result: list[list[int]] = []
    for codes in case.qx.tolist():
        values = [code - (coding.input_min if coding.input_encoding == "offset" else 0) for code in codes]
        line: list[int] = []
        for n in range(case.w.shape[1]):
            total = Fraction(0)
            for g in range(len(case.bounds) - 1):
                rows = range(case.bounds[g], case.bounds[g + 1])
                for i, phase in enumerate(coding.phases):
                    sign = {"value": 0, "positive": 1, "negative": -1}[phase.source]
                    parts = [max(sign * values[k], 0) if sign else values[k] for k in rows]
                    x = [(part >> phase.shift) % 2**phase.bits for part in parts]
                    half = coding.cells_per_weight // 2
                    for j, plane in enumerate(coding.conversions):
                        p = sum(d * int(case.cells[k, n, j]) for d, k in zip(x, rows, strict=True))
                        if coding.weight_encoding == "differential" and coding.subtract == "analog":
                            p -= sum(
                                d * int(case.cells[k, n, half + j]) for d, k in zip(x, rows, strict=True)
                            )
                        step = int(case.h[g, i, j]) * step_unit
                        code = floor(p / step + Fraction(1, 2)) + coding.converter_zero
                        code = min(max(code, coding.converter_lo), coding.converter_hi)
                        read = (code - coding.converter_zero) * step
                        if case.flips[g, n, j]:
                            read = (2**plane.bits - 1) * sum(x) - read
                        total += phase.coefficient * plane.coefficient * read
            if coding.weight_encoding == "offset":
                total -= 2 ** (coding.weight_bits - 1) * sum(values)
            line.append(int(total / step_unit))
            assert line[-1] == total / step_unit
        result.append(line)
    return result


# The reference walk is the definition, cell by cell, in exact rationals.
@settings(deadline=None, max_examples=60)
@given(cases(largest_k=24, largest_n=3))
def test_reference_is_the_definition(case: Case):
    assert _read(case).tolist() == _by_definition(case)


# With a converter that can lose nothing, the read and its constant are the integer product, exactly.
@settings(deadline=None, max_examples=100)
@given(cases(lossless=True), st.integers(-5, 300))
def test_lossless_read_is_the_integer_product(case: Case, zero_point: int):
    wide = case.qx.astype(np.int64)
    expected = (wide - zero_point) @ case.w
    constant = constant_correction(case.w, case.coding, zero_point)
    assert np.array_equal(_read(case) + constant, expected)
    assert ArrayProduct(case.cells, case.flips, case.coding, case.bounds, case.h).lossless
    assert np.array_equal(_fast(case) + constant, expected)


def _features(case: Case, product: ArrayProduct) -> list[str]:
    """What the case exercises, for the count below."""
    coding = case.coding
    pairs = (len(case.bounds) - 1) * len(coding.conversions)
    sizes = np.diff(case.bounds)
    found = {
        "lossless": product.lossless,
        "lossy": not product.lossless,
        "partly collapsed": 0 < product.converted < pairs,
        "several groups": len(sizes) > 1,
        "partly filled group": bool((sizes < coding.parallel_rows).any()),
        "flipped columns": bool(case.flips.any()),
        "steps below 1": coding.frac_bits > 0,
        "signed codes": coding.input_min < 0,
        "analog subtraction": coding.analog,
        "wide digits": coding.cell_bits > 1 and coding.dac_bits > 1,
        "100 rows": case.w.shape[0] >= 100,
        f"{coding.weight_encoding} weights": True,
        f"{coding.input_encoding} inputs": True,
    }
    return [name for name, holds in found.items() if holds]


# The fast evaluation equals the walk: all encodings, lossy converters, mixed steps, any chunk; each of the
# features above is met by at least 10 % of the examples.
def test_fast_equals_reference():
    seen: Counter[str] = Counter()

    @settings(deadline=None, max_examples=300, derandomize=True, database=None)
    @given(cases() | cases() | cases(lossless=True), st.sampled_from([1, 5000, 4 << 20]))
    def check(case: Case, chunk_bytes: int):
        product = ArrayProduct(case.cells, case.flips, case.coding, case.bounds, case.h)
        seen.update(_features(case, product))
        assert np.array_equal(product.read(case.qx, chunk_bytes), _read(case))

    check()
    assert len(seen) == 17
    assert min(seen.values()) >= 30, seen


# Both read cell contents, not intended weights: arbitrary cells and flip bits give equal results too.
@settings(deadline=None, max_examples=60)
@given(cases(largest_k=90), st.integers(0, 2**32 - 1))
def test_arbitrary_cells(case: Case, seed: int):
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 1 << case.coding.cell_bits, case.cells.shape).astype(np.uint8)
    flips = rng.integers(0, 2, case.flips.shape).astype(bool) & case.coding.column_flip
    other = replace(case, cells=cells, flips=flips)
    assert np.array_equal(_fast(other), _read(other))


def _machine(parallel: int, **coding: Any) -> Case:
    """8-bit operands on 128 rows or fewer, Gaussian weights, 300 rows in three row tiles."""
    rng = np.random.default_rng(parallel)
    made = Coding(parallel_rows=parallel, **coding)
    bounds = group_bounds([(128, 0), (128, 0), (44, 0)], parallel)
    w = np.clip(np.rint(rng.normal(0, 30, (300, 17))), -127, 127).astype(np.int64)
    cells, flips = store(w, made, bounds)
    qx = rng.integers(0, 256, (11, 300)).astype(np.uint8)
    steps = np.ones((len(bounds) - 1, made.digit_cycles, len(made.conversions)), dtype=np.int64)
    return Case(made, qx, w, bounds, cells, flips, steps)


MACHINES = {
    "isaac": _machine(8),
    "puma": _machine(128, column_flip=True),
    "jain": _machine(32, weight_encoding="twos_complement", cell_bits=1, converter_hi=63),
}


# The lossless machines equal the integer product on real sizes, walk and collapse alike.
@pytest.mark.parametrize("name", MACHINES)
def test_lossless_machines(name: str):
    case = MACHINES[name]
    expected = case.qx.astype(np.int64) @ case.w
    assert ArrayProduct(case.cells, case.flips, case.coding, case.bounds).lossless
    assert np.array_equal(_fast(case), expected)
    assert np.array_equal(_read(case), expected)


# Without the flip the same machine clamps: its low digits' sums pass 255, and results differ from the product.
def test_puma_without_flip_loses():
    case = _machine(128)
    full = replace(case, qx=np.full_like(case.qx, 255), w=np.full_like(case.w, 127))
    cells, flips = store(full.w, case.coding, case.bounds)
    full = replace(full, cells=cells, flips=flips)
    assert not ArrayProduct(cells, flips, case.coding, case.bounds).lossless
    assert not np.array_equal(_read(full), full.qx.astype(np.int64) @ full.w)
    assert np.array_equal(_fast(full), _read(full))


# Conversions collapse one by one: a 6-bit converter is lossless on the sparse top digits only.
def test_partial_collapse():
    case = _machine(128, weight_encoding="differential", cell_bits=1, converter_lo=-32, converter_hi=31)
    product = ArrayProduct(case.cells, case.flips, case.coding, case.bounds)
    assert not product.lossless
    assert 0 < product.converted < case.coding.cells_per_weight // 2 * (len(case.bounds) - 1)
    assert np.array_equal(product.read(case.qx), _read(case))


# Wide operands leave float32 and then float64; sums stay exact in every type.
@pytest.mark.parametrize(("bits", "kind"), [(4, np.float32), (16, np.float64)])
def test_type_of_the_collapsed_product(bits: int, kind: type[np.floating[Any]]):
    coding = Coding(weight_bits=bits, input_bits=bits, cell_bits=4, dac_bits=4, converter_hi=65535)
    rng = np.random.default_rng(0)
    w = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (200, 3))
    qx = rng.integers(0, 1 << bits, (2, 200))
    bounds = group_bounds([(128, 0), (72, 0)], 128)
    product = ArrayProduct(*store(w, coding, bounds), coding, bounds)
    assert product.lossless
    assert product.dense_type == kind
    assert np.array_equal(product.read(qx), qx @ w)


# Sums that could pass 2^53 are computed in int64: cells far above their bits, 16-bit codes, 20000 rows.
def test_collapsed_product_beyond_float64():
    coding = Coding(weight_bits=16, input_bits=16, cell_bits=1, converter_hi=65535)
    bounds = group_bounds([(20_000, 0)], 128)
    cells = np.full((20_000, 1, 16), 255, dtype=np.uint8)
    flips = np.zeros((len(bounds) - 1, 1, 16), dtype=bool)
    qx = np.random.default_rng(0).integers(0, 1 << 16, (2, 20_000))
    product = ArrayProduct(cells, flips, coding, bounds)
    assert product.lossless
    assert product.dense_type == np.int64
    assert np.array_equal(product.read(qx), qx.sum(axis=1, keepdims=True) * (255 * 65535 - 32768))


# Partial sums above 2^24 need float64 in the stacked evaluation: full-width digits on 8-bit cells.
def test_stacked_product_beyond_float32():
    coding = Coding(weight_bits=16, input_bits=16, cell_bits=8, dac_bits=16, converter_hi=65535)
    rng = np.random.default_rng(1)
    w, qx = rng.integers(-(1 << 15), 1 << 15, (60, 3)), rng.integers(0, 1 << 16, (9, 60))
    bounds = group_bounds([(60, 0)], 128)
    cells, flips = store(w, coding, bounds)
    h = np.array([9_001, 12_345])  # some conversions clamp, some do not
    fast = ArrayProduct(cells, flips, coding, bounds, h)
    assert fast.converted == 2
    assert np.array_equal(fast.read(qx), read_reference(qx, cells, flips, coding, bounds, h))


# Codes outside the coding's range would lose bits in the digits: refused by both, whatever the dtype.
@pytest.mark.parametrize("code", [-1, 256])
def test_codes_out_of_range(code: int):
    case = MACHINES["isaac"]
    qx = np.full((2, 300), code)
    with pytest.raises(ValueError, match=f"0 … 255, got {code}"):
        _fast(replace(case, qx=qx))
    with pytest.raises(ValueError, match="0 … 255"):
        _read(replace(case, qx=qx))
    with pytest.raises(ValueError, match=r"\(M, 300\)"):
        _fast(replace(case, qx=np.zeros((2, 299), np.uint8)))


# Arrays that do not belong together are refused.
def test_shapes_are_checked():
    case = MACHINES["puma"]
    with pytest.raises(ValueError, match="need 300 rows and 4 cells"):
        ArrayProduct(case.cells[:, :, :3], case.flips, case.coding, case.bounds)
    with pytest.raises(ValueError, match="flips must be"):
        ArrayProduct(case.cells, case.flips[1:], case.coding, case.bounds)
