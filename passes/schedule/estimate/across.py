"""Which pieces of a source's row the blocks and pieces of its consumer see."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


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
    return tuple(_last_pieces(*across, *given, *taken).tolist())


@lru_cache(maxsize=1 << 14)
def rectangles(across: Across, given: int, taken: int) -> int:
    """The most parts of a row's piece that go to different sets of blocks; ``given`` and ``taken`` blocks of a row at
    source and consumer."""
    return int(_rectangles(*across, given, taken))


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


@numba.njit(cache=True)
def _in_order(width: int, blocks: int, pieces: int, block: int, number: int) -> tuple[int, int]:
    """Columns of a piece of a block of a row, in the order of ``place.pieces.in_order``; none from the last one on."""
    first, last = block * width // blocks, (block + 1) * width // blocks
    count = min(pieces, last - first)
    if number >= count:
        return last, last
    at = count - 1 - number if block % 2 else number
    return first + at * (last - first) // count, first + (at + 1) * (last - first) // count


@numba.njit(cache=True)
def _last_pieces(
    width: int,
    positions: int,
    kernel: int,
    stride: int,
    pad: int,
    given_blocks: int,
    given_pieces: int,
    taken_blocks: int,
    taken_pieces: int,
) -> Ints:
    made = np.zeros(width, np.int64)
    for block in range(given_blocks):
        for piece in range(given_pieces):
            first, last = _in_order(width, given_blocks, given_pieces, block, piece)
            made[first:last] = piece
    needed = np.zeros(taken_pieces, np.int64)
    for block in range(taken_blocks):
        for piece in range(taken_pieces):
            first, last = _in_order(positions, taken_blocks, taken_pieces, block, piece)
            if first == last:
                continue
            low = min(max(first * stride - pad, 0), width - 1)
            high = min(max((last - 1) * stride - pad + kernel, low + 1), width)
            needed[piece] = max(needed[piece], made[low:high].max())
    return needed


@numba.njit(cache=True)
def _rectangles(
    width: int, positions: int, kernel: int, stride: int, pad: int, given: int, taken: int
) -> int:
    # Columns of the last set seen of every block; those of the next are never before it.
    before = np.full((given, 2), -1, np.int64)
    found = np.zeros(given, np.int64)
    count = min(taken, positions)
    for n in range(count):
        first, last = n * positions // count, (n + 1) * positions // count
        low, high = first * stride - pad, (last - 1) * stride - pad + kernel
        for j in range(max(low, 0) * given // width, min(given, (min(high, width) * given - 1) // width + 1)):
            a, b = max(low, j * width // given), min(high, (j + 1) * width // given)
            if a < b and (a != before[j, 0] or b != before[j, 1]):
                before[j] = a, b
                found[j] += 1
    return max(1, found.max())
