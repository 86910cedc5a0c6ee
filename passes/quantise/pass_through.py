"""``quantise-pass-through``: let codes through operators that only move or select them."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass

from cimc.dialects.graph import DequantizeOp, QuantizeOp, RequantizeOp, tensor_names
from cimc.dialects.graph_types import retyped, tensor
from cimc.passes.quantise.values import (
    bounds,
    code_type,
    coded_as,
    erase,
    erase_unused_conversions,
    insert_before,
    operations,
    passes_codes,
    replace,
    value_names,
)


@dataclass(frozen=True)
class QuantisePassThrough(ModulePass):
    """Hoist ``graph.quantize`` above MaxPool, Relu, Clip, Reshape, Concat and moves; cancel it against a dequantize.

    Quantisation is monotone and element-wise, so it commutes with these operators (docs/numerics.md
    section 0 rules 5 and 8). A quantize behind a dequantize of another type becomes ``graph.requantize``.

    ```mlir
    %d = graph.dequantize %q tensors ["x"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4xf32>
    %r = graph.relu %d tensors ["r"] : (tensor<1x4xf32>) -> tensor<1x4xf32>
    %s = graph.quantize %r tensors ["r"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 0.5, 9>>
    // becomes
    %s = graph.relu %q tensors ["r"]
        : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4x!graph.quant<u8, 0.5, 9>>
    ```
    """

    name = "quantise-pass-through"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrites in place; every pass through leaves equal values."""
        named = value_names(op)
        pending = [o for o in operations(op) if isinstance(o, QuantizeOp)]
        while pending:
            quantize = pending.pop()
            producer = quantize.input.owner
            if isinstance(producer, DequantizeOp):
                _cancel(quantize, producer)
            elif passes_codes(producer) and _keeps_clamp(quantize):
                users = coded_as(quantize.input)
                if not users:
                    continue
                operands = [
                    QuantizeOp(v, code_type(quantize.result), tensors=[named[v]]) for v in producer.operands
                ]
                for conversion in operands:
                    insert_before(producer, conversion)
                _on_codes(producer, operands, users)
                pending = [o for o in pending if o not in users] + operands
        erase_unused_conversions(op)


def _keeps_clamp(quantize: QuantizeOp) -> bool:
    """A narrowed quantize does not commute: its clamp would be lost."""
    codes = code_type(quantize.result)
    return quantize.clamp() == (codes.qmin, codes.qmax)


def _cancel(quantize: QuantizeOp, dequantize: DequantizeOp) -> None:
    codes, wanted = code_type(dequantize.input), code_type(quantize.result)
    if codes == wanted and _keeps_clamp(quantize):
        quantize.result.replace_all_uses_with(dequantize.input)
        erase(quantize)
        return
    low, high = bounds(quantize)
    names = tensor_names(quantize)
    replace(quantize, RequantizeOp(dequantize.input, wanted, tensors=names, lo=low, hi=high))


def _on_codes(producer: Operation, operands: list[QuantizeOp], users: tuple[QuantizeOp, ...]) -> None:
    """``producer`` again, from codes to codes, in place of itself and of the conversions behind it."""
    codes = code_type(users[0].result)
    new = type(producer).create(
        operands=[conversion.result for conversion in operands],
        result_types=[retyped(tensor(producer.results[0]), codes)],
        properties=dict(producer.properties),
        attributes=dict(producer.attributes),
    )
    insert_before(producer, new)
    for user in users:
        user.result.replace_all_uses_with(new.results[0])
        erase(user)
    erase(producer)
