"""The index of a move between rows: from elements numbered in ONNX order to elements numbered row by row."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.dialects import graph
from cimc.dialects.graph_types import shape_of
from cimc.dialects.row_layout import RowLayout

Index = npt.NDArray[np.int64]


def flat_numbers(layout: RowLayout) -> Index:
    """The ONNX number of every element of the rows, in the rows' shape."""
    rows, positions, channels = (np.arange(extent, dtype=np.int64) for extent in layout.shape)
    return (
        (rows * layout.row_stride)[:, np.newaxis, np.newaxis]
        + (positions * layout.pos_stride)[:, np.newaxis]
        + channels * layout.chan_stride
    )


def used_channels(rows: Index, sources: Sequence[RowLayout]) -> tuple[Index, list[tuple[int, int]]]:
    """``rows`` over the channels of each source that it uses alone, and those: [begin, end)."""
    starts = np.cumsum([0, *(layout.rows * layout.positions * layout.channels for layout in sources)])
    renumbered, ranges, first = rows.copy(), [(0, layout.channels) for layout in sources], 0
    for number, layout in enumerate(sources):
        mine = (rows >= starts[number]) & (rows < starts[number + 1])
        local = rows[mine] - starts[number]
        place, channel = local // layout.channels, local % layout.channels
        begin, end = (int(channel.min()), int(channel.max()) + 1) if channel.size else (0, 1)
        ranges[number] = begin, end
        renumbered[mine] = first + place * (end - begin) + channel - begin
        first += layout.rows * layout.positions * (end - begin)
    constants = rows >= starts[-1]
    renumbered[constants] = rows[constants] - starts[-1] + first
    return renumbered, ranges


def row_index(index: npt.NDArray[Any], sources: Sequence[RowLayout], target: RowLayout) -> Index:
    """``index`` of ``graph.index_map`` for one frame, as ``mem.index_map`` takes it."""
    numbers: list[Index] = []
    first = 0
    for layout in sources:
        onnx = flat_numbers(layout).reshape(-1)
        place = np.empty(onnx.size, np.int64)
        place[onnx] = np.arange(first, first + onnx.size)
        numbers.append(place)
        first += onnx.size
    flat = index.reshape(-1)
    constants = max(0, int(flat.max(initial=0)) + 1 - first)
    numbers.append(np.arange(first, first + constants, dtype=np.int64))
    return np.concatenate(numbers)[flat[flat_numbers(target)]]


def identity(frame: Sequence[int]) -> npt.NDArray[np.int64]:
    """Every element where it is."""
    return np.arange(prod(frame), dtype=np.int64).reshape(frame)


def joined(op: graph.ConcatOp) -> npt.NDArray[Any]:
    """The index of a concatenation over one frame, or over all of tensors without a batch."""
    first, parts = 0, []
    for value in op.inputs:
        size = prod(shape_of(value))
        parts.append(np.arange(first, first + size, dtype=np.int64).reshape(shape_of(value)))
        first += size
    return np.concatenate(parts, axis=op.axis.value.data)
