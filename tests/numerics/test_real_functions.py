"""The digital unit's float32 functions against a float64 reference of another library, and free of the cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cimc.dialects import graph_elementwise, graph_rows
from cimc.runtime.numerics import digital

X = np.random.default_rng(0).normal(scale=3, size=4096).astype(np.float32)
WIDE = torch.from_numpy(X).double()

REFERENCE: dict[str, tuple[tuple[float, ...], Callable[[Any], Any]]] = {
    "neg": ((), torch.neg),
    "abs": ((), torch.abs),
    "sqrt": ((), lambda x: torch.sqrt(x.abs())),
    "reciprocal": ((), torch.reciprocal),
    "floor": ((), torch.floor),
    "ceil": ((), torch.ceil),
    "round": ((), torch.round),
    "sign": ((), torch.sign),
    "exp": ((), torch.exp),
    "log": ((), lambda x: torch.log(x.abs())),
    "erf": ((), torch.erf),
    "tanh": ((), torch.tanh),
    "sigmoid": ((), torch.sigmoid),
    "silu": ((), torch.nn.functional.silu),
    "gelu": ((), torch.nn.functional.gelu),
    "gelu_tanh": ((), lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    "hard_sigmoid": ((0.25, 0.5), lambda x: (0.25 * x + 0.5).clamp(0, 1)),
    "hard_swish": ((), torch.nn.functional.hardswish),
    "leaky_relu": ((0.125,), lambda x: torch.nn.functional.leaky_relu(x, 0.125)),
    "elu": ((0.5,), lambda x: torch.nn.functional.elu(x, 0.5)),
    "softplus": ((), torch.nn.functional.softplus),
    "sin": ((), torch.sin),
    "cos": ((), torch.cos),
}


def leaky(a: Any, b: Any) -> Any:
    """PReLU with the slopes ``b``."""
    return np.where(a < 0, a * b, a)


def mean(row: list[float]) -> float:
    """The exact mean of a row of 37, rounded once."""
    return math.fsum(row) / 37


def test_layers_name_the_same_functions() -> None:
    """The dialect's lists of functions are those the library defines."""
    assert dict(graph_elementwise.UNARY) == dict(digital.UNARY_PARAMETERS)
    assert set(graph_elementwise.BINARY) == set(digital.BINARY)
    assert set(graph_rows.REDUCTIONS) == set(digital.REDUCTIONS)
    assert set(REFERENCE) == set(digital.UNARY_PARAMETERS)


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_functions_of_one_value(name: str) -> None:
    """At most half a unit in the last place from float64: one rounding; element by element the same bits."""
    parameters, reference = REFERENCE[name]
    given = np.abs(X) if name in ("sqrt", "log") else X
    exact = reference(WIDE).numpy()
    found = digital.unary(name, given, parameters)
    assert found.dtype == np.float32
    # Far below zero GELU is a small difference of large numbers, in the reference too.
    rounding = 0.5001 * np.spacing(np.abs(exact.astype(np.float32))) + 1e-14
    assert np.all(np.abs(found - exact) <= rounding)
    alone = np.concatenate([digital.unary(name, given[i : i + 1], parameters) for i in range(200)])
    np.testing.assert_array_equal(alone, found[:200])


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("add", np.add),
        ("sub", np.subtract),
        ("mul", np.multiply),
        ("div", np.divide),
        ("max", np.maximum),
        ("min", np.minimum),
        ("pow", np.power),
        ("prelu", leaky),
        ("less", np.less),
        ("less_equal", np.less_equal),
        ("equal", np.equal),
    ],
)
def test_functions_of_two_values(name: str, reference: Callable[[Any, Any], Any]) -> None:
    """One rounding of the float64 result, which holds every float32 sum and product closely enough."""
    a, b = X[:2048], np.random.default_rng(1).normal(size=2048).astype(np.float32)
    a = np.abs(a) if name == "pow" else a
    exact = reference(a.astype(np.float64), b.astype(np.float64))
    np.testing.assert_array_equal(digital.binary(name, a, b), exact.astype(np.float32))


def test_flags_choose_without_a_product() -> None:
    """A value goes through unchanged where the flag asks for it, infinities and NaN too, and is 0 elsewhere."""
    inf, nan = float("inf"), float("nan")
    flags = np.array([1, 0, 1, 0, 1, 0], np.float32)
    values = np.array([2, 3, inf, -inf, nan, nan], np.float32)
    np.testing.assert_array_equal(digital.binary("keep", flags, values), [2, 0, inf, 0, nan, 0])
    np.testing.assert_array_equal(digital.binary("drop", flags, values), [0, 3, 0, -inf, 0, nan])
    np.testing.assert_array_equal(digital.binary("less_equal", values, values), [1, 1, 1, 1, 0, 0])


def test_norms_are_torch_in_float64() -> None:
    """Layer norm, RMS norm and LRN round once; a row's bits do not depend on the rows beside it."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(7, 48)).astype(np.float32)
    scale, bias = (rng.normal(size=48).astype(np.float32) for _ in range(2))
    wide, w, b = (torch.from_numpy(v).double() for v in (x, scale, bias))
    epsilon = float(np.float32(1e-5))
    pairs = [
        (
            digital.layer_norm(x, scale, bias, 1e-5),
            torch.nn.functional.layer_norm(wide, (48,), w, b, epsilon),
        ),
        (digital.rms_norm(x, scale, 1e-5), torch.nn.functional.rms_norm(wide, (48,), w, epsilon)),
    ]
    for found, exact in pairs:
        np.testing.assert_allclose(found, exact.numpy(), rtol=6e-8, atol=1e-12)
    np.testing.assert_array_equal(digital.layer_norm(x[2:3], scale, bias, 1e-5), pairs[0][0][2:3])
    image = torch.nn.functional.local_response_norm(wide[:, :, None], 5, 0.5, 0.75, 2.0)[:, :, 0]
    np.testing.assert_allclose(
        digital.local_response_norm(x, 5, 0.5, 0.75, 2.0), image.numpy(), rtol=6e-8, atol=1e-12
    )


@pytest.mark.parametrize("name", sorted(digital.REDUCTIONS))
def test_reductions_round_once(name: str) -> None:
    """Over the last axis, which stays with extent 1: the exact sum where the float64 tree has no error."""
    x = np.random.default_rng(3).integers(-99, 99, (5, 37)).astype(np.float32)
    reference = {"reduce_sum": math.fsum, "reduce_mean": mean}
    whole = reference.get(name, max if name == "reduce_max" else min)
    expected = np.array([[whole(row)] for row in x.astype(np.float64).tolist()], np.float32)
    np.testing.assert_array_equal(digital.reduce_row(name, x), expected)


def test_products_of_activations_do_not_depend_on_the_cut() -> None:
    """k ascending in float64, whatever rows and columns are computed together."""
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(3, 9, 33)).astype(np.float32), rng.normal(size=(3, 33, 11)).astype(np.float32)
    whole = digital.matmul_float(a, b)
    for head, row in ((0, 0), (1, 4), (2, 8)):
        np.testing.assert_array_equal(
            digital.matmul_float(a[head, row : row + 1], b[head])[0], whole[head, row]
        )
    total = 0.0
    for k in range(33):
        total += float(a[1, 2, k]) * float(b[1, k, 3])
    assert whole[1, 2, 3] == np.float32(total)


def test_a_table_is_read_by_row_and_from_the_end() -> None:
    """Negative indices count from the end; others outside the table are an error."""
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(digital.lookup(table, np.array([[3, -4]])), table[[[3, 0]]])
    with pytest.raises(ValueError, match="into a table of 4 rows"):
        digital.lookup(table, np.array([4]))
