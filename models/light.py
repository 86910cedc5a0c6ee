"""The nine ``light_*`` networks of the onnx wheel with weights that make them answer.

The wheel holds AlexNet, DenseNet-121, Inception v1 and v2, ResNet-50, ShuffleNet, SqueezeNet, VGG-19 and ZFNet as their
exporters wrote them, but every weight is one constant (0.02) and so is every output: as tests of numbers
they are empty. Here the graphs stay as they are, initializers that are graph inputs and all, and the
weights are drawn and calibrated node by node, as ``cimc.models.tuning`` does for torch modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from cimc.diagnostics import UsageError
from cimc.models.synthetic import images
from cimc.models.variation import MIN_IMAGES, spread

Array = npt.NDArray[Any]

NAMES = (
    "squeezenet",
    "shufflenet",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "densenet121",
    "bvlc_alexnet",
    "zfnet512",
    "vgg19",
)
"""What :func:`reseeded` takes, without the prefix ``light_``; the three with huge linear layers last."""

SHAPE = (3, 224, 224)
"""Channels, height and width of an input image of every one of them."""

_CALIBRATION_SEED = 0xCA11
_TEST_SEED = 0x7E57
_LOGIT_STD = 3.0
_SHIFT_STD = 0.1
_BRANCH_WEIGHT = 0.25
"""Of a BatchNorm that ends a residual branch, as in ``cimc.models.resnet``."""


def reseeded(name: str, seed: int = 0) -> ModelProto:
    """``light_<name>`` with weights drawn from ``seed``, without the softmax at its end.

    One image a run; see :data:`SHAPE`. ConstantOfShape nodes that made weights become initializers, which are
    graph inputs too, as all of this file format's (IR version 3); no other node changes.

    Raises
    ------
    UsageError
        If there is no such network.
    UnsupportedError
        If the outputs do not vary over 8 test images (``cimc.models.variation``).

    """
    if name not in NAMES:
        raise UsageError(f"no light network is named {name!r}; there are: {', '.join(NAMES)}")
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = _without_softmax(onnx.load(folder / f"light_{name}.onnx"))
    weights = _Drawing(model, np.random.default_rng([seed, NAMES.index(name)])).run()
    _store(model, weights)
    session = _session(model)
    feed = image_input(model)
    logits = [session.run(None, {feed: x[None]})[0] for x in images(MIN_IMAGES, SHAPE, _TEST_SEED)]
    spread(np.concatenate([np.asarray(found).reshape(1, -1) for found in logits]))
    return model


def image_input(model: ModelProto) -> str:
    """The one graph input that is not an initializer."""
    stored = {t.name for t in model.graph.initializer}
    (name,) = (value.name for value in model.graph.input if value.name not in stored)
    return name


def _without_softmax(model: ModelProto) -> ModelProto:
    """Logits instead of probabilities, which hide differences."""
    graph = model.graph
    last = graph.node[-1]
    if last.op_type == "Softmax":
        graph.output[0].name = last.input[0]
        del graph.node[-1]
    return model


def _store(model: ModelProto, weights: Mapping[str, Array]) -> None:
    """Replace what made ``weights`` by initializers that are graph inputs too."""
    graph = model.graph
    kept = [n for n in graph.node if n.output[0] not in weights]
    read = {name for node in kept for name in node.input}
    del graph.node[:]
    graph.node.extend(kept)
    stored = {t.name: t for t in graph.initializer if t.name in read and t.name not in weights}
    inputs = {v.name: v for v in graph.input}
    del graph.initializer[:]
    del graph.input[:]
    graph.input.extend(v for n, v in inputs.items() if n in stored or n in read - weights.keys())
    graph.initializer.extend(stored.values())
    for name, array in weights.items():
        graph.initializer.append(numpy_helper.from_array(array, name))
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))


def _session(model: ModelProto) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # sums keep one order
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@dataclass
class _Drawing:
    """One walk over the graph: weights are drawn where a node needs them, then the node runs on all images."""

    model: ModelProto
    rng: np.random.Generator
    weights: dict[str, Array] = field(default_factory=dict[str, Array])
    values: dict[str, list[Array]] = field(default_factory=dict[str, list[Array]])

    def run(self) -> Mapping[str, Array]:
        """All weights by tensor name, those of the file and those of ConstantOfShape nodes alike."""
        graph = self.model.graph
        makers = {node.output[0]: node for node in graph.node}
        stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        shapes = {
            n.output[0]: tuple(int(d) for d in stored[n.input[0]])
            for n in graph.node
            if n.op_type == "ConstantOfShape"
        }
        shapes |= {name: a.shape for name, a in stored.items() if a.dtype == np.float32}
        nodes = [n for n in graph.node if n.op_type != "ConstantOfShape"]
        last = next(n for n in reversed(nodes) if n.op_type in ("Conv", "Gemm"))
        uses = Counter(name for n in nodes for name in n.input)
        branches = {n.input[0] for n in nodes if n.op_type == "Sum"}  # the shortcut comes second
        self.values[image_input(self.model)] = [x[None] for x in images(8, SHAPE, _CALIBRATION_SEED)]
        for node in nodes:
            if node.input[0] in shapes and node.op_type in ("Unsqueeze", "Reshape"):
                continue  # a weight in another shape: it is drawn where it is used
            for position, name in enumerate(node.input[1:], 1):
                gain = _BRANCH_WEIGHT if node.output[0] in branches else 1.0
                self._draw(node, position, name, makers, shapes, gain)
            constants = {n: self._weight(n, makers, stored) for n in node.input if n not in self.values}
            outputs = self._execute(node, constants)
            if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
                self._centre(node, outputs, makers, _LOGIT_STD if node is last else 1.0)
            self.values[node.output[0]] = outputs
            for name in node.input:
                uses[name] -= 1
                if not uses[name]:
                    self.values.pop(name, None)
        return self.weights

    def _origin(self, name: str, makers: Mapping[str, NodeProto]) -> str:
        """The weight that ``name`` is, maybe in another shape."""
        while name in makers and makers[name].op_type in ("Unsqueeze", "Reshape"):
            name = makers[name].input[0]
        return name

    def _weight(self, name: str, makers: Mapping[str, NodeProto], stored: Mapping[str, Array]) -> Array:
        origin = self._origin(name, makers)
        if origin == name:
            return self.weights[name] if name in self.weights else stored[name]
        node = makers[name]
        inner = self._weight(node.input[0], makers, stored)
        feeds = {node.input[0]: inner} | {n: self._weight(n, makers, stored) for n in node.input[1:]}
        return _run_node(self.model, node, feeds)

    def _draw(
        self,
        node: NodeProto,
        position: int,
        name: str,
        makers: Mapping[str, NodeProto],
        shapes: Mapping[str, tuple[int, ...]],
        gain: float,
    ) -> None:
        """Draw the weight ``name``, operand ``position`` of ``node``, unless it is none; scales around ``gain``."""
        origin = self._origin(name, makers)
        if name in self.values or origin not in shapes or origin in self.weights:
            return
        shape = shapes[origin]
        match node.op_type, position:
            case ("Conv", 1):
                drawn = self._kaiming(shape, int(np.prod(shape[1:])))
            case ("Gemm", 1):
                drawn = self._kaiming(shape, int(np.prod(shape)) // shape[_columns_axis(node)])
            case ("BatchNormalization", 3 | 4):
                stacked = np.concatenate(self.values[node.input[0]])
                axes = (0, *range(2, stacked.ndim))
                drawn = stacked.mean(axes) if position == 3 else stacked.var(axes)
            case ("BatchNormalization", 1) | ("Mul", _):
                drawn = gain * self.rng.uniform(0.5, 1.5, shape)
            case ("BatchNormalization", 2) | ("Add", _):
                drawn = self.rng.normal(0.0, 0.2, shape)
            case _:
                drawn = np.zeros(shape)
        self.weights[origin] = drawn.astype(np.float32)

    def _kaiming(self, shape: Sequence[int], fan_in: int) -> Array:
        return self.rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2.0 / fan_in))

    def _centre(
        self, node: NodeProto, outputs: list[Array], makers: Mapping[str, NodeProto], std: float
    ) -> None:
        """Scale and shift a product with a bias, and its ``outputs`` in place: each channel varies by ``std``."""
        stacked = np.concatenate(outputs).astype(np.float64)
        axes = (0, *range(2, stacked.ndim))
        mean = stacked.mean(axes)
        factor = std / np.maximum(stacked.std(axes), 1e-6)
        shift = self.rng.normal(0.0, _SHIFT_STD * std, mean.shape)
        weight, bias = (self._origin(node.input[i], makers) for i in (1, 2))
        array = self.weights[weight]
        along = [1] * array.ndim
        along[0 if node.op_type == "Conv" else _columns_axis(node)] = -1
        array *= factor.astype(np.float32).reshape(along)
        self.weights[bias] = (shift - mean * factor).astype(np.float32)
        channels = (1, -1, *(1,) * (stacked.ndim - 2))
        for found in outputs:
            found[...] = (found - mean.reshape(channels)) * factor.reshape(channels) + shift.reshape(channels)

    def _execute(self, node: NodeProto, constants: Mapping[str, Array]) -> list[Array]:
        varying = [n for n in dict.fromkeys(node.input) if n in self.values]
        first = {n: self.values[n][0] for n in varying}
        session = _session(_alone(self.model, node, {**first, **constants}))
        return [
            session.run([node.output[0]], {**constants, **{n: self.values[n][i] for n in varying}})[0]
            for i in range(len(self.values[varying[0]]))
        ]


def _columns_axis(node: NodeProto) -> int:
    """The axis of a Gemm's weight along its results; extents of 1 may stand in front (Caffe's blobs)."""
    return -2 if any(a.name == "transB" and a.i for a in node.attribute) else -1


def _alone(model: ModelProto, node: NodeProto, feeds: Mapping[str, Array]) -> ModelProto:
    """``node`` as a model that takes all its operands as inputs."""
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    graph = helper.make_graph([node], "node", inputs, [onnx.ValueInfoProto(name=node.output[0])])
    return helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=10)


def _run_node(model: ModelProto, node: NodeProto, feeds: Mapping[str, Array]) -> Array:
    return _session(_alone(model, node, feeds)).run([node.output[0]], dict(feeds))[0]
