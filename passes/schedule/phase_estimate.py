"""The estimate of a phase as a function of the ways of its stages: what searches for copies, cuts and pieces ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xdsl.dialects.builtin import IntegerAttr, i64

from cimc.dialects.cim import StageOp
from cimc.dialects.graph_types import IntsAttr
from cimc.passes.schedule.copies.ways import Way, Ways
from cimc.passes.schedule.deal_pieces import shorten, useful
from cimc.passes.schedule.dealing import possible_copies
from cimc.passes.schedule.estimate.critical import critical_turns
from cimc.passes.schedule.estimate.flow import Flow
from cimc.passes.schedule.estimate.nodes import Timing
from cimc.passes.schedule.estimate.timings import cut_again
from cimc.passes.schedule.packing import Table


def cut(stage: StageOp, row_tiles: int) -> None:
    """Cut the rows of the stage's weights into so many tiles."""
    assert stage.write is not None
    stage.write.grid = IntsAttr.of((row_tiles, stage.write.grid.data[1]))


def set_copies(stage: StageOp, copies: int, arch: Any) -> None:
    """Give the stage as many copies, up to ``copies``, as have windows to compute."""
    stage.copies = IntegerAttr(possible_copies(stage, copies, arch), i64)


class WayNodes:
    """The nodes of stages in every way that is asked for, with the pieces that the stages have; each made once, however
    many searches ask."""

    def __init__(
        self,
        nodes: Sequence[Timing],
        stages: Sequence[StageOp],
        tables: Sequence[Mapping[int, Table]],
        arch: Any,
    ):
        """``nodes``: of the whole model. ``tables``: of every stage, its placement with one copy in every cut, by row
        tiles."""
        numbers = {node.op: number for number, node in enumerate(nodes)}
        self.nodes, self.stages = nodes, stages
        self.numbers = [numbers[stage] for stage in stages]
        """Of the stages' nodes."""
        self._tables, self._arch = tables, arch
        self._known: dict[tuple[int, tuple[int, int]], Timing] = {}
        self._cuts = {
            (i, stage.write.grid.data[0]): nodes[number]
            for i, (stage, number) in enumerate(zip(stages, self.numbers, strict=True))
            if stage.write is not None
        }

    def node(self, i: int, way: Way) -> Timing:
        """The node of stage number ``i``."""
        key = i, way.key
        if key not in self._known:
            pieces = self.stages[i].pieces.value.data
            self._known[key] = self._cut(i, way.cost.row_tiles).dealt(way.copies, pieces)
        return self._known[key]

    def _cut(self, i: int, row_tiles: int) -> Timing:
        """The node of a stage with its weights cut so."""
        if (i, row_tiles) not in self._cuts:
            node, stage = self.nodes[self.numbers[i]], self.stages[i]
            assert stage.write is not None
            before = stage.write.grid.data[0], stage.copies.value.data
            cut(stage, row_tiles)
            set_copies(stage, 1, self._arch)
            self._cuts[i, row_tiles] = cut_again(node, stage, self._tables[i][row_tiles], self._arch)
            cut(stage, before[0])
            set_copies(stage, before[1], self._arch)
        return self._cuts[i, row_tiles]


class PhaseEstimate:
    """The estimate of a phase (``Estimator`` of ``copies/marginal.py``)."""

    def __init__(
        self,
        whole: WayNodes,
        members: Sequence[int],
        *,
        rewrites: bool,
        most: Mapping[int, int] | None = None,
    ):
        """``members``: numbers of the phase's nodes. ``most``: pieces of their rows that stages may choose; others have
        what they are given."""
        self._whole, self._members, self._rewrites = whole, members, rewrites
        self._most = most or {}
        self._nodes, self._numbers = list(whole.nodes), whole.numbers
        for i, pieces in self._most.items():
            self._nodes[self._numbers[i]] = useful(self._nodes[self._numbers[i]], pieces)
        self._flow = Flow(self._nodes, members)
        self._shown: list[Way | None] = [None] * len(self._numbers)
        """The ways of the stages that the flow has now."""
        self._known: dict[tuple[int, tuple[int, int]], Timing] = {}

    def latency(self, ways: Ways) -> int:
        """Cycles with ``ways`` of the stages named by their number."""
        for i, number in enumerate(self._numbers):
            way = ways.get(i)
            if way is not self._shown[i]:
                self._flow.put(number, self._nodes[number] if way is None else self._node(i, way))
                self._shown[i] = way
        return self._flow.span(rewrites=self._rewrites)

    def turn(self, stage: int, way: Way) -> int:
        """Cycles of a context of the stage from one row to its next."""
        return self._node(stage, way).turn

    def interval(self, stage: int, way: Way) -> int:
        """Cycles between images that the stage's contexts allow."""
        return self._node(stage, way).interval()

    def critical_turns(self, ways: Ways) -> dict[int, float]:
        """Turns of each of the stages in ``ways`` on the way that decides the latency."""
        found = critical_turns(self._with(ways), self._members)
        return {i: found[self._numbers[i]] for i in ways}

    def cut_rows(self, ways: Ways, most: Mapping[int, int], floor: float) -> tuple[int, list[int]]:
        """Cycles, and pieces of the rows of all stages: of those in ``most``, with how many they may have, as many as
        shorten the latency while the interval stays at ``floor`` or as it is without them."""
        nodes = self._with(ways)
        if most:
            open_to = {self._numbers[i]: pieces for i, pieces in most.items()}
            nodes = shorten(nodes, open_to, self._members, floor)
        pieces = [stage.pieces.value.data for stage in self._whole.stages]
        for i in most:
            pieces[i] = len(nodes[self._numbers[i]].steps)
        return Flow(nodes, self._members).span(rewrites=self._rewrites), pieces

    def _with(self, ways: Ways) -> list[Timing]:
        nodes = list(self._nodes)
        for i, way in ways.items():
            nodes[self._numbers[i]] = self._node(i, way)
        return nodes

    def _node(self, i: int, way: Way) -> Timing:
        key = i, way.key
        if key not in self._known:
            node = self._whole.node(i, way)
            self._known[key] = useful(node, self._most[i]) if i in self._most else node
        return self._known[key]
