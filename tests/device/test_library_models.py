"""Models that no preset uses, limits of those that presets use, and rules between their keys."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cimc.diagnostics import CimError
from cimc.runtime.device.fits import StateFit, interpolate, polynomial
from cimc.runtime.device.loader import load_device, parse_device

HEAD = "name: probe\ndescription: for a test\ncell: {g_off_us: 1.0, g_on_us: 100.0}\n"


def tensor(*values: float) -> torch.Tensor:
    """Float64 values."""
    return torch.tensor(values, dtype=torch.float64)


def test_a_table_gives_each_state_its_spread() -> None:
    """At a listed state sigma is the listed one, between two states their mean, beyond the last the last."""
    table = "{conductance_us: [1.0, 30.0, 60.0], sigma_us: [0.5, 2.0, 1.0]}"
    device = parse_device(HEAD + f"programming: {{table: {table}}}\n", "d")
    target = tensor(1.0, 30.0, 45.0, 60.0, 90.0)
    moved = device.programmed_us(target, torch.ones_like(target)) - target
    torch.testing.assert_close(moved, tensor(0.5, 2.0, 1.5, 1.0, 1.0))
    assert device.programmed_us(tensor(1.0), tensor(-9.0)).tolist() == [0.0]


def test_cells_may_move_towards_a_conductance() -> None:
    """With a target, weak cells gain and strong cells lose by t^nu, and none leaves the range."""
    drift = "{signed: {nu: 0.1, t0_s: 10.0, direction: toward, target_us: 50.0}}"
    device = parse_device(HEAD + f"drift: {drift}\n", "d")
    g = tensor(20.0, 50.0, 80.0, 1.0)
    z = torch.zeros_like(g)
    factor = 100**0.1
    found = device.drifted_us(g, g, 1000.0, z)
    torch.testing.assert_close(found, tensor(20 * factor, 50.0, 80 / factor, factor))
    assert torch.equal(device.drifted_us(g, g, 10.0, z), g)
    strong = device.drifted_us(tensor(49.0), tensor(49.0), 1e30, tensor(0.0))
    assert strong.tolist() == [100.0]


def test_flicker_noise_may_be_left_unclipped() -> None:
    """Unclipped, 1/f noise is Gaussian, and independent if every read draws anew; clipped it is neither."""
    text = "read_noise: {{flicker: {{t_read_s: 1.0e-6, t0_s: 1.0, clip_at_zero: {}, power: {}}}}}\n"
    power = "{coefficient: 0.1, exponent: 0.5, high: 0.2}"
    clipped = parse_device(HEAD + text.format("true", power), "d")
    free = parse_device(HEAD + text.format("false", power), "d")
    assert (clipped.independent_gaussian_reads, free.independent_gaussian_reads) == (False, True)
    g, z = tensor(100.0, 25.0), tensor(-20.0, -20.0)
    sigma = 0.1 * math.sqrt(math.log((1.0 + 1e-6) / 2e-6))
    assert clipped.read_us(g, 0.0, z).tolist() == [0.0, 0.0]
    torch.testing.assert_close(free.read_us(g, 0.0, z), g - 20 * g * sigma * tensor(1.0, 2.0))


def test_a_read_before_a_read_time_has_no_flicker() -> None:
    """Younger than one read, a cell has no 1/f noise yet, and no square root of a negative number."""
    device = load_device("reram-cmo")
    sigma = device.read_sigma_us(tensor(50.0), 0.0)
    assert sigma is not None
    assert sigma.tolist() == [0.0]


def test_resistances_stay_positive() -> None:
    """A draw of a hundred standard deviations is held at a hundredth of the resistance."""
    device = load_device("mnsim")
    assert device.programmed_us(tensor(100.0), tensor(-1e4)).tolist() == [1e4]


def test_polynomials_and_interpolation() -> None:
    """Horner's rule and linear interpolation, against numpy."""
    x = torch.linspace(-2, 7, 40, dtype=torch.float64)
    coefficients = [0.3, -1.0, 0.25, 0.01]
    expected = np.polyval(coefficients[::-1], x.numpy())
    np.testing.assert_allclose(polynomial(coefficients, x).numpy(), expected, rtol=1e-12, atol=1e-12)
    xs, ys = [0.0, 1.0, 1.5, 5.0], [2.0, -1.0, 0.0, 8.0]
    np.testing.assert_allclose(interpolate(x, xs, ys).numpy(), np.interp(x.numpy(), xs, ys), atol=1e-12)


def test_fits_have_their_clamps() -> None:
    """The logarithm is clipped at both ends, and the polynomial begins exactly at the split."""
    fit = StateFit(slope=-1.0, intercept=0.0, low=0.5, high=2.0, split=0.4, above=(7.0,))
    ratio = tensor(0.0, 1e-9, math.exp(-1.5), math.exp(-1.0), 0.4, 1.0)
    torch.testing.assert_close(fit.at(ratio), tensor(2.0, 2.0, 1.5, 1.0, 7.0, 7.0))
    assert StateFit(slope=-1.0, intercept=0.0, low=0.5, high=2.0).at(tensor(0.9)).tolist() == [0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "programming: {table: {conductance_us: [1, 5, 5], sigma_us: [1, 1, 1]}}",
            "conductance_us: must ascend; sort the list",
        ),
        (
            "programming: {table: {conductance_us: [1, 5], sigma_us: [1, 1, 1]}}",
            "sigma_us: has 3 values for 2 states",
        ),
        (
            "programming: {resistance: {relative: 0.5}}",
            "relative: must be less than or equal to 0.2, given 0.5",
        ),
        ("drift: {signed: {nu: 0.1, direction: toward}}", "'toward' needs target_us"),
        ("drift: {signed: {nu: 0.1, direction: random, target_us: 5}}", "'random' takes none"),
        (
            "drift: {snapshots: {fitted_g_on_us: 1, snapshots: [{time_s: 5, coefficients_us: [1]}, "
            "{time_s: 1, coefficients_us: [1]}]}}",
            "snapshots: must ascend",
        ),
        (
            "drift: {power_law: {t0_s: 1, mean: {slope: 1, intercept: 0, low: 2, high: 1}, "
            "sigma: {slope: 1, intercept: 0, low: 0, high: 1}}}",
            "mean.low: must be at most high 1, given 2",
        ),
        (
            "drift: {power_law: {t0_s: 1, mean: {slope: 1, intercept: 0, low: 0, high: 1, split: 0.5}, "
            "sigma: {slope: 1, intercept: 0, low: 0, high: 1}}}",
            "mean.split: needs both split and above",
        ),
        (
            "drift: {current_shift: {current_na_per_us: 1, days: ["
            "{time_days: 1, shift_na: [0], spread: {amplitude_na: 1, constant_na: 1}}, "
            "{time_days: 2, shift_na: [0, 1], spread: {amplitude_na: 1, constant_na: 1}}]}}",
            r"must have shift_na of one length(.|\n)*days\[0\].time_days: must be 0 for the first, given 1",
        ),
        ("read_noise: {flicker: {t_read_s: 1, t0_s: 1}}", "needs exactly one of power and state"),
    ],
)
def test_rules_between_keys(text: str, message: str) -> None:
    """Each broken rule is a message with a remedy."""
    with pytest.raises(CimError, match=message):
        parse_device(HEAD + text + "\n", "dev.yaml")
