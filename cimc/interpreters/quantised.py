"""The level-2 interpreter: what a quantised program means, computed without tiles, digits or cells.

It is the reference the lowered levels are compared with, so it shares nothing with them but the
digital unit's library (docs/numerics.md section 0 rule 12). Products are whole integer sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from cimc.diagnostics import UnsupportedError, UsageError
from cimc.dialects.base import located
from cimc.dialects.graph import (
    INPUTS,
    OUTPUTS,
    AddOp,
    AveragePoolOp,
    ClipOp,
    ConcatOp,
    ConvOp,
    DequantizeOp,
    GemmOp,
    GlobalAveragePoolOp,
    HostOp,
    MatmulOp,
    MaxPoolOp,
    QuantizeOp,
    QuantType,
    ReluOp,
    RequantizeOp,
    ReshapeOp,
    SoftmaxOp,
    StorageCastOp,
    main_function,
    main_names,
    tensor_names,
)
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.locations import describe
from cimc.dialects.weights import WeightStore
from cimc.interpreters.graph import check_inputs
from cimc.interpreters.host import HostRunner
from cimc.interpreters.integer_products import (
    accumulate_conv,
    accumulate_frames,
    accumulate_gemm,
    product_weights,
)
from cimc.interpreters.real_operators import REAL_OPERATORS, Kernel
from cimc.runtime.numerics import digital

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class QuantisedRun:
    """What one run of a level-2 program gave, all by ONNX tensor name and in ONNX layout."""

    outputs: dict[str, Array]
    """Real values of the graph's outputs."""
    integer_outputs: dict[str, Array]
    """Codes of those outputs that are dequantised at the very end."""
    taps: dict[str, Array]
    """The tensors asked for: codes where the tensor is held as codes."""


def run_quantised(
    module: ModuleOp,
    store: WeightStore,
    inputs: Mapping[str, Array],
    *,
    taps: Iterable[str] = (),
    host: HostRunner | None = None,
) -> dict[str, Array]:
    """Outputs and taps of a level-2 program by tensor name; a tap of an output gives its codes.

    ``inputs``: arrays by ONNX name, in the shape the program declares. Raises as :func:`execute_quantised`.
    """
    run = execute_quantised(module, store, inputs, taps=taps, host=host)
    return {**run.outputs, **run.taps}


def execute_quantised(
    module: ModuleOp,
    store: WeightStore,
    inputs: Mapping[str, Array],
    *,
    taps: Iterable[str] = (),
    host: HostRunner | None = None,
) -> QuantisedRun:
    """Run a level-2 program. ``inputs``: arrays by ONNX name, in the shape and element type the program
    declares; ``host`` keeps its sessions between runs.

    Raises UsageError for inputs or taps that are missing, unknown or of another shape, UnsupportedError
    with a location for values that are not numbers and operations without a meaning at level 2.
    """
    check_inputs(module, inputs)
    main = main_function(module)
    frame = _Frame(store, host or HostRunner(store))
    for argument, name in zip(main.args, main_names(module, INPUTS), strict=True):
        frame.define(argument, name, np.asarray(inputs[name]))
    for op in main.body.block.ops:
        if isinstance(op, ReturnOp):
            return _result(module, op, frame, tuple(taps))
        evaluate = _EVALUATE.get(type(op))
        if evaluate is None:
            raise UnsupportedError(located(op, "has no meaning at level 2"))
        results = evaluate(op, frame)
        for value, name, array in zip(op.results, tensor_names(op), results, strict=True):
            frame.define(value, name, array)
    raise UnsupportedError("@main does not end in func.return")


@dataclass
class _Frame:
    """Values computed so far, by SSA value and by tensor name."""

    store: WeightStore
    host: HostRunner
    values: dict[SSAValue, Array] = field(default_factory=dict[SSAValue, Array])
    named: dict[str, SSAValue] = field(default_factory=dict[str, SSAValue])

    def define(self, value: SSAValue, name: str, array: Array) -> None:
        """Record ``array``; under its name codes win over the real values they stand for."""
        self.values[value] = array
        if name not in self.named or (quant_of(self.named[name]) is None and quant_of(value) is not None):
            self.named[name] = value

    def __getitem__(self, value: SSAValue) -> Array:
        return self.values[value]

    def array(self, key: str) -> Array:
        return self.store.array(key)


def _result(module: ModuleOp, op: ReturnOp, frame: _Frame, taps: tuple[str, ...]) -> QuantisedRun:
    names = main_names(module, OUTPUTS)
    outputs = {name: frame[value] for name, value in zip(names, op.operands, strict=True)}
    codes = {
        name: frame[value.owner.input]
        for name, value in zip(names, op.operands, strict=True)
        if isinstance(value.owner, DequantizeOp)
    }
    if unknown := [tap for tap in taps if tap not in frame.named]:
        raise UsageError(
            f"no tensor {unknown[0]!r} at level 2 (fused into another, or misspelt); "
            f"there are {len(frame.named)}, among them {', '.join(list(frame.named)[:5])}"
        )
    return QuantisedRun(outputs, codes, {tap: frame[frame.named[tap]] for tap in taps})


def _quant(value: SSAValue) -> QuantType:
    codes = quant_of(value)
    assert codes is not None, f"{value} holds no codes"
    return codes


def _where(op: Operation) -> str:
    return describe(op.location) or op.name


def _product(op: ConvOp | GemmOp, frame: _Frame) -> list[Array]:
    x = _quant(op.input)
    assert op.weight_scale is not None
    weights = product_weights(op, frame.store)
    codes = frame[op.input].astype(np.int32) - np.int32(x.zero_point)
    reach = max(x.qmax - x.zero_point, x.zero_point - x.qmin)
    acc = (
        accumulate_conv(op, codes, weights, reach)
        if isinstance(op, ConvOp)
        else accumulate_gemm(codes, weights, reach)
    )
    scale = frame.array(op.weight_scale.key.data)
    y = quant_of(op.result)
    if y is None:
        result = digital.acc_to_float(acc, digital.product_scale(x.scale, scale))
    else:
        m = digital.requantise_multiplier(x.scale, scale, y.scale)
        result = digital.requantise_acc(acc, m, y.zero_point, *op.clamp(), dtype=y.dtype)
    if isinstance(op, ConvOp):  # (N, OH, OW, M) to ONNX layout
        result = np.ascontiguousarray(np.moveaxis(result, -1, 1))
    return [result]


def _quantize(op: QuantizeOp, frame: _Frame) -> list[Array]:
    y = _quant(op.result)
    x = frame[op.input]
    tensor = f"{_where(op)}, tensor {tensor_names(op)[0]!r}"
    return [digital.quantise(x, y.scale, y.zero_point, *op.clamp(), dtype=y.dtype, tensor=tensor)]


def _dequantize(op: DequantizeOp, frame: _Frame) -> list[Array]:
    x = _quant(op.input)
    return [digital.dequantise(frame[op.input], x.scale, x.zero_point)]


def _requantize(op: RequantizeOp, frame: _Frame) -> list[Array]:
    x, y = _quant(op.input), _quant(op.result)
    codes = frame[op.input]
    return [
        digital.requantise_codes(
            codes, x.scale, x.zero_point, y.scale, y.zero_point, *op.clamp(), dtype=y.dtype
        )
    ]


def _storage_cast(op: StorageCastOp, frame: _Frame) -> list[Array]:
    return [frame[op.input]]


def _add(op: AddOp, frame: _Frame) -> list[Array]:
    left, right = frame[op.lhs], frame[op.rhs]
    a, b, y = quant_of(op.lhs), quant_of(op.rhs), quant_of(op.result)
    if a is None or b is None or y is None:
        return [digital.add_float(left, right)]
    return [
        digital.add_codes(
            left,
            a.scale,
            a.zero_point,
            right,
            b.scale,
            b.zero_point,
            y.scale,
            y.zero_point,
            *op.clamp(),
            dtype=y.dtype,
        )
    ]


def _relu(op: ReluOp, frame: _Frame) -> list[Array]:
    codes = quant_of(op.input)
    if codes is None:
        return [digital.relu_float(frame[op.input])]
    return [digital.clip_codes(frame[op.input], codes.zero_point, codes.qmax)]


def _clip(op: ClipOp, frame: _Frame) -> list[Array]:
    codes = quant_of(op.input)
    low, high = op.bounds()
    if codes is None:
        return [digital.clip_float(frame[op.input], low, high)]
    ends = np.array([-np.inf if low is None else low, np.inf if high is None else high], np.float32)
    least, most = digital.quantise(ends, codes.scale, codes.zero_point, codes.qmin, codes.qmax)
    return [digital.clip_codes(frame[op.input], int(least), int(most))]


def _window(op: MaxPoolOp | AveragePoolOp) -> digital.Window:
    pads = op.pads.data
    return digital.Window((2, 3), op.kernel.data, op.strides.data, pads[:2], pads[2:], op.dilations.data)


def _max_pool(op: MaxPoolOp, frame: _Frame) -> list[Array]:
    codes = quant_of(op.input)
    if codes is None:
        return [digital.max_pool_float(frame[op.input], _window(op))]
    best = digital.max_pool_codes(frame[op.input], _window(op), codes.qmin)
    return [digital.clip_codes(best, *op.clamp())]


def _average_pool(op: AveragePoolOp, frame: _Frame) -> list[Array]:
    x, y = quant_of(op.input), quant_of(op.result)
    array, window = frame[op.input], _window(op)
    if x is None or y is None:
        return [digital.average_pool_float(array, window, op.counts_padding)]
    sums = digital.window_sums(array, x.zero_point, window)
    counts = digital.window_counts(array.shape, window, op.counts_padding)
    return [digital.average_codes(sums, counts, x.scale, y.scale, y.zero_point, *op.clamp(), dtype=y.dtype)]


def _global_average_pool(op: GlobalAveragePoolOp, frame: _Frame) -> list[Array]:
    x, y = quant_of(op.input), quant_of(op.result)
    array = frame[op.input]
    if x is None or y is None:
        return [digital.global_average_float(array, (2, 3))]
    cells = array.shape[2] * array.shape[3]
    sums = array.sum(axis=(2, 3), keepdims=True, dtype=np.int64) - x.zero_point * cells
    return [digital.average_codes(sums, cells, x.scale, y.scale, y.zero_point, *op.clamp(), dtype=y.dtype)]


def _concat(op: ConcatOp, frame: _Frame) -> list[Array]:
    return [np.concatenate([frame[value] for value in op.inputs], axis=op.axis.value.data)]


def _reshape(op: ReshapeOp, frame: _Frame) -> list[Array]:
    return [frame[op.input].reshape(shape_of(op.result))]


def _softmax(op: SoftmaxOp, frame: _Frame) -> list[Array]:
    return [digital.softmax(frame[op.input], op.axis.value.data)]


def _real(kernel: Kernel) -> Callable[[Operation, _Frame], list[Array]]:
    return lambda op, frame: [np.asarray(kernel(op, frame.store, [frame[v] for v in op.operands]))]


def _matmul(op: MatmulOp, frame: _Frame) -> list[Array]:
    """In float32, or of codes by rule 13."""
    if not op.is_quantised:
        return [digital.matmul_float(frame[op.lhs], frame[op.rhs])]
    a, b = _quant(op.lhs), _quant(op.rhs)
    codes = frame[op.lhs].astype(np.int32) - np.int32(a.zero_point)
    reach = max(a.qmax - a.zero_point, a.zero_point - a.qmin), -b.qmin
    acc = accumulate_frames(codes, frame[op.rhs], reach)
    return [digital.acc_to_float(acc, digital.product_scale(a.scale, np.asarray(b.scale)))]


def _host(op: HostOp, frame: _Frame) -> list[Array]:
    return frame.host.run(op, [frame[value] for value in op.inputs])


_EVALUATE: Mapping[type[Operation], Callable[[Any, _Frame], list[Array]]] = {
    ConvOp: _product,
    GemmOp: _product,
    QuantizeOp: _quantize,
    DequantizeOp: _dequantize,
    RequantizeOp: _requantize,
    StorageCastOp: _storage_cast,
    AddOp: _add,
    ReluOp: _relu,
    ClipOp: _clip,
    MaxPoolOp: _max_pool,
    AveragePoolOp: _average_pool,
    GlobalAveragePoolOp: _global_average_pool,
    ConcatOp: _concat,
    ReshapeOp: _reshape,
    SoftmaxOp: _softmax,
    **{op: _real(kernel) for op, kernel in REAL_OPERATORS.items()},
    MatmulOp: _matmul,
    HostOp: _host,
}
