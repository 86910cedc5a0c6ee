"""The six quantised forms of the digits CNN: lock step with onnxruntime, accuracy, and the stream on isaac."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

import cimc
from cimc.dialects.graph import (
    ConvOp,
    DequantizeOp,
    GemmOp,
    MaxPoolOp,
    ProductOperation,
    QuantizeOp,
    ReluOp,
    RequantizeOp,
    main_function,
)
from cimc.dialects.graph_types import quant_of
from cimc.interpreters.quantised import execute_quantised
from cimc.models.digits import digits_data
from cimc.passes.quantise.values import value_names
from tests.fewer_cores import with_fewer_cores
from tests.quantised_models.conftest import BATCH, Form, session
from tests.quantised_models.oracle import Oracle

Array = npt.NDArray[Any]

CHECKED = 5
"""Batches of 8 images looked at in lock step."""


def taps(form: Form, images: Array) -> tuple[dict[Any, str], dict[str, Array]]:
    """Names of level-2 values, and every tensor of level 2 on ``images``."""
    names = dict(value_names(form.module))
    run = execute_quantised(form.module, form.context.store, {"x": images}, taps=set(names.values()))
    return names, run.taps


def test_products_equal_onnxruntime_in_lock_step(form: Form) -> None:
    """Each Conv and Gemm, fed level 2's own input codes, gives the codes of QLinearConv, QGemm or, for
    16-bit activations, of ConvInteger and MatMulInteger (docs/numerics.md section 0 rules 3 to 5)."""
    oracle = Oracle(form.model, session)
    products = [op for op in form.module.walk() if isinstance(op, ConvOp | GemmOp)]
    assert len(products) == 4
    for batch in digits_data().test_images.reshape(-1, BATCH, 1, 8, 8)[:CHECKED]:
        names, found = taps(form, batch)
        for op in products:
            parts = oracle.parts(names[op.result])
            expected = oracle.run(parts, found[names[op.input]])
            assert expected.dtype == found[names[op.result]].dtype
            assert len(np.unique(expected)) > 20
            np.testing.assert_array_equal(found[names[op.result]], expected, err_msg=names[op.result])


def test_conversions_and_pools_equal_onnxruntime_in_lock_step(form: Form) -> None:
    """The input's codes are QuantizeLinear's, pooled codes are MaxPool's, the logits DequantizeLinear's."""
    names, found = taps(form, digits_data().test_images[:BATCH])
    first = next(n for n in form.model.graph.node if n.op_type == "QuantizeLinear")
    model = type(form.model)()
    model.CopyFrom(form.model)
    kind = quant_of(next(op for op in form.module.walk() if isinstance(op, QuantizeOp)).result)
    assert kind is not None
    element = helper.np_dtype_to_tensor_dtype(kind.dtype)
    model.graph.output.append(helper.make_tensor_value_info(first.output[0], element, None))
    _, codes = session(model, "ORT_DISABLE_ALL").run(None, {"x": digits_data().test_images[:BATCH]})
    np.testing.assert_array_equal(found[first.output[0]], codes)
    pools = [op for op in form.module.walk() if isinstance(op, MaxPoolOp)]
    assert len(pools) == 2
    for op in pools:
        given = found[names[op.input]]
        node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
        graph = helper.make_graph(
            [node],
            "pool",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, given.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        )
        one = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        (expected,) = session(one, "ORT_DISABLE_ALL").run(None, {"x": given.astype(np.float32)})
        np.testing.assert_array_equal(found[names[op.result]].astype(np.float32), expected)
    last = next(op for op in form.module.walk() if isinstance(op, DequantizeOp))
    assert names[last.result] == "logits"
    y = quant_of(last.input)
    assert y is not None
    real = (found[names[last.input]].astype(np.int32) - y.zero_point).astype(np.float32) * y.scale
    np.testing.assert_array_equal(found["logits"], real)


def test_accuracy_equals_onnxruntimes(form: Form) -> None:
    """On the 360 test images as many are right as in onnxruntime, and with 8-bit activations every logit is
    the same; 16-bit products are float32 in onnxruntime, and a logit may be one code away."""
    data = digits_data()
    theirs: list[Array] = []
    ours: list[Array] = []
    reference = form.session()
    for batch in data.test_images.reshape(-1, BATCH, 1, 8, 8):
        theirs.append(np.asarray(reference.run(None, {"x": batch})[0]))
        run = execute_quantised(form.module, form.context.store, {"x": batch})
        ours.append(run.outputs["logits"])
    expected, found = np.concatenate(theirs), np.concatenate(ours)
    right = [(logits.argmax(axis=1) == data.test_labels).sum() for logits in (expected, found)]
    assert right[0] == right[1] > 340
    last = next(op for op in form.module.walk() if isinstance(op, DequantizeOp))
    y = quant_of(last.input)
    assert y is not None
    steps = np.abs(expected - found) / y.scale
    assert steps.max() < (1.01 if y.bits == 16 else 1e-9)


def test_level_2_is_integer_throughout(form: Form) -> None:
    """One quantize at the input and one dequantize at the output; every operator between works on codes, with
    the integers and scales of the model. A Relu that went into a zero point does not come back."""
    body = [op for op in main_function(form.module).body.block.ops if op.name.startswith("graph.")]
    conversions = [op for op in body if isinstance(op, QuantizeOp | DequantizeOp | RequantizeOp)]
    assert [type(op) for op in conversions] == [QuantizeOp, DequantizeOp]
    assert body[0] is conversions[0]
    assert body[-1] is conversions[1]
    assert not [op for op in body if isinstance(op, ReluOp)]
    narrowed = [op for op in body if isinstance(op, ConvOp) and op.lo is not None]
    assert len(narrowed) == (3 if form.name == "qdq_symmetric_per_channel" else 0)


def test_integers_and_scales_are_the_files(form: Form) -> None:
    """Weights, their scales, and every edge's scale and zero point are those of the ONNX file."""
    oracle = Oracle(form.model, session)
    names = value_names(form.module)
    for op in form.module.walk():
        if not isinstance(op, ConvOp | GemmOp):
            continue
        parts = oracle.parts(names[op.result])
        codes, scale, zero = parts.weight
        y = quant_of(op.result)
        x = quant_of(op.input)
        assert y is not None
        assert x is not None
        assert (x.scale, x.zero_point) == (parts.x[0], parts.x[1])
        assert (y.scale, y.zero_point) == (parts.y[0], parts.y[1])
        assert op.weight_scale is not None
        np.testing.assert_array_equal(
            form.context.store.array(op.weight_scale.key.data), np.asarray(scale).reshape(-1)
        )
        stored = form.context.store.array(op.weight.key.data).astype(np.int64)
        if op.weight_zero is not None:
            along = (-1, 1, 1, 1) if isinstance(op, ConvOp) else (1, -1)
            stored = stored - form.context.store.array(op.weight_zero.key.data).reshape(along)
        along = (-1,) + (1,) * (codes.ndim - 1)
        expected = codes.astype(np.int64) - zero.astype(np.int64).reshape(along if zero.size > 1 else ())
        if isinstance(op, GemmOp) and {a.name: a.i for a in parts.node.attribute}.get("transB"):
            expected = expected.T
        np.testing.assert_array_equal(stored, expected)


def test_the_stream_on_isaac_equals_level_2(form: Form) -> None:
    """Compiled without calibration data and without a warning, every output integer of the instruction stream
    is level 2's, and the arrays do every multiply-accumulate."""
    images = digits_data().test_images[: 2 * BATCH]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        artifact = cimc.compile(form.path, with_fewer_cores("isaac"))
    run = artifact.run({"x": images})
    expected = np.concatenate(
        [
            execute_quantised(form.module, form.context.store, {"x": batch}).integer_outputs["logits"]
            for batch in images.reshape(-1, BATCH, 1, 8, 8)
        ]
    )
    np.testing.assert_array_equal(run.integer_outputs["logits"], expected)
    assert run.array_macs == run.total_macs == 2 * BATCH * 452_864


def test_weights_with_zero_points_take_one_more_bit(form: Form) -> None:
    """Only weights whose zero point is not the middle of their range keep one at level 2."""
    products = [op for op in form.module.walk() if isinstance(op, ProductOperation)]
    keep = [op for op in products if op.weight_zero is not None]
    assert len(keep) == (4 if form.name == "qdq_u8_u8_with_zero_points" else 0)
