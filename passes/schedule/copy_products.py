"""Copies of products of two activations on cores: as many as keep pace with the arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from cimc.dialects.cim import StageOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph import main_function
from cimc.dialects.graph_types import shape_of
from cimc.passes.schedule.copies.stage_costs import stage_cost, stages_of
from cimc.passes.schedule.estimate.nodes import Timing
from cimc.passes.schedule.estimate.timings import timings
from cimc.passes.schedule.partition_stages import partition
from cimc.passes.schedule.segment_stages import fit_together


@dataclass(frozen=True)
class CopyProductsPass(ModulePass):
    """Raise the copies of products with a whole frame until an image takes them no longer than the slowest array stage.

    Every copy holds the frame and takes rows in turn; its contexts share a core's digital unit and memory with nobody
    that needs much of them. They take all they need, half of it or a quarter, as the cores have room beside the arrays;
    a model of several phases keeps one copy.

    ```mlir
    %y = cim.stage "scores" (%q, %k) ...           // before
    %y = cim.stage "scores" copies 3 (%q, %k) ...  // where the arrays are three times as fast as one copy
    ```
    """

    name = "copy-products"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set ``copies`` of the products in place."""
        assert isinstance(ctx, CimContext)
        stages = stages_of(op)
        products = [stage for stage in stages if stage.frame_product is not None]
        if not products:
            return
        _set(products, [1] * len(products))
        tables = {stage: partition(stage, ctx.arch) for stage in stages}
        if not fit_together(list(tables.items()), ctx.arch):
            return
        nodes = timings(list(main_function(op).body.block.ops), ctx.arch, tables.__getitem__, ctx.store)
        by_stage = {node.op: node for node in nodes}
        pace = _pace(stages, ctx.arch)
        wanted = [_copies(stage, by_stage[stage], pace) for stage in products]
        for part in (1, 2, 4):
            _set(products, [1 + (n - 1) // part for n in wanted])
            tables |= {stage: partition(stage, ctx.arch) for stage in products}
            if fit_together(list(tables.items()), ctx.arch):
                return
        _set(products, [1] * len(products))


def _pace(stages: Sequence[StageOp], arch: Any) -> int:
    """Cycles of an image on the slowest array stage."""
    costs = [(stage, cost) for stage in stages if (cost := stage_cost(stage, arch)) is not None]
    return max((cost.interval(stage.copies.value.data) for stage, cost in costs), default=0)


def _copies(stage: StageOp, node: Timing, pace: int) -> int:
    """Copies that take ``pace`` cycles for an image; one where collecting the frame takes them all."""
    rows = shape_of(stage.result)[0]
    collect = sum(edge.rows * edge.gather for edge in node.edges if edge.gather is not None)
    return min(rows, ceil(rows * node.turn / (pace - collect))) if pace > collect else 1


def _set(stages: Sequence[StageOp], copies: Sequence[int]) -> None:
    for stage, n in zip(stages, copies, strict=True):
        stage.copies = IntegerAttr(n, i64)
