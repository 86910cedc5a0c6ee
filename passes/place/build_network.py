"""The network of a mapped block: a walk over its operations that makes contexts, rings and targets."""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import Any

import numpy as np
from xdsl.ir import Operation, SSAValue

from cimc.dialects.cim import ConcatOp, StageOp, StorageCastOp, ViewOp
from cimc.dialects.cim_real import takes_whole_rows
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import shape_of
from cimc.dialects.mem import HostCallOp, InputOp, OutputOp, RelayoutOp
from cimc.dialects.mem_real import IndexMapOp, MatmulOp
from cimc.passes.place.network import (
    COLUMNS,
    MAIN,
    PARTIAL,
    RELOAD,
    SPILL,
    ContextSpec,
    Network,
    Node,
    Part,
    Ring,
    Spill,
    Target,
)
from cimc.passes.place.pieces import pieces_of, splits
from cimc.passes.place.source_rows import kernel_rows, pad_value, ring_columns, source_geometry
from cimc.passes.place.tail_plan import element_of, piece_name, plan_tail, ring_name
from cimc.passes.schedule.estimate.inputs import InputRow
from cimc.passes.schedule.estimate.units import Units
from cimc.runtime.program import Element
from cimc.runtime.program.geometry import RingGeometry, ring_geometry

_CHIP_OPERATIONS = (InputOp, OutputOp, RelayoutOp, HostCallOp, IndexMapOp, MatmulOp)

_COPY, _P0 = map(COLUMNS.index, ("copy", "p0"))

Span = tuple[int, int]
"""A range [first, last) of channels or columns."""

_Met = tuple[list[Target], tuple[int, int, int, int, int, int]]
"""The targets of a context's result, and what a ring adds to them behind its number."""


def build_network(ops: list[Operation], ctx: CimContext) -> Network:
    """The network of a mapped block. Stages must have a partition table (pass ``partition-stages``)."""
    return _Builder(ctx).build(ops)


class _Inputs:
    """What the rings of a stage's contexts hold, read off the stage once: contexts differ in blocks and copies."""

    def __init__(self, stage: StageOp, arch: Any):
        self._stage, self._arch = stage, arch
        self.splits = [splits(stage, number, arch) for number in range(len(stage.sources))]
        """Whether pieces have rings of their own, by source."""
        self.pad = pad_value(stage.sources[0], stage)
        self._diagonal = stage.read.diagonal if stage.read is not None else None
        self._whole = (0, shape_of(stage.sources[0])[2]) if takes_whole_rows(stage) else None
        self._columns: dict[Span, Span] = {}
        self._geometries: dict[tuple[int, int, int, int], RingGeometry] = {}

    def geometry(self, spec: ContextSpec) -> RingGeometry:
        """Rows of the first source."""
        key = spec.k0, spec.k1, spec.copy, spec.copies
        if key not in self._geometries:
            kernel = kernel_rows(self._stage, spec.k0, spec.k1)
            self._geometries[key] = source_geometry(self._stage, kernel, spec.copy, spec.copies)
        return self._geometries[key]

    def channels(self, spec: ContextSpec) -> Span:
        """Channels of the first source."""
        if self._whole is not None:
            return self._whole
        diagonal = self._diagonal
        return diagonal.channel_range(spec.n0) if diagonal is not None else (spec.n0, spec.n1)

    def columns(self, block: Span) -> Span:
        """Columns of the first source for a block of positions."""
        if block not in self._columns:
            self._columns[block] = ring_columns(self._stage, *block, self._arch)
        return self._columns[block]


class _Builder:
    def __init__(self, ctx: CimContext):
        self.ctx = ctx
        self.network = Network()
        self.parts: dict[SSAValue, list[Part]] = {}
        self.spills: dict[tuple[int, ...], Spill] = {}
        self.met: dict[tuple[SSAValue, int, int, int, int, Span, Span], list[_Met]] = {}
        """What :meth:`_meeting` found, by value, rows, phase, channels and columns: contexts with other channels of a
        result take the same of its source."""

    def build(self, ops: list[Operation]) -> Network:
        for op in ops:
            if isinstance(op, StageOp):
                self._stage(op)
            elif isinstance(op, ConcatOp):
                self._concat(op)
            elif isinstance(op, ViewOp):
                self._view(op)
            elif isinstance(op, StorageCastOp):
                self.parts[op.result] = self.parts[op.value]
            elif isinstance(op, _CHIP_OPERATIONS):
                self._chip(op)
        return self.network

    def _context(self, node: Node, context: ContextSpec) -> int:
        self.network.contexts.append(context)
        node.contexts.append(len(self.network.contexts) - 1)
        return node.contexts[-1]

    def _node(self, op: Operation, label: str) -> tuple[int, Node]:
        node = Node(op, label)
        self.network.nodes.append(node)
        return len(self.network.nodes) - 1, node

    def _chip(self, op: Operation) -> None:
        """Whatever runs on the chip itself: one context each, a few for an input's rows."""
        label = op.port.data if isinstance(op, InputOp | OutputOp) else op.name.removeprefix("mem.")
        index, node = self._node(op, label)
        phase = max((self._phase(v) for v in op.operands), default=0)
        if isinstance(op, InputOp):
            self._input(op, index, node)
            return
        context = self._context(node, ContextSpec(index, MAIN, phase=phase, targets=[[] for _ in op.results]))
        for number, value in enumerate(op.operands):
            rows, _, channels = shape_of(value)
            wanted = op.ranges[number] if isinstance(op, IndexMapOp) else (0, channels)
            geometry = ring_geometry(1, 1, 1, 0, rows, rows)
            self._ring(context, ring_name(number), value, geometry, wanted, _whole_row(value), 0)
        for number, value in enumerate(op.results):
            _, width, channels = shape_of(value)
            self.parts[value] = [Part(context, number, 0, channels, 0, width)]

    def _input(self, op: InputOp, index: int, node: Node) -> None:
        """The contexts that take an input's rows from the host link, rows in turn."""
        _, width, channels = shape_of(op.result)
        copies = InputRow.of(op, Units(self.ctx.arch)).steps
        contexts = [
            self._context(node, ContextSpec(index, MAIN, copy, copies, targets=[[]]))
            for copy in range(copies)
        ]
        self.parts[op.result] = [Part(context, 0, 0, channels, 0, width) for context in contexts]

    def _phase(self, value: SSAValue) -> int:
        """The phase in which a value is complete."""
        return max(self.network.contexts[p.context].phase for p in self.parts[value])

    def _concat(self, op: ConcatOp) -> None:
        found: list[Part] = []
        offset = 0
        for value in op.args:
            found += [replace(p, chan0=p.chan0 + offset) for p in self.parts[value]]
            offset += shape_of(value)[2]
        self.parts[op.result] = found

    def _view(self, op: ViewOp) -> None:
        """Of every part what each new position has of it: channels of one old position."""
        _, _, width = shape_of(op.value)
        _, _, channels = shape_of(op.result)
        self.parts[op.result] = [
            Part(
                part.context,
                part.result,
                low - start,
                high - low,
                position,
                1,
                part.src_pos + old - part.pos0,
                part.src_chan + low - begin,
                part.block or (part.positions, part.channels),
            )
            for position, start in enumerate(op.starts.data)
            for part in self.parts[op.value]
            for old in range(part.pos0, part.pos0 + part.positions)
            for begin in (old * width + part.chan0,)
            for low, high in ((max(start, begin), min(start + channels, begin + part.channels)),)
            if low < high
        ]

    def _stage(self, stage: StageOp) -> None:
        assert stage.placement is not None
        index, node = self._node(stage, stage.label.data)
        node.tail = plan_tail(stage)
        table = self.ctx.store.array(stage.placement.key.data)
        copies = 1 + int(table[:, _COPY].max(initial=0))
        blocks = np.unique(table[:, _P0]).tolist()
        inputs = _Inputs(stage, self.ctx.arch)
        mains: dict[tuple[int, int, int], int] = {}
        parts: list[Part] = []
        for row in table.tolist():
            f = dict(zip(COLUMNS, row, strict=True))
            role = MAIN if f["chunk"] == 0 else PARTIAL
            context = self._context(
                node,
                ContextSpec(
                    index, role, f["copy"], copies, f["k0"], f["k1"], f["n0"], f["n1"],
                    f["p0"], f["p1"], f["xbars"], f["phase"], f["core"], f["xbar"],
                    pieces_of(stage, f["p0"], f["p1"], blocks.index(f["p0"])),
                    stays=bool(f["stays"]),
                ),
            )  # fmt: skip
            spec = self.network.contexts[context]
            spec.targets = [[] for _ in spec.pieces]
            self._source_rings(stage, context, inputs)
            block = f["copy"], f["n0"], f["p0"]
            if role == PARTIAL:
                self._psum_rings(stage, context, mains[block], f["chunk"])
                continue
            mains[block] = context
            parts += [
                Part(context, piece, f["n0"], f["n1"] - f["n0"], first, last - first)
                for piece, (first, last) in enumerate(spec.pieces)
            ]
            self._tail_rings(stage, context, inputs)
        self.parts[stage.result] = parts

    def _source_rings(self, stage: StageOp, context: int, inputs: _Inputs) -> None:
        spec = self.network.contexts[context]
        geometry, channels = inputs.geometry(spec), inputs.channels(spec)
        spec.holds = geometry.window > geometry.advance
        for piece, block in enumerate(_blocks(spec, inputs.splits[0])):
            name, columns = piece_name(ring_name(0), piece), inputs.columns(block)
            self._ring(context, name, stage.sources[0], geometry, channels, columns, inputs.pad)

    def _tail_rings(self, stage: StageOp, context: int, inputs: _Inputs) -> None:
        """Rings of the sources that enter the tail: the context's channels of every row it computes."""
        spec = self.network.contexts[context]
        turns = shape_of(stage.result)[0]
        geometry = ring_geometry(1, 1, 1, 0, turns, turns, spec.copy, spec.copies)
        for number, source in enumerate(stage.sources[1:], start=1):
            if number == 1 and stage.frame_product is not None:
                rows, _, depth = shape_of(source)
                whole = ring_geometry(1, 1, 1, 0, rows, rows)
                own = (0, depth) if stage.frame_product.coding is None else (spec.n0, spec.n1)
                self._ring(context, ring_name(1), source, whole, own, (spec.p0, spec.p1), 0)
                continue
            for piece, columns in enumerate(_blocks(spec, inputs.splits[number])):
                name = piece_name(ring_name(number), piece)
                self._ring(context, name, source, geometry, (spec.n0, spec.n1), columns, 0)

    def _psum_rings(self, stage: StageOp, sender: int, main: int, chunk: int) -> None:
        """Partial sums of a row chunk travel piece by piece to the context that ends the column block.

        A chunk of an earlier phase leaves them in the global buffer.
        """
        assert stage.read is not None
        spec = self.network.contexts[sender]
        turns = shape_of(stage.read.acc)[0]
        channels = spec.n1 - spec.n0
        geometry = ring_geometry(1, 1, 1, 0, turns, turns, spec.copy, spec.copies)
        element = element_of(stage.read.acc.type)
        phase = self.network.contexts[main].phase
        for piece, (first, last) in enumerate(spec.pieces):
            positions, source, result = last - first, sender, piece
            if phase != spec.phase:
                block = (turns, positions, channels)
                key = (sender, piece)
                spill = self._spill(key, [sender], piece, block, element, (spec.copy, spec.copies))
                source, result = self._reader(spill, phase), 0
            name = piece_name(f"psum{chunk}", piece)
            self._add_ring(Ring(main, name, geometry, element, positions, channels, 0, positions * channels))
            target = Target(len(self.network.rings) - 1, 0, 0, positions, channels, 0, 0)
            self.network.contexts[source].targets[result].append(target)

    def _spill(
        self,
        key: tuple[int, ...],
        senders: list[int],
        result: int,
        block: tuple[int, int, int],
        element: Element,
        dealing: tuple[int, int],
    ) -> Spill:
        """The spill of ``block`` (rows, positions, channels) that ``senders`` produce; made once."""
        if key in self.spills:
            return self.spills[key]
        first = self.network.contexts[senders[0]]
        producer = self.network.nodes[first.node]
        index, node = self._node(producer.op, f"{producer.label}.spill")
        rows, positions, channels = block
        copy, copies = dealing
        writer = self._context(node, ContextSpec(index, SPILL, copy, copies, phase=first.phase))
        node.spill = self.spills[key] = Spill(writer, rows, positions, channels, element, copy, copies)
        geometry = ring_geometry(1, 1, 1, 0, rows, rows, copy, copies)
        self._add_ring(
            Ring(writer, ring_name(0), geometry, element, positions, channels, 0, positions * channels)
        )
        target = Target(len(self.network.rings) - 1, 0, 0, positions, channels, 0, 0)
        for sender in senders:
            self.network.contexts[sender].targets[result].append(target)
        return node.spill

    def _reader(self, spill: Spill, phase: int) -> int:
        """The context that sends a spill's rows in ``phase``; made once a phase."""
        if phase not in spill.readers:
            index = self.network.contexts[spill.writer].node
            spec = ContextSpec(index, RELOAD, spill.copy, spill.copies, phase=phase, targets=[[]])
            spill.readers[phase] = self._context(self.network.nodes[index], spec)
        return spill.readers[phase]

    def _available(self, part: Part, value: SSAValue, phase: int) -> Part:
        """``part`` as ``phase`` can have it: from its producer, or reloaded if that is of an earlier phase."""
        spec = self.network.contexts[part.context]
        if spec.phase == phase:
            return part
        key = (spec.node, part.result, spec.n0, spec.p0, spec.phase)
        spill = self.spills.get(key)
        if spill is None:
            same = [
                i
                for i in self.network.nodes[spec.node].contexts
                for c in [self.network.contexts[i]]
                if (c.role, c.n0, c.p0, c.phase) == (spec.role, spec.n0, spec.p0, spec.phase)
            ]
            block = (shape_of(value)[0], *(part.block or (part.positions, part.channels)))
            spill = self._spill(key, same, part.result, block, element_of(value.type), (0, 1))
        return replace(part, context=self._reader(spill, phase), result=0)

    def _meets(self, part: Part, geometry: RingGeometry) -> bool:
        """Whether a ring can want any of the rows of the context that makes ``part``: the rows of both repeat."""
        spec = self.network.contexts[part.context]
        common = gcd(spec.copies, geometry.period)
        return (spec.copy - geometry.first) % common < geometry.advance

    def _add_ring(self, ring: Ring) -> None:
        self.network.rings.append(ring)
        self.network.contexts[ring.context].rings[ring.name] = len(self.network.rings) - 1

    def _ring(
        self,
        context: int,
        name: str,
        value: SSAValue,
        geometry: RingGeometry,
        wanted: Span,
        columns: Span,
        pad: int,
    ) -> None:
        """A ring for channels ``wanted`` and ``columns`` of ``value``, some of which may lie outside the image, and a
        target at every context that produces some of them."""
        channels, positions = wanted[1] - wanted[0], columns[1] - columns[0]
        first, last = self._inside(value, columns)
        element, fill = element_of(value.type), (last - first) * channels
        self._add_ring(Ring(context, name, geometry, element, positions, channels, pad, fill))
        number, phase = len(self.network.rings) - 1, self.network.contexts[context].phase
        rows = geometry.first, geometry.period, geometry.advance
        key = value, *rows, phase, wanted, columns
        if key not in self.met:
            self.met[key] = self._meeting(value, geometry, phase, wanted, columns)
        for targets, rectangle in self.met[key]:
            targets.append(Target(number, *rectangle))

    def _inside(self, value: SSAValue, columns: Span) -> Span:
        """The ``columns`` that lie in the image."""
        return max(columns[0], 0), min(columns[1], shape_of(value)[1])

    def _meeting(
        self, value: SSAValue, geometry: RingGeometry, phase: int, wanted: Span, columns: Span
    ) -> list[_Met]:
        """What contexts send to a ring in ``phase``."""
        inside = self._inside(value, columns)
        overlapping = [
            p for p in self.parts[value] if p.pos0 < inside[1] and inside[0] < p.pos0 + p.positions
        ]
        found = (self._available(p, value, phase) for p in overlapping if self._meets(p, geometry))
        met: list[_Met] = []
        for part in dict.fromkeys(found):
            low, high = max(part.chan0, wanted[0]), min(part.chan0 + part.channels, wanted[1])
            left, right = max(part.pos0, inside[0]), min(part.pos0 + part.positions, inside[1])
            if low >= high or left >= right:
                continue
            position, channel = part.src_pos + left - part.pos0, part.src_chan + low - part.chan0
            place = left - columns[0], low - wanted[0]
            targets = self.network.contexts[part.context].targets[part.result]
            met.append((targets, (position, channel, right - left, high - low, *place)))
        return met


def _blocks(spec: ContextSpec, split: bool) -> list[Span]:
    """The blocks of positions for which a context has rings of a source: its pieces, or all of them in one."""
    return spec.pieces if split else [(spec.p0, spec.p1)]


def _whole_row(value: SSAValue) -> tuple[int, int]:
    """All columns of a value."""
    return 0, shape_of(value)[1]
