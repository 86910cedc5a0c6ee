"""Level 2's other operators node by node against onnxruntime (docs/numerics.md section 0 rule 12).

An operator becomes a model of its own: the ONNX operator of that meaning on real values, with DequantizeLinear and
QuantizeLinear around it where the operator works on codes, run without graph optimisation on our operands. Rule 9
lets means of codes differ by one code at ties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import Operation, SSAValue

from cimc.dialects.graph import (
    AddOp,
    AveragePoolOp,
    BinaryConstantOp,
    BinaryOp,
    ClipOp,
    ConcatOp,
    DequantizeOp,
    GlobalAveragePoolOp,
    LookupOp,
    MatmulOp,
    MaxPoolOp,
    NormOp,
    QuantizeOp,
    ReduceOp,
    ReluOp,
    RequantizeOp,
    SoftmaxOp,
    UnaryOp,
)
from cimc.dialects.graph_base import BoundedOperation
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.weights import WeightStore
from cimc.interpreters.host import open_session
from cimc.verification.comparing import FLOAT_TOLERANCE, exact_error, scaled_error

Array = npt.NDArray[Any]

MEAN_TIES = 0.06
"""Most codes of an average pool beside onnxruntime's: means of 2 x 2 windows fall on ties about every 25th time."""

_OPSET = 23

_FUNCTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        **{
            name.lower(): (name, ())
            for name in (
                *("Neg", "Abs", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Exp", "Log", "Erf"),
                *("Tanh", "Sigmoid", "Softplus", "Sin", "Cos", "Gelu"),
            )
        },
        "hard_swish": ("HardSwish", ()),
        "leaky_relu": ("LeakyRelu", ("alpha",)),
        "elu": ("Elu", ("alpha",)),
        "hard_sigmoid": ("HardSigmoid", ("alpha", "beta")),
    }
)
"""ONNX operator and attributes of the functions of one value."""

_PAIRS: Mapping[str, str] = MappingProxyType(
    {
        **{name.lower(): name for name in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min")},
        "prelu": "PRelu",
    }
)
_COMPARISONS = MappingProxyType({"less": "Less", "less_equal": "LessOrEqual", "equal": "Equal"})
"""Operators whose booleans are our flags."""
_REDUCTIONS = MappingProxyType(
    {f"reduce_{kind.lower()}": f"Reduce{kind}" for kind in ("Sum", "Mean", "Max", "Min")}
)


@dataclass(frozen=True)
class _Node:
    """An ONNX node: its operator, attributes, and constants behind the operands (``first``: before them).

    ``flags``: its result is booleans, ours their numbers. ``chooses``: it is Where, of a flag, a value and zeros in the
    order of ``chooses``.
    """

    op_type: str
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    constants: Sequence[Array] = ()
    first: bool = False
    flags: bool = False
    chooses: tuple[str, ...] = ()


def _window(op: MaxPoolOp | AveragePoolOp) -> dict[str, Any]:
    return {
        "kernel_shape": list(op.kernel.data),
        "strides": list(op.strides.data),
        "pads": list(op.pads.data),
        "dilations": list(op.dilations.data),
    }


def _clip(op: ClipOp, store: WeightStore) -> _Node:
    low, high = op.bounds()
    ends = (-np.inf if low is None else low, np.inf if high is None else high)
    return _Node("Clip", {}, [np.asarray(end, np.float32) for end in ends])


def _unary(op: UnaryOp, store: WeightStore) -> _Node | None:
    name = op.function.data
    if name == "gelu_tanh":
        return _Node("Gelu", {"approximate": "tanh"})
    if name not in _FUNCTIONS:
        return None
    op_type, attributes = _FUNCTIONS[name]
    return _Node(op_type, dict(zip(attributes, op.values, strict=True)))


def _binary(op: BinaryOp | BinaryConstantOp, store: WeightStore) -> _Node:
    held, first = [], False
    if isinstance(op, BinaryConstantOp):
        held, first = [store.array(op.constant.key.data)], op.swapped is not None
    function = op.function.data
    if function in _COMPARISONS:
        return _Node(_COMPARISONS[function], {}, held, first, flags=True)
    if function in ("keep", "drop"):
        order = ("flag", "value", "zero") if function == "keep" else ("flag", "zero", "value")
        return _Node("Where", {}, held, first, chooses=order)
    return _Node(_PAIRS[function], {}, held, first)


def _norm(op: NormOp, store: WeightStore) -> _Node:
    if op.constant is None:
        alpha, beta, bias, size = op.values
        return _Node("LRN", {"alpha": alpha, "beta": beta, "bias": bias, "size": int(size)})
    kind = "RMSNormalization" if op.function.data == "rms_norm" else "LayerNormalization"
    return _Node(kind, {"axis": -1, "epsilon": op.values[0]}, list(store.array(op.constant.key.data)))


_NODES: Mapping[type[Operation], Callable[[Any, WeightStore], _Node | None]] = MappingProxyType(
    {
        AddOp: lambda op, store: _Node("Add"),
        ReluOp: lambda op, store: _Node("Relu"),
        ClipOp: _clip,
        MaxPoolOp: lambda op, store: _Node("MaxPool", _window(op)),
        AveragePoolOp: lambda op, store: _Node(
            "AveragePool", {**_window(op), "count_include_pad": int(op.counts_padding)}
        ),
        GlobalAveragePoolOp: lambda op, store: _Node("GlobalAveragePool"),
        ConcatOp: lambda op, store: _Node("Concat", {"axis": op.axis.value.data}),
        SoftmaxOp: lambda op, store: _Node("Softmax", {"axis": op.axis.value.data}),
        UnaryOp: _unary,
        BinaryOp: _binary,
        BinaryConstantOp: _binary,
        NormOp: _norm,
        ReduceOp: lambda op, store: _Node(
            _REDUCTIONS[op.function.data], {"keepdims": 1}, [np.array([-1], np.int64)]
        ),
        MatmulOp: lambda op, store: _Node("MatMul"),
        LookupOp: lambda op, store: _Node("Gather", {}, [store.array(op.table.key.data)], first=True),
        QuantizeOp: lambda op, store: _Node("Identity"),
        DequantizeOp: lambda op, store: _Node("Identity"),
        RequantizeOp: lambda op, store: _Node("Identity"),
    }
)
"""What each operation of level 2 is in ONNX. Moves have no arithmetic; SiLU has no operator there."""


def digital_error(op: Operation, operands: Sequence[Array], found: Array, store: WeightStore) -> float | None:
    """Error of ``found``, the result of ``op`` on ``operands``; ``None`` where onnxruntime has nothing to say.

    Of codes the largest difference, 0 for ties that rule 9 allows; of real values the largest difference in units
    of what float sums may differ by, 0 below 1.
    """
    make = _NODES.get(type(op))
    node = make(op, store) if make is not None else None
    if node is None:
        return None
    wanted = _by_onnxruntime(op, node, operands)
    codes = quant_of(op.results[0])
    if codes is None:
        error = scaled_error(found, wanted) / FLOAT_TOLERANCE
        return 0.0 if error <= 1 else error
    if isinstance(op, BoundedOperation):
        wanted = np.clip(wanted, *op.clamp())
    error = exact_error(found, wanted)
    if error == 1.0 and isinstance(op, AveragePoolOp | GlobalAveragePoolOp):
        return 0.0 if np.count_nonzero(found != wanted) <= max(1, MEAN_TIES * found.size) else error
    return error


def _by_onnxruntime(op: Operation, node: _Node, operands: Sequence[Array]) -> Array:
    from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

    stored: list[Any] = []
    nodes: list[Any] = []

    def constant(name: str, array: Any) -> str:
        stored.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def coded(name: str, value: SSAValue) -> list[str]:
        kind = quant_of(value)
        assert kind is not None
        return [
            constant(f"{name}/scale", np.asarray(kind.scale)),
            constant(f"{name}/zero", np.array(kind.zero_point, kind.dtype)),
        ]

    inputs: list[str] = []
    for number, value in enumerate(op.operands):
        name = f"x{number}"
        if quant_of(value) is not None:
            nodes.append(helper.make_node("DequantizeLinear", [name, *coded(name, value)], [f"{name}/real"]))
            name = f"{name}/real"
        inputs.append(name)
    constants = [constant(f"c{number}", array) for number, array in enumerate(node.constants)]
    inputs = [*constants, *inputs] if node.first else [*inputs, *constants]
    if node.chooses:
        nodes.append(helper.make_node("Cast", inputs[:1], ["flag"], to=TensorProto.BOOL))
        given = {"flag": "flag", "value": inputs[1], "zero": constant("zero", np.zeros(1, np.float32))}
        inputs = [given[part] for part in node.chooses]
    result = "booleans" if node.flags else "real"
    nodes.append(helper.make_node(node.op_type, inputs, [result], **node.attributes))
    if node.flags:
        nodes.append(helper.make_node("Cast", [result], ["real"], to=TensorProto.FLOAT))
    if quant_of(op.results[0]) is not None:
        nodes.append(helper.make_node("QuantizeLinear", ["real", *coded("y", op.results[0])], ["y"]))
    output = nodes[-1].output[0]
    feeds = {f"x{number}": np.ascontiguousarray(array) for number, array in enumerate(operands)}
    graph = helper.make_graph(
        nodes,
        "one_operator",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in feeds.items()
        ],
        [ValueInfoProto(name=output)],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=11)
    (found,) = open_session(model.SerializeToString()).run([output], feeds)
    return np.asarray(found).reshape(shape_of(op.results[0]))
