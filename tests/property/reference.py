"""The definition, slow and obvious: level 2 operator by operator, array products by docs/crossbar.md, steps 1 to 8.

Knows neither stages, rows, copies nor programs: windows are cut from ONNX tensors by index, tiles from the weight
matrix by ``crossbar.rows``, and every tile goes through ``read_reference``. Converter steps are the compiler's
choice and are given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, OpResult, SSAValue

from cimc.backends.schema import Architecture
from cimc.dialects import graph
from cimc.dialects.graph import INPUTS, OUTPUTS, main_function, main_names
from cimc.dialects.graph_types import QuantType, quant_of, shape_of
from cimc.dialects.locations import short_name
from cimc.dialects.weights import WeightStore
from cimc.interpreters.host import HostRunner
from cimc.runtime.crossbar.cells import store as store_cells
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.reference import read_reference
from tests.property import definitions

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Steps:
    """What calibration chose for one product: h per conversion and F (docs/crossbar.md, step 6)."""

    h: Array
    frac_bits: int


def run_reference(
    module: ModuleOp,
    weights: WeightStore,
    arch: Architecture,
    steps: Mapping[tuple[str, int], Steps],
    inputs: Mapping[str, Array],
) -> dict[str, tuple[Array, Array]]:
    """Outputs of a level-2 module on one frame, by name: as float32, and as codes where level 2 has them.

    ``steps``: of the products whose converter can lose, by node name and number among that node's products; the
    others are read with step 1.
    """
    main = main_function(module)
    values: dict[SSAValue, Array] = {
        argument: inputs[name] for argument, name in zip(main.args, main_names(module, INPUTS), strict=True)
    }
    walker = _Walker(weights, arch, steps, values, HostRunner(weights))
    for op in main.body.block.ops:
        if isinstance(op, ReturnOp):
            return {
                name: (values[value], values[_before_dequantize(value)])
                for name, value in zip(main_names(module, OUTPUTS), op.operands, strict=True)
            }
        values.update(zip(op.results, walker.results(op), strict=True))
    raise AssertionError("@main does not return")


def _before_dequantize(value: SSAValue) -> SSAValue:
    last = value.owner
    return last.input if isinstance(last, graph.DequantizeOp) else value


def _quant(value: SSAValue) -> QuantType:
    found = quant_of(value)
    assert found is not None
    return found


def _coded(value: Array, y: QuantType, clamp: tuple[int, int]) -> Array:
    """Rule 1 after its division: round, add the zero point, clamp."""
    return np.clip(np.rint(value).astype(np.float64) + y.zero_point, *clamp).astype(y.dtype)


def _real(codes: Array, x: QuantType) -> Array:
    return (codes.astype(np.int64) - x.zero_point).astype(np.float32) * x.scale


@dataclass(frozen=True)
class _Walker:
    weights: WeightStore
    arch: Architecture
    steps: Mapping[tuple[str, int], Steps]
    values: dict[SSAValue, Array]
    host: HostRunner
    products: Counter[str] = field(default_factory=Counter[str])
    """Products so far, by node name."""

    def results(self, op: Operation) -> list[Array]:
        """The results of one operation."""
        given = [self.values[v] for v in op.operands]
        if isinstance(op, graph.HostOp):
            return self.host.run(op, given)
        return [self._result(op, given)]

    def _result(self, op: Operation, given: list[Array]) -> Array:
        x = given[0]
        match op:
            case graph.ConvOp():
                return np.moveaxis(self._product(op, self._conv_blocks(op, x)), -1, 1)
            case graph.GemmOp():
                return self._product(op, [_gemm_operands(op, x, self.weights)])
            case graph.QuantizeOp():
                y = _quant(op.result)
                return _coded(x / y.scale, y, op.clamp())
            case graph.DequantizeOp():
                return _real(x, _quant(op.input))
            case graph.RequantizeOp():
                y = _quant(op.result)
                return _coded(_real(x, _quant(op.input)) / y.scale, y, op.clamp())
            case graph.AddOp() if quant_of(op.result) is None:
                return given[0] + given[1]
            case graph.AddOp():
                y = _quant(op.result)
                total = _real(given[0], _quant(op.lhs)) + _real(given[1], _quant(op.rhs))
                return _coded(total / y.scale, y, op.clamp())
            case graph.ReluOp() | graph.ClipOp():
                return _clipped(op, x)
            case graph.MaxPoolOp() | graph.AveragePoolOp():
                return _pooled(op, x)
            case graph.GlobalAveragePoolOp() if quant_of(op.result) is None:
                pixels = [x[:, :, i : i + 1, j : j + 1] for i, j in np.ndindex(*x.shape[2:])]
                return definitions.mean(pixels, len(pixels))
            case graph.GlobalAveragePoolOp():
                cells = x.shape[2] * x.shape[3]
                total = (
                    x.astype(np.int64).sum(axis=(2, 3), keepdims=True) - cells * _quant(op.input).zero_point
                )
                return _mean(total, cells, op)
            case graph.ConcatOp():
                return np.concatenate(given, axis=op.axis.value.data)
            case graph.ReshapeOp():
                return x.reshape(shape_of(op.result))
            case graph.SoftmaxOp():
                return definitions.softmax(x, op.axis.value.data)
            case graph.UnaryOp():
                return definitions.of_one(op.function.data, x)
            case graph.BinaryOp():
                return definitions.of_two(op.function.data, *given)
            case graph.BinaryConstantOp():
                pair = (x, self.weights.array(op.constant.key.data))
                return definitions.of_two(op.function.data, *(pair if op.swapped is None else pair[::-1]))
            case graph.NormOp() if op.constant is not None:
                scale, shift = self.weights.array(op.constant.key.data)
                return definitions.layer_norm(x, scale, shift, op.values[0])
            case graph.MatmulOp():
                return definitions.product(*given)
            case graph.IndexMapOp():
                held = [] if op.constant is None else [self.weights.array(op.constant.key.data)]
                elements = np.concatenate([part.reshape(-1) for part in (*given, *held)])
                return elements[self.weights.array(op.index.key.data)].reshape(shape_of(op.result))
            case _:
                raise AssertionError(f"no definition of {op.name}")

    def _product(self, op: graph.ProductOperation, blocks: Sequence[tuple[Array, Array]]) -> Array:
        """Steps 1 to 8 for windows (..., K) and weights (K, N) of every block of outputs; then rule 5 or 6."""
        x = _quant(op.input)
        assert op.weight_scale is not None
        name = short_name(op.location)
        steps = self.steps.get((name, self.products[name]), Steps(np.ones(1, np.int64), 0))
        self.products[name] += 1
        most = max(int(np.abs(matrix).max()) for _, matrix in blocks)
        coding = self._coding(op, x, most, steps.frac_bits)
        # A read is sum_k value * w; what is missing to sum_k (qx - zx) * w is the same for every window.
        parts = [
            self._read(windows, matrix, coding, steps.h)
            + ((coding.input_offset - x.zero_point) * matrix.sum(axis=0) << steps.frac_bits)
            for windows, matrix in blocks
        ]
        found = np.concatenate(parts, axis=-1)
        if op.bias is not None:
            found = found + (self.weights.array(op.bias.key.data).astype(np.int64) << steps.frac_bits)
        total = found.astype(np.float32)
        scale = x.scale * self.weights.array(op.weight_scale.key.data)
        y = quant_of(op.result)
        unit = np.float32(2.0**-steps.frac_bits)
        if y is None:
            return total * (scale * unit)
        return _coded(total * (scale / y.scale * unit), y, op.clamp())

    def _read(self, windows: Array, matrix: Array, coding: Coding, h: Array) -> Array:
        """Steps 1 to 7, tile by tile of rows."""
        rows, found = self.arch.crossbar.rows, np.zeros((*windows.shape[:-1], matrix.shape[1]), np.int64)
        for first in range(0, len(matrix), rows):
            tile = matrix[first : first + rows]
            edges = np.array([*range(0, len(tile), coding.parallel_rows), len(tile)], np.int64)
            cells, flips = store_cells(tile, coding, edges)
            codes = windows[..., first : first + rows].reshape(-1, len(tile))
            found += read_reference(codes, cells, flips, coding, edges, h).reshape(found.shape)
        return found

    def _conv_blocks(self, op: graph.ConvOp, x: Array) -> list[tuple[Array, Array]]:
        """Windows and matrix of every block of groups: as many whole groups as one crossbar holds, at least one."""
        weights, groups, crossbar = _centred(op, self.weights), op.group.value.data, self.arch.crossbar
        wide, deep = len(weights) // groups, weights[0].size
        columns = crossbar.weight_columns(_weight_bits(op, weights))
        fitting = min(crossbar.rows // deep, columns // wide)
        packed = max([d for d in range(1, fitting + 1) if groups % d == 0], default=1)
        if groups == 1:
            packed = 1
        channels = weights.shape[1]
        found: list[tuple[Array, Array]] = []
        for first in range(0, groups, packed):
            block = np.zeros((packed * wide, packed * channels, *weights.shape[2:]), np.int64)
            for g in range(packed):
                own = weights[(first + g) * wide : (first + g + 1) * wide]
                block[g * wide : (g + 1) * wide, g * channels : (g + 1) * channels] = own
            images = x[:, first * channels : (first + packed) * channels]
            found.append(_conv_operands(op, images, block))
        return found

    def _coding(self, op: graph.ProductOperation, x: QuantType, most: int, frac_bits: int) -> Coding:
        """The machine's digits, from its description; ``most``: the largest magnitude of a weight."""
        c = self.arch.crossbar
        half = 1 << (c.adc_bits - 1)
        return Coding(
            weight_bits=_weight_bits(op, _centred(op, self.weights)),
            weight_encoding=c.weight_encoding,
            column_flip=c.column_flip,
            cell_bits=c.cell_bits,
            input_bits=x.bits,
            input_min=x.qmin,
            input_encoding=c.input_encoding,
            dac_bits=c.dac_bits,
            parallel_rows=c.parallel_rows,
            subtract=c.subtract,
            converter_lo=-half if c.adc_signed else 0,
            converter_hi=half - 1 if c.adc_signed else 2 * half - 1,
            frac_bits=frac_bits,
            max_abs_weight=most if c.weight_encoding == "differential" else 0,
        )


def _centred(op: graph.ProductOperation, weights: WeightStore) -> Array:
    """Weights less their zero points, which run along the output channels."""
    codes = weights.array(op.weight.key.data).astype(np.int64)
    if op.weight_zero is None:
        return codes
    zero = weights.array(op.weight_zero.key.data).astype(np.int64)
    return codes - (zero.reshape(-1, 1, 1, 1) if isinstance(op, graph.ConvOp) else zero)


def _weight_bits(op: graph.ProductOperation, centred: Array) -> int:
    """Bits that hold the weights: one more than the codes' where a zero point moves them out of range (rule 3)."""
    assert op.weight_bits is not None
    bits = op.weight_bits.value.data
    fits = -(1 << (bits - 1)) <= centred.min() and centred.max() < 1 << (bits - 1)
    return bits if fits or op.weight_zero is None else bits + 1


def _conv_operands(op: graph.ConvOp, x: Array, w: Array) -> tuple[Array, Array]:
    """Windows (N, OH, OW, kH*kW*C) and matrix (kH*kW*C, M), both by kernel row, kernel column, channel."""
    (kh, kw), (sh, sw), (dh, dw) = op.kernel.data, op.strides.data, op.dilations.data
    _, _, high, wide = shape_of(op.result)
    top, left, bottom, right = op.pads.data
    zero = _quant(op.input).zero_point
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=zero)
    windows = np.empty((len(x), high, wide, kh, kw, x.shape[1]), x.dtype)
    for r, c, i, j in np.ndindex(high, wide, kh, kw):
        windows[:, r, c, i, j] = padded[:, :, r * sh + i * dh, c * sw + j * dw]
    matrix = np.stack([w[:, :, i, j].T for i in range(kh) for j in range(kw)])
    return windows.reshape(len(x), high, wide, -1), matrix.reshape(-1, len(w))


def _gemm_operands(op: graph.GemmOp, x: Array, weights: WeightStore) -> tuple[Array, Array]:
    """Vectors and matrix as they are; the rows of a flattened image are ordered row, column, channel."""
    matrix = _centred(op, weights)
    maker = op.input.op if isinstance(op.input, OpResult) else None
    if not isinstance(maker, graph.ReshapeOp) or len(shape_of(maker.input)) != 4 or x.ndim != 2:
        return x, matrix
    _, channels, high, wide = shape_of(maker.input)
    order = np.arange(x.shape[1]).reshape(channels, high, wide).transpose(1, 2, 0).reshape(-1)
    return x[:, order], matrix[order]


def _clipped(op: graph.ReluOp | graph.ClipOp, x: Array) -> Array:
    """Rule 8: bounds become codes by rule 1; on reals the library's Clip."""
    low, high = (0.0, None) if isinstance(op, graph.ReluOp) else op.bounds()
    codes = quant_of(op.results[0])
    if codes is None:
        return definitions.clipped(x, low, high)
    whole = (codes.qmin, codes.qmax)
    ends = [-np.inf if low is None else low, np.inf if high is None else high]
    least, most = (_coded(np.array(e, np.float32) / codes.scale, codes, whole) for e in ends)
    return np.minimum(np.maximum(x, least), most)


def _pooled(op: graph.MaxPoolOp | graph.AveragePoolOp, x: Array) -> Array:
    """Rules 8, 9 and 11, one output position after another."""
    (kh, kw), (sh, sw), (dh, dw) = op.kernel.data, op.strides.data, op.dilations.data
    top, left, _, _ = op.pads.data
    given = quant_of(op.input)
    frames, channels, high, wide = shape_of(op.result)
    found = np.empty((frames, channels, high, wide), np.float32 if given is None else np.int64)
    count = np.empty((high, wide), np.int64)
    for r, c in np.ndindex(high, wide):
        rows = [r * sh - top + i * dh for i in range(kh)]
        columns = [c * sw - left + j * dw for j in range(kw)]
        inside = [(i, j) for i in rows for j in columns if 0 <= i < x.shape[2] and 0 <= j < x.shape[3]]
        padded = isinstance(op, graph.AveragePoolOp) and op.counts_padding
        count[r, c] = kh * kw if padded else len(inside)
        if isinstance(op, graph.MaxPoolOp):
            cells = np.stack([x[:, :, i, j] for i, j in inside])
            found[:, :, r, c] = definitions.greatest(cells) if given is None else cells.max(axis=0)
        elif given is None:
            # Cells of the padding are zeros with a place in the tree.
            taps = [
                x[:, :, i, j] if (i, j) in inside else np.zeros_like(x[:, :, 0, 0])
                for i in rows
                for j in columns
            ]
            found[:, :, r, c] = definitions.mean(taps, int(count[r, c]))
        else:
            cells = np.stack([x[:, :, i, j].astype(np.int64) for i, j in inside])
            found[:, :, r, c] = (cells - given.zero_point).sum(axis=0)
    if given is None:
        return found
    if isinstance(op, graph.MaxPoolOp):
        return np.clip(found, *op.clamp()).astype(x.dtype)
    return _mean(found, count, op)


def _mean(total: Array, cells: Array | int, op: graph.AveragePoolOp | graph.GlobalAveragePoolOp) -> Array:
    """Rule 9."""
    y = _quant(op.result)
    mean = total.astype(np.float32) / np.asarray(cells).astype(np.float32)
    return _coded(mean * _quant(op.input).scale / y.scale, y, op.clamp())
