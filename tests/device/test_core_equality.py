"""Fast reads equal the reference bit for bit (docs/device.md, fast evaluation)."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from cimc.runtime.crossbar.cells import store
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.converter import broadcast_steps
from cimc.runtime.crossbar.product import ArrayProduct
from cimc.runtime.crossbar.reference import read_reference as read_ideal
from cimc.runtime.device.loader import parse_device
from cimc.runtime.device.prepared import prepare
from cimc.runtime.device.product import read
from cimc.runtime.device.recipe import Chip, DeviceModel, Recipe
from cimc.runtime.device.reference import read_reference

DEVICES = {
    "ideal": "",
    "static": "programming: {gaussian: {relative: 0.08}}\nfaults: {stuck_on_probability: 0.02}",
    "frozen": "read_noise: {gaussian: {relative: 0.05}}\nread_scope: frozen",
    "read": "programming: {gaussian: {relative: 0.05}}\nread_noise: {gaussian: {relative: 0.05}}\nread_scope: read",
    "lognormal": "read_noise: {lognormal: {sigma: 0.05, compensated: true}}\nread_scope: read",
    "vector": "read_noise: {gaussian: {relative: 0.05}}\nread_scope: vector",
    "call": "read_noise: {gaussian: {relative: 0.05, absolute_us: 0.1}}\nread_scope: call",
    "column": "programming: {gaussian: {absolute_us: 0.1}}\nbaseline: column",
    "none": "programming: {gaussian: {absolute_us: 0.1}}\nbaseline: none",
}

CODINGS = {
    "offset": Coding(weight_encoding="offset", dac_bits=2),
    "flip": Coding(weight_encoding="offset", column_flip=True, converter_lo=-8, dac_bits=3),
    "analog": Coding(
        weight_encoding="differential",
        input_encoding="sign_magnitude",
        input_min=-128,
        converter_lo=-128,
        converter_hi=127,
        dac_bits=2,
    ),
    "digital": Coding(weight_encoding="differential", subtract="digital", converter_hi=63),
    "twos": Coding(
        weight_encoding="twos_complement",
        input_encoding="twos_complement",
        input_min=-128,
        converter_hi=31,
        cell_bits=3,
    ),
}


def device(extra: str) -> DeviceModel:
    """Cells of 1 … 4 uS with the effects of ``extra``."""
    text = "name: test\ndescription: test\nprovenance: ours\ncell: {g_off_us: 1.0, g_on_us: 4.0}\n" + extra
    return parse_device(text, "test.yaml")


@dataclass(frozen=True)
class Case:
    """One random product."""

    recipe: Recipe
    w: Tensor
    x: Tensor


def make(
    coding: Coding, model: DeviceModel, converter: bool, seed: int, frac_bits: int = 3, widest: int = 40000
) -> Case:
    """Two row tiles with short groups, 17 columns (more than a vector), 4 windows, steps of many sizes."""
    rng = np.random.default_rng(seed)
    coding = replace(coding, parallel_rows=32, frac_bits=frac_bits if converter else 0)
    segments = ((40, 5), (23, 0))
    shape = (
        len(Recipe(0, coding, segments, model, Chip(1)).bounds) - 1,
        coding.digit_cycles,
        len(coding.conversions),
    )
    h = rng.choice([1, 8, 11, 64, widest], shape) if converter else 1
    recipe = Recipe(3, coding, segments, model, Chip(7, 1), h=h, converter=converter)
    w = torch.from_numpy(rng.integers(-100, 100, (63, 17)))
    x = torch.from_numpy(rng.integers(coding.input_min, coding.input_max + 1, (3, 63)))
    return Case(recipe, w, x)


# The effects that take their own way through reads meet every encoding; the others meet one each.
PAIRS = [
    *((encoding, effect) for effect in ("static", "read") for encoding in CODINGS),
    ("offset", "ideal"),
    ("flip", "frozen"),
    ("analog", "lognormal"),
    ("digital", "vector"),
    ("twos", "call"),
    ("flip", "column"),
    ("analog", "none"),
]


# The rule of the simulator: reference with the rows of every sum in another order, compiled kernels, and the tensor
# form that GPUs run give the same integers, for every encoding, effect and noise scope, with and without converter.
@pytest.mark.parametrize("converter", [True, False])
@pytest.mark.parametrize(("encoding", "effect"), PAIRS)
def test_fast_is_the_reference(encoding: str, effect: str, converter: bool):
    case = make(CODINGS[encoding], device(DEVICES[effect]), converter, seed=len(encoding) + 10 * len(effect))
    order = torch.randperm(63, generator=torch.Generator().manual_seed(3))
    window = (1 << 32) - 2
    expected = read_reference(case.recipe, case.w, case.x, window, call=2, order=order)
    for kernels in (True, False):
        prepared = prepare(case.recipe, case.w, kernels)
        assert torch.equal(read(case.recipe, prepared, case.x, window, call=2), expected)
    assert len(expected.unique()) > 20


# Noise, like everything else, does not depend on where a run is cut into calls or chunks, or on threads.
@pytest.mark.parametrize("effect", ["static", "read", "vector", "lognormal"])
@pytest.mark.parametrize("kernels", [True, False])
def test_chunks_and_threads_change_nothing(effect: str, kernels: bool):
    case = make(CODINGS["analog"], device(DEVICES[effect]), True, seed=5, widest=300)
    x = case.x.repeat(12 if effect in ("static", "read") else 1, 1)
    prepared = prepare(case.recipe, case.w, kernels)
    assert (prepared.converted[0].fused is not None) == (kernels and not case.recipe.resamples)
    whole = read(case.recipe, prepared, x)
    for chunk_bytes in (1, 30_000):
        assert torch.equal(read(case.recipe, prepared, x, chunk_bytes=chunk_bytes), whole)
    cuts = [0, 1, min(18, len(x)), len(x)]
    parts = [read(case.recipe, prepared, x[a:b], first_window=a) for a, b in pairwise(cuts)]
    assert torch.equal(torch.cat(parts), whole)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(read(case.recipe, prepare(case.recipe, case.w, kernels), x), whole)
    finally:
        torch.set_num_threads(threads)


# On ideal cells the simulator is the exact engine of docs/crossbar.md: the same cells, the same codes, the same reads.
@pytest.mark.parametrize("seed", range(12))
def test_ideal_is_the_array_product(seed: int):
    rng = np.random.default_rng(seed)
    coding = list(CODINGS.values())[seed % len(CODINGS)]
    case = make(coding, device(""), True, seed, frac_bits=int(rng.integers(0, 9)))
    recipe = case.recipe
    cells, flips = store(case.w.numpy(), recipe.coding, recipe.bounds)
    steps = broadcast_steps(recipe.h, len(recipe.bounds) - 1, recipe.coding)
    exact = ArrayProduct(cells, flips, recipe.coding, recipe.bounds, steps).read(case.x.numpy())
    assert np.array_equal(
        exact, read_ideal(case.x.numpy(), cells, flips, recipe.coding, recipe.bounds, steps)
    )
    for kernels in (True, False):
        assert np.array_equal(read(recipe, prepare(recipe, case.w, kernels), case.x).numpy(), exact)


# Ideal cells and a converter that loses nothing collapse into the integer product, whatever its magnitude.
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kernels", [True, False])
def test_lossless_is_the_integer_product(bits: int, kernels: bool):
    coding = Coding(weight_bits=bits, input_bits=bits, dac_bits=2, converter_hi=65535)
    recipe = Recipe(0, coding, ((128, 0), (72, 0)), device(""), Chip(0))
    rng = np.random.default_rng(bits)
    w = torch.from_numpy(rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (200, 21)))
    x = torch.from_numpy(rng.integers(0, 1 << bits, (9, 200)))
    prepared = prepare(recipe, w, kernels)
    assert prepared.lossless
    assert torch.equal(read(recipe, prepared, x), x @ w)


# Cells beyond 16 bits (few rows, fine grids) take the kernel in two parts; those of wide DACs take the tensor form.
@pytest.mark.parametrize(("rows", "dac_bits", "served"), [(5, 2, True), (5, 8, True), (3, 1, True)])
def test_fine_grids(rows: int, dac_bits: int, served: bool):
    coding = Coding(dac_bits=dac_bits, parallel_rows=8)
    recipe = Recipe(1, coding, ((rows, 0),), device(DEVICES["static"]), Chip(2), h=3)
    rng = np.random.default_rng(rows)
    w = torch.from_numpy(rng.integers(-128, 128, (rows, 6)))
    x = torch.from_numpy(rng.integers(0, 256, (7, rows)))
    prepared = prepare(recipe, w)
    assert (prepared.converted[0].fused is not None) == served
    assert torch.equal(read(recipe, prepared, x), read_reference(recipe, w, x))


# What cannot be read is refused: shapes and codes that would lose bits.
def test_bad_codes_are_refused():
    case = make(CODINGS["offset"], device(""), True, seed=1)
    prepared = prepare(case.recipe, case.w)
    with pytest.raises(ValueError, match="input codes must be in 0"):
        read(case.recipe, prepared, case.x + 1000)
    with pytest.raises(ValueError, match="input codes are"):
        read(case.recipe, prepared, case.x[:, 1:])
    with pytest.raises(ValueError, match="weights must be in -128"):
        prepare(case.recipe, case.w + 1000)
    with pytest.raises(ValueError, match="weights are"):
        prepare(case.recipe, case.w[1:])
