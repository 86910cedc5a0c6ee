"""One physical array: what is written, what can be read (docs/crossbar.md, arrays)."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cimc.diagnostics import UsageError
from cimc.runtime.crossbar.cells import decode, store
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.product import ArrayProduct
from cimc.runtime.crossbar.rows import group_bounds
from cimc.runtime.crossbar.tile import CellArray, join

CODING = Coding(column_flip=True, parallel_rows=32)


def _weights(rows: int, columns: int, seed: int = 0) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(-128, 128, (rows, columns))


def _write(array: CellArray, w: npt.NDArray[Any], first_row: int = 0, first_col: int = 0) -> None:
    array.write(*store(w, CODING, group_bounds([(len(w), first_row)], 32)), first_row, first_col)


# What is written comes back where it was put, two tiles side by side and one below.
def test_write_and_read_back():
    array = CellArray(96, 32, cell_bits=2, parallel_rows=32)
    assert array.columns_per_tile(CODING) == 8
    tiles = {(0, 0): _weights(40, 5, 1), (0, 20): _weights(64, 3, 2), (64, 0): _weights(9, 8, 3)}
    for (row, col), w in tiles.items():
        _write(array, w, row, col)
    assert array.version == 3
    for (row, col), w in tiles.items():
        stored = array.read_back(CODING, w.shape[0], w.shape[1], row, col)
        assert np.array_equal(decode(stored.cells, stored.flips, CODING, stored.bounds), w)
    assert array.used_wordlines.tolist() == [k < 73 for k in range(96)]
    assert array.used_columns.all()


# The D cells of logical column n are the physical columns n * D + d.
def test_physical_layout():
    array = CellArray(8, 16, cell_bits=2, parallel_rows=32)
    w = _weights(8, 2)
    cells, flips = store(w, Coding(parallel_rows=32), group_bounds([(8, 0)], 32))
    array.write(cells, flips, 0, 4)
    shifted = array.read_back(Coding(weight_bits=2, parallel_rows=32), 8, 8, 0, 4)  # one cell per weight
    assert all(
        np.array_equal(shifted.cells[:, n * 4 + d, 0], cells[:, n, d]) for n in range(2) for d in range(4)
    )


# A wordline range of a tile is a product of its own: reads of the parts add up to the read of the whole.
def test_wordline_range():
    array = CellArray(128, 64, cell_bits=2, parallel_rows=32)
    w = _weights(100, 16)
    _write(array, w)
    qx = np.random.default_rng(1).integers(0, 256, (3, 100))
    parts = 0
    for first, rows in ((0, 32), (32, 50), (82, 18)):
        stored = array.read_back(CODING, rows, 16, first)
        product = ArrayProduct(stored.cells, stored.flips, CODING, stored.bounds)
        parts = parts + product.read(qx[:, first : first + rows])
    assert np.array_equal(parts, qx @ w)


# Row tiles of several arrays join into one product; their groups stay apart.
def test_join():
    first, second = (CellArray(64, 16, cell_bits=2, parallel_rows=32) for _ in range(2))
    w = _weights(74, 4)
    _write(first, w[:64])
    _write(second, w[64:], first_row=40)
    stored = join([first.read_back(CODING, 64, 4), second.read_back(CODING, 10, 4, 40)])
    assert stored.bounds.tolist() == [0, 32, 64, 74]
    qx = np.random.default_rng(2).integers(0, 256, (5, 74))
    assert np.array_equal(ArrayProduct(stored.cells, stored.flips, CODING, stored.bounds).read(qx), qx @ w)


# A read returns a copy: later writes change the array, not what was read.
def test_read_is_a_snapshot():
    array = CellArray(32, 16, cell_bits=2, parallel_rows=32)
    _write(array, np.zeros((32, 4), dtype=np.int64))
    before = array.read_back(CODING, 32, 4)
    _write(array, _weights(32, 4))
    assert (decode(before.cells, before.flips, CODING, before.bounds) == 0).all()


# A column has one flip bit per group: where a write changes it, the group's other rows are lost, others are not.
def test_changed_flip_bit_loses_the_group():
    array = CellArray(64, 16, cell_bits=2, parallel_rows=32)
    _write(array, np.full((10, 4), -128), 0)  # digits 0: not flipped
    _write(array, np.full((32, 4), -128), 32)
    _write(array, np.full((10, 4), 127), 10)  # digits 3: flipped, same group as the first rows
    with pytest.raises(UsageError, match=r"cell \(0, 0\) is read but was never written"):
        array.read_back(CODING, 10, 4, 0)
    stored = array.read_back(CODING, 10, 4, 10)
    assert (decode(stored.cells, stored.flips, CODING, stored.bounds) == 127).all()
    stored = array.read_back(CODING, 32, 4, 32)
    assert (decode(stored.cells, stored.flips, CODING, stored.bounds) == -128).all()


# Reads of cells nobody wrote, blocks outside, cells too large and foreign codings are refused.
def test_errors():
    array = CellArray(40, 16, cell_bits=2, parallel_rows=32)
    _write(array, _weights(20, 2))
    with pytest.raises(UsageError, match=r"cell \(20, 0\) is read but was never written"):
        array.read_back(CODING, 21, 2)
    with pytest.raises(UsageError, match=r"cell \(0, 8\)"):
        array.read_back(CODING, 20, 3)
    with pytest.raises(UsageError, match=r"not a part of an array of 40 x 16"):
        array.read_back(CODING, 41, 2)
    with pytest.raises(UsageError, match=r"columns 12 … 19"):
        _write(array, _weights(20, 2), 0, 12)
    with pytest.raises(UsageError, match="2-bit cells, 32 rows at once, cannot serve a coding of 1 bits"):
        array.read_back(Coding(cell_bits=1, parallel_rows=32), 20, 1)
    with pytest.raises(UsageError, match="2 bits cannot hold 4"):
        array.write(np.full((1, 1, 4), 4, np.uint8), np.zeros((1, 1, 4), bool))
    with pytest.raises(UsageError, match="are 2 groups of 32, got flip bits"):
        array.write(np.zeros((40, 1, 4), np.uint8), np.zeros((1, 1, 4), bool))
    with pytest.raises(ValueError, match="positive sizes"):
        CellArray(0, 16, 2, 32)


# A failed write leaves the array as it was.
def test_failed_write_changes_nothing():
    array = CellArray(40, 16, cell_bits=2, parallel_rows=32)
    w = _weights(20, 2)
    _write(array, w)
    with pytest.raises(UsageError):
        array.write(np.full((1, 2, 4), 9, np.uint8), np.ones((1, 2, 4), bool))
    stored = array.read_back(CODING, 20, 2)
    assert array.version == 1
    assert np.array_equal(decode(stored.cells, stored.flips, CODING, stored.bounds), w)
