"""``quantise-products``: Conv and Gemm with integer weights on the codes of their input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from cimc.diagnostics import CimError, UnsupportedError, raise_all
from cimc.dialects.base import located
from cimc.dialects.context import CimContext
from cimc.dialects.graph import (
    ConvOp,
    DequantizeOp,
    GemmOp,
    MatmulOp,
    ProductCodes,
    ProductOperation,
    QuantizeOp,
    QuantType,
    tensor_names,
)
from cimc.dialects.graph_types import tensor
from cimc.dialects.locations import describe
from cimc.dialects.weights import WeightRefAttr, WeightStore
from cimc.passes.quantise.overrides import parse_overrides, weight_width
from cimc.passes.quantise.values import (
    bounds,
    code_type,
    coded_as,
    erase,
    erase_unused_conversions,
    operations,
    replace,
)
from cimc.passes.quantise.weights import QuantisedWeights, keep_weights, quantise_weights


@dataclass(frozen=True)
class QuantiseProducts(ModulePass):
    """Make each Conv and Gemm behind a dequantize integer: weights, bias, accumulator width, output codes.

    Products of two activations on arrays take codes as well (rule 13). Weights are symmetric, per output channel
    unless ``per_channel=false``; integers that the model brings stay as they are, with their scales and zero points.
    The result is codes when every use is a quantize of
    one type (docs/numerics.md section 0 rule 5), otherwise float32 (rule 6).

    ```mlir
    %d = graph.dequantize %q tensors ["x"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4xf32>
    %y = graph.gemm %d weight <"w"> bias <"b"> tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x2xf32>
    // becomes
    %y = graph.gemm %q weight <"w.i8"> bias <"b.int"> weight_bits 8 weight_scale <"w.scale"> acc_bits 32
        tensors ["y"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x2xf32>
    ```
    """

    name = "quantise-products"

    weight_bits: int = 8
    per_channel: bool = True
    overrides: tuple[str, ...] = ()

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Raises UnsupportedError, for all together, for layers that cannot be made integer."""
        assert isinstance(ctx, CimContext)
        layers = [o for o in operations(op) if isinstance(o, ConvOp | GemmOp) and not o.is_quantised]
        raise_all([error for layer in layers if (error := _obstacle(layer))])
        overrides = parse_overrides(self.overrides)
        for layer in layers:
            bits = weight_width(layer, self.weight_bits, overrides)
            _make_integer(layer, ctx.store, bits, self.per_channel)
        for product in operations(op):
            if isinstance(product, MatmulOp) and product.on_arrays is not None and not product.is_quantised:
                _take_codes(product)
        erase_unused_conversions(op)


def _take_codes(product: MatmulOp) -> None:
    """Let a product on arrays take the codes of its operands. Raises UnsupportedError where one has none."""
    codes: list[SSAValue] = []
    for value in product.operands:
        if not isinstance(value.owner, DequantizeOp):
            raise UnsupportedError(
                located(product, "an operand has no codes; run quantise-activations first")
            )
        codes.append(value.owner.input)
    replace(product, MatmulOp(*codes, tensors=tensor_names(product), on_arrays=True))


def _obstacle(layer: ConvOp | GemmOp) -> CimError | None:
    if not isinstance(layer.input.owner, DequantizeOp):
        return UnsupportedError(located(layer, "its input has no codes; run quantise-activations first"))
    return None


def _make_integer(layer: ConvOp | GemmOp, store: WeightStore, bits: int, per_channel: bool) -> None:
    dequantize = layer.input.owner
    assert isinstance(dequantize, DequantizeOp)
    x = code_type(dequantize.input)
    weights = (
        _kept(layer, store, x) if layer.has_stored_codes else _quantised(layer, store, x, bits, per_channel)
    )
    users = coded_as(layer.result)
    replace(layer, _on_codes(layer, dequantize, _stored(layer, store, weights, users), users))
    for user in users:
        user.result.replace_all_uses_with(user.input)
        erase(user)


def _channel_axis(layer: ConvOp | GemmOp) -> int:
    return 0 if isinstance(layer, ConvOp) else 1


def _array(store: WeightStore, ref: WeightRefAttr | None) -> npt.NDArray[Any] | None:
    return None if ref is None else store.array(ref.key.data)


def _quantised(
    layer: ConvOp | GemmOp, store: WeightStore, x: QuantType, bits: int, per_channel: bool
) -> QuantisedWeights:
    return quantise_weights(
        store.array(layer.weight.key.data),
        _channel_axis(layer),
        _array(store, layer.bias),
        x,
        bits=bits,
        per_channel=per_channel,
        where=describe(layer.location),
    )


def _kept(layer: ConvOp | GemmOp, store: WeightStore, x: QuantType) -> QuantisedWeights:
    assert layer.weight_bits is not None
    assert layer.weight_scale is not None
    return keep_weights(
        store.array(layer.weight.key.data),
        layer.weight_bits.value.data,
        store.array(layer.weight_scale.key.data),
        _array(store, layer.weight_zero),
        _channel_axis(layer),
        x,
        _array(store, layer.bias),
        _array(store, layer.bias_scale),
        where=describe(layer.location),
    )


@dataclass(frozen=True)
class _Stored:
    """Where the integers of a layer went: keys of the store, and the properties that name them."""

    weight: str
    bias: str | None
    codes: ProductCodes


def _stored(
    layer: ProductOperation,
    store: WeightStore,
    weights: QuantisedWeights,
    users: tuple[QuantizeOp, ...],
) -> _Stored:
    stem = layer.weight.key.data
    if layer.weight_scale is None:
        weight = _put(store, f"{stem}.i{weights.bits}", weights.codes)
        scale = _put(store, f"{stem}.scale", weights.scale)
    else:
        weight, scale = stem, layer.weight_scale.key.data
    zero = None if layer.weight_zero is None else layer.weight_zero.key.data
    bias = None
    if layer.bias is not None and weights.bias is not None:
        bias = _put(store, f"{layer.bias.key.data}.int", weights.bias)
    low, high = bounds(users[0]) if users else (None, None)
    codes = ProductCodes(weights.bits, scale, weights.acc_bits, weight_zero=zero, lo=low, hi=high)
    return _Stored(weight, bias, codes)


def _put(store: WeightStore, stem: str, array: npt.NDArray[Any]) -> str:
    """Layers may share float weights and differ in what becomes of them: equal arrays share a key."""
    if stem in store and np.array_equal(store.array(stem), array):
        return stem
    return store.put(store.fresh(stem), array)


def _on_codes(
    layer: ConvOp | GemmOp, dequantize: DequantizeOp, stored: _Stored, users: tuple[QuantizeOp, ...]
) -> ConvOp | GemmOp:
    result = tensor((users[0] if users else layer).result)
    if isinstance(layer, GemmOp):
        return GemmOp(
            dequantize.input,
            result,
            weight=stored.weight,
            bias=stored.bias,
            tensors=tensor_names(layer),
            codes=stored.codes,
        )
    return ConvOp(
        dequantize.input,
        result,
        weight=stored.weight,
        bias=stored.bias,
        kernel=layer.kernel.data,
        strides=layer.strides.data,
        pads=layer.pads.data,
        dilations=layer.dilations.data,
        group=layer.group.value.data,
        tensors=tensor_names(layer),
        codes=stored.codes,
    )
