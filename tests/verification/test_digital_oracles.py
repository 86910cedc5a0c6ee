"""The oracle of level 2's digital operators: right results pass, one code or one percent beside them does not."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper
from xdsl.ir import Operation

from cimc.backends.registry import resolve_backend
from cimc.compiler import CompileOptions, build
from cimc.dialects.graph import GraphOperation, ProductOperation, main_function, tensor_names
from cimc.dialects.graph_types import quant_of
from cimc.dialects.weights import WeightStore
from cimc.interpreters.host import HostRunner
from cimc.mapping_options import MappingOptions
from cimc.verification.digital_oracles import digital_error
from cimc.verification.lockstep import run_in_lockstep
from tests.verification.conftest import Builder, small_network

Array = npt.NDArray[Any]

UNARY: dict[str, dict[str, Any]] = {
    **{
        name: {} for name in ("Neg", "Abs", "Floor", "Ceil", "Round", "Sign", "Exp", "Erf", "Tanh", "Sigmoid")
    },
    **{name: {} for name in ("Softplus", "Sin", "Cos", "HardSwish")},
    "LeakyRelu": {"alpha": 0.2},
    "Elu": {"alpha": 0.7},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "Gelu": {"approximate": "tanh"},
    "LRN": {"size": 3, "alpha": 0.5},
    "GlobalAveragePool": {},
    "Softmax": {"axis": 1},
}


def real_operators() -> onnx.ModelProto:
    """Functions of one and two values, by constants and by each other, a norm, a mean, a product; real values all."""
    b = Builder(1)
    x = b.conv("c", "x", 3, 6, 1)
    ends = [b.node(name, name.lower(), [x], **attributes) for name, attributes in UNARY.items()]
    positive = b.node("Exp", "positive", [x])
    ends += [b.node(name, f"of_{name}", [positive]) for name in ("Sqrt", "Log", "Reciprocal")]
    ends += [b.node(name, f"two_{name}", [x, positive]) for name in ("Sub", "Mul", "Div", "Max", "Min")]
    row = b.constant("row", np.linspace(0.5, 2.0, 5).astype(np.float32))
    ends += [b.node(name, f"by_{name}", [positive, row]) for name in ("Pow", "Max", "Min", "Div")]
    ends.append(b.node("Sub", "from_constant", [row, positive]))
    flags = [b.node(name, f"is_{name}", [positive, row]) for name in ("Less", "LessOrEqual", "Equal")]
    ends += [b.node("Where", f"by_{flag}", [flag, x, positive]) for flag in flags]
    ends.append(b.node("Where", "or_row", [flags[0], row, positive]))
    ends.append(b.node("PRelu", "prelu", [x, b.constant("slope", np.full((6, 1, 1), 0.1, np.float32))]))
    ends.append(b.node("LayerNormalization", "norm", [x, row], axis=-1))
    ends.append(b.node("ReduceMean", "mean", [x, b.constant("axes", np.array([3]))]))
    ends.append(b.node("MatMul", "product", [x, positive]))
    model = b.model((1, 3, 5, 5), ends[0], (1, 6, 5, 5))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ends[1:])
    model.opset_import[0].CopyFrom(helper.make_opsetid("", 20))
    return onnx.shape_inference.infer_shapes(model)


def accept(op: Operation, number: int, found: Array, wanted: Array | None, fed: list[Array]) -> float:
    """A judge of lock step that only wants the values."""
    return 0.0


def operators(
    model: onnx.ModelProto, activations: Any
) -> Iterator[tuple[Operation, list[Array], Array, WeightStore]]:
    """The operations of level 2 beside products, on the values of one frame."""
    extents = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    data = {"x": np.random.default_rng(0).normal(size=(4, *extents[1:])).astype(np.float32)}
    options = CompileOptions(
        calibration=data, mapping=MappingOptions(activations=activations), stop_after="quantised"
    )
    made = build(model, resolve_backend("isaac").architecture(), None, options)
    module = made.modules["quantised"]
    frame = {"x": data["x"][:1]}
    run = run_in_lockstep(
        module, made.store, frame, {}, accept, HostRunner(made.store), through_conversions=False
    )
    for op in main_function(module).body.block.ops:
        if isinstance(op, GraphOperation) and not isinstance(op, ProductOperation):
            yield op, [run.by_value[v] for v in op.operands], run.by_value[op.results[0]], made.store


@pytest.mark.parametrize("activations", ["all", "arrays"])
@pytest.mark.parametrize("model", [small_network, real_operators], ids=lambda make: make.__name__)
def test_right_results_pass_and_others_do_not(model: Any, activations: str) -> None:
    """Every operator but the moves has its oracle; a code beside, or a hundredth, is an error of just that."""
    judged: set[str] = set()
    for op, operands, found, store in operators(model(), activations):
        error = digital_error(op, operands, found, store)
        if error is None:
            assert op.name in ("graph.reshape", "graph.index_map")
            continue
        where = f"{op.name} {tensor_names(op)}"
        assert error == 0.0, where
        judged.add(str(op.properties.get("function", op.name)))
        if quant_of(op.results[0]) is None and found.any():
            assert digital_error(op, operands, found * np.float32(1.01), store), where
            continue
        beside = np.where(found > found.min(), found - 1, found + 1).astype(found.dtype)
        assert digital_error(op, operands, beside, store), where
    assert len(judged) >= (35 if model is real_operators else 5)
