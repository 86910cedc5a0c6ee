"""Which groups the fused CPU kernel may take, and their cells as it wants them (docs/device.md, fast evaluation).

Everything the kernel computes in 32 bits is proved to fit from the cells and steps at hand; a group that does not
fit is left to the tensor form. Cells wider than 16 bits are cut: ``V = high 2^k + low``, where the row of ``high``
is driven by digits times 2^k, so only rows that need it cost twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.crossbar.kernels import SOURCES
from cimc.runtime.device.converter import Division
from cimc.runtime.device.kernels import add_converted, pack_digits
from cimc.runtime.device.normals import LARGEST_NORMAL, quantile_table
from cimc.runtime.device.packing import (
    INT16,
    INT32,
    Bytes,
    Cells16,
    Rows,
    pack8,
    pack16,
    pack_columns,
    padded_rows,
    windows_per_block,
)
from cimc.runtime.device.random import Key
from cimc.runtime.device.recipe import Recipe

LARGEST_SQUARE = 127
"""Squared digits are signed bytes."""


@dataclass(frozen=True)
class Fused:
    """One group for the kernel.

    Column c of the packed digits is row ``row[c]`` of the group times ``factor[c]``; ``cells`` int16 (N / 16, J,
    pairs, 32). ``variance`` uint8 (N / 16, J, fours, 64) and the ``scale`` of noise (N / 16, J, 16) are empty
    without noise. ``constants`` and ``inverse`` are those of the conversions.
    """

    row: Rows
    factor: npt.NDArray[np.int32]
    cells: Cells16
    variance: Bytes
    scale: npt.NDArray[np.float32]
    constants: npt.NDArray[np.int32]
    inverse: npt.NDArray[np.float32]
    up: int
    down: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the cells and variances."""
        return self.cells.nbytes + self.variance.nbytes + self.scale.nbytes


def gathered(groups: Sequence[Fused]) -> list[Fused]:
    """The same groups in few allocations: cells and noise of all side by side, what is equal only once.

    Groups of a few rows are many and small: each array of its own would cost as much again in the allocator.
    """
    known: dict[tuple[str, tuple[int, ...], bytes], npt.NDArray[Any]] = {}

    def once(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return known.setdefault((array.dtype.str, array.shape, array.tobytes()), array)

    cells = _side_by_side([group.cells for group in groups])
    variances = _side_by_side([group.variance for group in groups])
    scales = _side_by_side([group.scale for group in groups])
    return [
        replace(
            group,
            row=once(group.row),
            factor=once(group.factor),
            cells=cells[at],
            variance=variances[at],
            scale=scales[at],
            constants=once(group.constants),
            inverse=once(group.inverse),
        )
        for at, group in enumerate(groups)
    ]


def _side_by_side(arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Copies of ``arrays``, of one type, as views of one allocation."""
    ends = np.cumsum([array.size for array in arrays])
    flat = np.concatenate([array.ravel() for array in arrays])
    return [
        flat[end - array.size : end].reshape(array.shape) for end, array in zip(ends, arrays, strict=True)
    ]


def fuse(
    recipe: Recipe,
    values: npt.NDArray[np.integer[Any]],
    noise: tuple[Bytes, npt.NDArray[np.float32]] | None,
    constants: Division,
) -> Fused | None:
    """The group of ``values`` (rows, J, N) for the kernel, or None when 32 bits are not proved to be enough.

    ``noise`` are variances (rows, J, N) and scales (J, N); ``constants`` are of shape (I, J).
    """
    drive = recipe.drive
    if drive >= INT16 or values.size == 0 or not constants.single:
        return None
    peak = drive * int(np.abs(values).sum(axis=0, dtype=np.int64).max())
    variance = np.empty((0, 0, 0, 0), dtype=np.uint8)
    scale = np.empty((0, 0, 0), dtype=np.float32)
    if noise is not None:
        if drive * drive > LARGEST_SQUARE:
            return None
        summed = drive * drive * noise[0].sum(axis=0, dtype=np.int64)
        peak += int((np.sqrt(summed) * noise[1]).max() * LARGEST_NORMAL) + 1
        variance, scale = pack8(noise[0]), pack_columns(noise[1])
    worth = np.array([phase.coefficient for phase in recipe.coding.phases])[:, None] * constants.h
    codes = np.maximum(-constants.low, constants.high) // constants.h
    if constants.widest(peak) >= INT32 or (np.abs(worth) * codes).sum(axis=0).max() >= INT32:
        return None
    cut = _cut(values.astype(np.int64), drive)
    if cut is None:
        return None
    narrow, row, factor = cut
    return Fused(
        row=row,
        factor=factor,
        cells=pack16(narrow),
        variance=variance,
        scale=scale,
        constants=np.ascontiguousarray(
            np.stack([constants.offset, constants.low, constants.high, worth], axis=-1), dtype=np.int32
        ),
        inverse=np.ascontiguousarray(1.0 / constants.h, dtype=np.float32),
        up=constants.up,
        down=constants.down,
    )


def _cut(
    values: npt.NDArray[np.int64], drive: int
) -> tuple[npt.NDArray[np.int64], Rows, npt.NDArray[np.int32]] | None:
    """Values in 16 bits, their rows and the factors of their digits: tall rows come twice. None if they cannot."""
    count = len(values)
    tall = np.flatnonzero((np.abs(values) >= INT16).any(axis=(1, 2)))
    bits = (INT16 // drive).bit_length() - 2 if len(tall) else 0
    if len(tall):
        high = (values[tall] + (1 << (bits - 1))) >> bits
        values = np.concatenate([values, high])
        values[tall] -= high << bits
        if np.abs(values).max() >= INT16:
            return None
    rows = np.append(np.arange(count), tall)
    padded = padded_rows(len(rows), 2)
    factor = np.where(np.arange(len(rows)) < count, 1, 1 << bits)
    return values, rows[padded], np.pad(factor, (0, len(padded) - len(rows))).astype(np.int32)


def bytes_per_window(fused: Fused, phases: int) -> int:
    """Bytes that one window takes while it is read: its codes and digits."""
    squares = 4 * fused.variance.shape[2] if fused.variance.size else 0
    return phases * (2 * len(fused.row) + squares) + 4 * len(fused.row)


def add_group(
    recipe: Recipe,
    fused: Fused,
    worth: npt.NDArray[np.int64],
    values: npt.NDArray[np.int32],
    key: Key,
    counters: npt.NDArray[np.int64],
    first_window: int,
    total: npt.NDArray[np.int64],
) -> None:
    """Add the group's conversions for ``values`` (M, rows), codes less the input offset, to ``total`` (M, N).

    ``key`` and the first counter words of the conversions (J) name the noise of windows from ``first_window``.
    """
    phases = np.array(
        [(SOURCES.index(p.source), p.shift, p.top) for p in recipe.coding.phases], dtype=np.int32
    )
    windows = windows_per_block(len(phases), len(values))
    shape = (-(-len(values) // windows), len(phases), windows)
    digits = np.empty((*shape, len(fused.row)), dtype=np.int16)
    pack_digits(values, fused.row, fused.factor, phases, False, digits)
    squares = np.empty((0, 0, 0, 0), dtype=np.int8)
    if fused.variance.size:
        row = padded_rows(values.shape[1], 4)
        ones = (np.arange(len(row)) < values.shape[1]).astype(np.int32)
        squares = np.empty((*shape, len(row)), dtype=np.int8)
        pack_digits(values, row, ones, phases, True, squares)
    add_converted(
        digits,
        fused.cells,
        (np.int32(fused.up), np.int32(fused.down)),
        fused.constants,
        fused.inverse,
        worth,
        (
            squares,
            fused.variance,
            quantile_table().view(np.int32),
            (np.uint64(key.low), np.uint64(key.high)),
            fused.scale,
            counters,
            first_window,
        ),
        total,
    )
