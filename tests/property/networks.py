"""Random small ONNX models of the operators the compiler maps: images, vectors and tokens, with branches.

Weights are scaled so that every layer keeps the spread of its input: outputs then vary and codes use their range.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.property.choices import Choices

MAX_CHANNELS = 14


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model under construction: its name and its shape without the batch."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """A model with one input, the names of its products, and what to feed it."""

    model: ModelProto
    input_name: str
    input_shape: tuple[int, ...]
    batch: int
    products: tuple[str, ...]
    floating: tuple[str, ...]
    """Those of the products whose weights are real numbers, so that their bits may be chosen."""
    positive: bool
    """Whether inputs are non-negative, so that their zero point is 0."""

    def samples(self, runs: int, seed: int) -> npt.NDArray[np.float32]:
        """Inputs for ``runs`` calls of the model: (runs * batch, *shape)."""
        drawn = np.random.default_rng(seed).normal(size=(runs * self.batch, *self.input_shape))
        return (np.abs(drawn) if self.positive else drawn).astype(np.float32)


@dataclass
class Builder:
    """Nodes and weights so far."""

    choices: Choices
    batch: int
    weights: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list[NodeProto])
    initializers: list[TensorProto] = field(default_factory=list[TensorProto])
    products: list[str] = field(default_factory=list[str])
    coded: list[str] = field(default_factory=list[str])
    """Names of weights that are integers with a scale."""
    floating: list[str] = field(default_factory=list[str])

    def constant(self, array: npt.NDArray[Any]) -> str:
        """The name of a new initializer."""
        name = f"w{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, shape: tuple[int, ...], fan_in: int) -> str:
        """Normal weights that keep the spread of ``fan_in`` inputs."""
        drawn = (self.weights.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)
        return self._codes(drawn) if self.choices.happens(8) else self.constant(drawn)

    def _codes(self, weight: npt.NDArray[np.float32]) -> str:
        """``weight`` as a quantised model brings it: 8-bit integers with one scale and a zero point that is not 0."""
        zero = np.int8(self.choices.one_of((-40, -3, 5, 31)))
        scale = np.float32(np.abs(weight).max() / 80)
        codes = np.clip(np.rint(weight / scale) + zero, -128, 127).astype(np.int8)
        stored = [self.constant(np.asarray(array)) for array in (codes, scale, zero)]
        self.coded.append(self.add("DequantizeLinear", stored, ()).name)
        return self.coded[-1]

    def add(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> Tensor:
        """Append a node with one result."""
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"t{len(self.nodes)}"], name, **attributes))
        if op in ("Conv", "ConvTranspose", "Gemm"):
            self._product(name, inputs[1])
        return Tensor(f"t{len(self.nodes) - 1}", shape)

    def _product(self, name: str, weight: str) -> None:
        self.products.append(name)
        if weight not in self.coded:
            self.floating.append(name)

    def conv(self, x: Tensor, *, same: bool = False, channels: int | None = None) -> Tensor:
        """A convolution; ``same`` keeps height and width."""
        c = self.choices
        kernel = (c.one_of((3, 1, 3, 2, 5, 4)), c.one_of((3, 1, 3, 2, 5)))
        if same:
            kernel = (c.one_of((1, 3, 5)), c.one_of((1, 3)))
        dilations = (
            1 if kernel[0] > 3 else c.one_of((1, 1, 1, 2)),
            1 if kernel[1] > 3 else c.one_of((1, 1, 1, 2)),
        )
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        strides = (1, 1) if same else (c.one_of((1, 2, 2, 3)), c.one_of((1, 2, 2, 3)))
        if same:
            pads = [s // 2 for s in spans] * 2
        else:
            pads = [c.number(0, min(2, spans[i % 2] - 1)) for i in range(4)]
        sizes = [(x.shape[1 + i] + pads[i] + pads[2 + i] - spans[i]) // strides[i] + 1 for i in range(2)]
        if min(sizes) < 1:
            return self.conv(x, same=True, channels=channels)
        out, group = channels or c.number(1, MAX_CHANNELS), 1
        if c.happens(25):
            group = c.one_of([g for g in (x.shape[0], x.shape[0], 2, 3) if x.shape[0] % g == 0])
            out = channels or group * c.number(1, 3)
            group = group if out % group == 0 else 1
        inner = x.shape[0] // group
        inputs = [x.name, self.weight((out, inner, *kernel), inner * kernel[0] * kernel[1])]
        if c.happens(70):
            inputs.append(self.constant((self.weights.normal(size=out) * 0.3).astype(np.float32)))
        return self.add(
            "Conv", inputs, (out, *sizes),
            kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations, group=group,
        )  # fmt: skip

    def transposed(self, x: Tensor) -> Tensor:
        """A transposed convolution each of whose outputs meets a tap; groups now and then."""
        c = self.choices
        strides = (c.one_of((2, 1, 2)), c.one_of((2, 1, 2)))
        kernel = [c.number(s, 3) for s in strides]
        pads = [c.number(0, k - 1) for k in kernel]
        extra = [c.number(0, s - 1) for s in strides]
        sizes = [
            s * (e - 1) + k - 2 * p + o
            for s, e, k, p, o in zip(strides, x.shape[1:], kernel, pads, extra, strict=True)
        ]
        if min(sizes) < 1:
            return self.conv(x, same=True)
        group = 2 if x.shape[0] % 2 == 0 and c.happens(25) else 1
        width = c.number(1, 5)
        taps = [-(-k // s) for k, s in zip(kernel, strides, strict=True)]
        weight = self.weight((x.shape[0], width, *kernel), x.shape[0] // group * taps[0] * taps[1])
        return self.add(
            "ConvTranspose", [x.name, weight], (width * group, *sizes),
            strides=strides, pads=pads * 2, output_padding=extra, group=group,
        )  # fmt: skip

    def activation(self, x: Tensor) -> Tensor:
        """A Relu, a Clip, or nothing."""
        kind = self.choices.one_of(("none", "relu", "relu", "clip"))
        return x if kind == "none" else self.relu(x) if kind == "relu" else self.clip(x)

    def relu(self, x: Tensor) -> Tensor:
        """A Relu."""
        return self.add("Relu", [x.name], x.shape)

    def clip(self, x: Tensor) -> Tensor:
        """A Clip with constant bounds."""
        low, high = self.choices.one_of(((0.0, 1.5), (-1.0, 1.0), (-0.5, 2.0)))
        bounds = [self.constant(np.array(b, np.float32)) for b in (low, high)]
        return self.add("Clip", [x.name, *bounds], x.shape)

    def pool(self, x: Tensor, *, same: bool = False) -> Tensor:
        """A max or average pool: overlapping, padded or rounding up now and then."""
        c = self.choices
        op = c.one_of(("MaxPool", "MaxPool", "AveragePool"))
        kernel = 3 if same else c.one_of((3, 2, 3))
        stride = 1 if same else c.one_of((2, 1, 2, 3))
        pads = [1] * 4 if same else [c.number(0, 1) for _ in range(4)]
        include = op == "AveragePool" and c.happens(50)
        # Both together have divisors of their own: onnx and onnxruntime do not agree on the shape.
        ceil = not same and not include and c.happens(30)
        sizes = [_pooled(x.shape[1 + i], kernel, stride, pads[i], pads[2 + i], ceil) for i in range(2)]
        if min(sizes) < 1:
            return self.pool(x, same=True)
        more = {"count_include_pad": int(include)} if op == "AveragePool" else {}
        return self.add(
            op, [x.name], (x.shape[0], *sizes),
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, ceil_mode=int(ceil), **more,
        )  # fmt: skip

    def join(self, parts: list[Tensor]) -> Tensor:
        """Channels side by side."""
        channels = sum(p.shape[0] for p in parts)
        return self.add("Concat", [p.name for p in parts], (channels, *parts[0].shape[1:]), axis=1)

    def sum(self, a: Tensor, b: Tensor) -> Tensor:
        """An elementwise sum."""
        return self.add("Add", [a.name, b.name], a.shape)

    def gemm(self, x: Tensor, features: int) -> Tensor:
        """A Gemm (vectors) or MatMul with a bias (tokens)."""
        k = x.shape[-1]
        if len(x.shape) > 1 or self.choices.happens(20):
            y = self.add("MatMul", [x.name, self.weight((k, features), k)], (*x.shape[:-1], features))
            self._product(self.nodes[-1].name, self.nodes[-1].input[1])
            return y
        turned = self.choices.happens(50)
        weight = self.weight((features, k) if turned else (k, features), k)
        bias = self.constant(self.weights.normal(size=features).astype(np.float32))
        return self.add("Gemm", [x.name, weight, bias], (features,), transB=int(turned))

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Another shape of the same frame."""
        target = self.constant(np.array([self.batch, *shape], np.int64))
        return self.add("Reshape", [x.name, target], shape)

    def gelu(self, x: Tensor) -> Tensor:
        """A Gelu as exporters wrote it before opset 20: by Erf, Mul and Add."""
        half, one, root = (self.constant(np.array(v, np.float32)) for v in (0.5, 1.0, np.sqrt(2)))
        inner = self.add("Div", [x.name, root], x.shape)
        outer = self.add("Add", [self.add("Erf", [inner.name], x.shape).name, one], x.shape)
        scaled = self.add("Mul", [x.name, outer.name], x.shape)
        return self.add("Mul", [scaled.name, half], x.shape)

    def host(self, x: Tensor) -> Tensor:
        """An operator that only the host has."""
        return self.add(self.choices.one_of(("Atan", "Asinh")), [x.name], x.shape)


def _pooled(size: int, kernel: int, stride: int, before: int, after: int, ceil: bool) -> int:
    """Outputs of a pool along one axis; a window that begins behind the image is dropped (ONNX)."""
    span = size + before + after - kernel
    if span < 0:
        return 0
    count = -(-span // stride) + 1 if ceil else span // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= size + before else count


def random_network(choices: Choices) -> Network:
    """A model of 2 to 12 nodes."""
    c = choices
    batch = 3 if c.happens(25) else 1
    builder = Builder(c, batch, np.random.default_rng(c.number(0, 2**31 - 1)))
    kind = c.one_of(("image",) * 7 + ("vector", "tokens", "tokens"))
    positive = c.happens(30)
    if kind == "image":
        shape: tuple[int, ...] = (c.number(1, 6), c.number(5, 11), c.number(5, 11))
        outputs = _image_body(builder, Tensor("x", shape))
    elif kind == "vector":
        shape = (c.number(2, 40),)
        outputs = [_vector_head(builder, Tensor("x", shape))]
    else:
        shape = (c.number(2, 6), c.number(2, 24))
        outputs = [_tokens_body(builder, Tensor("x", shape))]
    return Network(
        _model(builder, shape, outputs),
        "x",
        shape,
        batch,
        tuple(builder.products),
        tuple(builder.floating),
        positive,
    )


def _image_body(b: Builder, x: Tensor) -> list[Tensor]:
    """One to three blocks, a head, and sometimes an inner tensor as a second output."""
    c = b.choices
    y = b.conv(x) if c.happens(80) else x
    inner = [b.activation(y)] if y is not x else [x]
    for _ in range(c.number(1, 3)):
        blocks = (
            _concat, _pool, _residual, _concat, _plain, _twice, _pool, _host, _reshaped, _concat,
            _upsampled, _upsampled, _upsampled,
        )  # fmt: skip
        block = c.one_of(blocks)
        inner.append(block(b, inner[-1]))
    if not b.products:
        inner.append(b.conv(inner[-1]))
    end = _image_head(b, inner[-1])
    extra = [t for t in inner[:-1] if t.name not in ("x", end.name)]
    return [end, extra[0]] if extra and c.happens(20) else [end]


def _plain(b: Builder, x: Tensor) -> Tensor:
    return b.activation(b.conv(x))


def _host(b: Builder, x: Tensor) -> Tensor:
    return b.host(x) if b.choices.happens(40) else b.relu(x)


def _twice(b: Builder, x: Tensor) -> Tensor:
    return b.activation(b.sum(x, x))


def _reshaped(b: Builder, x: Tensor) -> Tensor:
    """The same elements as another image."""
    channels, height, width = x.shape
    return b.conv(b.reshape(x, b.choices.one_of(((height, channels, width), (1, channels * height, width)))))


def _upsampled(b: Builder, x: Tensor) -> Tensor:
    """A transposed convolution of an image that is still small."""
    return b.activation(b.transposed(x) if x.shape[1] * x.shape[2] <= 64 else b.conv(x))


def _pool(b: Builder, x: Tensor) -> Tensor:
    return b.pool(x)


def _residual(b: Builder, x: Tensor) -> Tensor:
    """Two paths of different lengths that meet in an Add."""
    long = b.conv(b.activation(b.conv(x, same=True)), same=True, channels=x.shape[0])
    short = b.conv(x, same=True, channels=x.shape[0]) if b.choices.happens(30) else x
    pair = (long, short) if b.choices.happens(50) else (short, long)
    return b.activation(b.sum(*pair))


def _concat(b: Builder, x: Tensor) -> Tensor:
    """Branches side by side: convolutions, a pool, the input itself, or a Concat of their own."""
    c = b.choices
    parts = [b.activation(b.conv(x, same=True))]
    for _ in range(c.number(1, 2)):
        kind = c.one_of(("pool", "conv", "same", "nested"))
        if kind == "conv":
            parts.append(b.activation(b.conv(x, same=True)))
        elif kind == "pool":
            parts.append(b.pool(x, same=True))
        elif kind == "nested":
            parts.append(b.join([b.conv(x, same=True, channels=2), x]))
        else:
            parts.append(x)
    return b.join(parts)


def _image_head(b: Builder, x: Tensor) -> Tensor:
    c = b.choices
    kind = c.one_of(("image", "flatten", "global", "flatten", "tokens", "softmax"))
    if kind == "image":
        return x
    if kind == "softmax":
        return b.add("Softmax", [x.name], x.shape, axis=c.one_of((1, 3)))
    if kind == "tokens":  # (C, H, W) to (C, H*W): a reshape that is no flattening
        return _tokens_body(b, b.reshape(x, (x.shape[0], x.shape[1] * x.shape[2])))
    if kind == "global":
        x = b.add("GlobalAveragePool", [x.name], (x.shape[0], 1, 1))
        if c.happens(30):
            return x
    size = x.shape[0] * x.shape[1] * x.shape[2]
    flat = b.reshape(x, (size,)) if c.happens(30) else b.add("Flatten", [x.name], (size,), axis=1)
    return _vector_head(b, flat) if c.happens(85) else flat


def _vector_head(b: Builder, x: Tensor) -> Tensor:
    c = b.choices
    kind = c.one_of(("one", "one", "two", "residual", "concat"))
    if kind == "two":
        x = b.activation(b.gemm(x, c.number(2, 20)))
    elif kind == "residual":
        x = b.gemm(x, c.number(2, 9))
        x = b.activation(b.sum(b.gemm(b.relu(x), x.shape[0]), x))
    elif kind == "concat":
        x = b.join([b.gemm(x, c.number(1, 5)), b.activation(b.gemm(x, c.number(1, 5)))])
    x = b.gemm(x, c.number(2, 12))
    return b.add("Softmax", [x.name], x.shape, axis=1) if c.happens(25) else b.activation(x)


def _tokens_body(b: Builder, x: Tensor) -> Tensor:
    """Products of every token by one matrix, with what stands between them in a transformer."""
    c = b.choices
    if c.happens(35):
        constants = [
            b.constant((1 + b.weights.normal(size=x.shape[-1]) / 4).astype(np.float32)) for _ in range(2)
        ]
        x = b.add("LayerNormalization", [x.name, *constants], x.shape, axis=-1)
    if c.happens(35):
        x = _attention(b, x)
    y = b.gemm(x, x.shape[-1] if c.happens(50) else c.number(2, 12))
    if y.shape == x.shape:
        y = b.sum(x, y)
    else:
        y = b.gelu(y) if c.happens(40) else b.activation(y)
    y = b.gemm(y, c.number(2, 9))
    return b.add("Softmax", [y.name], y.shape, axis=2) if c.happens(40) else y


def _attention(b: Builder, x: Tensor) -> Tensor:
    """Every token by every other: two products of activations around a softmax."""
    tokens, width = x.shape
    query, key = b.gemm(x, width), b.gemm(x, width)
    turned = b.add("Transpose", [key.name], (width, tokens), perm=[0, 2, 1])
    score = b.add("MatMul", [query.name, turned.name], (tokens, tokens))
    share = b.add("Softmax", [score.name], score.shape, axis=2)
    return b.add("MatMul", [share.name, x.name], x.shape)


def _model(b: Builder, shape: tuple[int, ...], outputs: list[Tensor]) -> ModelProto:
    def value(tensor: Tensor) -> Any:
        return helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, [b.batch, *tensor.shape])

    graph = helper.make_graph(
        b.nodes, "random", [value(Tensor("x", shape))], [value(t) for t in outputs], b.initializers
    )
    opset = b.choices.number(17, 20)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)])
