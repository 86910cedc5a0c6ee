"""Building small ONNX models, and comparing what the front end makes of them with onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from xdsl.dialects.builtin import ModuleOp

from cimc.dialects.context import CimContext
from cimc.dialects.graph import GraphOperation, HostOp
from cimc.dialects.levels import check_level
from cimc.dialects.weights import WeightStore
from cimc.frontend.onnx import import_onnx
from cimc.interpreters.graph import run_graph
from cimc.passes.graph.canonicalise import Canonicalise
from cimc.passes.graph.fold_batch_norm import FoldBatchNorm

Array = npt.NDArray[Any]

TOLERANCE = 2e-5
"""Largest difference from onnxruntime allowed, relative to the largest output."""


@dataclass(frozen=True)
class Imported:
    """What came out: module at level 1, its weights, its outputs on random input, and its host operators."""

    module: ModuleOp
    store: WeightStore
    outputs: dict[str, Array]

    @property
    def operations(self) -> list[str]:
        """Operation names in order, without the dialect."""
        return [op.name.removeprefix("graph.") for op in self.module.walk() if isinstance(op, GraphOperation)]

    @property
    def reasons(self) -> list[str]:
        """Why each host operator is on the host."""
        return [op.reason.data for op in self.module.walk() if isinstance(op, HostOp)]


def _model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str],
    constants: Mapping[str, Array] | None = None,
    *,
    opset: int = 17,
    input_type: int = TensorProto.FLOAT,
    domains: Mapping[str, int] | None = None,
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, input_type, list(dims)) for name, dims in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, version) for domain, version in (domains or {}).items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _session(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _agree(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert set(found) == set(expected)
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape, name
        assert found[name].dtype == wanted.dtype, name
        scale = max(float(np.abs(wanted.astype(np.float64)).max(initial=0)), 1e-6)
        distance = np.abs(found[name].astype(np.float64) - wanted.astype(np.float64)).max(initial=0)
        assert distance <= TOLERANCE * scale, (name, distance, scale)


def _inputs(module: ModuleOp, session: onnxruntime.InferenceSession, seed: int) -> dict[str, Array]:
    from cimc.dialects.graph import INPUTS, main_function, main_names
    from cimc.dialects.graph_types import shape_of
    from cimc.interpreters.graph import numpy_type

    rng = np.random.default_rng(seed)
    given: dict[str, Array] = {}
    for name, argument in zip(main_names(module, INPUTS), main_function(module).args, strict=True):
        dtype = numpy_type(argument.type)
        assert dtype is not None
        shape = shape_of(argument)
        if dtype.kind == "f":
            given[name] = rng.normal(size=shape).astype(dtype)
        else:
            given[name] = rng.integers(0, 4, shape).astype(dtype)
    return given


@pytest.fixture
def model() -> Callable[..., ModelProto]:
    """``model(nodes, inputs, outputs, constants, opset=17)``: an ONNX model of IR version 10."""
    return _model


@pytest.fixture
def check() -> Callable[..., Imported]:
    """``check(model, shapes=None, spread=True)``: import, run at level 1 before and after the graph passes.

    Both runs must agree with onnxruntime, and outputs must vary unless ``spread`` is off.
    """

    def compare(
        model: ModelProto,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        *,
        spread: bool = True,
        seed: int = 0,
    ) -> Imported:
        store = WeightStore()
        module = import_onnx(model, shapes=shapes, store=store)
        session = _session(model)
        given = _inputs(module, session, seed)
        names = [output.name for output in session.get_outputs()]
        found = [np.asarray(array) for array in session.run(names, given)]
        expected: dict[str, Array] = dict(zip(names, found, strict=True))
        if spread:
            assert all(float(array.astype(np.float64).std()) > 1e-3 for array in expected.values())
        _agree(run_graph(module, store, given), expected)
        context = CimContext(store=store)
        for pass_ in (FoldBatchNorm(), Canonicalise()):
            pass_.apply(context, module)
        check_level(module, "graph")
        outputs = run_graph(module, store, given)
        _agree(outputs, expected)
        return Imported(module, store, outputs)

    return compare
