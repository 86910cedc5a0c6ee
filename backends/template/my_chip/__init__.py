"""A backend to copy: a machine in a YAML file, one rule of its own, one pass of its own.

Without the rule and the pass, ``BACKEND = BaseBackend(YAML)`` would be the whole module. The file also
works where it lies, without a package: ``cimc compile model.onnx --backend my_chip/__init__.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import (
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
    op_type_rewrite_pattern,
)

from cimc.backends.protocol import BaseBackend, Stage
from cimc.dialects.graph import ClipOp, ConvOp, ReluOp, tensor_names
from cimc.dialects.locations import keeping_locations

MAX_KERNEL = 7
"""Largest kernel, in rows or columns, that the chip's window counter can step through."""


class _ReluIsClip(RewritePattern):
    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ReluOp, rewriter: PatternRewriter):
        rewriter.replace(op, ClipOp(op.input, min=0.0, max=None, tensors=tensor_names(op)))


@dataclass(frozen=True)
class ReluToClip(ModulePass):
    """The chip's vector unit clips but has no ReLU: ``graph.relu`` becomes ``graph.clip`` at 0.

    ```mlir
    %y = graph.relu %x tensors ["y"] : (tensor<1x16xf32>) -> tensor<1x16xf32>
    // becomes
    %y = graph.clip %x min 0.0 tensors ["y"] : (tensor<1x16xf32>) -> tensor<1x16xf32>
    ```
    """

    name = "my-chip-relu-to-clip"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite all of ``op``; locations stay."""
        PatternRewriteWalker(_ReluIsClip(), listener=keeping_locations()).rewrite_module(op)


@dataclass(frozen=True)
class MyChip(BaseBackend):
    """The chip of ``my_chip.yaml``."""

    def legal_on_arrays(self, op: Operation) -> str | None:
        """What every machine asks, and kernels that the window counter can step through."""
        reason = super().legal_on_arrays(op)
        if reason is not None or not isinstance(op, ConvOp):
            return reason
        largest = max(op.kernel.data)
        if largest > MAX_KERNEL:
            return f"kernel of {largest} steps, the window counter of {self.name} has at most {MAX_KERNEL}"
        return None

    def extra_passes(self) -> tuple[tuple[Stage, ModulePass], ...]:
        """One pass, after all other passes on the float graph."""
        return (("graph", ReluToClip()),)


BACKEND = MyChip(Path(__file__).with_name("my_chip.yaml"))
