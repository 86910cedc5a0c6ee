"""Level 1 runs: float32 operators on ONNX layout, for comparison with onnxruntime.

Sums of products are float32 BLAS's, so results agree with onnxruntime to rounding (the tests demand
``2e-5`` of the largest output); pools, sums and softmax are as docs/numerics.md section 0 states them.
Conversions of a quantised model follow rules 1 and 2; the operators between them are float32 all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Attribute, Operation, SSAValue

from cimc.diagnostics import CimError, UnsupportedError, UsageError, raise_all
from cimc.dialects.base import located
from cimc.dialects.graph import (
    INPUTS,
    OUTPUTS,
    AddOp,
    AffineOp,
    AveragePoolOp,
    ClipOp,
    ConcatOp,
    ConvOp,
    DequantizeOp,
    GemmOp,
    GlobalAveragePoolOp,
    HostOp,
    MaxPoolOp,
    ProductOperation,
    QuantizeOp,
    ReluOp,
    ReshapeOp,
    SoftmaxOp,
    StorageCastOp,
    main_function,
    main_names,
    main_return,
    tensor_names,
)
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.weights import WeightRefAttr, WeightStore
from cimc.interpreters.host import HostRunner
from cimc.interpreters.real_operators import REAL_OPERATORS
from cimc.interpreters.windows import Windows, convolve, maximum
from cimc.runtime.numerics import digital

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Machine:
    """What an operator needs besides its operands: weights and the host."""

    store: WeightStore
    host: HostRunner

    def weight(self, ref: WeightRefAttr) -> Array:
        return self.store.array(ref.key.data)

    def real_weight(self, op: ProductOperation) -> Array:
        """The float32 weights of a product; those that a quantised model stores as integers dequantised."""
        if op.weight_scale is None:
            return self.weight(op.weight)
        along = (-1, 1, 1, 1) if isinstance(op, ConvOp) else (1, -1)
        codes = self.weight(op.weight).astype(np.int64)
        if op.weight_zero is not None:
            codes = codes - self.weight(op.weight_zero).reshape(along)
        return codes.astype(np.float32) * self.weight(op.weight_scale).reshape(along)

    def real_bias(self, op: ProductOperation) -> Array | None:
        """The float32 bias of a product, dequantised like its weights."""
        if op.bias is None:
            return None
        bias = self.weight(op.bias)
        return bias if op.bias_scale is None else bias.astype(np.float32) * self.weight(op.bias_scale)


def run_graph(
    module: ModuleOp,
    store: WeightStore,
    inputs: Mapping[str, Array],
    *,
    taps: Collection[str] = (),
    host: HostRunner | None = None,
) -> dict[str, Array]:
    """Outputs by ONNX name, and every tensor named in ``taps``.

    ``inputs`` holds one array for each graph input, of its exact shape and element type; ``host``
    keeps its sessions between calls. Raises ``UsageError`` for wrong inputs and unknown taps (all
    together) and ``UnsupportedError`` for operations of other levels.
    """
    check_inputs(module, inputs)
    check_taps(module, taps)
    machine = Machine(store, host or HostRunner(store))
    main = main_function(module)
    names = main_names(module, INPUTS)
    values: dict[SSAValue, Array] = {
        argument: np.asarray(inputs[name]) for argument, name in zip(main.args, names, strict=True)
    }
    found: dict[str, Array] = {name: np.asarray(inputs[name]) for name in names if name in taps}
    for op in main.body.block.ops:
        if isinstance(op, ReturnOp):
            break
        results = _run(op, machine, [values[operand] for operand in op.operands])
        for result, name, array in zip(op.results, tensor_names(op), results, strict=True):
            values[result] = array
            if name in taps:
                found[name] = array
    for name, value in zip(main_names(module, OUTPUTS), main_return(module).operands, strict=True):
        found[name] = values[value]
    return found


def check_inputs(module: ModuleOp, inputs: Mapping[str, Array]) -> None:
    """Names, shapes and element types of ``inputs``. Raises ``UsageError``, all problems together."""
    names = main_names(module, INPUTS)
    errors: list[CimError] = [
        UsageError(f"there is no input {name!r}; the inputs are {', '.join(names)}")
        for name in inputs
        if name not in names
    ]
    for name, argument in zip(names, main_function(module).args, strict=True):
        if name not in inputs:
            errors.append(UsageError(f"input {name!r} is missing"))
            continue
        array = np.asarray(inputs[name])
        if array.shape != shape_of(argument):
            errors.append(
                UsageError(f"input {name!r} has shape {array.shape}, the model takes {shape_of(argument)}")
            )
        wanted = numpy_type(argument.type)
        if wanted is not None and array.dtype != wanted:
            errors.append(UsageError(f"input {name!r} has elements {array.dtype}, the model takes {wanted}"))
    raise_all(errors)


_ELEMENT_TYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "f32": np.dtype(np.float32),
        "f64": np.dtype(np.float64),
        "f16": np.dtype(np.float16),
        "i1": np.dtype(np.bool_),
        **{f"i{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
        **{f"ui{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    }
)


def numpy_type(type: Attribute) -> np.dtype[Any] | None:
    """The numpy element type of a tensor type; ``None`` for elements numpy does not have."""
    if not isinstance(type, TensorType):
        return None
    return _ELEMENT_TYPES.get(str(type.get_element_type()))


def check_taps(module: ModuleOp, taps: Collection[str]) -> None:
    """Every tap names a tensor of the module. Raises ``UsageError``, all problems together."""
    known = {name for op in module.walk() for name in tensor_names(op)}
    known.update(main_names(module, INPUTS), main_names(module, OUTPUTS))
    raise_all(
        [
            UsageError(f"no tensor {tap!r} at this level; it may have been folded into the one after it")
            for tap in sorted(set(taps) - known)
        ]
    )


def _run(op: Operation, machine: Machine, operands: Sequence[Array]) -> Sequence[Array]:
    if isinstance(op, HostOp):
        return machine.host.run(op, operands)
    real = REAL_OPERATORS.get(type(op))
    if real is not None:
        return [np.asarray(real(op, machine.store, operands))]
    kernel = _KERNELS.get(type(op))
    if kernel is None:
        raise UnsupportedError(located(op, "has no meaning at level 'graph'"))
    # numpy answers 0-d operands with scalars, which onnxruntime does not take.
    return [np.asarray(kernel(op, machine, operands))]


def _conv(op: ConvOp, machine: Machine, operands: Sequence[Array]) -> Array:
    weight, bias = machine.real_weight(op), machine.real_bias(op)
    windows = Windows(op.kernel.data, op.strides.data, op.dilations.data)
    result = convolve(_padded(operands[0], op.pads.data, 0.0), weight, windows, op.group.value.data)
    return result if bias is None else np.add(result, bias.reshape(-1, 1, 1), out=result)


def _gemm(op: GemmOp, machine: Machine, operands: Sequence[Array]) -> Array:
    weight, bias = machine.real_weight(op), machine.real_bias(op)
    product = np.matmul(operands[0], weight)
    return product if bias is None else product + bias


def _quantize(op: QuantizeOp, machine: Machine, operands: Sequence[Array]) -> Array:
    codes = quant_of(op.result)
    assert codes is not None, "checked by the operation's verifier"
    low, high = op.clamp()
    name = located(op, f"tensor {tensor_names(op)[0]!r}")
    return digital.quantise(
        operands[0], codes.scale, codes.zero_point, low, high, dtype=codes.dtype, tensor=name
    )


def _dequantize(op: DequantizeOp, machine: Machine, operands: Sequence[Array]) -> Array:
    codes = quant_of(op.input)
    assert codes is not None, "checked by the operation's verifier"
    return digital.dequantise(operands[0], codes.scale, codes.zero_point)


def _affine(op: AffineOp, machine: Machine, operands: Sequence[Array]) -> Array:
    shape = [1] * operands[0].ndim
    shape[op.axis.value.data] = -1
    scale, shift = machine.weight(op.scale), machine.weight(op.shift)
    return (operands[0] * scale.reshape(shape) + shift.reshape(shape)).astype(np.float32)


def _clip(op: ClipOp, machine: Machine, operands: Sequence[Array]) -> Array:
    low, high = op.bounds()
    x = operands[0]
    x = x if low is None else np.maximum(x, np.float32(low))
    return x if high is None else np.minimum(x, np.float32(high))


def _max_pool(op: MaxPoolOp, machine: Machine, operands: Sequence[Array]) -> Array:
    windows = Windows(op.kernel.data, op.strides.data, op.dilations.data)
    return maximum(_padded(operands[0], op.pads.data, -np.inf), windows)


def _average_pool(op: AveragePoolOp, machine: Machine, operands: Sequence[Array]) -> Array:
    x = operands[0]
    sums = _window_sums(x, op)
    inside = np.ones((1, 1, *x.shape[2:]), np.float32)
    whole = np.float32(op.kernel.data[0] * op.kernel.data[1])
    return sums / (whole if op.counts_padding else _window_sums(inside, op))


def _window_sums(x: Array, op: AveragePoolOp) -> Array:
    """Sum over each window, pixels outside the image as zeros; float64 inside, float32 out."""
    padded = _padded(x, op.pads.data, 0.0).astype(np.float64)
    (rows, columns), (down, right) = shape_of(op.result)[2:], op.strides.data
    total = np.zeros((*x.shape[:2], rows, columns))
    for i in range(op.kernel.data[0]):
        for j in range(op.kernel.data[1]):
            top, left = i * op.dilations.data[0], j * op.dilations.data[1]
            total += padded[:, :, top : top + down * rows : down, left : left + right * columns : right][
                :, :, :rows, :columns
            ]
    return total.astype(np.float32)


def _global_average_pool(op: GlobalAveragePoolOp, machine: Machine, operands: Sequence[Array]) -> Array:
    return operands[0].mean(axis=(2, 3), keepdims=True, dtype=np.float64).astype(np.float32)


def _softmax(op: SoftmaxOp, machine: Machine, operands: Sequence[Array]) -> Array:
    axis = op.axis.value.data
    x = operands[0].astype(np.float64)
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return (powers / powers.sum(axis=axis, keepdims=True)).astype(np.float32)


def _padded(x: Array, pads: tuple[int, ...], fill: float) -> Array:
    top, left, bottom, right = pads
    if not any(pads):
        return x
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)


_KERNELS: Mapping[type[Operation], Callable[[Any, Machine, Sequence[Array]], Array]] = MappingProxyType(
    {
        ConvOp: _conv,
        GemmOp: _gemm,
        AffineOp: _affine,
        ReluOp: lambda op, machine, operands: np.maximum(operands[0], np.float32(0)),
        ClipOp: _clip,
        MaxPoolOp: _max_pool,
        AveragePoolOp: _average_pool,
        GlobalAveragePoolOp: _global_average_pool,
        AddOp: lambda op, machine, operands: operands[0] + operands[1],
        ConcatOp: lambda op, machine, operands: np.concatenate(operands, axis=op.axis.value.data),
        ReshapeOp: lambda op, machine, operands: operands[0].reshape(shape_of(op.result)),
        SoftmaxOp: _softmax,
        QuantizeOp: _quantize,
        DequantizeOp: _dequantize,
        StorageCastOp: lambda op, machine, operands: operands[0],
    }
)
