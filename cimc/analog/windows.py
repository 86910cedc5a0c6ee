"""What a product slides over: rows of a linear layer, windows of a convolution, a bounded number at a time.

Windows are numbered image by image, row by row. Their codes are copied out of the input tile by tile; the whole
unfolded input never exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

Slices = tuple[int | slice, ...]


@dataclass(frozen=True)
class Tile:
    """Windows ``first`` … ``first + count`` - 1; ``place`` is where they lie in (images, positions...)."""

    first: int
    count: int
    place: Slices


def tiles(shape: Sequence[int], limit: int) -> Iterator[Tile]:
    """Tiles of at most ``limit`` windows, at least one, in the order of the windows of ``shape``."""
    split = next((d for d in range(len(shape)) if prod(shape[d + 1 :]) <= limit), len(shape) - 1)
    inner = prod(shape[split + 1 :])
    step = max(1, limit // max(1, inner))
    outer = prod(shape[:split])
    for index in range(outer):
        fixed: list[int] = []
        rest = index
        for size in reversed(shape[:split]):
            fixed.insert(0, rest % size)
            rest //= size
        for start in range(0, shape[split], step):
            stop = min(shape[split], start + step)
            first = (index * shape[split] + start) * inner
            yield Tile(first, (stop - start) * inner, (*fixed, slice(start, stop)))


class Windows(Protocol):
    """Input codes as a product sees them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(images, positions...): the windows' numbering, the last changes fastest."""
        ...

    def codes(self, tile: Tile, channels: slice) -> Tensor:
        """(tile.count, K) codes of the windows of a tile over some input channels, contiguous."""
        ...

    def some(self, numbers: Sequence[int], channels: slice) -> Tensor:
        """(len(numbers), K): single windows by number."""
        ...


@dataclass(frozen=True)
class Rows:
    """Windows of a linear layer: the rows of ``values`` (M, K)."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """(M,)."""
        return (len(self.values),)

    def codes(self, tile: Tile, channels: slice) -> Tensor:
        """Rows as they are."""
        return self.values[tile.place][:, channels]

    def some(self, numbers: Sequence[int], channels: slice) -> Tensor:
        """Single rows."""
        return self.values[list(numbers)][:, channels]


@dataclass(frozen=True)
class Geometry:
    """Kernel, stride, padding (before and after) and dilation of a convolution over d axes."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    def positions(self, size: Sequence[int]) -> tuple[int, ...]:
        """Output size for the input size ``size`` (d axes)."""
        return tuple(
            (n + sum(p) - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )


class ConvWindows:
    """Windows of a convolution over ``values`` (B, C, spatial...); ``zero`` is the code of padding.

    A window's rows are ordered (kernel axes..., channel).
    """

    def __init__(self, values: Tensor, geometry: Geometry, zero: int):
        batch, channels, *size = values.shape
        padded_size = [n + sum(p) for n, p in zip(size, geometry.padding, strict=True)]
        padded = torch.full((batch, *padded_size, channels), zero, dtype=values.dtype, device=values.device)
        inside = tuple(slice(p[0], p[0] + n) for n, p in zip(size, geometry.padding, strict=True))
        padded[(slice(None), *inside)] = values.movedim(1, -1)
        image, *axes, last = padded.stride()
        positions = geometry.positions(size)
        self._shape = (batch, *positions)
        self._view = padded.as_strided(
            (batch, *positions, *geometry.kernel, channels),
            (
                image,
                *(a * s for a, s in zip(axes, geometry.stride, strict=True)),
                *(a * d for a, d in zip(axes, geometry.dilation, strict=True)),
                last,
            ),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, positions...)."""
        return self._shape

    def codes(self, tile: Tile, channels: slice) -> Tensor:
        """A copy of the tile's windows."""
        return self._view[tile.place][..., channels].reshape(tile.count, -1)

    def some(self, numbers: Sequence[int], channels: slice) -> Tensor:
        """(len(numbers), K): single windows by number."""
        found = [
            self._view[tuple(int(i) for i in torch.unravel_index(torch.tensor(n), self._shape))]
            for n in numbers
        ]
        return torch.stack([window[..., channels].reshape(-1) for window in found])
