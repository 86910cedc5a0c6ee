"""Distributions: what a device's draws do over many cells, with a stated confidence.

Bounds are 4.5 standard errors of the estimate: one test in 150 thousand fails by chance, and the draws are fixed.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cimc.runtime.device.loader import PRESETS, load_device, parse_device

CELLS = 400_000
BOUND = 4.5
HEAD = "name: probe\ndescription: for a test\ncell: {g_off_us: 0.0, g_on_us: 100.0}\n"


def normals(seed: int) -> torch.Tensor:
    """Standard normals of another generator than the simulator's."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(CELLS))


def uniforms(seed: int) -> torch.Tensor:
    """Uniforms in [0, 1)."""
    return torch.from_numpy(np.random.default_rng(seed).random(CELLS))


def check_moments(values: torch.Tensor, mean: float, sigma: float) -> None:
    """Mean and standard deviation of Gaussian ``values`` within their confidence intervals."""
    assert float(values.mean()) == pytest.approx(mean, abs=BOUND * sigma / math.sqrt(CELLS))
    assert float(values.std()) == pytest.approx(sigma, abs=BOUND * sigma / math.sqrt(2 * CELLS))


@pytest.mark.parametrize(
    ("model", "sigma"),
    [("{relative: 0.05}", 2.5), ("{absolute_us: 3.0}", 3.0), ("{relative: 0.02, absolute_us: 1.0}", 2.0)],
)
def test_gaussian_errors_have_mean_and_spread(model: str, sigma: float) -> None:
    """Relative and absolute Gaussian errors, of programming and of reads, have the moments asked for."""
    target = torch.full((CELLS,), 50.0, dtype=torch.float64)
    device = parse_device(
        HEAD + f"programming: {{gaussian: {model}}}\nread_noise: {{gaussian: {model}}}\n", "d"
    )
    check_moments(device.programmed_us(target, normals(1)), 50.0, sigma)
    check_moments(device.read_us(target, 0.0, normals(2)), 50.0, sigma)
    assert device.read_sigma_us(target[:1], 0.0) == pytest.approx(sigma)


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_a_lognormal_mean_is_compensated_or_stated(sigma: float) -> None:
    """Uncompensated, the mean is exp(s^2 / 2) of the target (0.13 % at 5 %, 4.6 % at 30 %); compensated, the target."""
    target = torch.full((CELLS,), 40.0, dtype=torch.float64)
    gain = math.exp(sigma**2 / 2)
    variance = math.exp(sigma**2) - 1
    for compensated, mean in ((True, 40.0), (False, 40.0 * gain)):
        model = f"{{lognormal: {{sigma: {sigma}, compensated: {str(compensated).lower()}}}}}"
        device = parse_device(HEAD + f"programming: {model}\nread_noise: {model}\n", "d")
        expected = mean * math.sqrt(variance)
        # the fourth moment of a lognormal widens the interval of its standard deviation: a factor 2 covers s = 0.3
        for values in (device.programmed_us(target, normals(3)), device.read_us(target, 0.0, normals(4))):
            assert float(values.mean()) == pytest.approx(mean, abs=BOUND * expected / math.sqrt(CELLS))
            assert float(values.std()) == pytest.approx(
                expected, abs=2 * BOUND * expected / math.sqrt(2 * CELLS)
            )
        assert float(device.read_sigma_us(target[:1], 0.0) or 0) == pytest.approx(expected, rel=1e-12)
    assert gain - 1 == pytest.approx({0.05: 0.0013, 0.3: 0.046}[sigma], rel=0.05)


@pytest.mark.parametrize(
    ("off", "on"), [(0.01, 0.0), (0.1, 0.0), (0.01, 0.01), (0.001, 0.002), (0.5, 0.5), (0.0, 0.0)]
)
def test_the_fault_rate_asked_for_is_the_rate_injected(off: float, on: float) -> None:
    """1 % asked is 1 % injected of each kind within the binomial interval; NeuroSim V1.5 injects 0.01 %."""
    device = parse_device(
        HEAD + f"faults: {{stuck_off_probability: {off}, stuck_on_probability: {on}}}\n", "d"
    )
    read = device.faulty_us(torch.full((CELLS,), 50.0, dtype=torch.float64), uniforms(5))
    for rate, value in ((off, 0.0), (on, 100.0)):
        found = float((read == value).to(torch.float64).mean())
        assert found == pytest.approx(rate, abs=BOUND * math.sqrt(rate * (1 - rate) / CELLS))
    assert float((read == 50.0).to(torch.float64).mean()) == pytest.approx(1 - off - on, abs=0.005)


def test_faults_hold_the_conductance_stated() -> None:
    """A stuck cell holds stuck_off_us or stuck_on_us, else the ends of the range, whatever was written."""
    text = (
        HEAD
        + "faults: {stuck_off_probability: 0.5, stuck_on_probability: 0.25, stuck_off_us: 2.0, stuck_on_us: 70}"
    )
    device = parse_device(text + "\n", "d")
    g = torch.tensor([10.0, 20.0, 30.0, 40.0], dtype=torch.float64)
    u = torch.tensor([0.0, 0.4999, 0.5, 0.75], dtype=torch.float64)
    assert device.faulty_us(g, u).tolist() == [2.0, 2.0, 70.0, 40.0]


def test_faults_of_two_layers_differ() -> None:
    """A fault map follows the caller's draws: other draws, other faults (MemIntelli: one seed for every layer)."""
    device = load_device("memintelli")
    g = torch.full((CELLS,), 5.0, dtype=torch.float64)
    first, second = device.faulty_us(g, uniforms(6)) != 5.0, device.faulty_us(g, uniforms(7)) != 5.0
    both = float((first & second).to(torch.float64).mean())
    assert float(first.to(torch.float64).mean()) == pytest.approx(0.001, abs=3e-4)
    assert both < 1e-4  # 10^-6 if independent
    assert not torch.equal(device.programmed_us(g, normals(8)), device.programmed_us(g, normals(9)))


def test_every_cell_has_its_own_variation() -> None:
    """Cells of one level differ from each other: MNSIM-2.0 draws one scalar per level."""
    device = load_device("mnsim")
    target = device.targets_us(torch.ones(CELLS, dtype=torch.int64), 1)
    programmed = device.programmed_us(target, normals(10))
    assert len(programmed.unique()) == CELLS
    # 1 / (1 + s z) has mean 1 + s^2 and standard deviation s to first order
    assert float(programmed.mean()) == pytest.approx(100 * (1 + 0.01**2), abs=BOUND / math.sqrt(CELLS))
    assert float(programmed.std()) == pytest.approx(1.0, rel=0.01)


def test_a_cell_drifts_one_way() -> None:
    """The sign of a cell's drift is its own: the same at every time and every read (NeuroSim V1.5 redraws it)."""
    device = load_device("neurosim-drift")
    z = normals(11)
    target = torch.full((CELLS,), 50.0, dtype=torch.float64) * (device.g_on_us / 100)
    early = device.drifted_us(target, target, 10.0, z)
    late = device.drifted_us(target, target, 1e4, z)
    assert torch.equal(torch.sign(early - target), torch.sign(late - target))
    for sign in (-1, 0, 1):
        share = float((torch.sign(late - target) == sign).to(torch.float64).mean())
        assert share == pytest.approx(1 / 3, abs=BOUND * math.sqrt(2 / 9 / CELLS))
    assert sorted(late.unique().tolist()) == pytest.approx(
        [float(target[0]) * 1e4 ** (0.005 * sign) for sign in (-1, 0, 1)], rel=1e-12
    )


def test_on_conducts_more_than_off() -> None:
    """In every device of the library, the neurosim presets included, the top level is above level 0.

    NeuroSim V1.5's defaults are the other way round (6e-3 off, 1e-11 on: mixed units).
    """
    for name in ("neurosim", "neurosim-drift", "memintelli", "crosssim", "mnsim"):
        device = load_device(name)
        low, high = device.targets_us(torch.tensor([0, 1]), 1).tolist()
        assert low == device.g_off_us < high == device.g_on_us


def test_global_compensation_undoes_the_mean_drift() -> None:
    """One factor brings the total conductance of all levels back, to a per mille; without the option it is 1."""
    device = load_device("pcm")
    assert device.drift_gain(1e6, 3) == 1.0
    text = (PRESETS / "pcm.yaml").read_text() + "drift_compensation: global\n"
    device = parse_device(text, "pcm.yaml")
    levels = torch.from_numpy(np.random.default_rng(12).integers(0, 4, CELLS))
    target = device.targets_us(levels, 3)
    for time_s in (60.0, 1e6, 1e8):
        left = float(device.drifted_us(target, target, time_s, normals(13)).sum() / target.sum())
        assert left < 0.95
        assert device.drift_gain(time_s, 3) * left == pytest.approx(1, abs=1e-3)
    assert device.drift_gain(0.0, 3) == 1.0
