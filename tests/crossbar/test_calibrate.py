"""Steps from observed partial sums (docs/crossbar.md, step 6)."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from cimc.runtime.crossbar.calibrate import Observed, calibrate, choose_steps, full_steps, observe
from cimc.runtime.crossbar.cells import Cells, Flips, conversion_levels, store
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.converter import StepChoice, full_step
from cimc.runtime.crossbar.product import ArrayProduct
from cimc.runtime.crossbar.rows import Bounds, group_bounds

JIA = Coding(weight_encoding="twos_complement", cell_bits=1, parallel_rows=1152)
ANALOG = Coding(weight_encoding="differential", parallel_rows=50, converter_lo=-8, converter_hi=7, dac_bits=2)


@dataclass(frozen=True)
class Layer:
    """Gaussian weights and half-Gaussian codes, as stored."""

    qx: npt.NDArray[np.uint8]
    w: npt.NDArray[np.int64]
    cells: Cells
    flips: Flips
    bounds: Bounds


def _layer(coding: Coding, rows: int, columns: int = 7, windows: int = 20) -> Layer:
    rng = np.random.default_rng(rows)
    w = np.clip(np.rint(rng.normal(0, 30, (rows, columns))), -127, 127).astype(np.int64)
    bounds = group_bounds([(rows, 5)], coding.parallel_rows)
    qx = np.minimum(np.abs(rng.normal(0, 50, (windows, rows))), 255).astype(np.uint8)
    return Layer(qx, w, *store(w, coding, bounds), bounds)


def _calibrated(layer: Layer, coding: Coding) -> StepChoice:
    return calibrate(layer.qx, layer.cells, coding, layer.bounds)


# The counts equal a walk over phases, groups, conversions and columns, in any chunk.
@pytest.mark.parametrize("coding", [JIA, ANALOG])
def test_observe_equals_a_walk(coding: Coding, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cimc.runtime.crossbar.calibrate.CHUNK_WINDOWS", 7)
    layer = _layer(coding, 120)
    seen = observe(layer.qx, layer.cells, coding, layer.bounds)
    half = coding.cells_per_weight // 2
    for i, phase in enumerate(coding.phases):
        x = (layer.qx.astype(int) >> phase.shift) % (1 << phase.bits)
        for j in range(len(coding.conversions)):
            level = layer.cells[:, :, j].astype(int)
            if coding.analog:
                level -= layer.cells[:, :, half + j]
            found: Counter[int] = Counter()
            for first, last in pairwise(layer.bounds.tolist()):
                found.update((x[:, first:last] @ level[first:last]).ravel().tolist())
            bins = seen.counts[i, j]
            assert {seen.first + b: int(bins[b]) for b in np.flatnonzero(bins)} == found


# Joining the observations of parts is observing the whole, whatever their ranges.
def test_observations_join():
    layer = _layer(ANALOG, 200)
    parts = [observe(qx, layer.cells, ANALOG, layer.bounds) for qx in (layer.qx[:9], layer.qx[9:])]
    whole = observe(layer.qx, layer.cells, ANALOG, layer.bounds)
    assert np.array_equal(parts[0].join(parts[1]).counts, whole.counts)
    narrow, wide = Observed(-2, np.full((1, 1, 3), 5)), Observed(0, np.full((1, 1, 4), 7))
    for both in (narrow.join(wide), wide.join(narrow)):
        assert (both.first, both.counts.tolist()) == (-2, [[[5, 5, 12, 7, 7, 7]]])
    joined, calibrated = choose_steps(parts, ANALOG), _calibrated(layer, ANALOG)
    assert joined.h.tolist() == calibrated.h.tolist()
    assert joined.frac_bits == calibrated.frac_bits > 0
    with pytest.raises(ValueError, match="at least one"):
        choose_steps([], ANALOG)


# By hand, on a converter with the codes 0 … 3: the step that meets the sums, and clamping where it is cheap.
def test_choice_by_hand():
    coding = Coding(converter_hi=3, input_bits=1)

    def step(*sums: int) -> float:
        counts = np.zeros((1, 1, 64), dtype=np.int64)
        for p in sums:
            counts[0, 0, p] += 1
        choice = choose_steps([Observed(0, counts)], coding)
        return float(choice.h[0, 0]) / 2**choice.frac_bits

    assert step(1, 2, 3) == 1
    assert step(2, 4, 6) == 2
    assert step(10, 20, 30) == 10
    assert step(*[1, 2, 3] * 100, 4) < 1.01  # clamping one sum costs less than coarse steps for all
    assert 20 / 3.5 < step(*[20] * 100, 1) <= 20 / 3 + 0.1


# The relative errors of docs/crossbar.md step 6, in percent, on windows that calibration did not see.
def test_documented_errors():
    rng = np.random.default_rng(3)
    bounds = group_bounds([(1150, 0)], JIA.parallel_rows)
    w = np.clip(np.rint(rng.normal(0, 30, (1150, 32))), -127, 127).astype(np.int64)
    cells, flips = store(w, JIA, bounds)
    seen, fresh = (np.minimum(np.abs(rng.normal(0, 50, (400, 1150))), 255).astype(np.uint8) for _ in range(2))
    observed = observe(seen, cells, JIA, bounds)
    counts = observed.counts.sum(axis=0)
    largest = observed.first + np.array([np.flatnonzero(line)[-1] for line in counts])
    exact = fresh.astype(np.int64) @ w
    errors: dict[str, float] = {}
    for name, choice in {
        "calibrated": choose_steps([observed], JIA),
        "per conversion": choose_steps([observed], JIA, per_phase=False),
        "covering": full_step(np.zeros_like(largest), largest, JIA),
        "full": full_steps(cells, JIA, bounds),
        "one": StepChoice(np.ones(8, dtype=np.int64), 0),
    }.items():
        made = replace(JIA, frac_bits=choice.frac_bits)
        read = ArrayProduct(cells, flips, made, bounds, choice.h).read(fresh) / 2**choice.frac_bits
        errors[name] = float(100 * np.linalg.norm(read - exact) / np.linalg.norm(exact))
    documented = {"calibrated": 2.2, "per conversion": 13, "covering": 16, "full": 29, "one": 25}
    assert errors == pytest.approx(documented, rel=0.05)


# Full steps clamp nothing for any input: the worst one of each column converts within half a step.
@pytest.mark.parametrize("coding", [JIA, ANALOG])
def test_full_steps_cover_the_worst_input(coding: Coding):
    layer = _layer(coding, 1000, columns=1)
    choice = full_steps(layer.cells, coding, layer.bounds)
    shape = (len(layer.bounds) - 1, coding.digit_cycles, len(coding.conversions))
    assert choice.h.shape == shape
    level = conversion_levels(layer.cells, coding)[:, 0, :].astype(int)
    top = coding.phases[0].top
    for j in range(shape[2]):
        for sign in (1, -1):
            driven = np.where(sign * level[:, j] > 0, top * level[:, j], 0)
            partial = np.add.reduceat(driven, layer.bounds[:-1])
            step = choice.h[:, 0, j] / 2**choice.frac_bits
            codes = np.floor(partial / step + 0.5)
            assert (np.abs(codes * step - partial) <= step / 2).all()
            assert (coding.converter_lo <= codes).all()
            assert (codes <= coding.converter_hi).all()


# Sums inside the converter give step 1, written h = 1 and F = 0, and the read is then exact.
def test_small_layer_needs_no_step():
    layer = _layer(JIA, 100)
    choice = _calibrated(layer, JIA)
    assert (choice.h.tolist(), choice.frac_bits) == ([[1] * 8] * 8, 0)
    product = ArrayProduct(layer.cells, layer.flips, JIA, layer.bounds, choice.h)
    assert np.array_equal(product.read(layer.qx), layer.qx.astype(np.int64) @ layer.w)


# Steps have the shape asked for, and those per phase are finer where the sums are smaller.
def test_steps_per_phase():
    layer = _layer(ANALOG, 1000)
    own = _calibrated(layer, ANALOG)
    shared = calibrate(layer.qx, layer.cells, ANALOG, layer.bounds, per_phase=False)
    assert own.h.shape == (4, 4)
    assert shared.h.shape == (4,)
    assert own.frac_bits == shared.frac_bits
    assert (own.h.min(axis=0) <= shared.h).all()
    assert (own.h.min(axis=0) < shared.h).any()
