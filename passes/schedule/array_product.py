"""One product with static weights on the arrays: weight matrix, coding, tile grid, constants of its tail."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import TensorType, i32, i64
from xdsl.ir import Block, Operation, OpResult, SSAValue

from cimc.diagnostics import UnsupportedError, UsageError
from cimc.dialects import graph, graph_types
from cimc.dialects.base import located
from cimc.dialects.cim import (
    Read,
    ReadCoreOp,
    ReadRowOp,
    ReadXbOp,
    RequantiseOp,
    Write,
    WriteCoreOp,
    WriteRowOp,
    WriteXbOp,
)
from cimc.dialects.cim_types import ArraysType, CodingAttr, Diagonal, WindowAttr
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import QuantType, quant_of, shape_of
from cimc.dialects.row_layout import RowLayout, frame_shape, row_layout, token_layout
from cimc.dialects.weights import WeightStore
from cimc.passes.schedule.sum_bounds import accumulator_bits, largest_sum
from cimc.runtime.crossbar.coding import Coding, constant_correction, converter_range
from cimc.runtime.numerics.digital import code_dtype

_META_OPERATORS: dict[str, tuple[type[Write], type[Read]]] = {
    "core": (WriteCoreOp, ReadCoreOp),
    "crossbar": (WriteXbOp, ReadXbOp),
    "wordline": (WriteRowOp, ReadRowOp),
}
"""Write and read of each computing mode."""


@dataclass(frozen=True)
class ArrayProduct:
    """What a stage needs of its array operator."""

    op: graph.ProductOperation
    source: SSAValue
    """The level-2 value the windows slide over (the image, when the product takes its flattening)."""
    layout: RowLayout
    window: WindowAttr
    matrix: str
    """Key of the integer weights (K, N), rows ordered (kernel row, kernel column, channel)."""
    diagonal: Diagonal | None
    """The blocks of a grouped convolution: K counts the channels of one, every column holds its own block's."""
    shape: tuple[int, int]
    coding: Coding
    grid: tuple[int, int]
    label: str
    constant: npt.NDArray[np.int64]
    """Bias, zero points and the encoding's constant, one integer per column (numerics 0.4)."""
    acc_bits: int


def coding_attr(coding: Coding) -> CodingAttr:
    """The attribute that carries a coding in the IR."""
    return CodingAttr(
        tuple((k, int(v) if isinstance(v, bool | int) else v) for k, v in asdict(coding).items())
    )


def coding_of(attr: CodingAttr) -> Coding:
    """The coding an attribute carries. Raises ``UsageError`` when it is not legal."""
    fields: dict[str, Any] = dict(attr.fields)
    if fields["column_flip"] not in (0, 1):
        raise UsageError(f"column_flip is 0 or 1, not {fields['column_flip']}", where="coding")
    fields["column_flip"] = bool(fields["column_flip"])
    return Coding(**fields)


def machine_coding(arch: Any, weight_bits: int, given: QuantType, max_abs_weight: int) -> Coding:
    """The coding of an operator with ``weight_bits`` weights and inputs of type ``given`` on a machine."""
    crossbar = arch.crossbar
    lo, hi, zero = converter_range(crossbar.adc_bits, crossbar.adc_signed)
    return Coding(
        weight_bits=weight_bits,
        weight_encoding=crossbar.weight_encoding,
        column_flip=crossbar.column_flip,
        cell_bits=crossbar.cell_bits,
        input_bits=given.bits,
        input_min=given.qmin,
        input_encoding=crossbar.input_encoding,
        dac_bits=crossbar.dac_bits,
        parallel_rows=crossbar.parallel_rows,
        subtract=crossbar.subtract,
        converter_lo=lo,
        converter_hi=hi,
        converter_zero=zero,
        max_abs_weight=max_abs_weight if crossbar.weight_encoding == "differential" else 0,
    )


def build_product(op: graph.ProductOperation, label: str, ctx: CimContext) -> ArrayProduct:
    """Choose window, weight matrix, coding and grid of ``op`` for the context's machine.

    Raises ``UnsupportedError`` for weights wider than a row of cells.
    """
    given = quant_of(op.input)
    assert given is not None
    weights, bits = stored_weights(op, ctx.store)
    coding = machine_coding(ctx.arch, bits, given, max(int(weights.max()), -int(weights.min())))
    assert ctx.arch is not None
    columns = ctx.arch.crossbar.weight_columns(coding.weight_bits)
    if columns < 1:
        raise UnsupportedError(
            located(
                op,
                f"a weight takes {coding.cells_per_weight} cells of a row, the crossbar has "
                f"{ctx.arch.crossbar.columns}; use fewer weight bits",
            )
        )
    diagonal = block_diagonal(op, ctx.arch.crossbar, columns)
    source, layout, window, matrix = _window(op, weights, diagonal)
    k, n = matrix.shape
    width = diagonal.columns if diagonal is not None else n
    bias = ctx.store.array(op.bias.key.data) if op.bias is not None else np.zeros(n, np.int64)
    key = ctx.store.put(ctx.store.fresh(f"{label}.matrix"), matrix)
    return ArrayProduct(
        op,
        source,
        layout,
        window,
        key,
        diagonal,
        (k, n),
        coding,
        (ceil(k / ctx.arch.crossbar.rows), n // width * ceil(width / columns)),
        label,
        constant_correction(matrix, coding, given.zero_point) + bias,
        accumulator_bits(largest_sum(matrix, coding, ctx.arch.crossbar.rows)),
    )


def stored_weights(op: graph.ProductOperation, store: WeightStore) -> tuple[npt.NDArray[Any], int]:
    """The integers ``qw - zw`` that the arrays store, in the layout of ``op``'s weight, and their width in bits.

    The width is that of the codes, or one bit more where a zero point moves them out of its signed range
    (docs/numerics.md section 0 rule 3). Raises ``UnsupportedError`` where that is beyond 16 bits.
    """
    assert op.weight_bits is not None
    weights, bits = store.array(op.weight.key.data), op.weight_bits.value.data
    if op.weight_zero is None:
        return weights, bits
    zero = store.array(op.weight_zero.key.data).astype(np.int64)
    axis = (-1,) + (1,) * (weights.ndim - 1) if isinstance(op, graph.ConvOp) else (1, -1)
    centred = weights.astype(np.int64) - zero.reshape(axis)
    half = 1 << (bits - 1)
    if centred.min() < -half or centred.max() >= half:
        bits += 1
    if bits > graph_types.MAX_BITS:
        raise UnsupportedError(
            located(
                op,
                f"weights minus their zero point reach {centred.min()} ... {centred.max()}, which "
                f"{graph_types.MAX_BITS} bits do not hold; quantise the weights symmetrically",
            )
        )
    return centred.astype(code_dtype(bits, signed=True)), bits


def block_diagonal(op: graph.ProductOperation, crossbar: Any, columns: int) -> Diagonal | None:
    """How the groups of a convolution share crossbars of ``columns`` weights a row; ``None`` without groups.

    As many groups a block as a crossbar holds; twice as many on two, one above the other, where the columns suffice and
    have a converter each. That takes as many crossbars and as much time, but half as many contexts send and take parts
    of rows that are twice as large. Both crossbars convert every column, so that a group's conversions double.
    """
    if not isinstance(op, graph.ConvOp) or op.group.value.data == 1:
        return None
    groups = op.group.value.data
    n, channels, *kernel = op.weight_shape()
    depth, width = channels * prod(kernel), n // groups
    packed = groups_per_block(groups, depth, width, crossbar.rows, columns)
    twice = 2 * packed
    fits = packed * depth <= crossbar.rows and twice * width <= columns and groups % twice == 0
    if fits and crossbar.adcs >= crossbar.columns:
        packed = twice
    return Diagonal(packed * channels, packed * width, packed)


def groups_per_block(groups: int, depth: int, width: int, rows: int, columns: int) -> int:
    """How many groups of ``depth`` x ``width`` weights share a crossbar of ``rows`` x ``columns`` weights.

    The largest divisor of the number of groups whose inputs and outputs fit; one group a block where not even
    one fits, which is then tiled as any other matrix.
    """
    fitting = min(rows // depth, columns // width)
    return max((d for d in range(1, fitting + 1) if groups % d == 0), default=1)


def _expanded(weights: npt.NDArray[Any], diagonal: Diagonal) -> npt.NDArray[Any]:
    """Weights (M, C/g, kH, kW) with zeros for the channels of the other groups of their block."""
    n, channels, *kernel = weights.shape
    full = np.zeros((n, diagonal.groups, channels, *kernel), weights.dtype)
    group = np.arange(n) // (diagonal.columns // diagonal.groups) % diagonal.groups
    full[np.arange(n), group] = weights
    return full.reshape(n, diagonal.channels, *kernel)


def _window(
    op: graph.ProductOperation, weights: npt.NDArray[Any], diagonal: Diagonal | None
) -> tuple[SSAValue, RowLayout, WindowAttr, npt.NDArray[Any]]:
    """Source, its layout, window and the (K, N) matrix with rows (kernel row, kernel column, channel)."""
    if isinstance(op, graph.ConvOp):
        if shape_of(op.input)[0] != 1:
            raise UnsupportedError(
                located(op, f"a convolution works on frames, but the batch is {shape_of(op.input)[0]}")
            )
        window = WindowAttr.of(op.kernel.data, op.strides.data, op.pads.data, op.dilations.data)
        full = weights if diagonal is None else _expanded(weights, diagonal)
        matrix = full.transpose(2, 3, 1, 0).reshape(-1, len(full))
        return op.input, row_layout(frame_shape(shape_of(op.input))), window, matrix
    image = flattened_image(op) if isinstance(op, graph.GemmOp) else None
    if image is not None:
        _, channels, height, width = shape_of(image)
        window = WindowAttr.of((height, width))
        matrix = weights.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)
        return (
            image,
            row_layout((channels, height, width)),
            window,
            matrix.reshape(prod(weights.shape[:1]), -1),
        )
    layout = token_layout(frame_shape(shape_of(op.input)))
    return op.input, layout, WindowAttr.of((1, 1)), weights


def flattened_image(op: graph.GemmOp) -> SSAValue | None:
    """The image (1, C, H, W) whose flattening ``op`` multiplies, if that is what it does."""
    if not isinstance(op.input, OpResult) or not isinstance(op.input.op, graph.ReshapeOp):
        return None
    image = op.input.op.input
    if len(shape_of(image)) != 4 or shape_of(image)[0] != 1 or quant_of(image) is None:
        return None
    flat = shape_of(op.input)
    return image if len(flat) == 2 and flat[0] == 1 else None


def add_product(
    block: Block, product: ArrayProduct, source: SSAValue, result: TensorType[Any], ctx: CimContext
) -> SSAValue:
    """Append write, read and requantisation of ``product`` to a stage's body; returns the result's rows."""
    op = product.op
    assert ctx.arch is not None
    write_type, read_type = _META_OPERATORS[ctx.arch.mode]
    write = write_type(
        product.matrix, product.grid, coding_attr(product.coding), ArraysType.of(*product.shape)
    )
    acc = TensorType(i32 if product.acc_bits == 32 else i64, result.get_shape())
    read = read_type(write.arrays, source, product.window, acc, diagonal=product.diagonal)
    constant = ctx.store.put(ctx.store.fresh(f"{product.label}.constant"), product.constant)
    multiplier = ctx.store.put(ctx.store.fresh(f"{product.label}.multiplier"), product_multiplier(op, ctx))
    clamp = op.clamp() if quant_of(op.result) is not None else None
    requantise = RequantiseOp(read.acc, constant, multiplier, clamp, result)
    steps: tuple[Operation, ...] = (write, read, requantise)
    for step in steps:
        step.location = op.location
    block.add_ops(steps)
    return requantise.result


def product_multiplier(op: graph.ProductOperation, ctx: CimContext) -> npt.NDArray[np.float32]:
    """float32 [N]: ``(sx*sw)/sy`` of rule 5, or ``sx*sw`` of rule 6; two float32 operations in this order."""
    given = quant_of(op.input)
    assert given is not None
    assert op.weight_scale is not None
    n = shape_of(op.result)[1] if isinstance(op, graph.ConvOp) else shape_of(op.result)[-1]
    scale = np.broadcast_to(ctx.store.array(op.weight_scale.key.data).astype(np.float32), (n,))
    product = given.scale * scale
    result = quant_of(op.result)
    return np.ascontiguousarray(product / result.scale if result is not None else product)
