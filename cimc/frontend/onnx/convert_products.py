"""Gemm, MatMul by a constant; per-channel factors and terms that fold into them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.ir import SSAValue

from cimc.dialects.graph import AffineOp, ConvOp, GemmOp
from cimc.dialects.graph_types import shape_of
from cimc.frontend.onnx.builder import Builder, float_type
from cimc.frontend.onnx.convert_moves import rearrange
from cimc.frontend.onnx.node import Node, ToHost
from cimc.frontend.onnx.product_weights import as_matrix, codes_of, store_product, swapped, times
from cimc.frontend.onnx.stored_codes import StoredCodes


def gemm(build: Builder, node: Node) -> None:
    """``Gemm``: ``alpha * A @ B' + beta * C`` with constant B and C; alpha and beta go into the weights."""
    x = build.image_or_vector(node.input(0))
    if node.integer("transA", 0):
        x = rearrange(build, node, x, np.transpose, f"{node.output}/left_transposed")
    weight = build.float_constant(node.input(1), "weight")
    if weight.ndim != 2:
        raise ToHost(f"its weight of shape {weight.shape} is not a matrix")
    weight_codes, bias_codes = codes_of(build, node.input(1)), codes_of(build, node.input(2))
    if node.integer("transB", 0):
        weight, weight_codes = weight.T, swapped(weight_codes)
    alpha, beta = np.float32(node.number("alpha", 1.0)), np.float32(node.number("beta", 1.0))
    bias = None
    if node.input(2) and beta != 0:
        bias = _row_vector(build.float_constant(node.input(2), "bias"), weight.shape[1])
        bias, bias_codes = (bias, bias_codes) if beta == 1 else (bias * beta, None)
    if alpha != 1:
        weight, weight_codes = weight * alpha, times(weight_codes, alpha)
    add_gemm(build, node, x, weight, bias, weight_codes=weight_codes, bias_codes=bias_codes)


def matmul(build: Builder, node: Node) -> None:
    """``MatMul`` of any number of leading axes by a constant matrix."""
    x = build.image_or_vector(node.input(0), "left operand")
    weight = build.float_constant(node.input(1), "right operand")
    if weight.ndim < 2 or weight.size != weight.shape[-2] * weight.shape[-1]:
        raise ToHost(f"its right operand of shape {weight.shape} is not one matrix")
    if weight.ndim > max(len(shape_of(x)), 2) or len(shape_of(x)) < 2:
        raise ToHost(f"operands of shapes {shape_of(x)} and {weight.shape} change the rank")
    matrix = weight.reshape(weight.shape[-2:])
    codes = as_matrix(codes_of(build, node.input(1)), matrix.shape)
    add_gemm(build, node, x, matrix, None, weight_codes=codes)


def add_gemm(
    build: Builder,
    node: Node,
    x: Any,
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    *,
    weight_codes: StoredCodes | None = None,
    bias_codes: StoredCodes | None = None,
    output: str = "",
) -> SSAValue:
    """Append ``graph.gemm`` of ``x`` (..., K) and ``weight`` (K, N); its result is called ``output``, or as the node's.

    Raises :class:`ToHost` where the operands do not match.
    """
    name, given = output or node.output, shape_of(x)
    if weight.ndim != 2 or given[-1] != weight.shape[0]:
        raise ToHost(f"operands of shapes {given} and {weight.shape} do not match")
    stored = store_product(build, node, weight, bias, 1, weight_codes=weight_codes, bias_codes=bias_codes)
    op = GemmOp(
        x,
        float_type((*given[:-1], weight.shape[1])),
        weight=stored.weight,
        bias=stored.bias,
        tensors=[name],
        codes=stored.codes,
    )
    build.add(op, node, name)
    return op.result


def _row_vector(array: npt.NDArray[np.float32], columns: int) -> npt.NDArray[np.float32]:
    if array.ndim > 2 or (array.ndim == 2 and array.shape[0] != 1) or array.size not in (1, columns):
        raise ToHost(f"its bias of shape {array.shape} differs from row to row")
    return np.broadcast_to(array.reshape(-1), (columns,))


def batch_norm(build: Builder, node: Node) -> None:
    """``BatchNormalization`` with stored statistics: scale and shift per channel, in float64."""
    x = build.image_or_vector(node.input(0))
    if len(shape_of(x)) < 2:
        raise ToHost("its input has no channel axis")
    if node.integer("training_mode", 0) or any(node.output_used(i) for i in range(1, 5)):
        raise ToHost("it is in training mode: statistics of the batch")
    parts = [
        build.float_constant(node.input(i), what)
        for i, what in enumerate(("scale", "bias", "mean", "variance"), 1)
    ]
    if any(part.shape != (shape_of(x)[1],) for part in parts):
        raise ToHost(f"parameters of shapes {[part.shape for part in parts]} for {shape_of(x)[1]} channels")
    gamma, beta, mean, variance = (part.astype(np.float64) for part in parts)
    spread = np.sqrt(variance + node.number("epsilon", 1e-5))
    if not np.all(spread > 0):
        raise ToHost("its variance is negative")
    scale = gamma / spread
    _add_affine(build, node, x, scale, beta - mean * scale, axis=1)


def channel_constant(build: Builder, node: Node) -> None:
    """Add, Sub, Mul or Div of a value and a constant that differs along the channels only.

    Raises :class:`ToHost` for every other broadcast.
    """
    left, right = node.input(0), node.input(1)
    constant_first = left in build.constants
    name, other = (right, left) if constant_first else (left, right)
    x = build.image_or_vector(name)
    constant = build.any_float_constant(other, "other operand")
    if not isinstance(x.owner, ConvOp | GemmOp | AffineOp):
        raise ToHost("a constant operand, and no product before it to fold it into")
    if not np.all(np.isfinite(constant)):
        raise ToHost("its constant masks with infinities")
    shape = shape_of(x)
    axis = _channel_axis(x.owner, len(shape))
    values = _along(constant, shape, axis).astype(np.float64)
    one, zero = np.ones_like(values), np.zeros_like(values)
    match node.op_type:
        case "Add":
            scale, shift = one, values
        case "Mul":
            scale, shift = values, zero
        case "Sub":
            scale, shift = (-one, values) if constant_first else (one, -values)
        case _ if constant_first or not np.all(values):
            raise ToHost("a division by a value of run time, or by zero")
        case _:
            scale, shift = 1.0 / values, zero
    _add_affine(build, node, x, scale, shift, axis)


def _channel_axis(owner: ConvOp | GemmOp | AffineOp, rank: int) -> int:
    match owner:
        case ConvOp():
            return 1
        case AffineOp():
            return owner.axis.value.data
        case _:
            return rank - 1


def _along(constant: npt.NDArray[Any], shape: tuple[int, ...], axis: int) -> npt.NDArray[Any]:
    """``constant`` as a vector along ``axis``. Raises :class:`ToHost` when it varies along another."""
    padded = (1,) * (len(shape) - constant.ndim) + constant.shape
    if len(padded) != len(shape) or any(d != 1 for i, d in enumerate(padded) if i != axis):
        raise ToHost(f"its constant of shape {constant.shape} varies along more than the channels of {shape}")
    if padded[axis] not in (1, shape[axis]):
        raise ToHost(f"its constant of shape {constant.shape} does not match {shape}")
    return np.broadcast_to(constant.reshape(-1), (shape[axis],))


def _add_affine(
    build: Builder, node: Node, x: Any, scale: npt.NDArray[Any], shift: npt.NDArray[Any], axis: int
) -> None:
    if scale.shape != (shape_of(x)[axis],):
        raise ToHost(f"{scale.size} factors for {shape_of(x)[axis]} channels")
    op = AffineOp(
        x,
        scale=build.put(f"{node.name}.scale", scale),
        shift=build.put(f"{node.name}.shift", shift),
        axis=axis,
        op_type=node.op_type,
        tensors=[node.output],
    )
    build.add(op, node, node.output)
