"""The network of a mapped block: a walk over its operations that makes contexts, rings and targets."""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue

from cimc.dialects.cim import ConcatOp, StageOp
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
from cimc.passes.place.source_rows import head_window, kernel_rows, pad_value, source_geometry
from cimc.passes.place.tail_plan import element_of, plan_tail, ring_name
from cimc.runtime.program import Element
from cimc.runtime.program.geometry import RingGeometry, ring_geometry

_CHIP_OPERATIONS = (InputOp, OutputOp, RelayoutOp, HostCallOp, IndexMapOp, MatmulOp)


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
