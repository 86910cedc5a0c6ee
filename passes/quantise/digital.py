"""``quantise-digital``: Add and the average pools on codes."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from cimc.dialects.graph import AddOp, AveragePoolOp, DequantizeOp, GlobalAveragePoolOp
from cimc.passes.quantise.values import coded_as, erase, erase_unused_conversions, insert_before, operations

_DIGITAL = (AddOp, AveragePoolOp, GlobalAveragePoolOp)


@dataclass(frozen=True)
class QuantiseDigital(ModulePass):
    """Make Add and average pools between conversions work from codes to codes.

    Each operand keeps its own scale (docs/numerics.md section 0 rules 9 and 10). An operator with a real
    operand or a real use stays float32.

    ```mlir
    %a = graph.dequantize %p tensors ["a"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4xf32>
    %y = graph.add %a, %a tensors ["y"] : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    %q = graph.quantize %y tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 1.0, 9>>
    // becomes
    %q = graph.add %p, %p tensors ["y"]
        : (tensor<1x4x!graph.quant<u8, 0.5, 9>>, tensor<1x4x!graph.quant<u8, 0.5, 9>>)
        -> tensor<1x4x!graph.quant<u8, 1.0, 9>>
    ```
    """

    name = "quantise-digital"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrites in place."""
        for digital in operations(op):
            if isinstance(digital, _DIGITAL):
                _on_codes(digital)
        erase_unused_conversions(op)


def _on_codes(digital: AddOp | AveragePoolOp | GlobalAveragePoolOp) -> None:
    sources = [value.owner for value in digital.operands]
    conversions = [source for source in sources if isinstance(source, DequantizeOp)]
    users = coded_as(digital.result)
    if len(conversions) != len(sources) or not users:
        return
    # The clamp of the quantize, if it has one, becomes the operator's own.
    clamp = {name: users[0].properties[name] for name in ("lo", "hi") if name in users[0].properties}
    new = type(digital).create(
        operands=[conversion.input for conversion in conversions],
        result_types=[users[0].result.type],
        properties={**digital.properties, **clamp},
        attributes=dict(digital.attributes),
    )
    insert_before(digital, new)
    for user in users:
        user.result.replace_all_uses_with(new.results[0])
        erase(user)
    erase(digital)
