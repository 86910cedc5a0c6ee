"""Devices of the library through the simulator: reads equal the reference, and the physics arrives in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from cimc.diagnostics import UnsupportedError, UsageError
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.device.cells import group_cells, resampled
from cimc.runtime.device.ir_drop import nodal_effective_us
from cimc.runtime.device.library import DeviceModel
from cimc.runtime.device.loader import PRESETS, load_device, parse_device, preset_names
from cimc.runtime.device.periphery import thresholds
from cimc.runtime.device.prepared import prepare
from cimc.runtime.device.product import read
from cimc.runtime.device.recipe import Chip, Recipe
from cimc.runtime.device.reference import read_reference

HEAD = "name: probe\ndescription: for a test\ncell: {g_off_us: 1.0, g_on_us: 100.0}\n"
ROWS, COLUMNS, WINDOWS = 64, 10, 2
"""The last layer of a network on scikit-learn's digits: 64 pixels, 10 classes."""


def weights(seed: int, bits: int = 8) -> Tensor:
    """Weight codes (ROWS, COLUMNS) of a trained layer's shape: Gaussian, a few at the ends."""
    top = 2 ** (bits - 1) - 1
    w = np.random.default_rng(seed).normal(0, top / 4, (ROWS, COLUMNS))
    return torch.from_numpy(np.clip(np.rint(w), -top, top).astype(np.int64))


def inputs(seed: int, windows: int = WINDOWS) -> Tensor:
    """Activation codes (windows, ROWS), half of them 0."""
    x = np.random.default_rng(seed).normal(0, 60, (windows, ROWS))
    return torch.from_numpy(np.clip(np.rint(x), 0, 255).astype(np.int64))


def recipe(
    device: DeviceModel, coding: Coding, *, time_s: float = 0.0, instance: int = 0, **other: bool
) -> Recipe:
    """A product of ROWS rows that starts at wordline 40, so that its groups are not the tiles."""
    segments = ((40, 0), (ROWS - 40, 16))
    return Recipe(
        3, coding, segments, device, Chip(7, instance, time_s), h=2, converter=other.get("converter", True)
    )


SAR = "adc: {bits: 5, sar: {capacitor_sigma: 0.05, comparator_sigma_steps: 0.3, columns_per_converter: 3}}\n"
DAC = "dac: {noise_relative: 0.05, noise_absolute_digits: 0.02}\n"
NOISE = "read_noise: {gaussian: {relative: 0.05}}\n"
CODING = Coding(parallel_rows=32, converter_hi=63)
DIFFERENTIAL = Coding(
    parallel_rows=32, weight_encoding="differential", converter_lo=-32, converter_hi=31, max_abs_weight=127
)


@pytest.mark.parametrize("coding", [CODING, DIFFERENTIAL], ids=["offset", "differential"])
@pytest.mark.parametrize("name", preset_names())
def test_reads_of_every_preset_equal_the_reference(name: str, coding: Coding) -> None:
    """Prepared and read fast, in chunks or at once, a product is the slow definition's, integer for integer."""
    device = load_device(name)
    product = recipe(device, coding, time_s=0.0 if name == "ideal" else 86400.0)
    codes, x = weights(1), inputs(2)
    expected = read_reference(product, codes, x, first_window=5)
    prepared = prepare(product, codes)
    assert torch.equal(read(product, prepared, x, 5), expected)
    in_two = [read(product, prepared, x[:1], 5, 4096), read(product, prepared, x[1:], 6, 4096)]
    assert torch.equal(torch.cat(in_two), expected)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_computes_roughly_the_product(name: str) -> None:
    """Fresh from programming, pairs of cells without drivers and converters are within half of the exact product."""
    codes, x = weights(1), inputs(2)
    cells = parse_device((PRESETS / f"{name}.yaml").read_text().split("\ndac:")[0], name)
    product = recipe(cells, DIFFERENTIAL, converter=False)
    result = read(product, prepare(product, codes), x).to(torch.float64) / 2.0**product.frac_bits
    exact = (x @ codes).to(torch.float64)
    assert float((result - exact).norm() / exact.norm()) < 0.5


@pytest.mark.parametrize("name", [name for name in preset_names() if name not in ("ideal", "neurosim-drift")])
def test_chips_differ_and_are_reproducible(name: str) -> None:
    """Another instance is another chip with other results; the same instance gives the same bits."""
    device = load_device(name)
    codes, x = weights(1), inputs(2)
    results = []
    for instance in (0, 0, 1):
        product = recipe(device, CODING, instance=instance)
        results.append(read(product, prepare(product, codes), x))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def digits_of(codes: Tensor, coding: Coding) -> npt.NDArray[np.int64]:
    """Digits (rows, N, D) of offset encoded weights, least significant first, written out."""
    stored = codes.numpy() + 2 ** (coding.weight_bits - 1)
    shifts = range(0, coding.weight_bits, coding.cell_bits)
    return np.stack([stored >> shift & (2**coding.cell_bits - 1) for shift in shifts], axis=-1)


def test_wires_lower_the_cells_of_their_array() -> None:
    """Cells are those of the resistor networks: arrays of 3 weights, the last one narrower, groups above the sense."""
    wires = "array_columns: 14, array_rows: 48, row_segment_ohm: 2.0, column_segment_ohm: 3.0"
    device = parse_device(HEAD + f"wires: {{nodal: {{{wires}}}}}\n", "dev.yaml")
    product = recipe(device, CODING)
    assert product.bounds.tolist() == [0, 32, 40, 56, 64]
    codes = weights(3)
    # rows of the product, wordlines below the group in its array of 48
    for first, last, below in ((0, 32, 16), (32, 40, 8), (40, 56, 16), (56, 64, 8)):
        digits = digits_of(codes[first:last], CODING)
        g = torch.from_numpy(1.0 + 33.0 * digits.reshape(last - first, -1))
        expected = torch.empty_like(g)
        for left in range(0, 40, 12):  # 14 columns hold 3 weights of 4 cells
            array = g[:, left : left + 12]
            expected[:, left : left + 12] = nodal_effective_us(array, 2.0, 3.0, 0.0, 3.0 * below)
        values = (expected - 1.0) / 33.0 * 2.0**product.grid_bits
        cells = group_cells(product, codes[first:last], first).values
        assert torch.equal(cells.reshape(last - first, -1), torch.round(values).to(torch.int32))


def test_wires_scale_the_noise_of_a_cell() -> None:
    """What a cell's noise adds at the sense node shrinks as the cell's current does."""
    noise = "read_noise: {gaussian: {absolute_us: 2.0}}\nread_scope: vector\n"
    wires = "wires: {nodal: {array_columns: 64, row_segment_ohm: 90.0, column_segment_ohm: 90.0}}\n"
    moved: list[Tensor] = []
    for text in (noise, noise + wires):
        product = recipe(parse_device(HEAD + text, "dev.yaml"), CODING, converter=False)
        cells = group_cells(product, weights(4)[:32], 0)
        moved.append(resampled(product, cells, 0, 5) - cells.values)
    assert cells.g_us is not None
    assert cells.seen_us is not None
    arrives = (cells.seen_us / cells.g_us).clamp(max=1)
    assert float(arrives.min()) < 0.7
    torch.testing.assert_close(moved[1].to(torch.float64), moved[0] * arrives, rtol=0, atol=2)


def test_a_nonlinear_current_is_that_of_the_read_voltage() -> None:
    """With a 1-bit DAC every driven cell is at the read voltage; with 2 bits each digit sees cells of its own."""
    text = (PRESETS / "reram-milo.yaml").read_text()
    text = text[: text.index("programming:")] + text[text.index("current:") :]
    device = parse_device(text, "milo.yaml")
    product = recipe(device, CODING)
    codes = weights(6)
    g = torch.from_numpy(50.0 + 175.0 / 3 * digits_of(codes[:32], CODING))
    value = (device.driven_us(g, 1, 1) - 50.0) / (175.0 / 3) * 2.0**product.grid_bits
    assert torch.equal(group_cells(product, codes[:32], 0).values, torch.round(value).to(torch.int32))
    wide = recipe(device, Coding(parallel_rows=32, dac_bits=2, converter_hi=255))
    values = group_cells(wide, codes[:32], 0).values
    assert values.shape == (3 * 32, COLUMNS, 4)
    for digit in (1, 2, 3):
        level = (device.driven_us(g, digit, 3) - 50.0) / (175.0 / 3) * 2.0**wide.grid_bits
        assert torch.equal(values[32 * (digit - 1) : 32 * digit], torch.round(level).to(torch.int32))
    for other, arguments in (("read_scope: vector\n", True), ("", False)):
        noisy = parse_device(text + NOISE + other, "milo.yaml")
        with pytest.raises(UnsupportedError, match="not proportional to the voltage, and digits go up to 3"):
            recipe(noisy, Coding(parallel_rows=32, dac_bits=2), converter=arguments)


@pytest.mark.parametrize(
    "text", ["", "dac: {noise_relative: 0.05}\n", "read_noise: {gaussian: {relative: 0.05}}\n"]
)
@pytest.mark.parametrize("flip", [False, True])
def test_nonlinear_reads_of_wide_digits_equal_the_reference(text: str, flip: bool) -> None:
    """Where a cell's value depends on the digit, reads are still the definition's, with noise and flipped columns."""
    coding = Coding(parallel_rows=32, dac_bits=2, converter_hi=255, column_flip=flip)
    milo = (PRESETS / "reram-milo.yaml").read_text()
    product = recipe(parse_device(milo + text, "milo.yaml"), coding)
    codes, x = weights(13), inputs(14)
    expected = read_reference(product, codes, x, 3)
    assert torch.equal(read(product, prepare(product, codes), x, 3), expected)
    straight = recipe(parse_device(milo[: milo.index("current:")] + text, "milo.yaml"), coding)
    assert not torch.equal(read_reference(straight, codes, x, 3), expected)


def test_the_drift_gain_reaches_the_cells() -> None:
    """With global compensation the mean result stays where it was programmed; without it falls by a third in a year."""
    text = (PRESETS / "pcm.yaml").read_text()
    text = text[: text.index("read_noise:")]
    codes, x = weights(7), inputs(8, 40)
    exact = (x @ codes).to(torch.float64)
    slopes: list[float] = []
    for option in ("none", "global"):
        device = parse_device(text + f"drift_compensation: {option}\n", "pcm.yaml")
        coding = Coding(parallel_rows=32, weight_encoding="differential", converter_lo=-128, converter_hi=127)
        product = recipe(device, coding, time_s=3.15e7, converter=False)
        result = read(product, prepare(product, codes), x).to(torch.float64) / 2.0**product.frac_bits
        slopes.append(float((result * exact).sum() / (exact * exact).sum()))
    assert slopes[0] < 0.6
    assert slopes[1] == pytest.approx(1, abs=0.05)


def test_the_devices_converter_takes_the_machines_place() -> None:
    """A device with its own bits reads as a machine with that converter, for the whole product and its reference."""
    codes, x = weights(9), inputs(10, 6)
    for text, high, h in (("adc: {bits: 4}", 15, 7), ("adc: {calibration: unit}", 63, 1)):
        ours = recipe(parse_device(HEAD + text + "\n", "d"), CODING)
        wanted = replace(CODING, converter_hi=high)
        plain = Recipe(3, wanted, ours.segments, parse_device(HEAD, "d"), Chip(7), h=h)
        assert ours.coding == wanted
        assert torch.equal(read(ours, prepare(ours, codes), x), read(plain, prepare(plain, codes), x))
        assert torch.equal(read_reference(ours, codes, x), read_reference(plain, codes, x))
        again = replace(ours, layer=4)
        assert (again.coding, again.steps.tolist()) == (ours.coding, ours.steps.tolist())


def test_devices_that_cannot_serve_a_product_are_refused() -> None:
    """Too few levels, a time without a fit, wires that are too short: errors before any cell is made."""
    with pytest.raises(UsageError, match="has 2 levels, but digits of 4 levels"):
        recipe(
            parse_device("name: d\ndescription: d\ncell: {g_off_us: 0, g_on_us: 1, levels: 2}\n", "d"), CODING
        )
    with pytest.raises(UsageError, match="fitted at 1, 86400, 172800 s only"):
        recipe(load_device("reram-wan"), CODING, time_s=3600.0)
    nodal = "row_segment_ohm: 1, column_segment_ohm: 1"
    short = parse_device(HEAD + f"wires: {{nodal: {{array_columns: 8, array_rows: 32, {nodal}}}}}\n", "d")
    with pytest.raises(UnsupportedError, match=r"reaches wordline 39, but array_rows .* is 32"):
        recipe(short, CODING)
    narrow = parse_device(HEAD + f"wires: {{nodal: {{array_columns: 3, {nodal}}}}}\n", "d")
    with pytest.raises(UnsupportedError, match=r"a weight has 4 cells, but array_columns .* is 3"):
        group_cells(recipe(narrow, CODING), weights(1)[:32], 0)


@pytest.mark.parametrize("coding", [CODING, DIFFERENTIAL], ids=["offset", "differential"])
@pytest.mark.parametrize(
    "text",
    [SAR, DAC, SAR + DAC + NOISE, DAC + NOISE + "read_scope: vector\n", SAR + NOISE + "read_scope: call\n"],
)
def test_drivers_and_converters_equal_the_reference(text: str, coding: Coding) -> None:
    """With noisy drivers and mismatched converters too, reads are the definition's, however windows are cut."""
    product = recipe(parse_device(HEAD + text, "d"), coding)
    codes, x = weights(11), inputs(12)
    expected = read_reference(product, codes, x, first_window=(1 << 32) - 1)
    prepared = prepare(product, codes)
    assert torch.equal(read(product, prepared, x, (1 << 32) - 1), expected)
    parts = [read(product, prepared, x[m : m + 1], (1 << 32) - 1 + m, 1) for m in range(WINDOWS)]
    assert torch.equal(torch.cat(parts), expected)
    exact = recipe(parse_device(HEAD + "adc: {bits: 5}\n", "d"), coding)
    assert not torch.equal(read(exact, prepare(exact, codes), x), expected)


def test_driver_noise_is_shared_by_the_columns_of_a_row() -> None:
    """One driven row: every column sees the same relative error, which read noise of cells would not give."""
    wide = Coding(parallel_rows=32, converter_hi=65535, dac_bits=8, cell_bits=8, frac_bits=0)
    device = parse_device(HEAD + "dac: {noise_relative: 0.1}\n", "d")
    product = Recipe(3, wide, ((ROWS, 0),), device, Chip(7), h=1)
    x = torch.zeros((50, ROWS), dtype=torch.int64)
    x[:, 5] = 200
    codes = torch.full((ROWS, COLUMNS), 100, dtype=torch.int64)
    codes[:, 1] = -28
    result = read(product, prepare(product, codes), x) + 200 * 128  # sums of the stored, offset weights
    gain = result.to(torch.float64) / (200 * (codes[0] + 128))
    assert float(gain.std(dim=0).min()) > 0.05
    torch.testing.assert_close(gain, gain[:, :1].expand(-1, COLUMNS), rtol=0, atol=1e-4)


def test_converters_of_one_tile_are_the_same_in_all_its_groups() -> None:
    """A mismatched converter belongs to an array: its row groups share it, another array's is another one."""
    product = recipe(parse_device(HEAD + SAR, "d"), CODING)
    assert [product.tile_of(row) for row in (0, 39, 40, 63)] == [0, 0, 1, 1]
    first, again, other = (thresholds(product, row, 1, COLUMNS, torch.device("cpu")) for row in (0, 32, 40))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # three physical columns a converter, four cells a weight: conversions 1 of weights 0 and 1 have different ones
    assert not torch.equal(first[0], first[1])
    shared = thresholds(product, 0, 2, COLUMNS, torch.device("cpu"))
    assert torch.equal(shared[0], first[0])


def test_noisy_drivers_need_a_converter() -> None:
    """Without a converter there is no grid that the currents of noisy drivers lie on."""
    with pytest.raises(UnsupportedError, match="noisy row drivers"):
        recipe(parse_device(HEAD + DAC, "d"), CODING, converter=False)
