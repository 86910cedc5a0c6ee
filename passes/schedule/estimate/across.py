"""Which columns of a row the blocks and pieces of another take."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cimc.passes.place.pieces import cut, in_order


class Across(NamedTuple):
    """Columns of a row of ``width`` that the positions of a row of ``positions`` take."""

    width: int
    positions: int
    kernel: int = 1
    """Columns of a window, dilation included."""
    stride: int = 1
    pad: int = 0


@lru_cache(maxsize=1 << 14)
def last_pieces(across: Across, given: tuple[int, int], taken: tuple[int, int]) -> tuple[int, ...]:
    """The last piece of a source that each piece of its consumer needs, in any block of a row.

    ``given``, ``taken``: blocks of a row and pieces of a block at source and consumer.
    """
    width, positions, kernel, stride, pad = across
    number = np.zeros(width, np.int64)
    for j in range(given[0]):
        block = j * width // given[0], (j + 1) * width // given[0]
        for piece, (first, last) in enumerate(in_order(*block, given[1], j)):
            number[first:last] = piece
    needed = [0] * taken[1]
    for j in range(taken[0]):
        block = j * positions // taken[0], (j + 1) * positions // taken[0]
        for piece, (first, last) in enumerate(in_order(*block, taken[1], j)):
            low = min(max(first * stride - pad, 0), width - 1)
            high = min(max((last - 1) * stride - pad + kernel, low + 1), width)
            needed[piece] = max(needed[piece], int(number[low:high].max()))
    return tuple(needed)


@lru_cache(maxsize=1 << 14)
def rectangles(across: Across, given: int, taken: int) -> int:
    """The most parts of a row's piece that go to different sets of blocks; ``given`` and ``taken`` blocks of a row at
    source and consumer."""
    width, positions, kernel, stride, pad = across
    found: dict[int, set[tuple[int, int]]] = {}
    for first, last in cut(0, positions, taken):
        low, high = first * stride - pad, (last - 1) * stride - pad + kernel
        for j in range(max(low, 0) * given // width, min(given, (min(high, width) * given - 1) // width + 1)):
            a, b = j * width // given, (j + 1) * width // given
            if max(low, a) < min(high, b):
                found.setdefault(j, set()).add((max(low, a), min(high, b)))
    return max(map(len, found.values()), default=1)


@lru_cache(maxsize=1 << 14)
def parts_seen(across: Across, given: int, taken: int) -> tuple[int, float]:
    """Blocks of a row that a context sees, the most and in the mean: ``given`` and ``taken`` blocks of a row at source
    and consumer."""
    width, positions, kernel, stride, pad = across
    begins = np.arange(given) * width // given
    cuts = np.arange(taken + 1) * positions // taken
    low = np.maximum(cuts[:-1] * stride - pad, 0)
    high = np.minimum((cuts[1:] - 1) * stride - pad + kernel, width)
    seen = np.searchsorted(begins, high, side="left") - np.searchsorted(begins, low, side="right") + 1
    return int(seen.max()), float(seen.mean())
