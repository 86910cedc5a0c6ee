"""The crossbars of the machine and their cells.

Cells change through ``write_*`` only, which turns the weight image, or rows of codes in local memory, into digits; a
read multiplies by what the cells hold at that time (``set_reader.py``). What is derived from cells (decoded weights,
joined tiles) is kept until one of the crossbars is written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UsageError
from cimc.runtime.crossbar.cells import store
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.product import ArrayProduct
from cimc.runtime.crossbar.rows import group_bounds
from cimc.runtime.crossbar.tile import CellArray, Stored, join
from cimc.runtime.functional.problems import BoundsError, ExecutionError, UnwrittenError
from cimc.runtime.program.builder import Tile
from cimc.runtime.program.tables import NONE, Program

Integers = npt.NDArray[Any]


@dataclass(frozen=True)
class Block:
    """Cells with the same row segments: the rows of the window they see, the columns they make."""

    rows: slice | npt.NDArray[np.int64]
    columns: slice | npt.NDArray[np.int64]
    product: ArrayProduct
    stored: Stored | None
    """The cells themselves, kept only where conversions are counted."""


_Digits = tuple[int, ...]
"""What determines the digits of a written piece: tensor, coding, blocks of set and tile, wordlines."""


@dataclass(frozen=True)
class _Write:
    """A write of a crossbar: what it programmed, and the crossbar's version behind it."""

    array: CellArray
    version: int
    digits: _Digits

    @property
    def intact(self) -> bool:
        """Whether the crossbar was not written since."""
        return self.array.version == self.version


@dataclass(frozen=True)
class ArraySet:
    """One row of ``array_sets`` with its tiles; blocks are relative to the set."""

    number: int
    core: int
    coding: Coding
    coding_row: int
    tensor: int
    k0: int
    k1: int
    n0: int
    n1: int
    groups: int
    tiles: tuple[Tile, ...]
    steps: npt.NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Rows of the weight block: elements of a window."""
        return self.k1 - self.k0

    @property
    def columns(self) -> int:
        """Logical columns."""
        return self.n1 - self.n0


@dataclass(frozen=True)
class Piece:
    """The wordlines [first, last) of one tile that a read drives."""

    tile: Tile
    first: int
    last: int


class Arrays:
    """All crossbars, array sets and the weight image they are written from."""

    def __init__(self, program: Program, weights: Mapping[str, npt.NDArray[Any]]):
        self._program = program
        self._weights = weights
        self._cells: dict[tuple[int, int], CellArray] = {}
        self._sets: dict[int, ArraySet] = {}
        self._codings: dict[int, Coding] = {}
        self._first: dict[_Digits, _Write] = {}
        self._last: dict[tuple[int, int], _Write] = {}
        self._blocks: dict[tuple[Any, ...], list[Block]] = {}
        self._tables = {
            name: {key: column.tolist() for key, column in program[name].items()}
            for name in ("array_sets", "tiles")
        }
        self._staying: dict[tuple[int, int], int] = {}
        """Sets whose weights stay in a crossbar for all calls."""
        self._written: set[tuple[int, tuple[Piece, ...]]] = set()
        """What of them is there."""
        self.writes = 0

    def array_set(self, number: int) -> ArraySet:
        """Array set ``number``. BoundsError if there is none or its converter steps are missing."""
        known = self._sets.get(number)
        if known is None:
            known = self._sets[number] = self._load(number)
        return known

    def _load(self, number: int) -> ArraySet:
        program = self._program
        if not 0 <= number < program.count("array_sets"):
            raise BoundsError(f"array set {number} is named, the program has {program.count('array_sets')}")
        f: dict[str, int] = {name: column[number] for name, column in self._tables["array_sets"].items()}
        limits = (("coding", 0, program.count("codings")), ("tensor", NONE, len(program.weights)))
        for field, least, count in limits:
            if not least <= f[field] < count:
                raise BoundsError(f"array set {number} names {field} {f[field]}, the program has {count}")
        if f["groups"] < 1:
            raise BoundsError(f"array set {number} has {f['groups']} groups; a dense block has 1")
        coding = self._codings.get(f["coding"])
        if coding is None:
            coding = self._codings[f["coding"]] = Coding.from_row(program["codings"]["fields"][f["coding"]])
        span, tiles = range(f["tile_first"], f["tile_first"] + f["tile_count"]), self._tables["tiles"]
        tiles = tuple(Tile(*(tiles[name][i] for name in Tile._fields)) for i in span)
        wanted = coding.step_count
        steps = program["steps"]["h"][f["step_first"] : f["step_first"] + wanted].astype(np.int64)
        if f["step_first"] < 0 or len(steps) < wanted:
            raise BoundsError(f"array set {number} needs {wanted} converter steps from {f['step_first']}")
        steps = steps.reshape(coding.digit_cycles, -1)
        return ArraySet(
            number,
            f["core"],
            coding,
            f["coding"],
            f["tensor"],
            f["k0"],
            f["k1"],
            f["n0"],
            f["n1"],
            f["groups"],
            tiles,
            steps,
        )

    def pieces_of_tiles(self, array_set: ArraySet, first: int, count: int) -> tuple[Piece, ...]:
        """All wordlines of tiles [first, first + count). BoundsError if the set has fewer."""
        if first < 0 or count < 1 or first + count > len(array_set.tiles):
            raise BoundsError(
                f"tiles {first} … {first + count - 1} of array set {array_set.number} are used, it has "
                f"{len(array_set.tiles)}"
            )
        return tuple(Piece(t, 0, t.k1 - t.k0) for t in array_set.tiles[first : first + count])

    def pieces_of_wordlines(self, array_set: ArraySet, first: int, count: int) -> tuple[Piece, ...]:
        """Wordlines [first, first + count) of every tile that has some of them. BoundsError if none has."""
        pieces = tuple(
            Piece(t, first, min(first + count, t.k1 - t.k0)) for t in array_set.tiles if first < t.k1 - t.k0
        )
        if first < 0 or count < 1 or not pieces:
            raise BoundsError(
                f"wordlines {first} … {first + count - 1} of array set {array_set.number} are used, its tiles "
                f"have at most {max((t.k1 - t.k0 for t in array_set.tiles), default=0)}"
            )
        return pieces

    def write(self, array_set: ArraySet, pieces: tuple[Piece, ...], *, again: bool = False) -> None:
        """Program the pieces from the weight image; without ``again`` once in all calls.

        BoundsError if a block leaves the weight or the crossbar, ExecutionError for weights that the coding
        cannot hold and for cells that keep those of another set.
        """
        if array_set.tensor == NONE:
            raise BoundsError(f"array set {array_set.number} holds no weights; write_local programs it")
        if not again:
            if (array_set.number, pieces) in self._written:
                return
            self._written.add((array_set.number, pieces))
        name = self._program.weights[array_set.tensor]
        image = self._weights[name]
        if image.ndim != 2 or array_set.k1 > image.shape[0] or array_set.n1 > image.shape[1]:
            raise BoundsError(
                f"rows {array_set.k0} … {array_set.k1 - 1}, columns {array_set.n0} … {array_set.n1 - 1} of "
                f"weight '{name}' are written, it has shape {image.shape}"
            )
        block = image[array_set.k0 : array_set.k1, array_set.n0 : array_set.n1]
        for piece in pieces:
            self._claim(array_set, piece.tile.xbar, again)
            self._write_piece(array_set, block, piece)
        self.writes += 1

    def _claim(self, array_set: ArraySet, xbar: int, again: bool) -> None:
        """ExecutionError for a crossbar that keeps the weights of another set."""
        place = array_set.core, xbar
        keeper = self._staying.get(place, array_set.number)
        if keeper != array_set.number:
            raise ExecutionError(
                f"array set {array_set.number} is written to crossbar {xbar} of core {array_set.core}, which keeps "
                f"the weights of array set {keeper} in all calls; write both again in every call, or elsewhere"
            )
        if not again:
            self._staying[place] = array_set.number

    def write_rows(self, array_set: ArraySet, first: int, codes: Integers) -> None:
        """Program rows [first, first + K) of the set's block with ``codes`` (K, N), at run time.

        BoundsError for rows outside the block, ExecutionError for codes that the coding cannot hold and for cells
        whose flip bits depend on rows that are not there yet.
        """
        coding = array_set.coding
        if coding.column_flip:
            raise ExecutionError("rows of arrays with flipped columns cannot be written one by one")
        if first < 0 or first + len(codes) > array_set.rows:
            raise BoundsError(
                f"rows {first} … {first + len(codes) - 1} of array set {array_set.number} are written, it has "
                f"{array_set.rows}"
            )
        for tile in array_set.tiles:
            low, high = max(first, tile.k0), min(first + len(codes), tile.k1)
            if low >= high:
                continue
            block = codes[low - first : high - first, tile.n0 : tile.n1]
            bounds = group_bounds([(high - low, low - tile.k0)], coding.parallel_rows)
            try:
                cells, flips = store(block, coding, bounds)
            except ValueError as error:
                raise ExecutionError(str(error)) from error
            array = self._array(array_set.core, tile.xbar, coding)
            try:
                array.write(cells, flips, low - tile.k0)
            except UsageError as error:
                raise BoundsError(
                    f"crossbar {tile.xbar} of core {array_set.core}: {error.message}"
                ) from error
            self._last.pop((array_set.core, tile.xbar), None)  # it holds nothing of the weight image any more
        self.writes += 1

    def _write_piece(self, array_set: ArraySet, block: Integers, piece: Piece) -> None:
        tile, digits = piece.tile, _digits(array_set, piece)
        array = self._array(array_set.core, tile.xbar, array_set.coding)
        first = self._first.get(digits)
        if first is not None and array.version == 0 and first.array.version == first.version == 1:
            array.write_like(first.array)  # whose only write was that of these digits
        else:
            self._program_cells(array_set, block, piece, array)
        written = _Write(array, array.version, digits)
        self._first.setdefault(digits, written)
        self._last[array_set.core, tile.xbar] = written

    def _program_cells(self, array_set: ArraySet, block: Integers, piece: Piece, array: CellArray) -> None:
        """Digits of a piece from the weights into its crossbar."""
        tile, coding = piece.tile, array_set.coding
        parallel = coding.parallel_rows
        bounds = group_bounds([(tile.k1 - tile.k0, 0)], parallel)
        try:
            cells, flips = store(block[tile.k0 : tile.k1, tile.n0 : tile.n1], coding, bounds)
        except ValueError as error:
            raise ExecutionError(str(error)) from error
        groups = slice(piece.first // parallel, -(-piece.last // parallel))
        try:
            array.write(cells[piece.first : piece.last], flips[groups], piece.first)
        except UsageError as error:
            raise BoundsError(f"crossbar {tile.xbar} of core {array_set.core}: {error.message}") from error

    def _array(self, core: int, xbar: int, coding: Coding) -> CellArray:
        """The crossbar; one that is written with another kind of digits starts empty."""
        shape: Mapping[str, int] = self._program.machine["crossbar"]
        columns = shape["columns"] * (coding.cells_per_weight if shape.get("logical_cells") else 1)
        known = self._cells.get((core, xbar))
        if known and (known.cols, known.cell_bits, known.parallel_rows) == (
            columns,
            coding.cell_bits,
            coding.parallel_rows,
        ):
            return known
        fresh = CellArray(shape["rows"], columns, coding.cell_bits, coding.parallel_rows)
        self._cells[core, xbar] = fresh
        return fresh

    def stored(self, array_set: ArraySet, piece: Piece) -> Stored:
        """Cells of a piece as they are now. UnwrittenError if some were never written."""
        array = self._cells.get((array_set.core, piece.tile.xbar))
        place = f"crossbar {piece.tile.xbar} of core {array_set.core}"
        if array is None:
            raise UnwrittenError(f"{place} is read but was never written")
        columns = piece.tile.n1 - piece.tile.n0
        try:
            return array.read_back(array_set.coding, piece.last - piece.first, columns, piece.first)
        except UsageError as error:
            raise UnwrittenError(f"{place}: {error.message}") from error

    def blocks(self, array_set: ArraySet, pieces: tuple[Piece, ...], *, keep: bool) -> list[Block]:
        """The products of the pieces as their cells are now; one object for cells with the same digits.

        ``keep``: with the cells themselves.
        """
        digits: list[_Digits] = []
        for piece in pieces:
            last = self._last.get((array_set.core, piece.tile.xbar))
            wanted = _digits(array_set, piece)
            if last is None or not last.intact or last.digits != wanted:
                return self._join_columns(array_set, pieces, keep)
            digits.append(wanted)
        key = (array_set.steps.tobytes(), keep, *digits)
        known = self._blocks.get(key)
        if known is None:
            known = self._blocks[key] = self._join_columns(array_set, pieces, keep)
        return known

    def _join_columns(self, array_set: ArraySet, pieces: tuple[Piece, ...], keep: bool) -> list[Block]:
        """Tile columns whose tiles cut the rows alike become one block: one product serves them all."""
        alike: dict[tuple[tuple[int, int, int], ...], list[tuple[int, int, Stored]]] = {}
        for (first, last), column in by_columns(pieces).items():
            segments = tuple((p.tile.k0 + p.first, p.last - p.first, p.first) for p in column)
            stored = join([self.stored(array_set, piece) for piece in column])
            alike.setdefault(segments, []).append((first, last, stored))
        blocks: list[Block] = []
        for segments, members in alike.items():
            bounds = members[0][2].bounds
            cells = np.concatenate([stored.cells for _, _, stored in members], axis=1)
            flips = np.concatenate([stored.flips for _, _, stored in members], axis=1)
            rows = _index([(k, k + size) for k, size, _ in segments])
            columns = _index([(first, last) for first, last, _ in members])
            product = ArrayProduct(cells, flips, array_set.coding, bounds, array_set.steps)
            blocks.append(Block(rows, columns, product, Stored(cells, flips, bounds) if keep else None))
        return blocks

    def versions(self, array_set: ArraySet, pieces: tuple[Piece, ...]) -> list[tuple[int, int]]:
        """Identity and write count of the crossbars of the pieces, to see whether they changed."""
        arrays = [self._cells.get((array_set.core, piece.tile.xbar)) for piece in pieces]
        return [(id(array), array.version if array else 0) for array in arrays]


def _digits(array_set: ArraySet, piece: Piece) -> _Digits:
    s, tile = array_set, piece.tile
    block = (tile.k0, tile.k1, tile.n0, tile.n1, piece.first, piece.last)
    return (s.tensor, s.coding_row, s.k0, s.k1, s.n0, s.n1, *block)


def by_columns(pieces: tuple[Piece, ...]) -> dict[tuple[int, int], list[Piece]]:
    """Pieces of each tile column in the order of their rows."""
    columns: dict[tuple[int, int], list[Piece]] = {}
    for piece in sorted(pieces, key=lambda p: p.tile.k0):
        columns.setdefault((piece.tile.n0, piece.tile.n1), []).append(piece)
    return columns


def _index(spans: list[tuple[int, int]]) -> slice | npt.NDArray[np.int64]:
    """Spans one behind the other as a slice where they adjoin, else as an index."""
    if all(a[1] == b[0] for a, b in pairwise(spans)):
        return slice(spans[0][0], spans[-1][1])
    return np.concatenate([np.arange(first, last) for first, last in spans])
