"""Remove what computes nothing: dead operators, reshapes to the same shape, reshapes of reshapes."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
    op_type_rewrite_pattern,
)
from xdsl.transforms.dead_code_elimination import dce

from cimc.dialects.graph import ReshapeOp
from cimc.dialects.graph_types import tensor
from cimc.dialects.locations import keeping_locations


class MergeReshapes(RewritePattern):
    """A reshape of a reshape is one reshape of the first one's operand."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ReshapeOp, rewriter: PatternRewriter) -> None:
        inner = op.input.owner
        if not isinstance(inner, ReshapeOp):
            return
        names = [name.data for name in op.tensors]
        rewriter.replace(op, ReshapeOp(inner.input, tensor(op.result), tensors=names))


class DropIdentityReshape(RewritePattern):
    """A reshape to the shape the value has already is the value."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ReshapeOp, rewriter: PatternRewriter) -> None:
        if op.input.type == op.result.type:
            rewriter.replace(op, [], [op.input])


@dataclass(frozen=True)
class Canonicalise(ModulePass):
    """Dead operators go, consecutive reshapes become one, reshapes to the same shape vanish.

    ```mlir
    %a = graph.reshape %x tensors ["a"] : (tensor<1x16x2x2xf32>) -> tensor<1x64xf32>
    %b = graph.reshape %a tensors ["b"] : (tensor<1x64xf32>) -> tensor<1x16x2x2xf32>
    %y = graph.relu %b tensors ["y"] : (tensor<1x16x2x2xf32>) -> tensor<1x16x2x2xf32>
    ```

    becomes ``%y = graph.relu %x``.
    """

    name = "graph-canonicalise"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        patterns = GreedyRewritePatternApplier([MergeReshapes(), DropIdentityReshape()])
        PatternRewriteWalker(patterns, listener=keeping_locations()).rewrite_module(op)
        dce(op)
