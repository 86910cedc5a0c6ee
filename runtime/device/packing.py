"""Cells in the order in which the CPU kernels read them."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.device.vector import LANES, TILE_ROWS

INT16 = 1 << 15
INT32 = 1 << 31
BLOCK_ROWS = 64
"""Rows of digits in a block: 4 KiB of partial sums."""

Cells16 = npt.NDArray[np.int16]
Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]


def _pack(values: npt.NDArray[Any], together: int, kind: type[Any]) -> npt.NDArray[Any]:
    """(rows, J, N) as (N / 16, J, steps, 16 * together), zeros where rows or columns are missing."""
    rows, conversions, columns = values.shape
    steps, tiles = -(-rows // together), -(-columns // LANES)
    if (rows, columns) == (together * steps, tiles * LANES):
        whole = values.astype(kind, copy=False)
    else:
        whole = np.zeros((together * steps, conversions, tiles * LANES), dtype=kind)
        whole[:rows, :, :columns] = values
    split = whole.reshape(steps, together, conversions, tiles, LANES).transpose(3, 2, 0, 4, 1)
    return np.ascontiguousarray(split).reshape(tiles, conversions, steps, together * LANES)


def pack16(values: npt.NDArray[Any]) -> Cells16:
    """Integers within 16 bits, two rows a step."""
    return _pack(values, 2, np.int16)


def pack8(values: npt.NDArray[Any]) -> Bytes:
    """Integers within 0 … 255, four rows a step."""
    return _pack(values, 4, np.uint8)


def pack_columns(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Numbers per conversion and column (J, N) as (N / 16, J, 16)."""
    return _pack(values[None], 1, np.float32)[:, :, 0]


def padded_rows(rows: int, together: int) -> Rows:
    """Row numbers up to a whole step; the rows beyond repeat row 0 and are to be multiplied by 0."""
    return np.pad(np.arange(rows), (0, -rows % together))


def windows_per_block(phases: int, windows: int) -> int:
    """Windows whose digits fill whole tiles, about :data:`BLOCK_ROWS` rows or what ``windows`` need."""
    unit = TILE_ROWS // gcd(phases, TILE_ROWS)
    wanted = min(max(1, BLOCK_ROWS // phases), windows)
    return -(-wanted // unit) * unit
