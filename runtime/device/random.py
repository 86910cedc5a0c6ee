"""Random words of the device simulator: counter-based, so that a value depends on its place and on nothing else.

Philox4x32-10 of Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A stream is a
key made from (seed, chip, layer, purpose); the counter is the place inside it: a cell's row, column and digit, or a
conversion's window in the whole run, group, column and digits. Nothing is drawn "next", so chunking, order, streaming
and thread count cannot change a value (docs/device.md, random numbers).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF

Block = tuple[Tensor, Tensor, Tensor, Tensor]


class Purpose(IntEnum):
    """What a stream is drawn for. The numbers are part of the definition: changing one changes every chip."""

    PROGRAMMING = 1
    DRIFT = 2
    FAULTS = 3
    READ = 4
    BASELINE = 5
    DRIVE = 6
    CONVERTER = 7


@dataclass(frozen=True)
class Key:
    """Key of one stream: two words."""

    low: int
    high: int


def philox(counter: Block, key: Key) -> Block:
    """Philox4x32-10 of four int64 tensors of words 0 … 2^32 - 1 (broadcast together): four of the same kind.

    Integer operations only: equal on every device. A product of two words wraps in int64, but its low 32 bits and,
    after the shift and mask, its high 32 bits are those of the unsigned product.
    """
    c0, c1, c2, c3 = counter
    low, high = key.low, key.high
    for _ in range(ROUNDS):
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((second >> 32) & WORD) ^ c1 ^ low,
            second & WORD,
            ((first >> 32) & WORD) ^ c3 ^ high,
            first & WORD,
        )
        low, high = (low + WEYL[0]) & WORD, (high + WEYL[1]) & WORD
    return c0, c1, c2, c3


@lru_cache(maxsize=1 << 16)
def stream_key(seed: int, instance: int, layer: int, purpose: Purpose) -> Key:
    """Key of the stream of one layer of one chip for one purpose.

    Philox of (layer, chip, purpose, 0) under the seed: different places give different 128-bit blocks, of which 64
    bits are kept. :class:`ValueError` when the seed is not 0 … 2^64 - 1, or the others are not 0 … 2^32 - 1.
    """
    for name, value, bits in (("seed", seed, 64), ("chip instance", instance, 32), ("layer", layer, 32)):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{name} must be 0 … 2^{bits} - 1, got {value}")
    place = torch.tensor([layer, instance, int(purpose), 0], dtype=torch.int64)
    words = philox((place[0], place[1], place[2], place[3]), Key(seed & WORD, seed >> 32))
    return Key(int(words[0]), int(words[1]))


def cell_words(
    key: Key, first_row: int, shape: tuple[int, int, int], epoch: int, device: torch.device
) -> Tensor:
    """One word a cell: int64 (rows, columns, digits) for the rows from ``first_row`` of a layer.

    Cell (k, n, d) is word d % 4 of counter (n, k, d // 4, epoch): n is the logical column of the layer and k its row,
    whatever array they lie in. ``epoch`` tells the draws of one cell apart.
    """
    rows, columns, digits = shape
    if device.type == "cpu":
        words = np.empty(shape, dtype=np.uint32)
        cell_words_cpu(key, first_row, epoch, words)
        return torch.from_numpy(words).to(torch.int64)
    k = torch.arange(first_row, first_row + rows, device=device)[:, None, None]
    n = torch.arange(columns, device=device)[None, :, None]
    block = torch.arange(-(-digits // 4), device=device)[None, None, :]
    counter = torch.broadcast_tensors(n, k, block | (epoch >> 32) << 8, torch.full_like(n, epoch & WORD))
    words = torch.stack(philox((counter[0], counter[1], counter[2], counter[3]), key), dim=-1)
    return words.reshape(rows, columns, -1)[:, :, :digits]


def cell_words_cpu(key: Key, first_row: int, epoch: int, words: npt.NDArray[np.uint32]) -> None:
    """Fill ``words`` (rows, columns, digits) as :func:`cell_words` does."""
    _cell_words(np.uint64(key.low), np.uint64(key.high), first_row, epoch & WORD, epoch >> 32, words)


def uniforms(words: Tensor) -> Tensor:
    """Uniforms inside (0, 1) from words: ``(word + 1/2) / 2^32`` in float64, exact."""
    return (words.to(torch.float64) + 0.5) * 2.0**-32


@njit(cache=True, inline="always")
def philox_block(c0: Any, c1: Any, c2: Any, c3: Any, low: Any, high: Any) -> Any:
    """:func:`philox` of one counter, words as uint64: four uint64."""
    mask = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    # Masking tells the compiler that products have 32-bit factors, for which vectors have an instruction.
    c0, c1, c2, c3, low, high = c0 & mask, c1 & mask, c2 & mask, c3 & mask, low & mask, high & mask
    for _ in range(10):
        first = c0 * np.uint64(0xD2511F53)
        second = c2 * np.uint64(0xCD9E8D57)
        c0 = (second >> half) ^ c1 ^ low
        c2 = (first >> half) ^ c3 ^ high
        c1 = second & mask
        c3 = first & mask
        low = (low + np.uint64(0x9E3779B9)) & mask
        high = (high + np.uint64(0xBB67AE85)) & mask
    return c0, c1, c2, c3


@njit(cache=True)
def _cell_words(
    low: Any, high: Any, first_row: int, epoch: int, epoch_high: int, words: npt.NDArray[np.uint32]
) -> None:
    """:func:`cell_words` on the CPU, the same words."""
    rows, columns, digits = words.shape
    for k in range(rows):
        for block in range((digits + 3) // 4):
            for n in range(columns):
                place = philox_block(
                    np.uint64(n),
                    np.uint64(first_row + k),
                    np.uint64(block | epoch_high << 8),
                    np.uint64(epoch),
                    low,
                    high,
                )
                for d in range(4 * block, min(4 * block + 4, digits)):
                    words[k, n, d] = place[d - 4 * block]
