"""What each pass of ``quantise`` must keep, judged operation by operation in lock step with the program before it.

* ``quantise-activations`` inserts conversions: a value moves by at most half a step unless it saturates, and few
  do that lie in the range their tensor was calibrated for; everything else computes as in float.
* ``quantise-products`` replaces weights by codes: a result moves by at most what half a step of every weight can.
* every other pass keeps every value, code for code; average pools alone may round another way at ties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from cimc.dialects.graph import (
    AveragePoolOp,
    ConvOp,
    GemmOp,
    GlobalAveragePoolOp,
    MatmulOp,
    ProductOperation,
    QuantizeOp,
    main_function,
    tensor_names,
)
from cimc.dialects.graph_types import QuantType, quant_of
from cimc.dialects.weights import WeightStore
from cimc.passes.quantise.ranges import range_of
from cimc.verification.comparing import FLOAT_TOLERANCE, exact_error, scaled_error
from cimc.verification.lockstep import Judge, Run

Array = npt.NDArray[Any]

SATURATED_SHARE = 0.05
"""Most elements of a tensor that its codes may cut off although calibration saw such values: a percentile does."""

POOL_TIES = 1e-3
"""Most elements of an average pool that may round to the code beside."""

Layers = Mapping[str, tuple[Array, Array | None]]
"""Float weight and bias of each product by the name of its result."""


@dataclass(frozen=True)
class Promise:
    """What a pass keeps: how results are judged, and the sentence of the report. An error above 1 breaks it."""

    says: str
    judge: Judge
    exact: bool
    through_conversions: bool = False


def promise_of(pass_name: str, layers: Layers, store: WeightStore) -> Promise:
    """What the pass of that name must keep; a pass that is not ours keeps every value."""
    if pass_name == "quantise-activations":
        return Promise("half a step of every code", _ConversionJudge(store).judge, False, True)
    if pass_name == "quantise-products":
        return Promise("half a step of every weight", _WeightJudge(layers, store).judge, False)
    return Promise("the codes before the pass", judge_equal, True)


def judge_equal(op: Operation, number: int, found: Array, wanted: Array | None, fed: list[Array]) -> float:
    """0 where a result is what the reference has, infinite elsewhere; ties of average pools excepted."""
    if wanted is None:
        return 0.0
    if found.shape != wanted.shape:
        return float("inf")
    error = exact_error(found, wanted)
    if error == 1.0 and isinstance(op, AveragePoolOp | GlobalAveragePoolOp) and found.dtype.kind in "iu":
        beside = np.count_nonzero(found != wanted)
        return 0.0 if beside <= max(1, POOL_TIES * found.size) else float("inf")
    return 0.0 if error == 0.0 else float("inf")


@dataclass(frozen=True)
class _ConversionJudge:
    """Judges conversions by half their step, other operators by the tolerance of float sums."""

    store: WeightStore

    def judge(
        self, op: Operation, number: int, found: Array, wanted: Array | None, fed: list[Array]
    ) -> float:
        """Largest error of a conversion in halves of its step; of another operator in units of its tolerance."""
        if isinstance(op, QuantizeOp):
            return self._conversion_error(op, found, fed[0])
        return 0.0 if wanted is None else scaled_error(found, wanted) / FLOAT_TOLERANCE

    def _conversion_error(self, op: QuantizeOp, codes: Array, real: Array) -> float:
        kind = quant_of(op.result)
        assert kind is not None
        # float32 rounds the quotient by which the code is chosen: a tie may go either way.
        half = float(kind.scale) / 2 * (1 + 1e-3)
        least, most = op.clamp()
        low, high = _real(least, kind), _real(most, kind)
        x = real.astype(np.float64)
        below, above = x < low - half, x > high + half
        known = range_of(self.store, tensor_names(op)[0]) or (-np.inf, np.inf)
        cut = (below | above) & (x >= known[0]) & (x <= known[1])
        if np.count_nonzero(cut) > SATURATED_SHARE * x.size or (codes[below] != least).any():
            return float("inf")
        if (codes[above] != most).any():
            return float("inf")
        moved = np.abs(_real(codes.astype(np.float64), kind) - x)[~(below | above)]
        return float(moved.max(initial=0.0)) / half


def range_warnings(module: ModuleOp, runs: Sequence[Run], store: WeightStore) -> list[str]:
    """A sentence when inputs make many values that calibration did not see: they saturate, and rightly so."""
    shares: dict[str, float] = {}
    for op in main_function(module).body.block.ops:
        name = (tensor_names(op) or ("",))[0]
        known = range_of(store, name)
        kind = quant_of(op.result) if isinstance(op, QuantizeOp) else None
        if not isinstance(op, QuantizeOp) or known is None or kind is None:
            continue
        half = float(kind.scale) / 2
        for run in runs:
            real = run.by_value[op.input]
            outside = np.count_nonzero((real < known[0] - half) | (real > known[1] + half))
            shares[name] = max(outside / max(1, real.size), shares.get(name, 0.0))
    many = {name: share for name, share in shares.items() if share > SATURATED_SHARE}
    if not many:
        return []
    worst = max(many, key=lambda name: many[name])
    return [
        f"{len(many)} tensors hold values beyond their calibrated range, '{worst}' {many[worst]:.0%} of its elements: "
        "they saturate; calibrate on data like the inputs"
    ]


def _real(code: Any, kind: QuantType) -> Any:
    return (code - kind.zero_point) * float(kind.scale)


@dataclass(frozen=True)
class _WeightJudge:
    """Judges products by the codes of their weights, those of two activations as sums, everything else by equality."""

    layers: Layers
    store: WeightStore

    def judge(
        self, op: Operation, number: int, found: Array, wanted: Array | None, fed: list[Array]
    ) -> float:
        """1 is the largest error that rounding explains."""
        if isinstance(op, MatmulOp) and op.is_quantised and wanted is not None:
            return scaled_error(found, wanted) / FLOAT_TOLERANCE
        if not isinstance(op, ProductOperation) or not op.is_quantised:
            return judge_equal(op, number, found, wanted, fed)
        name = tensor_names(op)[0]
        if name not in self.layers:
            return 0.0
        moved = self._moved(op, *self.layers[name])
        if wanted is None or moved > 1:
            return moved
        return max(moved, self._result_error(op, found, wanted, fed[0]))

    def _scale(self, op: ProductOperation) -> npt.NDArray[np.float64]:
        assert op.weight_scale is not None
        return self.store.array(op.weight_scale.key.data).astype(np.float64)

    def _moved(self, op: ProductOperation, weight: Array, bias: Array | None) -> float:
        """Largest distance of a weight or bias from what its code stands for, in half steps (rules 3 and 4)."""
        scale = self._scale(op)
        codes = self.store.array(op.weight.key.data).astype(np.float64)
        if codes.shape != weight.shape:
            return float("inf")
        axis = (-1,) + (1,) * (weight.ndim - 1) if isinstance(op, ConvOp) else (1, -1)
        if op.weight_zero is not None:
            codes = codes - self.store.array(op.weight_zero.key.data).reshape(axis)
        step = scale.reshape(axis)
        worst = float((np.abs(codes * step - weight) / step).max()) * 2
        x = quant_of(op.input)
        assert x is not None
        unit = float(x.scale) * scale
        stored = (
            np.zeros(len(unit)) if op.bias is None else self.store.array(op.bias.key.data).astype(np.float64)
        )
        wanted = np.zeros(len(stored)) if bias is None else bias.astype(np.float64)
        # A float32 bias of many steps is itself only known to 2^-24 of its size.
        slack = unit / 2 + np.abs(wanted) * 2.0**-23
        return max(worst, float((np.abs(stored * unit - wanted) / slack).max(initial=0.0))) / (1 + 1e-3)

    def _result_error(self, op: ProductOperation, found: Array, wanted: Array, codes: Array) -> float:
        """Largest difference of a result over what half a step of every weight and of the bias can make."""
        x, y = quant_of(op.input), quant_of(op.result)
        assert x is not None
        scale = self._scale(op).max()
        reach = _window_sums(op, np.abs(_real(codes.astype(np.float64), x)))
        bound = float(scale) / 2 * (reach + float(x.scale))
        a, b = found.astype(np.float64), wanted.astype(np.float64)
        if y is None:
            room = bound + FLOAT_TOLERANCE * np.abs(b).max(initial=0.0)
            return float((np.abs(a - b) / room).max())
        # Both sides round to a code: one more step, and float32's share of a long sum.
        room = bound / float(y.scale) + 1 + FLOAT_TOLERANCE * (y.qmax - y.qmin)
        return float((np.abs(a - b) / room).max())


def _window_sums(op: ProductOperation, magnitudes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sum of ``magnitudes`` under each window, broadcasting over output channels."""
    if isinstance(op, GemmOp):
        return magnitudes.sum(axis=-1, keepdims=True)
    assert isinstance(op, ConvOp)
    import torch
    from torch.nn import functional

    top, left, bottom, right = op.pads.data
    padded = np.pad(magnitudes.sum(axis=1, keepdims=True), ((0, 0), (0, 0), (top, bottom), (left, right)))
    ones = torch.ones((1, 1, *op.kernel.data), dtype=torch.float64)
    sums = functional.conv2d(
        torch.from_numpy(padded), ones, stride=op.strides.data, dilation=op.dilations.data
    )
    return sums.numpy()


def float_layers(module: ModuleOp, store: WeightStore) -> dict[str, tuple[Array, Array | None]]:
    """Weight and bias of every product of ``module`` that is still real, by the name of its result."""
    found: dict[str, tuple[Array, Array | None]] = {}
    for op in main_function(module).body.block.ops:
        if isinstance(op, ProductOperation) and not op.is_quantised:
            bias = None if op.bias is None else store.array(op.bias.key.data)
            found[tensor_names(op)[0]] = store.array(op.weight.key.data), bias
    return found
