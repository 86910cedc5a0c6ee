"""Fold per-channel factors and terms into the product before them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from cimc.diagnostics import UnsupportedError
from cimc.dialects.base import located
from cimc.dialects.context import CimContext
from cimc.dialects.graph import AffineOp, BinaryConstantOp, ConvOp, GemmOp
from cimc.dialects.graph_types import shape_of
from cimc.dialects.weights import WeightRefAttr, WeightStore


@dataclass(frozen=True)
class FoldBatchNorm(ModulePass):
    """Folds each ``graph.affine`` into the convolution or product whose only use it is.

    ``W' = W * scale`` and ``b' = b * scale + shift``, in float64 with one rounding each. An affine map
    with nothing to fold into becomes a factor and a term on the digital unit. Raises ``UnsupportedError`` when a
    folded weight is not finite. Before:

    ```mlir
    %c = graph.conv %x weight <"w"> ... tensors ["c"] : (tensor<1x3x8x8xf32>) -> tensor<1x4x8x8xf32>
    %y = graph.affine %c scale <"s"> shift <"t"> axis 1 host "BatchNormalization" <"m"> tensors ["y"] : ...
    ```

    After:

    ```mlir
    %y = graph.conv %x weight <"w.folded"> bias <"w.folded.bias"> ... tensors ["y"] : ...
    ```
    """

    name = "graph-fold-batch-norm"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        assert isinstance(ctx, CimContext)
        for affine in [found for found in op.walk() if isinstance(found, AffineOp)]:
            product = _foldable(affine, ctx.store)
            if product is None:
                _to_digital(affine, ctx.store)
            else:
                _fold(product, affine, ctx.store)


def _foldable(affine: AffineOp, store: WeightStore) -> ConvOp | GemmOp | None:
    """The product before ``affine``, if nobody else uses its result and the axes agree.

    A scale of integer weights can only take a positive factor.
    """
    product = affine.input.owner
    if not isinstance(product, ConvOp | GemmOp) or not affine.input.has_one_use():
        return None
    if product.has_stored_codes and not np.all(store.array(affine.scale.key.data) > 0):
        return None
    channels = 1 if isinstance(product, ConvOp) else len(shape_of(product.result)) - 1
    return product if affine.axis.value.data == channels else None


def _fold(product: ConvOp | GemmOp, affine: AffineOp, store: WeightStore) -> None:
    if product.has_stored_codes:
        _fold_codes(product, affine, store)
    else:
        _fold_real(product, affine, store)
    product.tensors = affine.tensors
    product.result.name_hint = affine.result.name_hint
    affine.result.replace_all_uses_with(product.result)
    affine.detach()
    affine.erase()


def _fold_codes(product: ConvOp | GemmOp, affine: AffineOp, store: WeightStore) -> None:
    """The model's own integers stay; their scales take the factor, a bias in real values the rest."""
    scale, shift = store.array(affine.scale.key.data), store.array(affine.shift.key.data)
    assert product.weight_scale is not None, "stored codes have a scale"
    if np.any(scale != 1):
        key = product.weight_scale.key.data
        product.weight_scale = _put(store, f"{key}.folded", _rounded(store.array(key) * scale, product))
    bias = np.zeros(len(shift))
    if product.bias is not None:
        bias = store.array(product.bias.key.data).astype(np.float64)
        if product.bias_scale is not None:
            bias = bias * store.array(product.bias_scale.key.data)
    product.bias_scale = None
    product.bias = _put(
        store, f"{product.weight.key.data}.folded.bias", _rounded(bias * scale + shift, product)
    )


def _put(store: WeightStore, stem: str, array: npt.NDArray[np.float32]) -> WeightRefAttr:
    return WeightRefAttr.of(store.put(store.fresh(stem), array))


def _fold_real(product: ConvOp | GemmOp, affine: AffineOp, store: WeightStore) -> None:
    old = store.array(product.weight.key.data)
    scale, shift = store.array(affine.scale.key.data), store.array(affine.shift.key.data)
    along_channels = (-1, 1, 1, 1) if isinstance(product, ConvOp) else (1, -1)
    bias = np.zeros(len(shift)) if product.bias is None else store.array(product.bias.key.data)
    weight = _rounded(old * scale.reshape(along_channels), product)
    folded_bias = _rounded(bias * scale + shift, product)
    product.weight = _put(store, f"{product.weight.key.data}.folded", weight)
    product.bias = _put(store, f"{product.weight.key.data}.bias", folded_bias)


def _rounded(values: npt.NDArray[np.float64], product: ConvOp | GemmOp) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    if not np.all(np.isfinite(rounded)):
        raise UnsupportedError(
            located(
                product, "folding the normalisation after it gives weights beyond float32; check its variance"
            )
        )
    return rounded


def _to_digital(affine: AffineOp, store: WeightStore) -> None:
    """``x * scale + shift`` as two functions of each element, float32 with a rounding each; 1 and 0 vanish."""
    shape = [1] * len(shape_of(affine.input))
    shape[affine.axis.value.data] = -1
    parts = [("mul", affine.scale, 1.0), ("add", affine.shift, 0.0)]
    names = [name.data for name in affine.tensors]
    steps = [
        (function, store.array(ref.key.data))
        for function, ref, nothing in parts
        if np.any(store.array(ref.key.data) != nothing)
    ]
    value, block = affine.input, affine.parent_block()
    assert block is not None, "an operation found by walk() of a module is in a block"
    for number, (function, values) in enumerate(steps):
        last = number == len(steps) - 1
        key = store.put(store.fresh(f"{names[0]}.{function}"), values.reshape(shape).astype(np.float32))
        framed = affine.axis.value.data != 0
        op = BinaryConstantOp(
            function,
            value,
            constant=key,
            per_frame=framed,
            tensors=names if last else [f"{names[0]}/{function}"],
        )
        op.location = affine.location
        block.insert_op_before(op, affine)
        value = op.result
    if value is not affine.input:
        value.name_hint = affine.result.name_hint
    affine.result.replace_all_uses_with(value)
    affine.detach()
    affine.erase()
