"""The converted part of a row group as one Triton kernel: partial sums never leave the registers of a GPU.

The counterpart of :mod:`cimc.runtime.device.kernels`, with the same integers: cells are cut into bytes, which float16
holds exactly, so tensor cores add exact integers in float32 (docs/device.md, fast evaluation). Imported only where
triton is.
"""

# Triton's own types do not know that its compiler runs the bodies: ranges that unroll, branches on constants.
# pyright: reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false, reportCallIssue=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from cimc.runtime.device.converter import division
from cimc.runtime.device.exact import largest_sum
from cimc.runtime.device.normals import LARGEST_NORMAL, quantile_table
from cimc.runtime.device.packing import INT32
from cimc.runtime.device.random import WORD, Purpose
from cimc.runtime.device.recipe import Recipe

BLOCK_WINDOWS = 32
BLOCK_COLUMNS = 32
LARGEST_ROWS = 256
"""Rows of a group that one program holds."""


@triton.jit
def _philox(n: Any, place: Any, low: Any, high: Any, key_low: Any, key_high: Any) -> Any:
    """Philox4x32-10 of uint32 blocks: four words."""
    c0, c1, c2, c3 = n, place, low, high
    for _ in tl.static_range(10):
        first_high = tl.umulhi(c0, 0xD2511F53)
        first_low = c0 * 0xD2511F53
        second_high = tl.umulhi(c2, 0xCD9E8D57)
        second_low = c2 * 0xCD9E8D57
        c0, c1, c2, c3 = second_high ^ c1 ^ key_low, second_low, first_high ^ c3 ^ key_high, first_low
        key_low = key_low + 0x9E3779B9
        key_high = key_high + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _normal(word: Any, table: Any) -> Any:
    """``normal_units`` of uint32 words, as float32 (exact: 19 bits)."""
    odd = (word << 1) | 1
    octave = (odd > 0xFFFF).to(tl.uint32) << 4
    octave = octave | ((odd >> octave > 0xFF).to(tl.uint32) << 3)
    octave = octave | ((odd >> octave > 0xF).to(tl.uint32) << 2)
    octave = octave | ((odd >> octave > 0x3).to(tl.uint32) << 1)
    octave = octave | (odd >> octave > 0x1).to(tl.uint32)
    aligned = odd << (31 - octave)
    entry = tl.load(table + ((octave << 5) + ((aligned >> 26) & 31)).to(tl.int32)).to(tl.uint32, bitcast=True)
    size = (entry >> 12) - (((entry & 4095) * ((aligned >> 10) & 65535)) >> 16)
    size = size.to(tl.int32)
    return tl.where((word >> 31) != 0, -size, size).to(tl.float32)


@triton.jit
def _round(x: Any) -> Any:
    """Nearest integer, half to even, as int32."""
    down = tl.floor(x)
    rest = x - down
    odd = (down.to(tl.int32) & 1) != 0
    up = (rest > 0.5) | ((rest == 0.5) & odd)
    return down.to(tl.int32) + up.to(tl.int32)


@triton.jit
def _add_group(
    x: Any,
    cells: Any,
    variance: Any,
    scale: Any,
    phases: Any,
    constants: Any,
    inverse: Any,
    worth: Any,
    table: Any,
    total: Any,
    windows: Any,
    columns: Any,
    rows: Any,
    x_stride: Any,
    group_place: Any,
    kept: Any,
    first_low: Any,
    first_high: Any,
    key_low: Any,
    key_high: Any,
    PHASES: tl.constexpr,
    CONVERSIONS: tl.constexpr,
    ROWS: tl.constexpr,
    UP: tl.constexpr,
    DOWN: tl.constexpr,
    NOISY: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """One block of windows and columns of one group; see :func:`add_group` for shapes."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, ROWS)
    inside_x = (m[:, None] < windows) & (k[None, :] < rows)
    inside_w = (k[:, None] < rows) & (n[None, :] < columns)
    inside = (m[:, None] < windows) & (n[None, :] < columns)
    value = tl.load(x + m[:, None] * x_stride + k[None, :], mask=inside_x, other=0)
    start = first_low.to(tl.uint32)
    low = start + m.to(tl.uint32)
    high = first_high.to(tl.uint32) + (low < start).to(tl.uint32)
    target = total + m[:, None].to(tl.int64) * columns + n[None, :]
    result = tl.load(target, mask=inside, other=0)
    for j in tl.static_range(CONVERSIONS):
        at = (k[:, None] * CONVERSIONS + j) * columns + n[None, :]
        cell = tl.load(cells + at, mask=inside_w, other=0).to(tl.int32)
        upper = (cell + 128) >> 8
        lower = (cell - (upper << 8)).to(tl.float16)
        upper = upper.to(tl.float16)
        line = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
        if NOISY:
            spread = tl.load(variance + at, mask=inside_w, other=0).to(tl.float16)
            factor = tl.load(scale + j * columns + n, mask=n < columns, other=0.0)
            place = (group_place | (tl.load(kept + j) << 3)).to(tl.uint32)
        for i in tl.static_range(PHASES):
            sign = tl.load(phases + 4 * i)
            least = tl.load(phases + 4 * i + 1)
            digit = (tl.maximum(value * sign, least) >> tl.load(phases + 4 * i + 2)) & tl.load(
                phases + 4 * i + 3
            )
            driven = tl.where(inside_x, digit, 0).to(tl.float16)
            p = tl.dot(driven, lower).to(tl.int32) + (tl.dot(driven, upper).to(tl.int32) << 8)
            if NOISY:
                if i % 4 == 0:
                    w0, w1, w2, w3 = _philox(
                        (n[None, :] + m[:, None] * 0).to(tl.uint32),
                        (place | (i // 4)) + (n[None, :] + m[:, None]).to(tl.uint32) * 0,
                        low[:, None] + n[None, :].to(tl.uint32) * 0,
                        high[:, None] + n[None, :].to(tl.uint32) * 0,
                        key_low.to(tl.uint32),
                        key_high.to(tl.uint32),
                    )
                word = w0
                if i % 4 == 1:
                    word = w1
                if i % 4 == 2:
                    word = w2
                if i % 4 == 3:
                    word = w3
                summed = tl.dot((driven * driven).to(tl.float16), spread)
                p += _round(tl.sqrt_rn(summed) * factor[None, :] * _normal(word, table))
            entry = constants + 4 * (i * CONVERSIONS + j)
            held = ((p << UP) + tl.load(entry)) >> DOWN
            held = tl.minimum(tl.maximum(held, tl.load(entry + 1)), tl.load(entry + 2))
            code = tl.floor((held.to(tl.float32) + 0.5) * tl.load(inverse + i * CONVERSIONS + j)).to(tl.int32)
            line += code * tl.load(entry + 3)
        own = tl.load(worth + j * columns + n, mask=n < columns, other=0)
        result += line.to(tl.int64) * own[None, :]
    tl.store(target, result, mask=inside)


@dataclass(frozen=True)
class TritonGroup:
    """One row group on its device, rows ``first`` … ``last`` - 1, with the conversions ``kept`` (J).

    ``cells`` int16 (rows, J, N), ``worth`` int64 (J, N), ``variance`` uint8 (rows, J, N) and ``scale`` float32 (J, N)
    of the read noise or None; phases int32 (I, 4), constants int32 (I, J, 4), inverse float32 (I, J).
    """

    group: int
    first: int
    last: int
    kept: Tensor
    cells: Tensor
    worth: Tensor
    variance: Tensor | None
    scale: Tensor | None
    phases: Tensor
    constants: Tensor
    inverse: Tensor
    up: int
    down: int


def group_of(
    recipe: Recipe,
    place: tuple[int, int, int],
    kept: list[int],
    cells: Tensor,
    worth: Tensor,
    noise: tuple[Tensor, Tensor] | None,
) -> TritonGroup | None:
    """What the kernel needs to serve a group, or None where its 32 bits and bytes are not proved to be enough.

    ``place`` is the group's number, first row and last row + 1; ``noise`` its variances and scales.
    """
    drive, rows, byte = recipe.drive, len(cells), 1 << 8
    if cells.dtype != torch.int16 or rows > LARGEST_ROWS or (drive * drive if noise else drive) > byte:
        return None
    steps = recipe.steps[place[0]][:, kept]
    terms = division(steps, recipe.coding, recipe.grid_bits)
    peak = largest_sum(drive, cells.reshape(rows, -1))
    if noise is not None:
        summed = largest_sum(drive * drive, noise[0].reshape(rows, -1))
        peak += int(summed**0.5 * float(noise[1].max()) * LARGEST_NORMAL) + 1
    gain = np.array([phase.coefficient for phase in recipe.coding.phases])[:, None] * terms.h
    codes = np.maximum(-terms.low, terms.high) // terms.h
    if not terms.single or terms.widest(peak) >= INT32 or (np.abs(gain) * codes).sum(axis=0).max() >= INT32:
        return None
    signs = {"value": (1, -INT32), "positive": (1, 0), "negative": (-1, 0)}
    phases = [(*signs[p.source], p.shift, p.top) for p in recipe.coding.phases]
    where = cells.device
    table = np.stack([terms.offset, terms.low, terms.high, gain], axis=-1)
    return TritonGroup(
        *place,
        torch.tensor(kept, dtype=torch.int32, device=where),
        cells,
        worth,
        None if noise is None else noise[0],
        None if noise is None else noise[1],
        torch.tensor(phases, dtype=torch.int32, device=where),
        torch.from_numpy(np.ascontiguousarray(table, dtype=np.int32)).to(where),
        torch.from_numpy(np.ascontiguousarray(1.0 / terms.h, dtype=np.float32)).to(where),
        terms.up,
        terms.down,
    )


def add_group(recipe: Recipe, group: TritonGroup, x: Tensor, first_window: int, total: Tensor) -> None:
    """Add the group's conversions for codes ``x`` (M, K) to ``total`` int64 (M, N), both on its device."""
    values = x[:, group.first : group.last].to(torch.int32) - recipe.coding.input_offset
    rows, columns = group.last - group.first, total.shape[1]
    key = recipe.key(Purpose.READ)
    noisy = group.variance is not None
    table = torch.from_numpy(quantile_table().view(np.int32)).to(x.device)
    unused = group.inverse
    grid = (triton.cdiv(len(x), BLOCK_WINDOWS), triton.cdiv(columns, BLOCK_COLUMNS))
    _add_group[grid](
        values,
        group.cells,
        group.variance if noisy else unused,
        group.scale if noisy else unused,
        group.phases,
        group.constants,
        group.inverse,
        group.worth,
        table,
        total,
        len(x),
        columns,
        rows,
        rows,
        group.group << 9,
        group.kept,
        first_window & WORD,
        first_window >> 32,
        key.low,
        key.high,
        PHASES=recipe.coding.digit_cycles,
        CONVERSIONS=len(group.kept),
        ROWS=max(16, triton.next_power_of_2(rows)),
        UP=group.up,
        DOWN=group.down,
        NOISY=noisy,
        BLOCK_M=BLOCK_WINDOWS,
        BLOCK_N=BLOCK_COLUMNS,
        enable_fp_fusion=False,
    )
