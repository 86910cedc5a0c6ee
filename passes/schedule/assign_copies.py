"""How many copies of its weights each stage gets."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from cimc.dialects.cim import StageOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import shape_of


@dataclass(frozen=True)
class AssignCopiesPass(ModulePass):
    """Give every array stage the copies the mapping options ask for; one if they say nothing.

    Output rows are dealt to the copies in turn, so there are at most as many copies as output rows.

    ```mlir
    %y = cim.stage "conv1" (%x) ...           // before
    %y = cim.stage "conv1" copies 4 (%x) ...  // with copies: 4 in the mapping file
    ```
    """

    name = "assign-copies"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set ``copies`` of the stages in place."""
        assert isinstance(ctx, CimContext)
        if ctx.mapping is None:
            return
        for stage in op.walk():
            if not isinstance(stage, StageOp) or stage.read is None:
                continue
            wanted = ctx.mapping.for_node(stage.label.data).copies
            stage.copies = IntegerAttr(min(wanted, shape_of(stage.result)[0]), i64)
