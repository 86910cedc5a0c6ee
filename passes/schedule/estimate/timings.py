"""What every stage and chip operation of a mapped module takes per row, read off the operations and the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

from xdsl.ir import Operation, SSAValue

from cimc.dialects.cim import ConcatOp, StageOp, StorageCastOp, ViewOp
from cimc.dialects.cim_rows import uncast
from cimc.dialects.graph_types import shape_of
from cimc.dialects.mem import HostCallOp, InputOp, OutputOp, RelayoutOp
from cimc.dialects.mem_real import IndexMapOp, MatmulOp
from cimc.passes.place.source_rows import head_window, is_global_pool
from cimc.passes.place.tail_plan import element_of
from cimc.passes.schedule.array_frames import write_cycles
from cimc.passes.schedule.estimate.across import Across
from cimc.passes.schedule.estimate.contexts import Part, parts_of
from cimc.passes.schedule.estimate.inputs import InputRow
from cimc.passes.schedule.estimate.nodes import ISSUE, Edge, Step, Timing
from cimc.passes.schedule.estimate.stages import Machine, StageCosts
from cimc.passes.schedule.estimate.works import cycles_of_moves, cycles_on_host


def timings(ops: Sequence[Operation], arch: Any, table: Callable[[StageOp], Any], store: Any) -> list[Timing]:
    """The nodes of a mapped block in order; ``table`` gives a stage's placement table, all copies or one."""
    return _Reader(Machine(arch), table, store).read(ops)


def cut_again(node: Timing, stage: StageOp, table: Any, arch: Any) -> Timing:
    """``node`` of an array stage whose weights have another tile grid now; ``table``: its placement with one copy."""
    machine = Machine(arch)
    costs = StageCosts(stage, machine)
    ((part,),) = parts_of([table], [costs.bits], [costs.span], machine.units)
    return replace(node, arrays=costs.arrays(part))


class _Reader:
    """Walks a block once; values are known by the nodes that make them."""

    def __init__(self, machine: Machine, table: Callable[[StageOp], Any], store: Any):
        self.machine, self.units, self.arch = machine, machine.units, machine.arch
        self.table, self.store = table, store
        self.nodes: list[Timing] = []
        self.makers: dict[SSAValue, tuple[int, ...]] = {}
        self.blocks: dict[int, tuple[int, ...]] = {}
        """Widths in channels of the parts in which a node sends its rows."""

    def read(self, ops: Sequence[Operation]) -> list[Timing]:
        """All nodes."""
        stages = [StageCosts(op, self.machine) for op in ops if isinstance(op, StageOp)]
        tables = [self.table(costs.stage) for costs in stages]
        parts = parts_of(tables, [c.bits for c in stages], [c.span for c in stages], self.units)
        given = zip(stages, parts, strict=True)
        for op in ops:
            match op:
                case StageOp():
                    self._stage(*next(given))
                case ViewOp() | StorageCastOp():
                    self.makers[op.result] = self.makers[op.value]
                case ConcatOp():
                    self.makers[op.result] = tuple(m for a in op.args for m in self.makers[a])
                case InputOp():
                    self._add(self._input(op), op.results, (shape_of(op.result)[2],))
                case OutputOp():
                    self._add(self._output(op), (), ())
                case RelayoutOp() | IndexMapOp() | MatmulOp() | HostCallOp():
                    self._add(self._chip(op), op.results, tuple(shape_of(v)[2] for v in op.results))
                case _:
                    continue
        return self.nodes

    def _stage(self, costs: StageCosts, parts: Sequence[Part]) -> None:
        """A node for every phase in which some contexts of the stage work."""
        stage, first = costs.stage, len(self.nodes)
        edges: dict[tuple[int, int], tuple[Edge, ...]] = {}
        for part in parts:
            taken = part.blocks, part.starts
            if taken not in edges:
                edges[taken] = tuple(self._sources(stage, *taken))
            self._add(costs.timing(part, edges[taken]), (), part.widths)
        self.makers[stage.result] = tuple(range(first, len(self.nodes)))

    def _add(self, node: Timing, results: Sequence[SSAValue], widths: tuple[int, ...]) -> None:
        self.nodes.append(node)
        number = len(self.nodes) - 1
        self.blocks[number] = widths
        for value in results:
            self.makers[value] = (number,)

    def _edges(
        self,
        value: SSAValue,
        *,
        window: tuple[int, int, int] = (1, 1, 0),
        gather: int | None = None,
        side: bool = False,
        chip: bool = False,
        across: Across | None = None,
        blocks: int = 1,
    ) -> list[Edge]:
        """Edges from the makers of ``value``; ``window`` is kernel rows, stride and padding above, ``across`` the
        columns, ``blocks`` of the channels go to contexts of their own."""
        if isinstance(uncast(value).owner, ViewOp):
            across = None
        rows, positions, channels = shape_of(value)
        size = positions * element_of(value.type).size_bytes
        found: list[Edge] = []
        for maker in self.makers[value]:
            from_chip = not isinstance(self.nodes[maker].op, StageOp)
            widths = self.blocks[maker]
            widest = max(widths) * size
            out = self._port(widest, from_chip)
            # Neighbours in the network: first fit puts them near to each other.
            delay = out + self.units.hops(1) + self._port(widest, chip)
            if not (chip and from_chip):
                delay += self.units.link(widest)
            lanes = ceil(blocks * max(widths) / channels)
            senders = ceil(len(widths) / blocks)
            found.append(
                Edge(
                    maker,
                    rows,
                    *window,
                    gather=gather,
                    side=side,
                    delay=delay,
                    across=across,
                    lanes=lanes,
                    size=size * channels,
                    part=widest,
                    senders=senders,
                )
            )
        return found

    def _port(self, size: int, chip: bool) -> int:
        return self.units.buffer(size) + self.units.buffer_latency if chip else self.units.port(size)

    # -- stages ------------------------------------------------------------------------------

    def _sources(self, stage: StageOp, blocks: int, outputs: int) -> list[Edge]:
        """``blocks`` of the first source's channels go to contexts of their own, ``outputs`` of the result's."""
        first, *others = stage.sources
        window = head_window(stage)
        _, positions, _ = shape_of(stage.result)
        if window is not None:
            high, wide = ((k - 1) * d + 1 for k, d in zip(window.kernel, window.dilations, strict=True))
            across = Across(shape_of(first)[1], positions, wide, window.strides[1], window.pads[1])
            rows = high, window.strides[0], window.pads[0]
            edges = self._edges(first, window=rows, across=across, blocks=blocks)
        elif is_global_pool(stage):
            _, positions, channels = shape_of(first)
            step = self.units.vector("sum_positions", positions * channels) + 2 * ISSUE
            edges = self._edges(first, gather=step)
        else:
            edges = self._edges(first, across=self._same(first, positions), blocks=blocks)
        if stage.frame_product is not None:
            row = (
                shape_of(stage.frame_product.frame)[2] * element_of(stage.frame_product.frame.type).size_bytes
            )
            frame, *others = others
            step = 2 * ISSUE + 2 * self.units.port(row)
            if stage.frame_product.coding is not None:
                step = max(2 * ISSUE + self.units.port(row), write_cycles(self.arch))
            edges += self._edges(frame, gather=step)
        for other in others:
            side, across = stage.read is not None or window is not None, self._same(other, positions)
            edges += self._edges(other, side=side, across=across, blocks=outputs)
        return edges

    def _same(self, source: SSAValue, positions: int) -> Across | None:
        """The columns of a stage that works position by position."""
        return Across(positions, positions) if shape_of(source)[1] == positions else None

    # -- the chip ----------------------------------------------------------------------------

    def _input(self, op: InputOp) -> Timing:
        row = InputRow.of(op, self.units)
        return Timing(
            op.port.data,
            op,
            row.rows,
            (Step(row.head, row.out),),
            between=row.between,
            copies=row.steps,
            row=row.out + self.units.buffer_latency,
            parts=row.out,
            buffer=row.rows * row.buffer,
        )

    def _output(self, op: OutputOp) -> Timing:
        rows, width, depth = shape_of(op.value)
        size = element_of(op.value.type).size_bytes * width * depth
        u = self.units
        tail = u.buffer(size) + u.buffer_latency + u.host(size) + u.host_latency
        edges = self._edges(op.value, chip=True)
        return Timing(
            op.port.data,
            op,
            rows,
            (Step(ISSUE, tail),),
            between=max(u.buffer(size), u.host(size)),
            buffer=rows * u.buffer(size),
            edges=tuple(edges),
            phase=max(self.nodes[edge.source].phase for edge in edges),
        )

    def _chip(self, op: RelayoutOp | IndexMapOp | MatmulOp | HostCallOp) -> Timing:
        """Operations that collect frames in the global buffer and send rows of another."""
        result = op.results[0]
        rows, positions, channels = shape_of(result)
        size = element_of(result.type).size_bytes
        port = self.units.buffer(size * positions * channels)
        out, port = port + self.units.buffer_latency, rows * port
        edges: list[Edge] = []
        wait = 0
        head = out
        operands = list(op.operands)
        if isinstance(op, MatmulOp):
            _, _, depth, columns = op.extents
            head = ISSUE + self.units.vector("matmul", columns * depth, chip=True) + ISSUE
            edges += self._edges(operands[0], chip=True)
            operands = operands[1:]
        if isinstance(op, IndexMapOp):
            cycles, moved = cycles_of_moves(op, size, self.units, self.store)
            head, port = cycles // rows, port + moved
        if isinstance(op, HostCallOp):
            wait = cycles_on_host(op, self.arch.host)
        for value in operands:
            given = shape_of(value)[1] * shape_of(value)[2] * element_of(value.type).size_bytes
            step = self.units.buffer(given) + self.units.buffer_latency + 2 * ISSUE
            port += shape_of(value)[0] * self.units.buffer(given)
            edges += self._edges(value, gather=step, chip=True)
        return Timing(
            op.name.removeprefix("mem."),
            op,
            rows,
            (Step(head, ISSUE),),
            between=out,
            wait=wait,
            edges=tuple(edges),
            phase=max(self.nodes[edge.source].phase for edge in edges),
            row=out + ISSUE,
            parts=out,
            buffer=port,
        )
