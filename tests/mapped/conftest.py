"""Compiled networks and machines for tests of the mapped level."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from cimc.backends.registry import resolve_backend
from cimc.backends.schema import Architecture
from cimc.compiler import Compiled, CompileOptions, build
from cimc.mapping_options import MappingOptions

Array = npt.NDArray[Any]
Node = tuple[str, list[str], dict[str, Any]]


def onnx_model(
    x: Sequence[int], y: Sequence[int], weights: dict[str, Array], nodes: dict[str, Node]
) -> onnx.ModelProto:
    """A model from input ``x`` to output ``y``; ``nodes`` maps each output to (type, inputs, attributes)."""
    made = [
        helper.make_node(op_type, inputs, [output], name=output, **attributes)
        for output, (op_type, inputs, attributes) in nodes.items()
    ]
    graph = helper.make_graph(
        made,
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(x))],
        [helper.make_tensor_value_info(list(nodes)[-1], onnx.TensorProto.FLOAT, list(y))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def random_weights(seed: int, **shapes: tuple[int, ...]) -> dict[str, Array]:
    """Normal numbers of about unit gain along all but one axis."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * np.sqrt(max(shape) / np.prod(shape))).astype(np.float32)
        for name, shape in shapes.items()
    }


def residual() -> onnx.ModelProto:
    """Convolutions with stride, dilation and padding, a residual Add, pools, Concat, Gemm of a flattened image."""
    weights = random_weights(
        1, w1=(6, 3, 3, 3), b1=(6,), w2=(6, 6, 3, 3), w3=(5, 6, 3, 3), w4=(44, 7), b4=(7,)
    )
    nodes: dict[str, Node] = {
        "c1": ("Conv", ["x", "w1", "b1"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        "r1": ("Relu", ["c1"], {}),
        "p1": ("MaxPool", ["r1"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        "c2": ("Conv", ["p1", "w2"], {"kernel_shape": [3, 3], "pads": [2, 2, 2, 2], "dilations": [2, 2]}),
        "s": ("Add", ["c2", "p1"], {}),
        "c3": ("Conv", ["s", "w3"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0]}),
        "p2": ("AveragePool", ["s"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0]}),
        "k": ("Concat", ["c3", "p2"], {"axis": 1}),
        "f": ("Flatten", ["k"], {}),
        "y": ("Gemm", ["f", "w4", "b4"], {}),
    }  # fmt: skip
    return onnx_model((1, 3, 7, 8), (1, 7), weights, nodes)


def tokens() -> onnx.ModelProto:
    """MatMuls over tokens, a softmax, and an operator that only the host has."""
    weights = random_weights(2, w1=(10, 12), b1=(12,), w2=(12, 9))
    nodes: dict[str, Node] = {
        "m1": ("MatMul", ["x", "w1"], {}),
        "a1": ("Add", ["m1", "b1"], {}),
        "e": ("Atan", ["a1"], {}),
        "m2": ("MatMul", ["e", "w2"], {}),
        "y": ("Softmax", ["m2"], {"axis": -1}),
    }
    return onnx_model((1, 5, 10), (1, 5, 9), weights, nodes)


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {"residual": residual, "tokens": tokens}


def small_machine(base: str, *, crossbars: int = 2, **crossbar: Any) -> Architecture:
    """``base`` with other arrays, few of them a core."""
    arch = resolve_backend(base).architecture()
    return arch.model_copy(
        update={
            "crossbar": arch.crossbar.model_copy(update=crossbar),
            "core": arch.core.model_copy(update={"crossbars": crossbars, "contexts": 4}),
        }
    )


MACHINES: dict[str, Architecture] = {
    "isaac": resolve_backend("isaac").architecture(),
    "odd tiles, row chunks": small_machine("isaac", rows=7, columns=37, parallel_rows=5, adcs=37),
    "narrow arrays": small_machine("isaac", crossbars=3, rows=30, columns=17, parallel_rows=7, adcs=17),
    "column flip": small_machine("puma", rows=19, columns=40, parallel_rows=19, adcs=40),
    "lossy": small_machine("puma", rows=23, columns=36, parallel_rows=23, adc_bits=4, adcs=36),
    "lossy row chunks": small_machine(
        "puma", crossbars=1, rows=16, columns=36, parallel_rows=16, adc_bits=3, adcs=36
    ),
}
LOSSY = ("lossy", "lossy row chunks")


class Made:
    """A compiled network with the frames it was calibrated on."""

    def __init__(self, network: str, machine: str, copies: int = 1) -> None:
        self.arch = MACHINES[machine]
        model = NETWORKS[network]()
        shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
        self.frames = np.random.default_rng(5).normal(size=(3, *shape)).astype(np.float32)
        options = CompileOptions(
            mapping=MappingOptions(copies=copies, activations="all"), calibration={"x": self.frames}
        )
        self.compiled: Compiled = build(model, self.arch, None, options)


@pytest.fixture(scope="session")
def made() -> Callable[[str, str, int], Made]:
    """Networks by name, machine and copies, each compiled once."""
    known: dict[tuple[str, str, int], Made] = {}

    def get(network: str, machine: str, copies: int = 1) -> Made:
        key = network, machine, copies
        if key not in known:
            known[key] = Made(network, machine, copies)
        return known[key]

    return get
