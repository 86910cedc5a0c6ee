"""Level 2's products node by node against onnxruntime's integer operators (docs/numerics.md section 0 rule 12).

QLinearConv and QGemm where onnxruntime has them and is exact: 8-bit storage, 32-bit sums. Everything else, and any
node where onnxruntime disagrees, is judged by sums in float64 that are exact below 2^53.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.dialects.graph import ConvOp, GemmOp, ProductOperation
from cimc.dialects.graph_types import QuantType, quant_of
from cimc.dialects.weights import WeightStore

Array = npt.NDArray[Any]


def product_error(op: ProductOperation, codes: Array, found: Array, store: WeightStore) -> tuple[float, str]:
    """Largest difference of ``found`` from the oracle's result of ``op`` on ``codes``, and the oracle's name."""
    wanted = _by_onnxruntime(op, codes, store)
    if wanted is not None and np.array_equal(found, wanted):
        return 0.0, "onnxruntime"
    exact = _by_exact_sums(op, codes, store)
    return float(np.abs(found.astype(np.float64) - exact.astype(np.float64)).max(initial=0.0)), "exact sums"


def _constants(op: ProductOperation, store: WeightStore) -> tuple[Array, Array, Array, Array]:
    """Weight codes, their scales and zero points per channel, and the bias."""
    assert op.weight_scale is not None
    weight = store.array(op.weight.key.data)
    channels = weight.shape[0] if isinstance(op, ConvOp) else weight.shape[1]
    scale = np.broadcast_to(store.array(op.weight_scale.key.data).astype(np.float32), (channels,))
    zero = np.zeros(channels, np.int64) if op.weight_zero is None else store.array(op.weight_zero.key.data)
    bias = np.zeros(channels, np.int64) if op.bias is None else store.array(op.bias.key.data)
    return weight, np.ascontiguousarray(scale), zero, bias


def _by_onnxruntime(op: ProductOperation, codes: Array, store: WeightStore) -> Array | None:
    """The codes of QLinearConv or QGemm; ``None`` where there is no such operator, as for results of another sign."""
    x, y = quant_of(op.input), quant_of(op.result)
    assert x is not None
    weight, scale, zero, bias = _constants(op, store)
    narrow = codes.dtype.itemsize == 1 and weight.dtype == np.int8 and (y is None or y.dtype == codes.dtype)
    assert op.acc_bits is not None
    if not narrow or op.acc_bits.value.data != 32 or (y is None and isinstance(op, ConvOp)) or zero.any():
        return None
    inputs: dict[str, Array] = {
        "x": codes, "sx": np.asarray(x.scale), "zx": np.array(x.zero_point, codes.dtype),
        "w": weight, "sw": scale, "zw": np.zeros(len(scale), np.int8),
    }  # fmt: skip
    result = {} if y is None else {"sy": np.asarray(y.scale), "zy": np.array(y.zero_point, y.dtype)}
    if isinstance(op, ConvOp):
        attributes = {
            "kernel_shape": list(op.kernel.data), "strides": list(op.strides.data), "pads": list(op.pads.data),
            "dilations": list(op.dilations.data), "group": op.group.value.data,
        }  # fmt: skip
        found = _run_node("QLinearConv", "", inputs | result | {"b": bias.astype(np.int32)}, attributes)
    else:
        rows = {"x": codes.reshape(-1, codes.shape[-1])}
        found = _run_node("QGemm", "com.microsoft", inputs | rows | {"b": bias.astype(np.int32)} | result, {})
        found = found.reshape(*codes.shape[:-1], -1)
    return found if y is None else np.clip(found, *op.clamp()).astype(y.dtype)


def _run_node(op_type: str, domain: str, inputs: Mapping[str, Array], attributes: Mapping[str, Any]) -> Array:
    """One node through onnxruntime; every input but the first is an initializer."""
    import onnxruntime
    from onnx import ValueInfoProto, helper, numpy_helper

    first, *rest = inputs
    x = inputs[first]
    graph = helper.make_graph(
        [helper.make_node(op_type, list(inputs), ["y"], domain=domain, **attributes)],
        "one_node",
        [helper.make_tensor_value_info(first, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.ascontiguousarray(inputs[name]), name) for name in rest],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    # Without VNNI the fast kernels saturate pairs of products to 16 bits.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {first: x})[0])


def _by_exact_sums(op: ProductOperation, codes: Array, store: WeightStore) -> Array:
    """Rules 3, 5 and 6 written out: sums of integers in float64, exact below 2^53."""
    import torch
    from torch.nn import functional

    x, y = quant_of(op.input), quant_of(op.result)
    assert x is not None
    weight, scale, zero, bias = _constants(op, store)
    shifted = codes.astype(np.float64) - x.zero_point
    axis = (-1,) + (1,) * (weight.ndim - 1) if isinstance(op, ConvOp) else (1, -1)
    centred = weight.astype(np.float64) - zero.reshape(axis)
    if isinstance(op, GemmOp):
        acc = shifted @ centred + bias
        return _result(acc, x, y, scale, op)
    assert isinstance(op, ConvOp)
    top, left, bottom, right = op.pads.data
    padded = np.pad(shifted, ((0, 0), (0, 0), (top, bottom), (left, right)))
    sums = functional.conv2d(
        torch.from_numpy(padded),
        torch.from_numpy(centred),
        torch.from_numpy(bias.astype(np.float64)),
        stride=op.strides.data,
        dilation=op.dilations.data,
        groups=op.group.value.data,
    )
    acc = np.moveaxis(sums.numpy(), 1, -1)
    return np.moveaxis(_result(acc, x, y, scale, op), -1, 1)


def _result(acc: Array, x: QuantType, y: QuantType | None, scale: Array, op: ProductOperation) -> Array:
    """``acc`` (..., N) by rule 5 or 6."""
    if y is None:
        return acc.astype(np.float32) * (x.scale * scale)
    steps = np.rint(acc.astype(np.float32) * ((x.scale * scale) / y.scale)).astype(np.float64)
    return np.clip(steps + y.zero_point, *op.clamp()).astype(y.dtype)
