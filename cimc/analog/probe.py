"""What a block costs on this machine: bytes and nanoseconds, measured on one of each shape (docs/streaming.md)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from cimc.analog.tile import product_tile
from cimc.runtime.device.prepared import prepare
from cimc.runtime.device.recipe import Recipe
from cimc.runtime.device.streaming.memory import LiveBytes, release_free_memory
from cimc.runtime.device.streaming.stores import Store

HOLES = 0.25
"""Allowance on a CPU for what freed arrays leave between small ones while cells are made, as a share of the bytes
counted. Measured on the resident size: 21 % with groups of 8 rows, 4 % with groups of 128."""
PAGES = 1 / 128
"""Allowance on a CPU for the ends of pages and torch's own objects, as a share of what prepared blocks hold. Measured:
0.7 % with groups of 128 rows; without it a network of 179 such blocks is met to 0.1 %, which leaves nothing."""

T = TypeVar("T")


@dataclass(frozen=True)
class BlockMeasure:
    """Bytes beside what was there before, and times of one preparation and of one tile of windows."""

    prepared_bytes: int
    """Cells ready to read, with everything that torch, numpy and Python hold of them."""
    prepare_peak_bytes: int
    """While cells are made, the result and the allocator's holes included."""
    tile_peak_bytes: int
    """While a tile is read, its input codes and result included."""
    prepare_ns: float
    tile_ns: float


def measure(recipe: Recipe, codes: Tensor, windows: int, read_bytes: int) -> BlockMeasure:
    """Prepare ``codes`` (N, K) and read one tile of ``windows`` random windows, once for time and once for bytes.

    A first call with one column and window compiles what numba compiles.
    """
    columns, rows = codes.shape
    where, coding = codes.device, recipe.coding
    kind = torch.uint8 if coding.input_bits <= 8 else torch.int32
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, coding.input_max + 1, (windows, rows), dtype=kind, generator=generator).to(where)
    correction, unit = (
        torch.zeros(columns, dtype=torch.int64, device=where),
        torch.ones(columns, device=where),
    )
    first = (correction[:1], unit[:1], None)
    product_tile(recipe, prepare(recipe, codes[:1].T), x[:1], 0, 0, read_bytes, first)
    constants = (correction, unit, unit)
    prepared, prepare_ns = _timed(codes, lambda: prepare(recipe, codes.T))
    _, tile_ns = _timed(codes, lambda: product_tile(recipe, prepared, x, 0, 0, read_bytes, constants))
    del prepared
    # Bytes are counted in a second run: counting takes longer than what is counted.
    host = codes.device.type == "cpu"
    if host:
        release_free_memory()
    with torch.no_grad(), LiveBytes(arrays=host) as making:
        prepared = prepare(recipe, codes.T)
    with torch.no_grad(), LiveBytes(arrays=host) as reading:
        product_tile(recipe, prepared, x.clone(), 0, 0, read_bytes, constants)
    holes, pages = (int(HOLES * making.peak), int(PAGES * making.held)) if host else (0, 0)
    return BlockMeasure(making.held + pages, making.peak + holes, reading.peak, prepare_ns, tile_ns)


def _timed(beside: Tensor, work: Callable[[], T]) -> tuple[T, float]:
    """What ``work`` gives, and the nanoseconds it took on the device of ``beside``."""
    start = _now(beside)
    with torch.no_grad():
        result = work()
    return result, _now(beside) - start


def link_bytes_per_s(store: Store, keys: list[int], into: Tensor) -> float:
    """How fast codes come from ``store``: the largest of up to four blocks, each fetched twice."""
    best = 0.0
    for key in sorted(keys, key=store.size_bytes)[-4:]:
        size = store.size_bytes(key)
        for _ in range(2):
            start = _now(into)
            store.fetch(key, into[:size])
            best = max(best, size * 1e9 / max(1.0, _now(into) - start))
    return best


def _now(tensor: Tensor) -> float:
    """Nanoseconds, after what the tensor's device has to do."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return float(time.perf_counter_ns())
