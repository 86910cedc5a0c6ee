"""Contexts, rings and routes of a mapped program: who consumes which rows from whom (docs/isa.md, Rings, Routes).

The network does not depend on cores: ring depths are computed on it, then contexts are placed, then both
are written out. It is derived from the mapped module and its partition tables, always in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from xdsl.ir import Operation, SSAValue

from cimc.dialects.cim import ConcatOp, StageOp
from cimc.dialects.cim_real import takes_whole_rows
from cimc.dialects.cim_types import Function, WindowAttr
from cimc.dialects.context import CimContext
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.mem import HostCallOp, InputOp, OutputOp, RelayoutOp
from cimc.dialects.mem_real import IndexMapOp, MatmulOp
from cimc.passes.place.tail_plan import TailPlan, element_of, plan_tail, ring_name
from cimc.runtime.program import Element
from cimc.runtime.program.builder import float_bits
from cimc.runtime.program.geometry import RingGeometry, ring_geometry

CHIP = -1
"""The chip itself: global buffer, host link, chip-level digital unit."""

MAIN, PARTIAL = "main", "partial"
"""Roles of a stage's contexts: the one that ends a column block, and those that send it partial sums."""

SPILL, RELOAD = "spill", "reload"
"""Roles of the chip contexts that carry rows from one phase to a later one."""

_CHIP_OPERATIONS = (InputOp, OutputOp, RelayoutOp, HostCallOp, IndexMapOp, MatmulOp)

COLUMNS = ("copy", "chunk", "k0", "k1", "n0", "n1", "xbars", "phase", "core", "xbar")
"""Columns of a stage's placement table; phase is 0, core and xbar are -1 until decided."""


@dataclass
class Ring:
    """One ring: its consumer, its geometry, and the row it holds."""

    context: int
    name: str
    geometry: RingGeometry
    element: Element
    positions: int
    """Positions of a slot, padding columns included."""
    channels: int
    pad_left: int
    pad: int
    fill: int

    @property
    def pitch(self) -> int:
        """Elements of a slot."""
        return self.positions * self.channels

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot."""
        return self.pitch * self.element.size_bytes


@dataclass(frozen=True)
class Target:
    """One entry of a route set: the rectangle of the sent row that goes to a ring, and where it lands."""

    ring: int
    src_chan: int
    positions: int
    channels: int
    dst_pos: int
    dst_chan: int


@dataclass
class ContextSpec:
    """One context: its stage and role, its block of the operator, its rings and its targets per result."""

    node: int
    role: str
    copy: int = 0
    copies: int = 1
    k0: int = 0
    k1: int = 0
    n0: int = 0
    n1: int = 0
    xbars: int = 0
    phase: int = 0
    core: int = CHIP
    xbar: int = 0
    holds: bool = False
    """Whether the window of the first source overlaps that of the next turn."""
    rings: dict[str, int] = field(default_factory=dict[str, int])
    targets: list[list[Target]] = field(default_factory=list[list[Target]])


@dataclass(frozen=True)
class Spill:
    """Rows that wait in the global buffer for a later phase: ``writer`` and ``readers`` are chip contexts.

    The buffer holds whole frames of ``rows`` x ``positions`` x ``channels``; rows copy, copy + copies, ... are used.
    """

    writer: int
    rows: int
    positions: int
    channels: int
    element: Element
    copy: int
    copies: int
    readers: dict[int, int] = field(default_factory=dict[int, int])
    """Reader context by consuming phase."""

    @property
    def pitch(self) -> int:
        """Elements of a frame."""
        return self.rows * self.positions * self.channels


@dataclass
class Node:
    """What runs in contexts of its own: an operation of the mapped level, or a spill of one's result."""

    op: Operation
    label: str
    contexts: list[int] = field(default_factory=list[int])
    tail: TailPlan | None = None
    spill: Spill | None = None

    @property
    def stage(self) -> StageOp | None:
        """The stage that runs on cores; ``None`` for everything that runs on the chip."""
        return self.op if isinstance(self.op, StageOp) and self.spill is None else None


@dataclass(frozen=True)
class Part:
    """Channels [chan0, chan0 + channels) of a value come from result ``result`` of ``context``."""

    context: int
    result: int
    chan0: int
    channels: int


@dataclass
class Network:
    """All contexts and rings of a program, in order."""

    nodes: list[Node] = field(default_factory=list[Node])
    contexts: list[ContextSpec] = field(default_factory=list[ContextSpec])
    rings: list[Ring] = field(default_factory=list[Ring])

    @property
    def phases(self) -> int:
        """Number of phases."""
        return 1 + max((c.phase for c in self.contexts), default=0)


def head_window(stage: StageOp) -> WindowAttr | None:
    """The window of a stage over its first source; ``None`` for one that works row by row."""
    if stage.read is not None:
        return stage.read.window
    first = next(iter(stage.body.block.ops))
    window = getattr(first, "window", None)
    if isinstance(window, WindowAttr):
        return window
    if holds_image(stage):
        height, width, _ = shape_of(stage.sources[0])
        return WindowAttr.of((height, width))
    return None


def holds_image(stage: StageOp) -> bool:
    """Whether the stage is a global pool of float32 rows, which needs the whole image at once."""
    return is_global_pool(stage) and quant_of(stage.sources[0]) is None


def is_global_pool(stage: StageOp) -> bool:
    """Whether the stage's head is a global average pool."""
    first = next(iter(stage.body.block.ops))
    function = getattr(first, "function", None)
    return function is not None and function.data is Function.GLOBAL_AVERAGE_POOL


def source_geometry(stage: StageOp, kernel: tuple[int, int], copy: int, copies: int) -> RingGeometry:
    """The ring of the stage's first source; ``kernel`` is the range of kernel rows the context needs."""
    rows_in = shape_of(stage.sources[0])[0]
    window = head_window(stage)
    if window is None:  # row by row; a streaming global pool takes every row in turn
        turns = rows_in if is_global_pool(stage) else shape_of(stage.result)[0]
        return ring_geometry(1, 1, 1, 0, rows_in, turns, copy, copies)
    dilation = window.dilations[0]
    above = window.pads[0] - kernel[0] * dilation
    turns = shape_of(stage.result)[0]
    return ring_geometry(
        kernel[1] - kernel[0], window.strides[0], dilation, above, rows_in, turns, copy, copies
    )


def kernel_rows(stage: StageOp, k0: int, k1: int) -> tuple[int, int]:
    """The kernel rows [first, last) that weight rows [k0, k1) of an array stage need; all of them for others."""
    window = head_window(stage)
    if window is None:
        return 0, 1
    if stage.read is None:
        return 0, window.kernel[0]
    row = window.kernel[1] * stage.read.diagonal.channels
    return k0 // row, -(-k1 // row)


def pad_value(value: SSAValue, stage: StageOp | None) -> int:
    """What padding holds: the zero point, the least code for a max pool, or the bits of a float."""
    first = next(iter(stage.body.block.ops)) if stage is not None else None
    function = getattr(first, "function", None)
    is_max = function is not None and function.data is Function.MAX_POOL
    codes = quant_of(value)
    if codes is None:
        return float_bits(float("-inf") if is_max else 0.0)
    return codes.qmin if is_max else codes.zero_point


def build_network(ops: list[Operation], ctx: CimContext) -> Network:
    """The network of a mapped block. Stages must have a partition table (pass ``partition-stages``)."""
    return _Builder(ctx).build(ops)


class _Builder:
    def __init__(self, ctx: CimContext):
        self.ctx = ctx
        self.network = Network()
        self.parts: dict[SSAValue, list[Part]] = {}
        self.spills: dict[tuple[int, ...], Spill] = {}

    def build(self, ops: list[Operation]) -> Network:
        for op in ops:
            if isinstance(op, StageOp):
                self._stage(op)
            elif isinstance(op, ConcatOp):
                self._concat(op)
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
        """Whatever runs on the chip itself: one context each."""
        label = op.port.data if isinstance(op, InputOp | OutputOp) else op.name.removeprefix("mem.")
        index, node = self._node(op, label)
        phase = max((self._phase(v) for v in op.operands), default=0)
        context = self._context(node, ContextSpec(index, MAIN, phase=phase, targets=[[] for _ in op.results]))
        for number, value in enumerate(op.operands):
            rows, _, channels = shape_of(value)
            wanted = op.ranges[number] if isinstance(op, IndexMapOp) else (0, channels)
            geometry = ring_geometry(1, 1, 1, 0, rows, rows)
            self._ring(context, ring_name(number), value, geometry, wanted, (0, 0), 0)
        for number, value in enumerate(op.results):
            self.parts[value] = [Part(context, number, 0, shape_of(value)[2])]

    def _phase(self, value: SSAValue) -> int:
        """The phase in which a value is complete."""
        return max(self.network.contexts[p.context].phase for p in self.parts[value])

    def _concat(self, op: ConcatOp) -> None:
        found: list[Part] = []
        offset = 0
        for value in op.args:
            found += [Part(p.context, p.result, p.chan0 + offset, p.channels) for p in self.parts[value]]
            offset += shape_of(value)[2]
        self.parts[op.result] = found

    def _stage(self, stage: StageOp) -> None:
        assert stage.placement is not None
        index, node = self._node(stage, stage.label.data)
        node.tail = plan_tail(stage)
        copies = stage.copies.value.data
        mains: dict[tuple[int, int], int] = {}
        parts: list[Part] = []
        for row in self.ctx.store.array(stage.placement.key.data):
            f = dict(zip(COLUMNS, map(int, row), strict=True))
            role = MAIN if f["chunk"] == 0 else PARTIAL
            context = self._context(
                node,
                ContextSpec(
                    index, role, f["copy"], copies, f["k0"], f["k1"], f["n0"], f["n1"],
                    f["xbars"], f["phase"], f["core"], f["xbar"], targets=[[]],
                ),
            )  # fmt: skip
            self._source_ring(stage, context)
            if role == PARTIAL:
                self._psum_ring(stage, context, mains[f["copy"], f["n0"]], f["chunk"])
                continue
            mains[f["copy"], f["n0"]] = context
            parts.append(Part(context, 0, f["n0"], f["n1"] - f["n0"]))
            self._tail_rings(stage, context)
        self.parts[stage.result] = parts

    def _source_ring(self, stage: StageOp, context: int) -> None:
        spec = self.network.contexts[context]
        source = stage.sources[0]
        geometry = source_geometry(stage, kernel_rows(stage, spec.k0, spec.k1), spec.copy, spec.copies)
        spec.holds = geometry.window > geometry.advance
        window = head_window(stage)
        pads = (window.pads[1], window.pads[3]) if window is not None else (0, 0)
        read = stage.read
        channels = read.diagonal.channel_range(spec.n0) if read is not None else (spec.n0, spec.n1)
        if takes_whole_rows(stage):
            channels = (0, shape_of(source)[2])
        self._ring(context, ring_name(0), source, geometry, channels, pads, pad_value(source, stage))

    def _tail_rings(self, stage: StageOp, context: int) -> None:
        """Rings of the sources that enter the tail: the context's channels of every row it computes."""
        spec = self.network.contexts[context]
        turns = shape_of(stage.result)[0]
        geometry = ring_geometry(1, 1, 1, 0, turns, turns, spec.copy, spec.copies)
        for number, source in enumerate(stage.sources[1:], start=1):
            self._ring(context, ring_name(number), source, geometry, (spec.n0, spec.n1), (0, 0), 0)

    def _psum_ring(self, stage: StageOp, sender: int, main: int, chunk: int) -> None:
        """Partial sums of a row chunk travel whole rows to the context that ends the column block.

        A chunk of an earlier phase leaves them in the global buffer.
        """
        assert stage.read is not None
        spec = self.network.contexts[sender]
        turns, positions, _ = shape_of(stage.read.acc)
        channels = spec.n1 - spec.n0
        geometry = ring_geometry(1, 1, 1, 0, turns, turns, spec.copy, spec.copies)
        element = element_of(stage.read.acc.type)
        phase = self.network.contexts[main].phase
        if phase != spec.phase:
            block = (turns, positions, channels)
            spill = self._spill((sender,), [sender], 0, block, element, (spec.copy, spec.copies))
            sender = self._reader(spill, phase)
        ring = Ring(main, f"psum{chunk}", geometry, element, positions, channels, 0, 0, positions * channels)
        self._add_ring(ring)
        target = Target(len(self.network.rings) - 1, 0, positions, channels, 0, 0)
        self.network.contexts[sender].targets[0].append(target)

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
            Ring(writer, ring_name(0), geometry, element, positions, channels, 0, 0, positions * channels)
        )
        target = Target(len(self.network.rings) - 1, 0, positions, channels, 0, 0)
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
        key = (spec.node, part.result, spec.n0, spec.phase)
        spill = self.spills.get(key)
        if spill is None:
            rows, positions, _ = shape_of(value)
            same = [
                i
                for i in self.network.nodes[spec.node].contexts
                for c in [self.network.contexts[i]]
                if (c.role, c.n0, c.phase) == (spec.role, spec.n0, spec.phase)
            ]
            block = (rows, positions, part.channels)
            spill = self._spill(key, same, part.result, block, element_of(value.type), (0, 1))
        return Part(self._reader(spill, phase), 0, part.chan0, part.channels)

    def _add_ring(self, ring: Ring) -> None:
        self.network.rings.append(ring)
        self.network.contexts[ring.context].rings[ring.name] = len(self.network.rings) - 1

    def _ring(
        self,
        context: int,
        name: str,
        value: SSAValue,
        geometry: RingGeometry,
        wanted: tuple[int, int],
        pads: tuple[int, int],
        pad: int,
    ) -> None:
        """A ring for channels ``wanted`` of ``value``, and a target at every context that produces some of them."""
        _, width, _ = shape_of(value)
        channels = wanted[1] - wanted[0]
        element = element_of(value.type)
        positions = pads[0] + width + pads[1]
        self._add_ring(
            Ring(context, name, geometry, element, positions, channels, pads[0], pad, width * channels)
        )
        number = len(self.network.rings) - 1
        phase = self.network.contexts[context].phase
        for part in dict.fromkeys(self._available(p, value, phase) for p in self.parts[value]):
            low, high = max(part.chan0, wanted[0]), min(part.chan0 + part.channels, wanted[1])
            if low >= high:
                continue
            target = Target(number, low - part.chan0, width, high - low, pads[0], low - wanted[0])
            self.network.contexts[part.context].targets[part.result].append(target)


def table_of(network: Network, node: Node) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The placement table of a stage from its contexts, the inverse of what the builder reads."""
    rows = [
        (c.copy, _chunk(network, node, i), c.k0, c.k1, c.n0, c.n1, c.xbars, c.phase, c.core, c.xbar)
        for i in node.contexts
        for c in [network.contexts[i]]
    ]
    return np.array(rows, np.int64).reshape(len(rows), len(COLUMNS))


def _chunk(network: Network, node: Node, index: int) -> int:
    """The row chunk of a context: its rank among those of the same copy and column block."""
    mine = network.contexts[index]
    same = [
        i for i in node.contexts if (network.contexts[i].copy, network.contexts[i].n0) == (mine.copy, mine.n0)
    ]
    return same.index(index)
