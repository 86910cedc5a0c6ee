"""Windows out of buffers: what a read or a pool sees of the rows it names.

A window at (row, col) is element ``(row + i*row_step, col + j*col_step + q)`` for i < kh, j < kw,
q < c, in this order. Windows of successive positions lie ``pos_step`` elements apart. Nothing is
expanded in the buffers: a strided view of each row is copied once into the patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.functional.memory import Buffer
from cimc.runtime.functional.problems import BoundsError
from cimc.runtime.program.tables import Program


@dataclass(frozen=True)
class WindowShape:
    """One row of the table of windows."""

    kh: int
    row_step: int
    kw: int
    col_step: int
    c: int
    lo: int
    hi: int
    pos_step: int

    @property
    def size(self) -> int:
        """Elements of a window after the cut."""
        return self.hi - self.lo


def window_shape(program: Program, number: int) -> WindowShape:
    """Window ``number``. BoundsError if there is none or its cut leaves it."""
    if not 0 <= number < program.count("windows"):
        raise BoundsError(f"window {number} is named, the table has {program.count('windows')}")
    shape = WindowShape(**{name: int(column[number]) for name, column in program["windows"].items()})
    if min(shape.kh, shape.kw, shape.c) < 1 or not 0 <= shape.lo < shape.hi <= shape.kh * shape.kw * shape.c:
        raise BoundsError(f"window {number} is empty or cut outside itself: {shape}")
    return shape


def row_taps(
    buffer: Buffer, row: int, col: int, shape: WindowShape, positions: int, pos_step: int, channels: int
) -> npt.NDArray[Any]:
    """(kw, positions, channels) view of one row: tap, position, channel. Errors as ``Buffer.read``."""
    last = (shape.kw - 1) * shape.col_step
    reach = (positions - 1) * pos_step
    low = col + min(last, 0) + min(reach, 0)
    high = col + max(last, 0) + max(reach, 0) + channels
    flat = buffer.read(row, low, high - low)
    size = flat.itemsize
    # The constructor checks that the strides stay inside `flat`, and costs a tenth of as_strided.
    return np.ndarray(
        (shape.kw, positions, channels),
        flat.dtype,
        flat,
        (col - low) * size,
        (shape.col_step * size, pos_step * size, size),
    )


def gather_windows(
    buffer: Buffer, row: int, col: int, shape: WindowShape, positions: int, pos_step: int
) -> npt.NDArray[Any]:
    """(positions, hi - lo): the windows of ``positions`` places ``pos_step`` elements apart."""
    tap_row = shape.kw * shape.c
    first, last = shape.lo // tap_row, -(-shape.hi // tap_row)
    patches = np.empty((positions, last - first, shape.kw, shape.c), buffer.data.dtype)
    for i in range(first, last):
        taps = row_taps(buffer, row + i * shape.row_step, col, shape, positions, pos_step, shape.c)
        patches[:, i - first] = taps.swapaxes(0, 1)
    flat = patches.reshape(positions, -1)
    return flat[:, shape.lo - first * tap_row : shape.hi - first * tap_row]


def walk_window(buffer: Buffer, row: int, col: int, shape: WindowShape) -> npt.NDArray[Any]:
    """(1, hi - lo): one window, element by element as the definition says."""
    elements = [
        buffer.read(row + i * shape.row_step, col + j * shape.col_step + q, 1)[0]
        for i in range(shape.kh)
        for j in range(shape.kw)
        for q in range(shape.c)
        if shape.lo <= (i * shape.kw + j) * shape.c + q < shape.hi
    ]
    return np.array([elements], buffer.data.dtype)
