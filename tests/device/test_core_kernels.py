"""Kernels against plain arithmetic: converter, dot products, normals, digits (docs/device.md, fast evaluation)."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from numba import njit

from cimc.runtime.crossbar.cells import encode
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.converter import convert
from cimc.runtime.device.cells import digits_of
from cimc.runtime.device.converter import division
from cimc.runtime.device.kernels import _convert  # pyright: ignore[reportPrivateUsage] - the loop under test
from cimc.runtime.device.normals import normal_units, quantile_table
from cimc.runtime.device.product import convert as convert_tensor
from cimc.runtime.device.vector import dot_tile, has_dot_products, normal_tile


# The converter's short evaluations, in the kernel and as tensors, equal the integer definition for every partial sum.
@pytest.mark.parametrize("h", [1, 2, 3, 255, 1157, 4097, 16000])
@pytest.mark.parametrize(("grid_bits", "frac_bits"), [(0, 0), (0, 8), (13, 8), (5, 5), (6, 5)])
@pytest.mark.parametrize("signed", [False, True])
def test_converter_over_all_sums(h: int, grid_bits: int, frac_bits: int, signed: bool):
    lo, hi = (-128, 127) if signed else (0, 255)
    coding = Coding(converter_lo=lo, converter_hi=hi, frac_bits=frac_bits)
    edge = min((1 << 22) - 1, int(300 * h * 2.0 ** (grid_bits - frac_bits)) + 5)
    step = max(1, edge // 400_000)
    if step == 1:
        sums = np.arange(-edge, edge + 1)
    else:
        # All sums near every place where the code changes, which is where a quotient could be off.
        ties = ((2 * np.arange(-260, 260) + 1) * h * 2.0 ** (grid_bits - frac_bits - 1)).astype(np.int64)
        sums = np.unique(np.clip(ties[:, None] + np.arange(-300, 301), -edge, edge))
    sums = sums.astype(np.int32)
    constants = division(np.array([[h]]), coding, grid_bits)
    assert constants.single
    expected = convert(sums, h, frac_bits=frac_bits, lo=lo, hi=hi, zero=0, grid_bits=grid_bits)
    tensors = convert_tensor(torch.from_numpy(sums.astype(np.int64))[None, :, None, None], constants)
    assert np.array_equal(tensors.numpy().ravel(), expected)
    line = np.full(len(sums), 7, dtype=np.int32)
    words = [constants.offset, constants.low, constants.high, np.array([[-3]])]
    numbers = np.stack(words, axis=-1)[0, 0].astype(np.int32)
    _convert(
        sums, np.int32(constants.up), np.int32(constants.down), numbers, np.float32(1 / np.float64(h)), line
    )
    assert np.array_equal(line, 7 - 3 * expected)


# Steps too wide for float32 take float64, with the same codes.
def test_converter_with_wide_steps():
    coding = Coding(converter_lo=-32768, converter_hi=32767, frac_bits=2, dac_bits=2)
    rng = np.random.default_rng(0)
    h = np.array([[65535, 40000, 3]])
    constants = division(h, coding, 7)
    assert not constants.single
    sums = rng.integers(-(1 << 45), 1 << 45, (1, 1000, 3, 4))
    sums[:, :, 2] >>= 24
    expected = convert(sums, h[:, None, :, None], frac_bits=2, lo=-32768, hi=32767, zero=0, grid_bits=7)
    assert np.array_equal(convert_tensor(torch.from_numpy(sums), constants).numpy(), expected)


def _by_tile(
    tile: object, x: npt.NDArray[np.generic], w: npt.NDArray[np.generic], steps: int
) -> npt.NDArray[np.int32]:
    @njit
    def run(x, w, out):  # pyright: ignore - numba infers the types
        tile(x, 5, len(x) // 16 - 1, w, 3, steps, out, 2)  # pyright: ignore

    out = np.zeros(2 + 256, dtype=np.int32)
    run(x, w, out)
    return out[2:].reshape(16, 16)


# A tile is 256 dot products, with the machine's instruction where it has one and in plain vector code.
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("fused", sorted({False, has_dot_products()}))
def test_dot_tile(bits: int, fused: bool):
    rng = np.random.default_rng(bits)
    together, steps = 32 // bits, 9
    width = steps * together
    kind, other = (np.int16, np.int16) if bits == 16 else (np.int8, np.uint8)
    low, high = np.iinfo(other).min, np.iinfo(other).max + 1
    x = rng.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, 16 * (width + 1)).astype(kind)
    w = rng.integers(low, high, 3 + 16 * width).astype(other)
    stride = len(x) // 16 - 1
    rows = np.stack([x[5 + r * stride : 5 + r * stride + width] for r in range(16)]).astype(np.int64)
    cols = w[3:].reshape(steps, 16, together).transpose(0, 2, 1).reshape(width, 16).astype(np.int64)
    expected = (rows @ cols).astype(np.int32)  # both wrap at 32 bits
    assert np.array_equal(_by_tile(dot_tile(bits, fused), x, w, steps), expected)


# Sixteen normals at once are the normals of the tensor form, at the ends of the range too.
def test_normal_tile():
    @njit
    def run(words, table, out):  # pyright: ignore - numba infers the types
        for at in range(0, len(words), 16):
            normal_tile(words, at, table, out)

    rng = np.random.default_rng(1)
    words = rng.integers(0, 1 << 32, 4096)
    words[:6] = [0, 1, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, (1 << 32) - 1]
    out = np.zeros(4096, dtype=np.int32)
    run(words.astype(np.uint32).view(np.int32), quantile_table().view(np.int32), out)
    assert np.array_equal(out, normal_units(torch.from_numpy(words)).numpy())


# Digits of weights as tensors are the digits of docs/crossbar.md.
@pytest.mark.parametrize("encoding", ["offset", "differential", "twos_complement"])
def test_digits_are_the_encoding(encoding: str):
    coding = replace(Coding(cell_bits=3, converter_lo=-128, converter_hi=127), weight_encoding=encoding)
    w = np.arange(-128, 128).reshape(16, 16)
    assert np.array_equal(digits_of(torch.from_numpy(w), coding).numpy(), encode(w, coding))
