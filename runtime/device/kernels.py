"""The converted part of a product on a CPU, fused: partial sums never leave the first-level cache.

Windows go in blocks whose digits are ordered phase by phase; for a block, 16 columns and a conversion, a tile of
dot products fills a scratch of partial sums, noise is added, and the sums are converted, shifted and added. Every
integer is exact in 32 bits (the caller has proved it) and float operations are the ones of the tensor form, in the
same order and not contracted, so results are equal bit for bit (docs/device.md, fast evaluation).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from cimc.runtime.device.random import philox_block
from cimc.runtime.device.vector import (
    LANES,
    TILE_ROWS,
    add32,
    dot_tile,
    has_dot_products,
    mul32,
    normal_tile,
    sar32,
    shl32,
)

_tile16 = dot_tile(16, has_dot_products())
_tile8 = dot_tile(8, has_dot_products())


@njit(cache=True, nogil=True)
def pack_digits(
    values: npt.NDArray[np.int32],
    row: npt.NDArray[np.int64],
    factor: npt.NDArray[np.int32],
    phases: npt.NDArray[np.int32],
    square: bool,
    out: npt.NDArray[Any],
) -> None:
    """Digits of ``values`` (M, R) as ``out`` (blocks, I, windows, columns); windows past the last are zero.

    Column c of ``out`` is the digit of row ``row[c]`` times ``factor[c]``, which is 0 for a padded row; ``phases``
    (I, 3) are source (0 value, 1 positive, 2 negative), shift and largest digit. ``square`` squares the digit.
    """
    blocks, count, windows, columns = out.shape
    for b in range(blocks):
        for i in range(count):
            sign = np.int32(-1 if phases[i, 0] == 2 else 1)
            least = np.int32(-(1 << 30) if phases[i, 0] == 0 else 0)
            shift, top = phases[i, 1], phases[i, 2]
            for m in range(windows):
                w = b * windows + m
                if w >= len(values):
                    out[b, i, m, :] = 0
                    continue
                for c in range(columns):
                    x = max(mul32(sign, values[w, row[c]]), least)
                    digit = sar32(x, shift) & top
                    out[b, i, m, c] = mul32(mul32(digit, digit) if square else digit, factor[c])


@njit(cache=True, nogil=True)
def normals_of(
    words: npt.NDArray[np.int32], table: npt.NDArray[np.int32], out: npt.NDArray[np.float64]
) -> None:
    """:func:`~cimc.runtime.device.normals.normals` of flat ``words``, a whole number of vectors."""
    units = np.empty(LANES, dtype=np.int32)
    for at in range(0, len(words), LANES):
        normal_tile(words[at : at + LANES], 0, table, units)
        for n in range(LANES):
            out[at + n] = np.float64(units[n]) * 2.0**-16


@njit(cache=True, nogil=True)
def _dot16(
    digits: npt.NDArray[np.int16],
    at: int,
    pairs: int,
    cells: npt.NDArray[np.int16],
    w: int,
    sums: npt.NDArray[np.int32],
) -> None:
    """Sums over 16 columns for all rows of a block, ``sums`` [rows * 16]; two rows of the product a step."""
    for r in range(0, len(sums) // LANES, TILE_ROWS):
        _tile16(digits, at + r * 2 * pairs, 2 * pairs, cells, w, pairs, sums, r * LANES)


@njit(cache=True, nogil=True)
def _dot8(
    digits: npt.NDArray[np.int8],
    at: int,
    fours: int,
    cells: npt.NDArray[np.uint8],
    w: int,
    sums: npt.NDArray[np.int32],
) -> None:
    """:func:`_dot16` of bytes, four rows of the product a step."""
    for r in range(0, len(sums) // LANES, TILE_ROWS):
        _tile8(digits, at + r * 4 * fours, 4 * fours, cells, w, fours, sums, r * LANES)


@njit(cache=True, nogil=True)
def add_products(
    digits: npt.NDArray[np.int16], cells: npt.NDArray[np.int16], total: npt.NDArray[np.int64]
) -> None:
    """Add the product of ``digits`` (blocks, 1, windows, 2 pairs) and ``cells`` (N / 16, 1, pairs, 32)."""
    blocks, _, windows, columns = digits.shape
    tiles, _, pairs, _ = cells.shape
    sums = np.empty(windows * LANES, dtype=np.int32)
    flat, weights = digits.ravel(), cells.ravel()
    for t in range(tiles):
        for b in range(blocks):
            first = b * windows
            _dot16(flat, first * columns, pairs, weights, t * pairs * 2 * LANES, sums)
            for m in range(min(windows, len(total) - first)):
                for n in range(min(LANES, total.shape[1] - t * LANES)):
                    total[first + m, t * LANES + n] += np.int64(sums[m * LANES + n])


@njit(cache=True, nogil=True)
def _words(
    column: Any, counter: Any, window: Any, key: tuple[Any, Any], words: npt.NDArray[np.int32]
) -> None:
    """Philox of 16 columns and all windows of a block: ``words`` (4, windows * 16)."""
    half = np.uint64(32)
    low, high = key
    for q in range(words.shape[1]):
        w = np.uint64(window + (q >> 4))
        a, b, c, d = philox_block(
            np.uint64(column + (q & 15)),
            np.uint64(counter),
            w & np.uint64(0xFFFFFFFF),
            w >> half,
            low,
            high,
        )
        words[0, q] = a
        words[1, q] = b
        words[2, q] = c
        words[3, q] = d


@njit(cache=True, nogil=True)
def _add_noise(
    words: npt.NDArray[np.int32],
    table: npt.NDArray[np.int32],
    variance: npt.NDArray[np.int32],
    scale: npt.NDArray[np.float32],
    normal: npt.NDArray[np.int32],
    sums: npt.NDArray[np.int32],
) -> None:
    """``sums += rint((sqrt(f32(variance)) * scale) * f32(normal of the word))``, ``scale`` per column and window."""
    for q in range(0, len(words), LANES):
        normal_tile(words, q, table, normal)
    for q in range(len(words)):
        spread = np.sqrt(np.float32(variance[q])) * scale[q]
        sums[q] = add32(sums[q], np.int32(np.rint(spread * np.float32(normal[q]))))


@njit(cache=True, nogil=True)
def _convert(
    sums: npt.NDArray[np.int32],
    up: Any,
    down: Any,
    constants: npt.NDArray[np.int32],
    inverse: np.float32,
    line: npt.NDArray[np.int32],
) -> None:
    """``line += worth * floor((clamp(((sums << up) + offset) >> down, low, high) + 1/2) * inverse)``.

    ``constants`` are offset, low, high and worth. The proof is in :mod:`cimc.runtime.device.converter`.
    """
    offset, low, high, worth = constants[0], constants[1], constants[2], constants[3]
    for q in range(len(sums)):
        held = min(max(sar32(add32(shl32(sums[q], up), offset), down), low), high)
        code = np.int32(np.floor((np.float32(held) + np.float32(0.5)) * inverse))
        line[q] = add32(line[q], mul32(code, worth))


@njit(cache=True, nogil=True)
def add_converted(
    digits: npt.NDArray[np.int16],
    cells: npt.NDArray[np.int16],
    shifts: tuple[Any, Any],
    constants: npt.NDArray[np.int32],
    inverse: npt.NDArray[np.float32],
    worth: npt.NDArray[np.int64],
    noise: tuple[Any, ...],
    total: npt.NDArray[np.int64],
) -> None:
    """Add the conversions of one group to ``total`` (M, N).

    ``digits`` (blocks, I, windows, 2 pairs) as :func:`pack_digits` makes them; ``cells`` (N / 16, J, pairs, 32):
    the two rows of a pair side by side for each of 16 columns; ``constants`` (I, J, 4) and ``inverse`` (I, J) of
    :func:`_convert`; ``worth`` (J, N). ``noise`` is (squared digits, variances like ``cells``, normal table, key,
    scale, counters (J), first window), its first two empty without noise.
    """
    blocks, phases, windows, columns = digits.shape
    tiles, conversions, pairs, _ = cells.shape
    squares, variance, table, key, scale, counters, first_window = noise
    fours = variance.shape[2]
    size = windows * LANES
    rows = -(-phases * windows // TILE_ROWS) * TILE_ROWS
    sums = np.empty(rows * LANES, dtype=np.int32)
    spread = np.empty(rows * LANES, dtype=np.int32)
    words = np.empty((4, size), dtype=np.int32)
    normal = np.empty(size, dtype=np.int32)
    line = np.empty(size, dtype=np.int32)
    factor = np.empty(size, dtype=np.float32)
    flat, weights = digits.ravel(), cells.ravel()
    flat_squares, flat_variance = squares.ravel(), variance.ravel()
    for t in range(tiles):
        for b in range(blocks):
            block = b * phases * windows
            first = b * windows
            for j in range(conversions):
                cell = (t * conversions + j) * LANES
                _dot16(flat, block * columns, pairs, weights, cell * 2 * pairs, sums)
                if len(flat_squares):
                    for q in range(size):
                        factor[q] = scale[t, j, q & 15]
                    _dot8(flat_squares, block * 4 * fours, fours, flat_variance, cell * 4 * fours, spread)
                line[:] = 0
                for i in range(phases):
                    mine = sums[i * size : (i + 1) * size]
                    if len(flat_squares):
                        if i % 4 == 0:
                            _words(t * LANES, counters[j] | i // 4, first_window + first, key, words)
                        own = spread[i * size : (i + 1) * size]
                        _add_noise(words[i % 4], table, own, factor, normal, mine)
                    _convert(mine, shifts[0], shifts[1], constants[i, j], inverse[i, j], line)
                for m in range(min(windows, len(total) - first)):
                    for n in range(min(LANES, total.shape[1] - t * LANES)):
                        column = t * LANES + n
                        total[first + m, column] += worth[j, column] * np.int64(line[m * LANES + n])
