"""``fuse-activations``: a Relu or Clip on fresh codes narrows the clamp of the operator that makes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from cimc.dialects.graph import ClipOp, QuantType, ReluOp
from cimc.dialects.graph_base import BoundedOperation, int64
from cimc.dialects.graph_types import quant_of
from cimc.passes.quantise.values import erase, operations
from cimc.runtime.numerics.digital import quantise


@dataclass(frozen=True)
class FuseActivations(ModulePass):
    """``lo = Q(a)``, ``hi = Q(b)`` on the producer, when the activation is its only user (rule 5).

    Quantisation is monotone, so the narrowed clamp equals the activation (docs/numerics.md section 0
    rule 5). The producer takes over the tensor name of the activation.

    ```mlir
    %y = graph.add %p, %p tensors ["y"]
        : (tensor<1x4x!graph.quant<u8, 0.5, 9>>, tensor<1x4x!graph.quant<u8, 0.5, 9>>)
        -> tensor<1x4x!graph.quant<u8, 1.0, 9>>
    %r = graph.relu %y tensors ["r"]
        : (tensor<1x4x!graph.quant<u8, 1.0, 9>>) -> tensor<1x4x!graph.quant<u8, 1.0, 9>>
    // becomes
    %r = graph.add %p, %p lo 9 : i64 hi 255 : i64 tensors ["r"]
        : (tensor<1x4x!graph.quant<u8, 0.5, 9>>, tensor<1x4x!graph.quant<u8, 0.5, 9>>)
        -> tensor<1x4x!graph.quant<u8, 1.0, 9>>
    ```
    """

    name = "fuse-activations"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrites in place."""
        for activation in operations(op):
            if isinstance(activation, ReluOp | ClipOp):
                _fuse(activation)


def _fuse(activation: ReluOp | ClipOp) -> None:
    codes = quant_of(activation.result)
    producer = activation.input.owner
    if codes is None or not isinstance(producer, BoundedOperation):
        return
    if not activation.input.has_one_use():
        return
    low, high = activation_range(activation, codes)
    # The activation is monotone: it maps the ends of the producer's clamp to the ends of the narrowed one.
    least, most = producer.clamp()
    producer.lo = int64(min(max(least, low), high))
    producer.hi = int64(min(max(most, low), high))
    producer.tensors = activation.tensors
    activation.result.replace_all_uses_with(activation.input)
    erase(activation)


def activation_range(activation: ReluOp | ClipOp, codes: QuantType) -> tuple[int, int]:
    """The codes a Relu or Clip lets through: its bounds by docs/numerics.md section 0 rule 1."""
    low, high = (0.0, None) if isinstance(activation, ReluOp) else activation.bounds()
    return (
        codes.qmin if low is None else _code(low, codes),
        codes.qmax if high is None else _code(high, codes),
    )


def _code(bound: float, codes: QuantType) -> int:
    value = np.array([bound], np.float32)
    return int(quantise(value, codes.scale, codes.zero_point, codes.qmin, codes.qmax)[0])
