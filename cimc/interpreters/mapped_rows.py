"""Frames in ONNX layout as channel-last rows and back, for whole batches of frames."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.dialects.row_layout import RowLayout, layout_of, row_layout
from cimc.passes.schedule.moves import flat_numbers

Array = npt.NDArray[Any]


def to_rows(frames: Array, frame: Sequence[int]) -> Array:
    """Frames (F, *frame) as rows (F, H, W, C) of the layout that the shape ``frame`` fixes."""
    if len(frame) == 3:
        return np.ascontiguousarray(frames.transpose(0, 2, 3, 1))
    return frames.reshape(len(frames), *row_layout(frame).shape)


def from_rows(rows: Array, frame: Sequence[int], layout: RowLayout | None = None) -> Array:
    """Rows (F, H, W, C) as frames (F, *frame).

    Without a ``layout`` a frame of rank 3 lies as an image, or as tokens of its last axis where the stage that made it
    works on tokens. Raises ``ValueError`` for rows of neither shape.
    """
    chosen = layout or layout_of(rows.shape[1:], frame)
    if chosen == row_layout(frame) and len(frame) == 3:
        return np.ascontiguousarray(rows.transpose(0, 3, 1, 2))
    flat = np.empty((len(rows), prod(frame)), rows.dtype)
    flat[:, flat_numbers(chosen).reshape(-1)] = rows.reshape(flat.shape)
    return flat.reshape(len(rows), *frame)
