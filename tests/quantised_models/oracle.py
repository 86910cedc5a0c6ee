"""onnxruntime's integer operators, built from the quantised model's own nodes and fed with given codes.

Nothing here comes from the compiler: scales, zero points and integers are read from the ONNX file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import ModelProto, NodeProto, helper, numpy_helper

Array = npt.NDArray[Any]
Open = Callable[[ModelProto, str], onnxruntime.InferenceSession]


@dataclass(frozen=True)
class Parts:
    """One product of the model: its node, constants, and what surrounds it."""

    node: NodeProto
    x: tuple[Array, Array]
    weight: tuple[Array, Array, Array]
    bias: Array | None
    y: tuple[Array, Array]
    relu: bool


class Oracle:
    """Looks up a model's nodes by tensor, and runs the integer form of its products."""

    def __init__(self, model: ModelProto, open_session: Open):
        self.model, self.open_session = model, open_session
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.maker = {name: node for node in model.graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def parts(self, tensor: str) -> Parts:
        """The product whose result, or whose Relu's result, is ``tensor``."""
        node = self.maker[tensor]
        if node.op_type in ("QLinearConv", "QGemm"):
            return self._qoperator(node)
        relu = node.op_type == "Relu"
        product = node
        while product.op_type in ("Relu", "QuantizeLinear", "DequantizeLinear"):
            product = self.maker[product.input[0]]
        sources = [self.maker[name] for name in product.input]
        assert {source.op_type for source in sources} == {"DequantizeLinear"}
        (quantize,) = self.readers[tensor]
        (inner,) = self.readers[product.output[0]]
        assert {quantize.op_type, inner.op_type} == {"QuantizeLinear"}
        assert all(
            self.constants[a] == self.constants[b]
            for a, b in zip(quantize.input[1:], inner.input[1:], strict=True)
        ), "a Relu between conversions of one scale"
        x, w = (self._numbers(source.input) for source in sources[:2])
        weight = w[0].astype(f"{w[0].dtype.kind if w[0].dtype.kind in 'iu' else 'i'}1")
        bias = self.constants[sources[2].input[0]] if len(sources) > 2 else None
        y = self._numbers(quantize.input)
        return Parts(
            product, (x[1], x[2]), (weight, w[1], w[2].astype(weight.dtype)), bias, (y[1], y[2]), relu
        )

    def _numbers(self, inputs: Sequence[str]) -> list[Array]:
        """A conversion's input, scale and zero point; an empty array for what is not constant."""
        return [self.constants.get(name, np.empty(0)) for name in inputs]

    def _qoperator(self, node: NodeProto) -> Parts:
        given = self._numbers(node.input)
        bias, y = (8, 6) if node.op_type == "QLinearConv" else (6, 7)
        weight = (given[3], given[4], given[5])
        return Parts(node, (given[1], given[2]), weight, given[bias], (given[y], given[y + 1]), False)

    def run(self, parts: Parts, codes: Array) -> Array:
        """The codes onnxruntime's operator gives for the input ``codes``."""
        if codes.dtype.itemsize == 1:
            found = self._eight_bits(parts, codes)
        else:
            found = self._requantised(parts, self.accumulators(parts, codes))
        return np.maximum(found, parts.y[1]) if parts.relu else found

    def _eight_bits(self, parts: Parts, codes: Array) -> Array:
        image = parts.node.op_type in ("Conv", "QLinearConv")
        constants: dict[str, Array | None] = {
            "xs": parts.x[0],
            "xz": parts.x[1],
            "ys": parts.y[0],
            "yz": parts.y[1],
        }
        constants |= dict(zip(("w", "ws", "wz"), parts.weight, strict=True))
        constants["b"] = parts.bias
        order = ["x", "xs", "xz", "w", "ws", "wz"]
        order += ["ys", "yz", "b"] if image else ["b", "ys", "yz"]
        node = helper.make_node(
            "QLinearConv" if image else "QGemm", order, ["y"], domain="" if image else "com.microsoft"
        )
        node.attribute.extend(a for a in parts.node.attribute if a.name != "beta")
        return self._one(node, {"x": codes}, constants, codes.dtype)

    def accumulators(self, parts: Parts, codes: Array) -> Array:
        """Sums of 16-bit codes times 8-bit weights, from onnxruntime's 8-bit sums of their two bytes."""
        shifted = codes.astype(np.int32) - int(parts.x[1])
        assert not parts.weight[2].any()
        assert 0 <= shifted.min(), "after a Relu the zero point is the least code"
        bytes_ = [(part & 255).astype(np.uint8) for part in (shifted >> 8, shifted)]
        sums = [self._integer_product(parts, byte) for byte in bytes_]
        total = 256 * sums[0].astype(np.int64) + sums[1]
        assert parts.bias is not None
        bias = parts.bias.astype(np.int64)
        return total + (bias[:, np.newaxis, np.newaxis] if total.ndim == 4 else bias)

    def _integer_product(self, parts: Parts, byte: Array) -> Array:
        image = parts.node.op_type == "Conv"
        weight = parts.weight[0]
        if not image and {a.name: a.i for a in parts.node.attribute}.get("transB"):
            weight = weight.T
        constants: dict[str, Array | None] = {
            "w": weight,
            "xz": np.zeros((), np.uint8),
            "wz": np.zeros((), np.int8),
        }
        kind = "ConvInteger" if image else "MatMulInteger"
        node = helper.make_node(kind, ["x", "w", "xz", "wz"], ["y"])
        if image:
            node.attribute.extend(parts.node.attribute)
        return self._one(node, {"x": byte}, constants, np.dtype(np.int32))

    def _requantised(self, parts: Parts, acc: Array) -> Array:
        """docs/numerics.md section 0 rule 5, in numpy's float32; one scale for all channels."""
        m = np.float32(np.float32(parts.x[0]) * parts.weight[1].reshape(-1)) / np.float32(parts.y[0])
        assert m.size == 1
        ends = np.iinfo(parts.y[1].dtype)
        steps = np.rint(acc.astype(np.float32) * m).astype(np.float64) + float(parts.y[1])
        return np.clip(steps, ends.min, ends.max).astype(parts.y[1].dtype)

    def _one(
        self, node: NodeProto, inputs: Mapping[str, Array], constants: Mapping[str, Array | None], dtype: Any
    ) -> Array:
        kept = {name: array for name, array in constants.items() if array is not None and name in node.input}
        graph = helper.make_graph(
            [node],
            "one",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for n, a in inputs.items()
            ],
            [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(dtype), None)],
            [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in kept.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return np.asarray(self.open_session(model, "ORT_DISABLE_ALL").run(None, dict(inputs))[0])
