"""Weights to cells, flips and row groups (docs/crossbar.md, steps 2 and 3)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimc.runtime.crossbar.cells import conversion_levels, decode, encode, flip_bits, flipped, store
from cimc.runtime.crossbar.coding import Coding, WeightEncoding
from cimc.runtime.crossbar.rows import group_bounds, group_of_rows

ENCODINGS = ["offset", "differential", "twos_complement"]


# Stored digits of a few weights, written out by hand (least significant cell first, then sign or minus).
@pytest.mark.parametrize(
    ("encoding", "weight", "digits"),
    [
        ("offset", 0, [0, 0, 0, 2]),
        ("offset", -128, [0, 0, 0, 0]),
        ("offset", 127, [3, 3, 3, 3]),
        ("offset", -1, [3, 3, 3, 1]),
        ("differential", 6, [2, 1, 0, 0, 0, 0, 0, 0]),
        ("differential", -128, [0, 0, 0, 0, 0, 0, 0, 2]),
        ("twos_complement", -1, [3, 3, 3, 1, 1]),
        ("twos_complement", 127, [3, 3, 3, 1, 0]),
        ("twos_complement", -128, [0, 0, 0, 0, 1]),
    ],
)
def test_digits_by_hand(encoding: WeightEncoding, weight: int, digits: list[int]):
    coding = Coding(weight_encoding=encoding, subtract="digital")
    assert encode(np.array([[weight]]), coding).tolist() == [[digits]]


# Every weight of every width comes back from its cells, with and without flips.
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 5, 8, 11])
@pytest.mark.parametrize("cell", [1, 2, 3, 8])
def test_every_weight_round_trips(encoding: WeightEncoding, flip: bool, bits: int, cell: int):
    coding = Coding(
        weight_bits=bits,
        weight_encoding=encoding,
        column_flip=flip,
        cell_bits=cell,
        parallel_rows=5,
        subtract="digital",
    )
    half = 1 << (bits - 1)
    w = np.random.default_rng(bits).permutation(np.arange(-half, half)).reshape(-1, 2)
    bounds = group_bounds([(len(w), 3)], 5)
    cells, flips = store(w, coding, bounds)
    assert cells.shape == (*w.shape, coding.cells_per_weight)
    assert cells.max() < 1 << cell
    assert flip or not flips.any()
    assert np.array_equal(decode(cells, flips, coding, bounds), w)


# A column flips when its digit sum is above half of its maximum, and only then; group by group.
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(0, 9), st.integers(1, 9))
def test_flip_rule(seed: int, rows: int, first: int, parallel: int):
    coding = Coding(column_flip=True, parallel_rows=parallel, weight_bits=5)
    digits = encode(np.random.default_rng(seed).integers(-16, 16, (rows, 2)), coding)
    bounds = group_bounds([(rows, first)], parallel)
    flips = flip_bits(digits, coding, bounds)
    for g in range(len(bounds) - 1):
        part = digits[bounds[g] : bounds[g + 1]].astype(int)
        for n in range(2):
            for d, top in enumerate([3, 3, 1]):  # the last digit of five bits has two levels
                assert flips[g, n, d] == (part[:, n, d].sum() > top * len(part) / 2)
    stored = flipped(digits, flips, coding, bounds)
    sums = np.add.reduceat(stored.astype(int), bounds[:-1], axis=0)
    assert (2 * sums <= np.diff(bounds)[:, None, None] * np.array([3, 3, 1])).all()
    assert np.array_equal(flipped(stored, flips, coding, bounds), digits)


# Analog subtraction sees the difference of the two polarities, cell by cell.
def test_conversion_levels():
    coding = Coding(weight_encoding="differential", converter_lo=-128, converter_hi=127)
    levels = conversion_levels(encode(np.array([[6, -9]]), coding), coding)
    assert levels.tolist() == [[[2, 1, 0, 0], [-1, -2, 0, 0]]]


# Weights the cells cannot hold are refused with the range.
def test_weight_out_of_range():
    with pytest.raises(ValueError, match="-8 … 7"):
        encode(np.array([[8]]), Coding(weight_bits=4))
    narrow = Coding(weight_encoding="differential", max_abs_weight=5, subtract="digital")
    with pytest.raises(ValueError, match="-5 … 5"):
        encode(np.array([[-6]]), narrow)
    with pytest.raises(ValueError, match="shape"):
        encode(np.zeros((1, 1, 1), np.int8), Coding())


# Groups are the wordlines [gP, (g+1)P) of each array as placed: the bounds equal a wordline-by-wordline count.
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 200)), min_size=1, max_size=4), st.integers(1, 130)
)
def test_group_bounds(segments: list[tuple[int, int]], parallel: int):
    bounds = group_bounds(segments, parallel)
    label = [
        (tile, wordline // parallel)
        for tile, (rows, first) in enumerate(segments)
        for wordline in range(first, first + rows)
    ]
    changes = [k for k in range(1, len(label)) if label[k] != label[k - 1]]
    assert bounds.tolist() == [0, *changes, len(label)]
    assert np.array_equal(np.bincount(group_of_rows(bounds)), np.diff(bounds))


# A row tile has rows, and lies at or above wordline 0.
@pytest.mark.parametrize("segments", [[], [(0, 0)], [(3, -1)]])
def test_group_bounds_errors(segments: list[tuple[int, int]]):
    with pytest.raises(ValueError, match="row tile"):
        group_bounds(segments, 8)
