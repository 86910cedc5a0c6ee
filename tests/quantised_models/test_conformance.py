"""ONNX's own node tests of the operators on codes, as level 1 computes them, against onnxruntime.

Each case runs as it is, and with all but its first input stored in the model (all, where the first cannot be
fed: numpy has no 4-bit integers). The counts of :data:`EXPECTED` are exact, so none can drop out unseen.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, numpy_helper

from cimc.diagnostics import CimError
from cimc.dialects.weights import WeightStore
from cimc.frontend.onnx import import_onnx
from cimc.interpreters.graph import run_graph
from tests.quantised_models.conftest import session

Array = npt.NDArray[Any]

OPSET = 23
"""onnx 1.23 writes its newest cases for an operator set that onnxruntime 1.31 does not take yet."""

EXPECTED: dict[str, dict[str, int]] = {
    "ConvInteger": {"agrees elsewhere": 2, "not run by onnxruntime": 2},
    "DequantizeLinear": {"agrees elsewhere": 13, "agrees on codes": 3, "not run by onnxruntime": 3},
    "DynamicQuantizeLinear": {"agrees elsewhere": 6},
    "MatMulInteger": {"agrees elsewhere": 2},
    "QLinearConv": {"agrees elsewhere": 1, "agrees on codes": 1},
    "QLinearMatMul": {"agrees elsewhere": 12, "agrees on codes": 4},
    "QuantizeLinear": {
        "agrees elsewhere": 9,
        "agrees on codes": 3,
        "refused: tensor(float8e4m3fn)": 1,
        "not run by onnxruntime": 6,
    },
}
"""Operator to cases by outcome. Elsewhere: on the host (scales of run time, per channel, float16) or folded."""


@cache
def node_cases() -> dict[str, list[Any]]:
    """The cases of onnx by operator."""
    from onnx.backend.test.case.node import collect_testcases

    found: dict[str, list[Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in collect_testcases(None):
            if case.model is not None and len(case.model.graph.node) == 1:
                found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def variants(case: Any) -> Iterator[tuple[ModelProto, dict[str, Array]]]:
    """The case's model with what it is fed, as given where it can be, and with stored inputs."""
    given = case.data_sets[0][0]
    arrays = [numpy_helper.to_array(a) if isinstance(a, TensorProto) else np.asarray(a) for a in given]
    model = ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = 10
    model.opset_import[0].version = min(model.opset_import[0].version, OPSET)
    names = [value.name for value in model.graph.input]
    inputs = dict(zip(names, arrays, strict=True))
    if not any(isinstance(array, TensorProto) for array in given):
        yield model, inputs
    stored = ModelProto()
    stored.CopyFrom(model)
    kept = 0 if isinstance(given[0], TensorProto) else 1
    for value in list(stored.graph.input)[kept:]:
        stored.graph.initializer.append(numpy_helper.from_array(inputs[value.name], value.name))
        stored.graph.input.remove(value)
    yield stored, {name: inputs[name] for name in names[:kept]}


def outcome(model: ModelProto, inputs: dict[str, Array]) -> str:
    """How the case ends. Raises AssertionError where a result differs by a bit."""
    try:
        expected = session(model, "ORT_DISABLE_ALL").run(None, inputs)
    except Exception:  # onnxruntime's exceptions share no base class but Exception
        return "not run by onnxruntime"
    store = WeightStore()
    try:
        module = import_onnx(model, store=store)
        found = run_graph(module, store, inputs)
    except CimError as error:
        return f"refused: {re.findall(r'tensor.float8.*?[)]', str(error))[0]}"
    for value, wanted in zip(model.graph.output, expected, strict=True):
        np.testing.assert_array_equal(found[value.name], np.asarray(wanted), err_msg=value.name)
        assert found[value.name].dtype == np.asarray(wanted).dtype
    codes = "graph.quantize" in str(module) or "graph.dequantize" in str(module)
    return "agrees on codes" if codes else "agrees elsewhere"


def test_every_case_agrees_to_the_bit_or_is_refused() -> None:
    """Integers and real values equal onnxruntime's in every case it runs and we accept."""
    for op_type, wanted in EXPECTED.items():
        found = Counter(outcome(*variant) for case in node_cases()[op_type] for variant in variants(case))
        assert dict(found) == wanted, op_type
