"""ONNX's own node tests, for every operator that has a converter.

A case counts when onnxruntime runs it. It must then import and agree, or be refused for extents of run time, for
inputs without elements, or as :data:`REFUSED` says; the counts of :data:`AGREE` are exact, so neither table can
rot unseen.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

from cimc.diagnostics import CimError
from cimc.dialects.weights import WeightStore
from cimc.frontend.onnx import import_onnx
from cimc.frontend.onnx.definition import DEFINED
from cimc.frontend.onnx.importer import CONVERTERS
from cimc.frontend.onnx.source import MAX_IR_VERSION
from cimc.interpreters.graph import run_graph

AT_RUN_TIME = "depend on data of run time"
EMPTY = "has an extent below 1"

BY_OPERAND = frozenset(
    (
        *("Expand", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "Unsqueeze", "Upsample"),
        *(f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "Max", "Mean", "Min", "Sum", "SumSquare")),
    )
)
"""Operators with an operand that decides the extents of the result: refused where that one is no constant."""

REFUSED: dict[str, str] = {
    "test_slice_start_out_of_bounds with constants": "has no elements",
    **{f"test_not_{n}d{how}": "opset 1 is outside" for n in (2, 3, 4) for how in ("", " with constants")},
}
"""Other cases, to words of the refusal."""

AGREE: dict[str, tuple[int, int]] = {
    "Abs": (1, 1),
    "Add": (8, 8),
    "And": (8, 8),
    "Attention": (76, 76),
    "AveragePool": (20, 20),
    "BatchNormalization": (4, 4),
    "Ceil": (2, 2),
    "Clip": (12, 12),
    "Concat": (12, 12),
    "Conv": (6, 6),
    "ConvTranspose": (11, 11),
    "Cos": (2, 2),
    "Div": (10, 10),
    "Dropout": (12, 12),
    "Elu": (3, 3),
    "Equal": (8, 8),
    "Erf": (1, 1),
    "Exp": (2, 2),
    "Expand": (0, 2),
    "Flatten": (9, 9),
    "Floor": (2, 2),
    "Gather": (4, 4),
    "GatherElements": (3, 3),
    "GatherND": (3, 3),
    "Gelu": (4, 4),
    "Gemm": (11, 11),
    "GlobalAveragePool": (2, 2),
    "GlobalMaxPool": (2, 2),
    "Greater": (8, 8),
    "GreaterOrEqual": (8, 8),
    "GroupNormalization": (2, 2),
    "HardSigmoid": (3, 3),
    "HardSwish": (1, 1),
    "Identity": (3, 3),
    "InstanceNormalization": (2, 2),
    "IsNaN": (2, 2),
    "LRN": (2, 2),
    "LayerNormalization": (19, 19),
    "LeakyRelu": (3, 3),
    "Less": (8, 8),
    "LessOrEqual": (8, 8),
    "Log": (2, 2),
    "LogSoftmax": (7, 7),
    "MatMul": (7, 7),
    "Max": (12, 12),
    "MaxPool": (19, 19),
    "Mean": (3, 3),
    "MeanVarianceNormalization": (1, 1),
    "Min": (12, 12),
    "Mish": (1, 1),
    "Mul": (9, 9),
    "Neg": (2, 2),
    "Or": (8, 8),
    "PRelu": (2, 2),
    "Pad": (0, 6),
    "Pow": (10, 10),
    "RMSNormalization": (19, 19),
    "Reciprocal": (2, 2),
    "ReduceL1": (0, 8),
    "ReduceL2": (0, 8),
    "ReduceMax": (2, 9),
    "ReduceMean": (0, 8),
    "ReduceMin": (2, 9),
    "ReduceSum": (0, 10),
    "ReduceSumSquare": (0, 8),
    "Relu": (1, 1),
    "Reshape": (0, 9),
    "Resize": (0, 39),
    "Round": (1, 1),
    "Selu": (3, 3),
    "Shrink": (2, 2),
    "Sigmoid": (2, 2),
    "Sign": (1, 1),
    "Sin": (2, 2),
    "Slice": (0, 7),
    "Softmax": (7, 7),
    "Softplus": (2, 2),
    "Softsign": (2, 2),
    "Split": (8, 14),
    "Sqrt": (2, 2),
    "Squeeze": (0, 2),
    "Sub": (9, 9),
    "Sum": (3, 3),
    "Swish": (1, 1),
    "Tanh": (2, 2),
    "ThresholdedRelu": (3, 3),
    "Tile": (0, 2),
    "Transpose": (7, 7),
    "Trilu": (16, 16),
    "Unsqueeze": (0, 7),
    "Upsample": (0, 1),
    "Where": (2, 2),
    "Xor": (8, 8),
}
"""Operator to number of cases that agree: inputs as they are, and all but the first made initializers."""


@cache
def node_cases() -> dict[str, list[Any]]:
    """The cases of onnx by operator."""
    from onnx.backend.test.case.node import collect_testcases

    found: dict[str, list[Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        if case.model is not None and len(case.model.graph.node) == 1:
            found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def with_constants(model: ModelProto, inputs: dict[str, Any]) -> tuple[ModelProto, dict[str, Any]]:
    """The same model with every input but the first stored inside, as exporters write weights and axes."""
    copy = ModelProto()
    copy.CopyFrom(model)
    first = copy.graph.input[0].name
    for value in list(copy.graph.input)[1:]:
        copy.graph.initializer.append(numpy_helper.from_array(inputs[value.name], value.name))
        copy.graph.input.remove(value)
    return copy, {first: inputs[first]}


def reference(model: ModelProto, inputs: dict[str, Any]) -> list[Any] | None:
    """onnxruntime's outputs; ``None`` when it does not run the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return list(session.run(None, inputs))
    except Exception:  # onnxruntime's exceptions share no base class but Exception
        return None


def refusal(model: ModelProto, inputs: dict[str, Any], wanted: list[Any]) -> str:
    """The words of the refusal; empty when the outputs agree."""
    store = WeightStore()
    try:
        module = import_onnx(model, shapes={k: v.shape for k, v in inputs.items()}, store=store)
        found = run_graph(module, store, inputs)
    except CimError as error:
        return str(error)
    for value, array in zip(model.graph.output, wanted, strict=True):
        np.testing.assert_allclose(found[value.name], array, rtol=1e-5, atol=1e-6, err_msg=value.name)
    return ""


@dataclass(frozen=True)
class Refused:
    """A case that was refused: its words, and whether an input has no elements."""

    name: str
    words: str
    empty: bool


def tally(operator: str, *, constants: bool) -> tuple[int, list[Refused]]:
    """How many cases agree, and the refusals."""
    agreed = 0
    refused: list[Refused] = []
    for case in node_cases().get(operator, []):
        model = case.model
        model.ir_version = min(model.ir_version, MAX_IR_VERSION)
        given = case.data_sets[0][0]
        inputs = {v.name: np.asarray(a) for v, a in zip(model.graph.input, given, strict=True)}
        if any(array.dtype == object for array in inputs.values()):
            continue  # sequences and optional values
        if constants:
            model, inputs = with_constants(model, inputs)
        wanted = reference(model, inputs)
        if wanted is None:
            continue
        words = refusal(model, inputs, wanted)
        agreed += not words
        if words:
            empty = any(0 in np.shape(array) for array in given)
            refused.append(Refused(f"{case.name}{' with constants' if constants else ''}", words, empty))
    return agreed, refused


def test_every_converter_has_cases() -> None:
    """Those without have none that onnxruntime 1.31 runs, as onnx 1.23 writes them."""
    assert {*CONVERTERS, *DEFINED} - set(AGREE) == {
        *("Cast", "CastLike", "Celu", "DepthToSpace", "Not", "ReduceLogSum", "SpaceToDepth")
    }


@pytest.mark.parametrize("operator", sorted(AGREE))
def test_node_cases(operator: str) -> None:
    """Every case agrees with onnxruntime or is refused in the words expected, and there are this many."""
    as_given, refused = tally(operator, constants=False)
    stored, more = tally(operator, constants=True)
    assert (as_given, stored) == AGREE[operator]
    for case in [*refused, *more]:
        if case.empty:
            assert EMPTY in case.words or "has no elements" in case.words, case
        elif case in refused and operator in BY_OPERAND and case.name not in REFUSED:
            assert AT_RUN_TIME in case.words, case
        else:
            assert REFUSED.get(case.name, "no refusal") in case.words, case
