"""What reads look like over many draws, and the mistakes of other simulators (docs/device.md, statistics).

Gaussian limits are 4.5 standard errors (7e-6 two-sided), so a test that fails points at the code, not at luck.
"""

from math import sqrt

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.device.cells import group_cells
from cimc.runtime.device.loader import parse_device
from cimc.runtime.device.prepared import prepare
from cimc.runtime.device.product import read
from cimc.runtime.device.recipe import Chip, Recipe

ROWS = 64
LIMIT = 4.5


def recipe_of(
    effect: str,
    converter: bool = False,
    chip: Chip | None = None,
    layer: int = 0,
    coding: Coding | None = None,
) -> Recipe:
    """One group of 64 rows, 2-bit digits, G_off 0 and one uS a level, so that a level is worth its number of uS."""
    text = "name: t\ndescription: t\nprovenance: ours\ncell: {g_off_us: 0.0, g_on_us: 3.0}\n" + effect
    coding = coding or Coding(dac_bits=2, frac_bits=4 if converter else 0, parallel_rows=ROWS)
    segments = ((ROWS, 0),)
    return Recipe(
        layer, coding, segments, parse_device(text, "t"), chip or Chip(3), h=40, converter=converter
    )


def problem(columns: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights (64, N) and one vector (1, 64)."""
    rng = np.random.default_rng(seed)
    w = torch.from_numpy(rng.integers(-128, 128, (ROWS, columns)))
    return w, torch.from_numpy(rng.integers(0, 256, (1, ROWS)))


def reads(recipe: Recipe, w: Tensor, x: Tensor, count: int, kernels: bool = True) -> np.ndarray:
    """float64 (count, N): the same vector again and again, in units of one."""
    found = read(recipe, prepare(recipe, w, kernels), x.expand(count, -1))
    return found.to(torch.float64).numpy() * 2.0**-recipe.frac_bits


def noise_variance(x: Tensor, w: Tensor, relative: float, scope: str) -> np.ndarray:
    """Closed form of the variance of Y: digits are drawn apart for scope read, and share a draw for vector."""
    stored = (w + 128)[:, :, None] >> torch.arange(0, 8, 2) & 3
    sigma = relative * stored.to(torch.float64) * 4.0 ** torch.arange(4)
    cells = (sigma**2).sum(dim=2)
    digits = (x[0, :, None] >> torch.arange(0, 8, 2) & 3).to(torch.float64) * 4.0 ** torch.arange(4)
    squares = (digits**2).sum(dim=1) if scope == "read" else digits.sum(dim=1) ** 2
    return (squares @ cells).numpy()


# Read noise has the variance of its scope: per read the squared digits add up, per vector the squared vector does.
# Peers differ silently here.
@pytest.mark.parametrize(("scope", "count"), [("read", 6000), ("vector", 1200)])
def test_variance_of_each_scope(scope: str, count: int):
    w, x = problem()
    recipe = recipe_of(f"read_noise: {{gaussian: {{relative: 0.05}}}}\nread_scope: {scope}")
    y = reads(recipe, w, x, count)
    expected = noise_variance(x, w, 0.05, scope)
    other = noise_variance(x, w, 0.05, "vector" if scope == "read" else "read")
    ratio = y.var(axis=0, ddof=1) / expected
    # 1/255 steps of the largest variance are worth up to 0.5 % here.
    assert np.abs(ratio - 1).max() < LIMIT * sqrt(2 / (count - 1)) + 0.005
    assert np.abs(y.mean(axis=0) - (x @ w).numpy()).max() < LIMIT * np.sqrt(expected.max() / count) + 1
    assert (np.abs(other / expected - 1) > 0.25).all()


# Sampling the sum is exact in distribution: against cells drawn one by one for every read (two-sample KS, 1e-4).
def test_sampled_sums_are_sampled_cells():
    w, x = problem(columns=4)
    recipe = recipe_of("read_noise: {gaussian: {relative: 0.3}}\nread_scope: read", converter=True)
    sums = reads(recipe, w, x, 1500)
    digits = (x[0, :, None] >> torch.arange(0, 8, 2) & 3).to(torch.float64)
    stored = ((w + 128)[:, :, None] >> torch.arange(0, 8, 2) & 3).to(torch.float64)
    rng = np.random.default_rng(1)
    h, unit = 40, 16
    cells = np.empty((1500, 4))
    for m in range(1500):
        total = np.zeros(4)
        for i in range(4):
            noisy = stored.numpy() * (1 + 0.3 * rng.standard_normal(stored.shape))
            p = np.einsum("k,knj->nj", digits[:, i].numpy(), noisy)
            total += (np.clip(np.floor(p * unit / h + 0.5), 0, 255) * h / unit * 4.0**i) @ 4.0 ** np.arange(4)
        cells[m] = total - 128 * int(x.sum())
    for n in range(4):
        found = tuple(stats.ks_2samp(sums[:, n], cells[:, n]))
        assert float(found[1]) > 1e-4


# A call's noise is one draw: equal rows in a call, other rows in the next; frozen noise is the chip's.
def test_call_and_frozen_noise_stay():
    w, x = problem()
    calls = recipe_of("read_noise: {gaussian: {relative: 0.05}}\nread_scope: call", converter=True)
    prepared = prepare(calls, w)
    first, second = (read(calls, prepared, x.expand(5, -1), call=call) for call in (0, 1))
    assert len(first.unique(dim=0)) == len(second.unique(dim=0)) == 1
    assert not torch.equal(first, second)
    frozen = "read_noise: {gaussian: {relative: 0.05}}\nread_scope: frozen"
    per_chip = [reads(recipe_of(frozen, chip=Chip(3, number)), w, x, 3) for number in range(4)]
    assert all(len(np.unique(y, axis=0)) == 1 for y in per_chip)
    assert len(np.unique(np.concatenate(per_chip), axis=0)) == 4


# Defect 1 (MemIntelli: one seed for every layer): layers, chips and seeds have errors and faults of their own.
def test_defect_1_layers_do_not_share_variation_or_faults():
    w = problem(columns=64)[0]
    effect = "programming: {gaussian: {absolute_us: 0.1}}\nfaults: {stuck_off_probability: 0.1}"
    places = [(Chip(3), 0), (Chip(3), 1), (Chip(3, 1), 0), (Chip(4), 0)]
    found = [group_cells(recipe_of(effect, chip=chip, layer=layer), w, 0).values for chip, layer in places]
    again = group_cells(recipe_of(effect, chip=Chip(3), layer=0), w, 0).values
    assert torch.equal(found[0], again)
    stuck = [(value == 0).numpy().ravel() for value in found]
    error = [value.to(torch.float64).numpy().ravel() - found[0].numpy().mean() for value in found]
    for a in range(len(places)):
        for b in range(a):
            levels = ((w + 128)[:, :, None] >> torch.arange(0, 8, 2) & 3).numpy().ravel()
            rest = levels > 0  # an erased cell looks stuck, and its errors are cut at 0
            both = ~stuck[a] & ~stuck[b] & rest
            one, two = (error[k] - levels * 2.0 ** recipe_of(effect).grid_bits for k in (a, b))
            assert abs(np.corrcoef(one[both], two[both])[0, 1]) < LIMIT / sqrt(both.sum())
            expected = stuck[a][rest].mean() * stuck[b][rest].mean()
            share = (stuck[a] & stuck[b])[rest].mean()
            assert abs(share - expected) < LIMIT * sqrt(expected / rest.sum()) + 1e-3


# Defect 2 (MemIntelli): codes clip at the converter's ends whatever the noise, and a compensated lognormal has no gain.
def test_defect_2_codes_clip_and_means_stay():
    w = torch.full((ROWS, 4), 127)
    x = torch.full((1, ROWS), 255)
    noisy = "read_noise: {gaussian: {relative: 0.3}}\nread_scope: read"
    most = 85 * 85 * 255 * 40 / 16 - 128 * 255 * ROWS
    y = reads(recipe_of(noisy, converter=True, coding=Coding(dac_bits=2, frac_bits=4)), w, x, 200)
    assert y.max() <= most
    assert (y == most).mean() < 1  # 64 rows of 9 are 576, below 255 * 2.5: some reads are inside
    text = "programming: {{lognormal: {{sigma: 0.3, compensated: {}}}}}"
    gains: list[float] = []
    for compensated in ("true", "false"):
        cells = group_cells(
            recipe_of(text.format(compensated)), torch.zeros((ROWS, 4000), dtype=torch.int64), 0
        )
        level = (
            cells.values[:, :, 3].to(torch.float64) * 2.0 ** -recipe_of(text.format(compensated)).grid_bits
        )
        gains.append(float(level.mean()) / 2)  # weight 0 is stored as 128: its top digit is 2
    spread = sqrt(np.expm1(0.09) / (ROWS * 4000))
    # v_max 4.5 cuts 0.3 % of the tail above 2.25 times the mean, which takes less than 0.001 of the mean.
    assert abs(gains[0] - 1) < LIMIT * spread + 0.002
    assert abs(gains[1] - np.exp(0.045)) < LIMIT * spread * 1.05 + 0.004


# Defect 3 (Flash: noise redrawn per chunk): 64 equal rows give 64 different outputs, with one spread for every budget.
def test_defect_3_noise_does_not_know_the_budget():
    w, x = problem()
    recipe = recipe_of("read_noise: {gaussian: {relative: 0.05}}\nread_scope: read", converter=True)
    prepared = prepare(recipe, w)
    found = [
        read(recipe, prepared, x.expand(64, -1), chunk_bytes=size) for size in (1 << 24, 1 << 15, 1 << 10)
    ]
    assert all(torch.equal(found[0], other) for other in found)
    assert len(found[0].unique(dim=0)) == 64


# Defect 4 (NeuroSim: rates applied twice): the rates asked for are the rates of the cells, within binomial limits.
@pytest.mark.parametrize(("off", "on"), [(0.01, 0.0), (0.1, 0.0), (0.01, 0.01), (0.0, 0.2)])
def test_defect_4_fault_rates(off: float, on: float):
    effect = f"faults: {{stuck_off_probability: {off}, stuck_on_probability: {on}}}"
    # Weight -43 is 85 with the offset: every digit is 1, so stuck cells are the ones that differ.
    recipe = recipe_of(effect)
    values = group_cells(recipe, torch.full((ROWS, 2000), -43), 0).values
    count = values.numel()
    for level, rate in ((0, off), (3, on)):
        hit = int((values == level << recipe.grid_bits).sum())
        assert abs(hit - count * rate) <= LIMIT * sqrt(count * rate * (1 - rate))


# Defect 5 (NeuroSim: signs of drift redrawn at every conversion): drift is the chip's, the same in every read.
def test_defect_5_drift_is_not_read_noise():
    w, x = problem()
    fit = "{slope: -0.0155, intercept: 0.0244, low: 0.01, high: 0.1}"
    drift = f"drift: {{power_law: {{t0_s: 20.0, mean: {fit}, sigma: {fit}}}}}"
    chips = [Chip(3, 0, 1e5), Chip(3, 0, 1e7), Chip(3, 1, 1e5)]
    found = [reads(recipe_of(drift, chip=chip), w, x, 20) for chip in chips]
    assert all(len(np.unique(y, axis=0)) == 1 for y in found)
    assert len(np.unique(np.concatenate(found), axis=0)) == 3


# Defect 6 (NeuroSim: the batch's own range): what a window reads does not depend on the windows beside it.
def test_defect_6_ranges_do_not_come_from_the_batch():
    w, x = problem()
    recipe = recipe_of("", converter=True)
    prepared = prepare(recipe, w)
    beside = torch.cat([x, torch.full_like(x, 255), torch.zeros_like(x)])
    assert torch.equal(read(recipe, prepared, beside)[:1], read(recipe, prepared, x))


# Defect 7 (MNSIM: one draw per level and array): cells of one level vary one by one, with the spread asked for.
def test_defect_7_every_cell_varies():
    recipe = recipe_of("programming: {gaussian: {relative: 0.05}}")
    level = (
        group_cells(recipe, torch.full((ROWS, 500), 127), 0).values.to(torch.float64) * 2.0**-recipe.grid_bits
    )
    assert len(level[:, :, 0].unique()) > ROWS * 500 / 20
    count = level.numel()
    assert abs(float(level.std()) / 0.15 - 1) < LIMIT / sqrt(2 * count) + 1e-3
    rows, columns = level[:, :, 0].mean(dim=1), level[:, :, 0].mean(dim=0)
    assert float((rows - 3).abs().max()) < LIMIT * 0.15 / sqrt(500)
    assert float((columns - 3).abs().max()) < LIMIT * 0.15 / sqrt(ROWS)


# Cells far from their level are cut at v_max, and the share that was is reported.
def test_clipped_cells_are_reported():
    recipe = recipe_of("programming: {gaussian: {absolute_us: 1.0}}")
    share = prepare(recipe, torch.full((ROWS, 500), 127)).clipped_share
    expected = stats.norm.sf(1.5)  # level 3, cut at 4.5
    # 127 is stored as 255: all four digits are 3.
    assert abs(share - expected) < LIMIT * sqrt(expected / (ROWS * 500 * 4))
    assert prepare(recipe_of(""), torch.full((ROWS, 5), 127)).clipped_share == 0
