"""Products of two activations at the mapped level: a matrix for every position of a row, on the unit or on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import TensorType, i64

from cimc.backends.schema import Architecture
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.graph_types import shape_of
from cimc.passes.schedule.array_frames import frame_tiles
from cimc.passes.schedule.array_product import coding_of
from cimc.runtime.crossbar.cells import store
from cimc.runtime.crossbar.product import ArrayProduct
from cimc.runtime.crossbar.rows import group_bounds
from cimc.runtime.numerics import digital

Array = npt.NDArray[Any]


def frame_product(op: FrameProductOp, rows: Array, frame: Array, arch: Architecture) -> Array:
    """Rows (F, H, W, K) by the matrices of ``frame``, one a position; on arrays the sums of docs/crossbar.md."""
    if op.coding is not None:
        return _array_frames(op, rows, frame, arch)
    matrices = frame.transpose(0, 2, 3, 1) if op.by_columns is not None else frame.transpose(0, 2, 1, 3)
    return digital.matmul_float(rows.transpose(0, 2, 1, 3), matrices).transpose(0, 2, 1, 3)


def _array_frames(op: FrameProductOp, rows: Array, frame: Array, arch: Architecture) -> Array:
    """Sums of all rows of each position, through cells that hold its matrix."""
    assert op.coding is not None
    assert isinstance(op.result.type, TensorType)
    coding = coding_of(op.coding)
    heights = [(k1 - k0, 0) for k0, k1, _, _ in frame_tiles(op, 1, arch)]
    bounds = group_bounds(heights, coding.parallel_rows)
    frames, height, positions, _ = rows.shape
    wide = op.result.type.get_element_type() == i64
    sums = np.empty((frames, height, positions, shape_of(op.result)[2]), np.int64 if wide else np.int32)
    for image in range(frames):
        for position in range(positions):
            cells, flips = store(frame[image, :, position], coding, bounds)
            product = ArrayProduct(cells, flips, coding, bounds)
            sums[image, :, position] = product.read(rows[image, :, position])
    return sums
