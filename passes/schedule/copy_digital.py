"""Copies of digital stages, products of two activations on cores among them: as many as keep pace with the arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from cimc.dialects.cim import StageOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph import main_function
from cimc.passes.schedule.copies.bounds import traffic
from cimc.passes.schedule.copies.stage_costs import stage_cost, stages_of
from cimc.passes.schedule.dealing import useful_copies
from cimc.passes.schedule.estimate.nodes import Timing, arriving
from cimc.passes.schedule.estimate.timings import timings
from cimc.passes.schedule.placements import Placements

PARTS = (1, 2, 4, 8, 16)
"""All copies that keep pace, half of them, a quarter: as there is room."""

MOST_ADDED = 256
"""Contexts that copies of digital stages may add to a model."""


@dataclass(frozen=True)
class CopyDigitalPass(ModulePass):
    """Raise the copies of digital stages until an image takes them no longer than the slowest array stage.

    Copies take rows in turn and blocks of them (``dealing.py``), each on a core's digital unit of its own where there
    are enough cores: a max pool of 112 x 112 x 64 elements takes 451,584 cycles on one unit of 4 lanes. Those of a
    product of two activations hold the frame each. They take all they need, half of it, a quarter and so on, as the
    cores have room beside the arrays and no more than ``MOST_ADDED`` come in; a model of several phases keeps one
    copy. Copies that an override names stay as named.

    ```mlir
    %y = cim.stage "pool1" (%x) ...           // before
    %y = cim.stage "pool1" copies 5 (%x) ...  // where the arrays are five times as fast as one unit
    ```
    """

    name = "copy-digital"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set ``copies`` of the digital stages in place."""
        assert isinstance(ctx, CimContext)
        stages = stages_of(op)
        digital = [stage for stage in stages if stage.read is None]
        if not digital:
            return
        for stage in digital:
            stage.copies = IntegerAttr(1, i64)
        placements = Placements(ctx.arch)
        if not placements.fit_together(stages):
            return
        nodes = timings(list(main_function(op).body.block.ops), ctx.arch, placements.table, ctx.store)
        pace = max(*traffic(op, ctx.arch).values(), _slowest(stages, ctx.arch))
        keep_pace(nodes, pace, ctx.mapping, lambda: placements.fit_together(stages))


def keep_pace(
    nodes: Sequence[Timing], pace: Fraction | int, mapping: Any, fits: Callable[[], bool]
) -> list[Timing]:
    """``nodes`` with so many copies of the digital stages, set in place, that none takes longer than ``pace`` cycles an
    image, or with fewer where ``fits`` says that the cores have no room for all of them.

    ``mapping``: options whose overrides may name copies; ``None`` for none.
    """
    digital = {n: node for n, node in enumerate(nodes) if node.digital is not None}
    named = (
        {n: mapping.named_copies(node.label) for n, node in digital.items()} if mapping is not None else {}
    )
    wanted = {n: named.get(n) or _copies(node, nodes, pace) for n, node in digital.items()}
    copies = dict.fromkeys(digital, 1)
    for part in PARTS:
        tried = {n: count if named.get(n) else 1 + (count - 1) // part for n, count in wanted.items()}
        tried = {n: _possible(digital[n], count) for n, count in tried.items()}
        _put(digital, tried)
        if sum(tried.values()) - len(tried) <= MOST_ADDED and fits():
            copies = tried
            break
    _put(digital, copies)
    return [node.dealt(copies[n], len(node.steps)) if n in copies else node for n, node in enumerate(nodes)]


def _put(nodes: Mapping[int, Timing], copies: Mapping[int, int]) -> None:
    """Give the stages of ``nodes`` their copies."""
    for n, count in copies.items():
        stage = nodes[n].op
        assert isinstance(stage, StageOp)
        stage.copies = IntegerAttr(count, i64)


def _slowest(stages: Sequence[StageOp], arch: Any) -> int:
    """Cycles of an image on the slowest array stage."""
    costs = [(stage, cost) for stage in stages if (cost := stage_cost(stage, arch)) is not None]
    return max((cost.interval(stage.copies.value.data) for stage, cost in costs), default=0)


def _copies(node: Timing, nodes: Sequence[Timing], pace: Fraction | int) -> int:
    """The fewest copies that take ``pace`` cycles for an image and for the parts of rows that enter their cores, or the
    most that are of use; one where collecting the frame takes them all."""
    own = node.digital
    assert own is not None
    collect = sum(edge.rows * edge.gather for edge in node.edges if edge.gather is not None)
    useful = [n for n, _ in useful_copies(own.rows, own.positions, own.finest)]
    if pace <= collect:
        return 1

    def cycles(copies: int) -> int:
        dealt = node.dealt(copies, len(node.steps))
        return max(dealt.interval() + collect, arriving(dealt, nodes)[0])

    return next((n for n in useful if cycles(n) <= pace), useful[-1])


def _possible(node: Timing, copies: int) -> int:
    """The most copies of use, up to ``copies``."""
    own = node.digital
    assert own is not None
    return max(n for n, _ in useful_copies(own.rows, own.positions, own.finest) if n <= copies)
