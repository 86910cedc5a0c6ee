"""Weights and biases as integers: docs/numerics.md section 0 rules 3 and 4."""

import numpy as np
import pytest

from cimc.diagnostics import UnsupportedError
from cimc.dialects.graph import QuantType
from cimc.passes.quantise.weights import (
    BiasSaturatedWarning,
    accumulator_bits,
    quantise_bias,
    quantise_weights,
)

X = QuantType.of(8, False, 0.02, 100)


@pytest.mark.parametrize("bits", [2, 3, 8, 9, 16])
def test_codes_fill_the_narrow_range_of_each_channel(bits: int) -> None:
    """The largest magnitude of a channel becomes 2^(bits-1) - 1; codes are within half a step of the weights."""
    rng = np.random.default_rng(bits)
    weight = (rng.normal(size=(6, 3, 3, 3)) * np.logspace(-3, 1, 6)[:, None, None, None]).astype(np.float32)
    made = quantise_weights(weight, 0, None, X, bits=bits, per_channel=True, where="c")
    top = 2 ** (bits - 1) - 1
    assert made.codes.dtype == (np.int8 if bits <= 8 else np.int16)
    np.testing.assert_array_equal(np.abs(made.codes.astype(int)).reshape(6, -1).max(axis=1), top)
    step = made.scale.astype(np.float64)[:, None, None, None]
    assert np.all(np.abs(made.codes * step - weight) <= step * (0.5 + 1e-4))
    np.testing.assert_allclose(made.scale, np.abs(weight).reshape(6, -1).max(axis=1) / top, rtol=1e-6)


def test_gemm_channels_are_columns() -> None:
    """A matrix (K, N) has one scale a column, and its codes keep the layout."""
    weight = np.array([[1.0, 100.0, 0.0], [-2.0, 50.0, 0.0]], np.float32)
    made = quantise_weights(weight, 1, None, X, bits=8, per_channel=True, where="g")
    np.testing.assert_array_equal(made.codes, [[64, 127, 0], [-127, 64, 0]])
    np.testing.assert_allclose(made.scale, [2 / 127, 100 / 127, 1.0])
    whole = quantise_weights(weight, 1, None, X, bits=8, per_channel=False, where="g")
    np.testing.assert_array_equal(whole.codes, [[1, 127, 0], [-3, 64, 0]])
    assert whole.scale.shape == (1,)


def test_a_bias_beside_vanishing_weights_keeps_its_value() -> None:
    """Folding a BatchNorm leaves channels whose weights are (near) 0 and whose bias is not."""
    weight = np.array([[0.0, 1e-12, 1.0]], np.float32)
    bias = np.array([0.7, -3.0, 0.25], np.float32)
    made = quantise_weights(weight, 1, bias, X, bits=8, per_channel=True, where="g")
    assert made.bias is not None
    real = made.bias * np.float64(X.scale) * made.scale
    np.testing.assert_allclose(real, bias, rtol=1e-2)
    np.testing.assert_allclose(real[:2], bias[:2], rtol=1e-6)
    assert np.abs(made.bias).max() < 1.001 * 2**30
    assert made.acc_bits == 32


def test_bias_is_rounded_half_to_even_in_float64() -> None:
    """Rule 4: ``rint(bias / (sx * sw))``."""
    bias = np.array([0.5, 1.5, 2.5, -0.5, 1e6 + 0.5])
    np.testing.assert_array_equal(
        quantise_bias(bias, np.float32(0.5), np.full(5, 2, np.float32), "c"), [0, 2, 2, 0, 1000000]
    )


def test_bias_saturates_with_a_warning_that_names_the_layer() -> None:
    """Rule 4: saturated to 32 bits, never wrapped."""
    with pytest.warns(BiasSaturatedWarning, match=r"^conv1: .*channel 0 \(and 1 more\)"):
        codes = quantise_bias(np.array([1.0, -9.0]), np.float32(1e-5), np.full(2, 1e-5, np.float32), "conv1")
    np.testing.assert_array_equal(codes, [2**31 - 1, -(2**31 - 1)])


@pytest.mark.parametrize(("bias", "bits"), [((1 << 31) - 1 - 155 * 127, 32), ((1 << 31) - 155 * 127, 64)])
def test_accumulator_is_32_bits_exactly_below_two_to_the_31(bias: int, bits: int) -> None:
    """Rule 3: the widest column decides; the greatest distance from the zero point 100 is 155."""
    codes = np.array([[1, -2], [-127, 0]], np.int8)
    assert accumulator_bits(codes, np.array([5, -bias]), X) == bits


def test_accumulator_bound_is_reached_by_codes() -> None:
    """Rule 3's bound is tight: the worst codes give it, and one more would not fit int32."""
    codes = np.full((1, 109), 127, np.int8)
    x = QuantType.of(16, False, 0.1, 0)
    worst = 65535 * 127 * 109
    assert accumulator_bits(codes, None, x) == (32 if worst < 1 << 31 else 64)
    fits = (1 << 31) // (65535 * 127)
    assert accumulator_bits(codes[:, :fits], None, x) == 32
    assert accumulator_bits(np.full((1, fits + 1), 127, np.int8), None, x) == 64


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_weights_are_refused_by_layer(value: float) -> None:
    """A weight that is not a number has no code."""
    weight = np.ones((2, 2), np.float32)
    weight[1, 0] = value
    with pytest.raises(UnsupportedError, match=r"^fc \(m\.onnx:3\): .*finite"):
        quantise_weights(weight, 1, None, X, bits=8, per_channel=True, where="fc (m.onnx:3)")
