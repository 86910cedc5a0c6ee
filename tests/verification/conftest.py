"""A small network with everything a pass can get wrong, and two machines whose arrays cut it into many tiles."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from cimc.backends.schema import Architecture
from tests.fewer_cores import with_fewer_cores


class Builder:
    """Collects nodes and weights of an ONNX model."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """An initializer."""
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op_type: str, name: str, inputs: list[str], **attributes: Any) -> str:
        """A node called ``name`` whose output is ``<name>_out``."""
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(self, name: str, x: str, cin: int, cout: int, k: int, **attributes: Any) -> str:
        """A convolution with bias and weights of about unit gain."""
        weight = self.rng.normal(size=(cout, cin, k, k)) / np.sqrt(cin * k * k)
        w = self.constant(f"{name}_w", weight.astype(np.float32))
        b = self.constant(f"{name}_b", self.rng.normal(0, 0.3, cout).astype(np.float32))
        return self.node("Conv", name, [x, w, b], kernel_shape=[k, k], **attributes)

    def norm(self, name: str, x: str, channels: int) -> str:
        """A batch normalisation."""
        values = {
            "g": self.rng.uniform(0.5, 1.5, channels),
            "b": self.rng.normal(0, 0.2, channels),
            "m": self.rng.normal(0, 0.2, channels),
            "v": self.rng.uniform(0.5, 1.5, channels),
        }
        inputs = [self.constant(f"{name}_{k}", v.astype(np.float32)) for k, v in values.items()]
        return self.node("BatchNormalization", name, [x, *inputs])

    def gemm(self, name: str, x: str, k: int, n: int) -> str:
        """A Gemm with bias."""
        w = self.constant(f"{name}_w", (self.rng.normal(size=(k, n)) / np.sqrt(k)).astype(np.float32))
        b = self.constant(f"{name}_b", self.rng.normal(0, 0.3, n).astype(np.float32))
        return self.node("Gemm", name, [x, w, b])

    def model(self, x: tuple[int, ...], output: str, y: tuple[int, ...]) -> onnx.ModelProto:
        """The model from input ``x`` to ``output``."""
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, y)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def small_network(seed: int = 0) -> onnx.ModelProto:
    """Normalisations, overlapping pool, residual, Clip, stride 2, Concat, average pool, two reshapes, Gemms."""
    b = Builder(seed)
    x = b.node("Relu", "relu1", [b.norm("bn1", b.conv("conv1", "x", 3, 8, 3, pads=[1, 1, 1, 1]), 8)])
    pool = b.node("MaxPool", "pool1", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = b.node("Relu", "relu2", [b.norm("bn2", b.conv("conv2", pool, 8, 8, 3, pads=[1, 1, 1, 1]), 8)])
    x = b.node("Relu", "relu3", [b.node("Add", "add1", [b.conv("conv3", x, 8, 8, 1), pool])])
    low, high = (b.constant(n, np.array(v, np.float32)) for n, v in (("low", 0.0), ("high", 0.75)))
    left = b.conv("conv4", x, 8, 6, 3, pads=[1, 1, 1, 1], strides=[2, 2])
    left = b.node("Clip", "clip4", [left, low, high])
    right = b.node("Relu", "relu5", [b.conv("conv5", x, 8, 4, 1, strides=[2, 2])])
    x = b.node("Concat", "concat", [left, right], axis=1)
    x = b.node("AveragePool", "pool2", [x], kernel_shape=[2, 2])
    shapes = {"flat1": [1, 10, 4], "flat2": [1, 40]}
    for name, shape in shapes.items():
        x = b.node("Reshape", name, [x, b.constant(f"{name}_s", np.array(shape, np.int64))])
    x = b.node("Relu", "relu6", [b.gemm("fc1", x, 40, 24)])
    return b.model((1, 3, 12, 12), b.gemm("fc2", x, 24, 10), (1, 10))


def machine(base: str, rows: int, columns: int, **crossbar: Any) -> Architecture:
    """``base`` with small arrays, two a core, so that stages take several cores."""
    arch = with_fewer_cores(base)
    update = {"rows": rows, "columns": columns, "adcs": columns, **crossbar}
    return arch.model_copy(
        update={
            "crossbar": arch.crossbar.model_copy(update=update),
            "core": arch.core.model_copy(update={"crossbars": 2, "contexts": 4}),
        }
    )


@pytest.fixture(scope="session")
def network() -> onnx.ModelProto:
    """:func:`small_network`."""
    return small_network()


@pytest.fixture(scope="session")
def frames() -> dict[str, npt.NDArray[np.float32]]:
    """Two frames that differ."""
    rng = np.random.default_rng(7)
    scale = np.array([1.0, 2.0]).reshape(2, 1, 1, 1)
    return {"x": (scale * rng.normal(size=(2, 3, 12, 12))).astype(np.float32)}


@pytest.fixture(scope="session")
def lossless() -> Architecture:
    """Wordline mode, 27 rows a tile, 8 weights a row; no converter can lose."""
    return machine("isaac", 27, 32)


@pytest.fixture(scope="session")
def lossy() -> Architecture:
    """Crossbar mode, 24 rows at once into a converter of 4 bits."""
    return machine("puma", 24, 36, parallel_rows=24, adc_bits=4)
