"""Row drivers, currents and converters of devices against formulas, exact converters and exhaustive search."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cimc.diagnostics import CimError, UnsupportedError
from cimc.runtime.crossbar.calibrate import Observed, choose_steps, observe
from cimc.runtime.crossbar.cells import store
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.converter import convert
from cimc.runtime.crossbar.rows import group_bounds
from cimc.runtime.device.adc import Adc, Sar, observe_groups, sar_codes
from cimc.runtime.device.dac import GRID_BITS, MOST_SIGMAS, Dac
from cimc.runtime.device.loader import load_device, parse_device

HEAD = "name: probe\ndescription: for a test\ncell: {g_off_us: 0.0, g_on_us: 100.0}\n"
BOUND = 4.5
"""Standard errors of a statistic that a test allows."""


# --- current -------------------------------------------------------------------------------------------------------


def test_the_cubic_current_is_that_of_its_source() -> None:
    """I = G V + NL2 V^2 + NL3 V^3 with CrossSim's polynomials of log10(G / S), highest power first, in SI units."""
    device = load_device("reram-milo")
    assert not device.proportional
    assert not device.ideal
    for g_us in (50.0, 62.5, 93.9, 110.0, 225.0):
        for digit in (1, 2, 3):
            volt = 0.5 * digit / 3
            log_g = math.log10(g_us * 1e-6)
            second = float(np.polyval([0.0001388, 0.001541, 0.005711, 0.007063], log_g))
            third = float(np.polyval([8.8710e-05, 6.7919e-04, 1.2968e-03], log_g))
            current = g_us * 1e-6 * volt + second * volt**2 + third * volt**3
            found = device.driven_us(torch.tensor([g_us], dtype=torch.float64), digit, 3)
            assert float(found) == pytest.approx(current / volt * 1e6, rel=1e-12)


def test_the_current_tends_to_be_proportional() -> None:
    """At small voltages a cell has its conductance; weak cells curve more than the strongest, none below 1 nS."""
    device = load_device("reram-milo")
    g = torch.tensor([0.0, 1e-4, 60.0, 225.0], dtype=torch.float64)
    torch.testing.assert_close(device.driven_us(g, 1, 10_000_000), g, rtol=1e-6, atol=0)
    change = (device.driven_us(g, 1, 1) - g).abs()
    assert change[:2].tolist() == [0.0, 0.0]
    assert float(change[2] / g[2]) > 5 * float(change[3] / g[3])
    plain = load_device("ideal")
    assert plain.driven_us(g, 1, 3) is g


# --- row drivers ---------------------------------------------------------------------------------------------------


def test_driver_noise_has_the_spread_asked_for() -> None:
    """x (1 + s z) + a z in units of 2^-6: mean x, deviation s x + a; a grounded row stays at 0."""
    dac = Dac(noise_relative=0.05, noise_absolute_digits=0.1)
    count = 400_000
    z = torch.from_numpy(np.random.default_rng(1).standard_normal(count))
    for digit in (1, 3):
        driven = dac.driven(torch.full((count,), digit), z).to(torch.float64) / (1 << GRID_BITS)
        sigma = math.hypot(0.05 * digit + 0.1, 2.0**-GRID_BITS / math.sqrt(12))  # with the rounding
        assert float(driven.mean()) == pytest.approx(digit, abs=BOUND * sigma / math.sqrt(count))
        assert float(driven.std()) == pytest.approx(sigma, rel=BOUND / math.sqrt(2 * count) + 2e-3)
    assert not dac.driven(torch.zeros(count, dtype=torch.int64), z).any()


def test_driver_noise_is_bounded() -> None:
    """No draw drives more than `largest`, which a read relies on to keep its sums exact."""
    dac = Dac(noise_relative=0.05, noise_absolute_digits=0.1)
    z = torch.tensor([-60.0, -MOST_SIGMAS, MOST_SIGMAS, 60.0], dtype=torch.float64)
    for top in (1, 3, 15):
        driven = dac.driven(torch.full((4,), top), z)
        assert float(driven.max()) <= dac.largest(top) * (1 << GRID_BITS) + 0.5
        assert float(driven.max()) >= dac.largest(top) * (1 << GRID_BITS) - 0.5
    exact = Dac()
    assert exact.largest(3) == 3
    assert exact.driven(torch.arange(4), torch.full((4,), 3.0, dtype=torch.float64)).tolist() == [
        0,
        64,
        128,
        192,
    ]


# --- ranges --------------------------------------------------------------------------------------------------------

CODING = Coding(cell_bits=2, dac_bits=2, parallel_rows=64, converter_hi=63)


def observations(rows: int = 192) -> tuple[list[Observed], list[int], Coding]:
    """Partial sums of each row group of a random product, its groups' rows, and its coding."""
    rng = np.random.default_rng(2)
    w = np.clip(np.rint(rng.normal(0, 30, (rows, 6))), -127, 127).astype(np.int64)
    qx = np.abs(rng.normal(0, 60, (80, rows))).clip(0, 255).astype(np.int64)
    bounds = group_bounds([(rows, 0)], CODING.parallel_rows)
    cells, _ = store(w, CODING, bounds)
    groups = observe_groups(qx, cells, CODING, bounds)
    together = observe(qx, cells, CODING, bounds)
    joined = groups[0].join(groups[1]).join(groups[2])
    np.testing.assert_array_equal(joined.counts, together.counts)
    return groups, np.diff(bounds).tolist(), CODING


@pytest.mark.parametrize(
    ("shared", "shape"), [("tile", (3, 4, 4)), ("slice", (1, 4, 4)), ("layer", (1, 1, 1))]
)
@pytest.mark.parametrize("calibration", ["max", "percentile", "mse", "worst"])
def test_ranges_are_shared_as_asked(shared: str, shape: tuple[int, int, int], calibration: str) -> None:
    """A step per tile, slice or layer, for every calibration."""
    observed, rows, coding = observations()
    adc = Adc.model_validate({"range": shared, "calibration": calibration})
    choice = adc.steps(observed, rows, coding)
    assert np.broadcast_shapes(choice.h.shape, (3, 4, 4)) == (3, 4, 4)
    assert choice.h.shape == shape
    assert choice.h.min() >= 1


def test_the_covering_step_is_the_least_that_clips_nothing() -> None:
    """Calibration max: no observed sum is clipped, and at one unit of h less one is (or the step is 1)."""
    observed, rows, coding = observations()
    choice = Adc(range="tile", calibration="max").steps(observed, rows, coding)
    coding = replace(coding, frac_bits=choice.frac_bits)
    for g, one in enumerate(observed):
        sums = one.first + np.arange(one.counts.shape[2])
        for place in np.ndindex(4, 4):
            seen = sums[one.counts[place] > 0]
            h = int(choice.h[g][place])

            def clips(step: int, top: int = int(seen.max())) -> bool:
                """Would the largest sum be clipped at this step?"""
                code = math.floor(top * 2**choice.frac_bits / step + 0.5)
                return code > coding.converter_hi

            assert not clips(h)
            assert h == 1 << choice.frac_bits or clips(h - 1)


def test_the_least_squares_step_is_the_compilers() -> None:
    """Calibration mse per slice is the step that the compiler's pass chooses from the same sums."""
    observed, rows, coding = observations()
    ours = Adc(range="slice", calibration="mse").steps(observed, rows, coding)
    theirs = choose_steps(observed, coding)
    assert ours.frac_bits == theirs.frac_bits
    np.testing.assert_array_equal(ours.h[0], theirs.h)


def test_a_percentile_clips_its_share() -> None:
    """Calibration percentile: at most that share of the observed sums is clipped, and more than none at 90 %."""
    observed, rows, coding = observations()
    for percentile in (90.0, 99.0):
        choice = Adc(range="layer", calibration="percentile", percentile=percentile).steps(
            observed, rows, coding
        )
        step = float(choice.h[0, 0, 0]) / 2**choice.frac_bits
        clipped = total = 0
        for one in observed:
            sums = one.first + np.arange(one.counts.shape[2])
            over = np.floor(sums / step + 0.5) > coding.converter_hi
            clipped += int(one.counts[:, :, over].sum())
            total += int(one.counts.sum())
        assert 0 < clipped / total <= 1 - percentile / 100


def test_worst_and_unit_do_not_look_at_the_data() -> None:
    """Worst covers rows x digit x level whatever came; unit is one level a code, the rest clips."""
    observed, rows, coding = observations()
    worst = Adc(range="layer", calibration="worst").steps(observed, rows, coding)
    top = 64 * 3 * 3
    assert float(worst.h[0, 0, 0]) / 2**worst.frac_bits == pytest.approx(top / 63.5, rel=0.01)
    unit = Adc(calibration="unit").steps([], rows, coding)
    assert (unit.h.tolist(), unit.frac_bits) == ([[[1]]], 0)


def test_a_device_brings_its_own_converter() -> None:
    """Bits of the device file replace the machine's codes, signed where those are."""
    unsigned = Adc(bits=5).applied(CODING)
    assert (unsigned.converter_lo, unsigned.converter_hi, unsigned.converter_zero) == (0, 31, 0)
    signed = Coding(weight_encoding="differential", converter_lo=-128, converter_hi=127)
    applied = Adc(bits=6).applied(signed)
    assert (applied.converter_lo, applied.converter_hi) == (-32, 31)
    assert Adc().applied(CODING) is CODING


@pytest.mark.parametrize("calibration", ["mse", "max", "percentile"])
def test_fewer_codes_keep_the_calibrated_range(calibration: str) -> None:
    """Without new data the range stays that of the machine's steps: codes get fewer and steps wider."""
    coding = replace(CODING, converter_hi=255, frac_bits=4)
    machines = np.array([[16, 23], [30, 33]])  # up to 33 / 16 * 255 of at most 64 * 9 levels
    adc = Adc.model_validate({"bits": 5, "calibration": calibration})
    ours = adc.adapted(machines, 64, coding)
    reach = machines * 255
    assert bool((ours * 31 >= reach).all())
    assert bool(((ours - 1) * 31 < reach).all())
    np.testing.assert_array_equal(Adc().adapted(machines, 64, coding), machines)
    # sums of 2 rows reach 18: 5 bits have codes enough for step 1, whatever range the machine had
    assert (adc.adapted(machines, 2, coding) == 16).all()
    more = adc.model_copy(update={"bits": 10})
    assert (more.adapted(machines, 64, coding) == 16).all()


def test_unit_and_worst_need_no_range() -> None:
    """Unit is one level whatever the machine had; worst covers rows x digit x level; a step too wide is an error."""
    coding = replace(CODING, converter_hi=255, frac_bits=4)
    machines = np.array([[16, 23], [40, 400]])
    assert (Adc(calibration="unit").adapted(machines, 64, coding) == 16).all()
    worst = Adc(bits=6, calibration="worst").adapted(machines, 40, coding)
    assert (worst == math.floor(40 * 9 * 32 / 127) + 1).all()
    with pytest.raises(UnsupportedError, match="a converter of 1 bits needs a step"):
        Adc(bits=1).adapted(machines * 100, 64, replace(coding, dac_bits=8, cell_bits=8, converter_hi=65535))


# --- successive approximation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(0, 15), (-8, 7)])
@pytest.mark.parametrize(("grid_bits", "frac_bits"), [(0, 0), (13, 0), (5, 8), (0, 8)])
def test_without_mismatch_it_is_the_exact_converter(
    low: int, high: int, grid_bits: int, frac_bits: int
) -> None:
    """Over all partial sums from below to above the range, codes equal half up in integers."""
    coding = Coding(
        weight_encoding="differential",
        converter_lo=low,
        converter_hi=high,
        frac_bits=frac_bits,
        subtract="digital",
    )
    thresholds = Sar(capacitor_sigma=0.0).thresholds(4, torch.zeros((1, 6), dtype=torch.float64))
    for h in (1, 3, 7, 300):
        span = 20 * h << grid_bits >> frac_bits
        stride = max(1, span // 4000)
        partial = np.unique(np.concatenate([np.arange(-span, span, stride), np.arange(-40, 40)]))
        found = sar_codes(torch.from_numpy(partial)[:, None], torch.tensor(h), coding, grid_bits, thresholds)[
            :, 0
        ]
        expected = convert(partial, h, frac_bits=frac_bits, lo=low, hi=high, zero=0, grid_bits=grid_bits)
        np.testing.assert_array_equal(found.numpy(), expected)


def test_mismatch_has_its_closed_form() -> None:
    """To first order the threshold of code c varies by sigma sqrt(c (2^bits - c) / 2^bits) steps, without a mean."""
    bits, sigma, count = 8, 0.02, 40_000
    z = torch.from_numpy(np.random.default_rng(3).standard_normal((count, bits + 2)))
    codes = torch.arange(1 << bits, dtype=torch.float64)
    error = Sar(capacitor_sigma=sigma).thresholds(bits, z).to(torch.float64) / 65536 - (codes - 0.5)
    expected = sigma * (codes * (256 - codes) / 256).sqrt()
    torch.testing.assert_close(error.std(dim=0), expected, rtol=BOUND / math.sqrt(2 * count) + 0.01, atol=0)
    assert (
        float((error.mean(dim=0).abs() - BOUND * expected / math.sqrt(count)).max()) < 0.003
    )  # second order


def test_mismatch_follows_the_binary_search() -> None:
    """Codes are those of the search bit by bit, also where thresholds are out of order and codes go missing."""
    bits = 5
    rng = np.random.default_rng(4)
    z = torch.from_numpy(rng.standard_normal((3, bits + 2)))
    table = Sar(capacitor_sigma=0.3, comparator_sigma_steps=0.5).thresholds(bits, z)
    assert bool((table.diff(dim=1) < 0).any())
    coding = Coding(converter_hi=31)
    partial = torch.from_numpy(rng.integers(-10, 40 * 64, (500, 3)))
    found = sar_codes(partial, torch.tensor(1), coding, 6, table)
    for row in range(500):
        for column in range(3):
            code = 0
            for bit in (16, 8, 4, 2, 1):
                if float(partial[row, column]) / 64 >= float(table[column, code + bit]) / 65536:
                    code += bit
            assert int(found[row, column]) == code


def test_a_comparator_shifts_all_codes() -> None:
    """The comparator's offset moves every threshold of a converter alike."""
    z = torch.zeros((1, 6), dtype=torch.float64)
    z[0, 5] = 2.0
    shifted = Sar(capacitor_sigma=0.1, comparator_sigma_steps=0.25).thresholds(4, z)
    still = Sar(capacitor_sigma=0.1).thresholds(4, z)
    assert (shifted - still).unique().tolist() == [32768]


# --- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adc: {bits: 20}", "adc.bits: must be less than or equal to 16, given 20"),
        ("adc: {calibration: max, percentile: 99}", "percentile: has no effect with calibration 'max'"),
        ("adc: {range: column}", "adc.range: must be 'tile', 'slice' or 'layer', given 'column'"),
        ("adc: {sar: {capacitor_sigma: -0.1}}", "capacitor_sigma: must be greater than or equal to 0"),
        ("dac: {noise_relative: 5}", "noise_relative: must be less than or equal to 0.5, given 5"),
        ("drift_compensation: global", "'global' has no drift to undo"),
        (
            "wires: {closed_form: {array_columns: 4}}\n"
            "current: {cubic: {read_voltage_v: 1, nl2_a_per_v2: [0], nl3_a_per_v3: [0]}}",
            "current: with wires needs an iterative solution",
        ),
    ],
)
def test_impossible_converters_are_refused(text: str, message: str) -> None:
    """One message with the line, the rule and the value."""
    with pytest.raises(CimError, match=message):
        parse_device(HEAD + text + "\n", "dev.yaml")
