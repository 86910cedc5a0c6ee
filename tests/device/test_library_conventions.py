"""Presets named for simulators do to a cell and a sum what those simulators do, written out from their sources."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.device.dac import GRID_BITS
from cimc.runtime.device.loader import load_device
from cimc.runtime.device.recipe import Chip, Recipe

Z = torch.from_numpy(np.random.default_rng(1).standard_normal(256))
U = torch.from_numpy(np.random.default_rng(2).random(256))
CODING = Coding(parallel_rows=32, converter_hi=1023)


def recipe(name: str, time_s: float = 0.0) -> Recipe:
    """A product of 64 rows, two row groups, on a machine with a 10-bit converter."""
    return Recipe(0, CODING, ((64, 0),), load_device(name), Chip(1, 0, time_s), h=1)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_memintelli_cells(bits: int) -> None:
    """DPETensor._num2G and _gen_read_noise: G = round(d / max * 15) Q + LGS, G += G * 0.02 N, stuck on 0.1 %,
    read G exp(0.02 N).
    """
    device = load_device("memintelli")
    top = 2**bits - 1
    digits = torch.arange(256) % (top + 1)
    lgs, hgs = 1e-7, 1e-5
    g = np.round(digits.numpy() / top * 15) * ((hgs - lgs) / 15) + lgs
    target = device.targets_us(digits, top)
    np.testing.assert_allclose(target.numpy(), g * 1e6, rtol=1e-12)
    g = g * (1 + 0.02 * Z.numpy())
    g[U.numpy() < 0.001] = hgs
    cells = device.faulty_us(device.drifted_us(device.programmed_us(target, Z), target, 1e3, Z), U)
    np.testing.assert_allclose(cells.numpy(), g * 1e6, rtol=1e-12)
    read = device.read_us(cells, 0.0, Z.flip(0))
    np.testing.assert_allclose(read.numpy(), g * 1e6 * np.exp(0.02 * Z.numpy()[::-1]), rtol=1e-12)
    assert (device.read_scope, device.baseline) == ("call", "ideal")


def test_memintelli_drivers_and_converters() -> None:
    """V (1 + 0.05 N), and 256 levels from 0 to the array's largest current: rows * (HGS - LGS) * Vread."""
    product = recipe("memintelli")
    dac = product.device.dac
    assert dac is not None
    driven = dac.driven(torch.full((256,), 3), Z).to(torch.float64) / 2.0**GRID_BITS
    torch.testing.assert_close(driven, 3 * (1 + 0.05 * Z), rtol=0, atol=2.0**-GRID_BITS)
    assert product.coding.converter_hi == 255
    tall = Coding(parallel_rows=512, converter_hi=1023, frac_bits=8)
    product = Recipe(0, tall, ((512, 0),), load_device("memintelli"), Chip(1), h=256)
    levels = 512 * 3 / 255  # rows of 1-bit inputs on 2-bit cells; 256 levels have 255 steps between them
    np.testing.assert_allclose(product.steps / 256, levels, rtol=0.003)


def test_crosssim_reads() -> None:
    """GenericDevice, Proportional: G (1 + s N) anew in every product; 1 and 10 kilohm; G_min subtracted exactly."""
    device = load_device("crosssim")
    g = torch.linspace(100, 1000, 256, dtype=torch.float64)
    np.testing.assert_allclose(
        device.read_us(g, 0.0, Z).numpy(), g.numpy() * (1 + 0.05 * Z.numpy()), rtol=1e-12
    )
    np.testing.assert_allclose(device.targets_us(torch.tensor([0, 3]), 3).numpy(), [1e6 / 1e4, 1e6 / 1e3])
    assert (device.read_scope, device.baseline) == ("read", "ideal")
    assert device.independent_gaussian_reads
    assert device.adc is None


def test_neurosim_cells_and_converters() -> None:
    """CIM.ADC_output: N(G, s G) on cells and on the reference column, then one code a level, clamped at 7 bits."""
    product = recipe("neurosim")
    device = product.device
    g = torch.linspace(9.8, 166.7, 256, dtype=torch.float64)
    sigma = device.read_sigma_us(g, 0.0)
    assert sigma is not None
    np.testing.assert_allclose(sigma.numpy(), 0.05 * g.numpy(), rtol=1e-12)
    off, on = device.targets_us(torch.tensor([0, 1]), 1).tolist()
    assert (off, on) == pytest.approx((1e6 / (6e3 * 17), 1e6 / 6e3))
    assert device.baseline == "column"
    assert (product.coding.converter_lo, product.coding.converter_hi) == (0, 127)
    assert (product.steps == 1 << product.coding.frac_bits).all()


def test_mnsim_levels() -> None:
    """weight_update: 1 / (R (1 + 0.01 N)), stuck values 0 and the top, and the current of 1 Mohm cells stays in."""
    product = recipe("mnsim")
    device = product.device
    target = device.targets_us(torch.tensor([0, 3]), 3)
    resistance = np.array([[1e6], [1e4]]) * (1 + 0.01 * Z.numpy())
    found = device.programmed_us(target[:, None].expand(2, 256), Z.expand(2, 256))
    np.testing.assert_allclose(found.numpy(), 1e6 / resistance, rtol=1e-12)
    stuck = device.faulty_us(torch.full((3,), 50.0, dtype=torch.float64), torch.tensor([0.0005, 0.0015, 0.5]))
    assert stuck.tolist() == [0.0, 100.0, 50.0]
    assert device.baseline == "none"
