"""How an ONNX tensor of one frame lies in rows: the layout of everything below level 2.

Activations are channel-last rows (row, position, channel). An image (C, H, W) has H rows of W positions; a
vector or a token sequence (..., F) has one row of one position per token. The layout is fixed by the shape, so
producers and consumers agree without being told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class RowLayout:
    """Extents of the rows of a frame, and where element (row, position, channel) lies in its flat ONNX order."""

    rows: int
    positions: int
    channels: int
    row_stride: int
    pos_stride: int
    chan_stride: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, positions, channels: the shape of the mapped level's tensor."""
        return self.rows, self.positions, self.channels

    def same_order(self, other: RowLayout) -> bool:
        """Whether both layouts walk the same flat elements in the same rows, so that no data has to move."""
        if self.shape != other.shape:
            return False
        mine = (self.row_stride, self.pos_stride, self.chan_stride)
        theirs = (other.row_stride, other.pos_stride, other.chan_stride)
        return all(extent == 1 or a == b for extent, a, b in zip(self.shape, mine, theirs, strict=True))


def frame_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one frame: a leading extent of 1 is the batch and is dropped."""
    return tuple(shape[1:]) if len(shape) > 1 and shape[0] == 1 else tuple(shape)


def row_layout(frame: Sequence[int]) -> RowLayout:
    """The layout of a frame: images (C, H, W) by image row, everything else by its last axis."""
    if len(frame) == 3:
        channels, height, width = frame
        return RowLayout(height, width, channels, width, 1, height * width)
    return token_layout(frame)


def token_layout(frame: Sequence[int]) -> RowLayout:
    """Rows along the last axis: one token of ``frame[-1]`` features a row."""
    features = frame[-1] if frame else 1
    return RowLayout(prod(frame[:-1]), 1, features, features, features, 1)


def heads_layout(frame: Sequence[int]) -> RowLayout:
    """Rows along the second axis from the end, what stands before it (heads) as positions, features as channels."""
    *heads, tokens, features = frame
    return RowLayout(tokens, prod(heads), features, features, tokens * features, 1)


def columns_layout(frame: Sequence[int]) -> RowLayout:
    """The same of a frame whose last two axes have changed places: rows along the last axis."""
    *heads, features, tokens = frame
    return RowLayout(tokens, prod(heads), features, 1, tokens * features, tokens)


def scalar_layout(frame: Sequence[int]) -> RowLayout:
    """A row for every element."""
    return RowLayout(prod(frame), 1, 1, 1, 1, 1)


def layout_of(rows: Sequence[int], frame: Sequence[int]) -> RowLayout:
    """The layout of rows of the shape ``rows`` (H, W, C) that hold ``frame``: an image or tokens.

    Where both have the shape they have the same order too. Raises ``ValueError`` for rows of neither shape.
    """
    for layout in (row_layout(frame), token_layout(frame)):
        if layout.shape == tuple(rows):
            return layout
    raise ValueError(f"rows {tuple(rows)} ({prod(rows)} elements) are no layout of a frame {tuple(frame)}")
