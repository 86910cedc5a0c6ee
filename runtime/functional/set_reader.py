"""What an instruction that reads an array set sees of the crossbars, and what it computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.crossbar.reference import check_codes, read_reference
from cimc.runtime.crossbar.tile import join
from cimc.runtime.functional.arrays import Arrays, ArraySet, Block, Piece, by_columns
from cimc.runtime.functional.converters import ConverterCount, count_conversions
from cimc.runtime.functional.problems import ExecutionError
from cimc.runtime.program.tables import NONE

Integers = npt.NDArray[Any]


class SetReader:
    """One instruction's view of an array set: which wordlines, and what they were last seen to hold."""

    def __init__(self, arrays: Arrays, array_set: ArraySet, pieces: tuple[Piece, ...], *, count: bool):
        self._arrays = arrays
        self._set = array_set
        self._pieces = pieces
        self._seen_writes = -1
        self._seen: list[tuple[int, int]] = []
        self._blocks: list[Block] = []
        self._count = count
        self.converters = ConverterCount()
        weights = sum((p.last - p.first) * (p.tile.n1 - p.tile.n0) for p in pieces) // array_set.groups
        self.macs = weights if array_set.tensor != NONE else 0
        """Multiply-accumulates by weights of the model in one window: rows used times columns used, of their own group
        only."""

    def current(self) -> list[Block]:
        """The products with the cells as they are now; one object for equal cells."""
        self._refresh()
        return self._blocks

    def read(self, qx: Integers) -> npt.NDArray[np.int64]:
        """Windows ``qx`` (M, K) times the cells: int64 (M, N) in units of 2^-F; columns not read are 0."""
        self._check(qx)
        self._refresh()
        if self._count:
            self._count_conversions(qx)
        whole = self._blocks[0]
        if isinstance(whole.columns, slice) and whole.product.columns == self._set.columns:
            return whole.product.read(qx[:, whole.rows])
        out = np.zeros((len(qx), self._set.columns), np.int64)
        for block in self._blocks:
            out[:, block.columns] += block.product.read(qx[:, block.rows])
        return out

    def walk(self, qx: Integers) -> npt.NDArray[np.int64]:
        """The same by the definition: one tile column, group, digit and conversion at a time."""
        self._check(qx)
        out = np.zeros((len(qx), self._set.columns), np.int64)
        for (first, last), pieces in by_columns(self._pieces).items():
            stored = join([self._arrays.stored(self._set, piece) for piece in pieces])
            rows = np.concatenate([np.arange(p.tile.k0 + p.first, p.tile.k0 + p.last) for p in pieces])
            out[:, first:last] += read_reference(
                qx[:, rows], stored.cells, stored.flips, self._set.coding, stored.bounds, self._set.steps
            )
        return out

    def _check(self, qx: Integers) -> None:
        """ExecutionError for codes that the digits cannot carry."""
        try:
            check_codes(qx, self._set.rows, self._set.coding)
        except ValueError as error:
            raise ExecutionError(str(error)) from error

    def _refresh(self) -> None:
        if self._seen_writes == self._arrays.writes:
            return
        self._seen_writes = self._arrays.writes
        versions = self._arrays.versions(self._set, self._pieces)
        if self._blocks and versions == self._seen:
            return
        self._seen = versions
        self._blocks = self._arrays.blocks(self._set, self._pieces, keep=self._count)

    def _count_conversions(self, qx: Integers) -> None:
        for block in self._blocks:
            if block.stored is None:
                continue
            self.converters += count_conversions(
                qx[:, block.rows], block.stored, self._set.coding, self._set.steps, block.product.lossless
            )
