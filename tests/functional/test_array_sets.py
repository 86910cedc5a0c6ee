"""What a read sees of an array set: tiles in any order, parts of it, and cells as they are at that time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from cimc.runtime.functional.arrays import Arrays
from cimc.runtime.functional.set_reader import SetReader
from cimc.runtime.program.builder import Tile

if TYPE_CHECKING:
    from tests.functional.conftest import Micro

NewMicro = Callable[..., "Micro"]

K, N, CUT = 10, 7, 6
GRID = [Tile(0, 0, CUT, 0, 4), Tile(1, CUT, K, 0, 4), Tile(2, 0, CUT, 4, N), Tile(3, CUT, K, 4, N)]
UNEVEN = [Tile(0, 0, CUT, 0, 4), Tile(1, CUT, K, 0, 4), Tile(2, 0, 3, 4, N), Tile(3, 3, K, 4, N)]


@pytest.fixture
def matrix(rng: np.random.Generator) -> npt.NDArray[np.int8]:
    """A weight of 12 x 9, of which sets hold the block from (1, 2)."""
    return rng.integers(-128, 128, (12, 9), dtype=np.int8)


def arrays_of(m: Micro, matrix: npt.NDArray[np.int8], tiles: Sequence[Tile]) -> Arrays:
    """The arrays of a program with one set."""
    b = m.builder
    coding = b.add_coding(m.coding.to_row().tolist())
    steps = b.add_steps([1] * m.coding.step_count)
    b.add_array_set(0, 0, coding, b.weight("w"), (1, 1 + K, 2, 2 + N), tiles, step_first=steps)
    return Arrays(m.build(), {"w": matrix})


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
@pytest.mark.parametrize("tiles", [GRID, UNEVEN])
def test_tiles_in_any_order(
    new_micro: NewMicro,
    rng: np.random.Generator,
    matrix: npt.NDArray[np.int8],
    tiles: list[Tile],
    order: list[int],
) -> None:
    """The order of the tiles, and columns whose rows are cut elsewhere, do not matter."""
    arrays = arrays_of(new_micro(), matrix, [tiles[i] for i in order])
    held = arrays.array_set(0)
    pieces = arrays.pieces_of_tiles(held, 0, 4)
    arrays.write(held, pieces)
    reader = SetReader(arrays, held, pieces, count=True)
    x = rng.integers(0, 256, (5, K), dtype=np.uint8)
    expected = x.astype(np.int64) @ matrix[1 : 1 + K, 2 : 2 + N].astype(np.int64)
    np.testing.assert_array_equal(reader.read(x), expected)
    np.testing.assert_array_equal(reader.walk(x), expected)
    assert reader.macs == K * N
    cells = 4
    groups = 4 * 2 + 3 * 2  # row groups of each column
    assert (reader.converters.conversions, reader.converters.clipped) == (5 * groups * 8 * cells, 0)


def test_parts_of_a_set(new_micro: NewMicro, rng: np.random.Generator, matrix: npt.NDArray[np.int8]) -> None:
    """Some tiles see their rows and make their columns, the others are 0; wordlines cut every tile."""
    arrays = arrays_of(new_micro(), matrix, GRID)
    held = arrays.array_set(0)
    arrays.write(held, arrays.pieces_of_tiles(held, 0, 4))
    block = matrix[1 : 1 + K, 2 : 2 + N].astype(np.int64)
    x = rng.integers(0, 256, (3, K), dtype=np.uint8)

    some = arrays.pieces_of_tiles(held, 1, 2)
    mask = np.zeros((K, N), np.int64)
    mask[CUT:, :4] = mask[:CUT, 4:] = 1
    reader = SetReader(arrays, held, some, count=False)
    np.testing.assert_array_equal(reader.read(x), x.astype(np.int64) @ (block * mask))
    np.testing.assert_array_equal(reader.walk(x), reader.read(x))
    assert reader.macs == mask.sum()

    lines = arrays.pieces_of_wordlines(held, 2, 3)  # 2, 3, 4 of the upper tiles, 2, 3 of the lower
    mask = np.zeros((K, N), np.int64)
    mask[2:5] = mask[CUT + 2 : K] = 1
    reader = SetReader(arrays, held, lines, count=False)
    np.testing.assert_array_equal(reader.read(x), x.astype(np.int64) @ (block * mask))
    np.testing.assert_array_equal(reader.walk(x), reader.read(x))
    assert reader.macs == mask.sum()


def test_a_write_is_seen_by_the_next_read(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """Two sets on the same crossbars: each read uses what was written last, whoever wrote it."""
    m = new_micro()
    b = m.builder
    image = {name: rng.integers(-128, 128, (K, N), dtype=np.int8) for name in ("u", "v")}
    coding = b.add_coding(m.coding.to_row().tolist())
    steps = b.add_steps([1] * m.coding.step_count)
    for name in image:
        b.add_array_set(0, 0, coding, b.weight(name), (0, K, 0, N), GRID, step_first=steps)
    arrays = Arrays(m.build(), image)
    sets = [arrays.array_set(i) for i in range(2)]
    pieces = arrays.pieces_of_tiles(sets[0], 0, 4)
    reader = SetReader(arrays, sets[0], pieces, count=False)
    x = rng.integers(0, 256, (2, K), dtype=np.uint8)
    for name, held in (("u", sets[0]), ("v", sets[1]), ("u", sets[0])):
        arrays.write(held, pieces, again=True)
        np.testing.assert_array_equal(reader.read(x), x.astype(np.int64) @ image[name].astype(np.int64))
    arrays.write(sets[1], arrays.pieces_of_wordlines(sets[1], 0, 2), again=True)
    mixed = image["u"].copy()
    mixed[[0, 1, CUT, CUT + 1]] = image["v"][[0, 1, CUT, CUT + 1]]
    np.testing.assert_array_equal(reader.read(x), x.astype(np.int64) @ mixed.astype(np.int64))


def test_copies_share_what_was_derived_from_equal_cells(
    new_micro: NewMicro, rng: np.random.Generator, matrix: npt.NDArray[np.int8]
) -> None:
    """Two sets with the same block share a product while their cells are equal; writing into one parts them."""
    m = new_micro()
    b = m.builder
    coding = b.add_coding(m.coding.to_row().tolist())
    steps = b.add_steps([1] * m.coding.step_count)
    copy = [tile._replace(xbar=tile.xbar + len(GRID)) for tile in GRID]
    for name, tiles in (("w", GRID), ("w", copy), ("v", copy)):
        b.add_array_set(0, 0, coding, b.weight(name), (1, 1 + K, 2, 2 + N), tiles, step_first=steps)
    other = rng.integers(-128, 128, matrix.shape, dtype=np.int8)
    arrays = Arrays(m.build(), {"w": matrix, "v": other})
    sets = [arrays.array_set(i) for i in range(3)]
    pieces = [arrays.pieces_of_tiles(held, 0, 4) for held in sets]
    for held, part in zip(sets[:2], pieces, strict=False):
        arrays.write(held, part, again=True)
    shared = [arrays.blocks(sets[i], pieces[i], keep=False) for i in range(2)]
    assert shared[0] is shared[1]

    readers = [SetReader(arrays, sets[i], pieces[i], count=False) for i in range(2)]
    arrays.write(
        sets[2], pieces[2][:1], again=True
    )  # one crossbar of the copy holds other digits from now on
    x = rng.integers(0, 256, (3, K), dtype=np.uint8)
    mixed = matrix.copy()
    mixed[1 : 1 + CUT, 2:6] = other[1 : 1 + CUT, 2:6]
    for reader, image in zip(readers, (matrix, mixed), strict=True):
        expected = x.astype(np.int64) @ image[1 : 1 + K, 2 : 2 + N].astype(np.int64)
        np.testing.assert_array_equal(reader.read(x), expected)
        np.testing.assert_array_equal(reader.walk(x), expected)
