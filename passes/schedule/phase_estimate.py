"""The estimate of a phase as a function of the ways of its stages: what searches for copies, cuts and pieces ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from xdsl.dialects.builtin import IntegerAttr, i64

from cimc.dialects.cim import StageOp
from cimc.dialects.graph_types import IntsAttr
from cimc.passes.schedule.copies.ways import Way, Ways
from cimc.passes.schedule.crowding import Crowding, Floats
from cimc.passes.schedule.deal_pieces import in_pieces, useful
from cimc.passes.schedule.dealing import possible_copies
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

    @property
    def core_crossbars(self) -> int:
        """Of a core."""
        return self._arch.core.crossbars

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
    """The estimate of a phase, as searches ask for it (``copies/ours.py``, ``copies/anneal.py``)."""

    def __init__(self, whole: WayNodes, members: Sequence[int], *, rewrites: bool):
        """``members``: numbers of the phase's nodes."""
        self._whole, self._rewrites = whole, rewrites
        self._flow = Flow(whole.nodes, members)
        self._known: dict[tuple[int, tuple[int, int] | None, int | None], Timing] = {}
        place = {number: at for at, number in enumerate(members)}
        self._places = np.array([place[number] for number in whole.numbers])
        self._crowding = Crowding(len(whole.numbers), whole.core_crossbars)
        self._judgement: tuple[int, Floats] | None = None
        """Of what is put, until something else is."""

    def latency(self, ways: Ways) -> int:
        """Cycles with ``ways`` of the stages named by their number."""
        for i in range(len(self._whole.numbers)):
            self.put(i, ways.get(i), None)
        return self._flow.span(rewrites=self._rewrites)

    def interval(self, stage: int, way: Way) -> int:
        """Cycles between images that the stage's contexts allow."""
        return self._whole.node(stage, way).interval()

    def put(self, stage: int, way: Way | None, pieces: int | None) -> int:
        """Give a stage a way and up to so many pieces of a row, ``None`` for what is not open; how many it has."""
        key = stage, way and way.key, pieces
        if key not in self._known:
            node = self._node(stage, way)
            self._known[key] = node if pieces is None else in_pieces(node, pieces)
        self._flow.put(self._whole.numbers[stage], self._known[key])
        self._judgement = None
        if way is not None:
            self._crowding.put(stage, way.counts)
        return len(self._known[key].steps)

    def keep(self) -> None:
        """Hold what is put now."""
        self._flow.keep()
        self._crowding.keep()

    def back(self) -> None:
        """What was held last."""
        self._flow.back()
        self._crowding.back()
        self._judgement = None

    def useful(self, stage: int, way: Way | None, most: int, slowest: float) -> int:
        """Pieces of a row that cost little (``deal_pieces.useful``)."""
        return len(useful(self._node(stage, way), most, slowest).steps)

    def span(self) -> int:
        """Cycles of an image, as it is put, with what contexts of a core wait for each other."""
        waits = np.zeros(self._flow.count)
        waits[self._places] = self._judged()[1]
        return self._flow.span(rewrites=self._rewrites, waits=waits)

    def slowest(self) -> int:
        """Cycles between images, as it is put: of the slowest context, or of the busiest memory."""
        return self._judged()[0]

    def _judged(self) -> tuple[int, Floats]:
        """Cycles between images with what is put, and how long contexts of each stage wait for each other."""
        if self._judgement is None:
            ports, intervals = self._flow.ports(), self._flow.intervals()
            crowded, waits = self._crowding.judge(ports[self._places], intervals[self._places])
            self._judgement = max(int(intervals.max(initial=0)), crowded), waits
        return self._judgement

    @property
    def size(self) -> int:
        """Pieces of all rows."""
        return self._flow.size

    def _node(self, stage: int, way: Way | None) -> Timing:
        whole = self._whole
        return whole.nodes[whole.numbers[stage]] if way is None else whole.node(stage, way)
