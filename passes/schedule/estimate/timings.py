"""What every stage and chip operation of a mapped module takes per row, read off the operations and the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, prod
from typing import Any

from xdsl.ir import Operation, SSAValue

from cimc.dialects.cim import ConcatOp, DcomOp, ReadCoreOp, RequantiseOp, StageOp, StorageCastOp, ViewOp
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.cim_real import RealOp, takes_whole_rows
from cimc.dialects.cim_rows import uncast
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.mem import HostCallOp, InputOp, OutputOp, RelayoutOp
from cimc.dialects.mem_real import IndexMapOp, MatmulOp
from cimc.passes.place.network import COLUMNS
from cimc.passes.place.source_rows import head_window, is_global_pool
from cimc.passes.place.tail_plan import element_of
from cimc.passes.schedule.array_frames import frame_window_cycles, write_cycles
from cimc.passes.schedule.array_product import coding_of
from cimc.passes.schedule.copies.stage_costs import conversion_cycles, exact, window_cycles
from cimc.passes.schedule.dealing import extents, finest_blocks
from cimc.passes.schedule.estimate.inputs import InputRow
from cimc.passes.schedule.estimate.nodes import ISSUE, Across, Arrays, Digital, Edge, Step, Timing, busy
from cimc.passes.schedule.estimate.units import Units
from cimc.passes.schedule.estimate.works import cycles_of_moves, cycles_on_host, work_of
from cimc.passes.schedule.row_tiles import stage_tile_height
from cimc.runtime.crossbar.coding import Coding


def timings(ops: Sequence[Operation], arch: Any, table: Callable[[StageOp], Any], store: Any) -> list[Timing]:
    """The nodes of a mapped block in order; ``table`` gives a stage's placement table, all copies or one."""
    return _Reader(Units(arch), arch, table, store).read(ops)


def cut_again(node: Timing, stage: StageOp, table: Any, arch: Any) -> Timing:
    """``node`` of an array stage whose weights have another tile grid now; ``table``: its placement with one copy."""
    reader = _Reader(Units(arch), arch, lambda _: table, None)
    assert stage.write is not None
    one = table.tolist()
    channels = max(row[_N1] - row[_N0] for row in one)
    return replace(node, arrays=reader.arrays(stage, one, channels, coding_of(stage.write.coding)))


Rows = Sequence[Sequence[int]]
"""Contexts of a stage, as lines of its placement table."""


class _Reader:
    """Walks a block once; values are known by the nodes that make them."""

    def __init__(self, units: Units, arch: Any, table: Callable[[StageOp], Any], store: Any):
        self.units, self.arch, self.table, self.store = units, arch, table, store
        self.nodes: list[Timing] = []
        self.makers: dict[SSAValue, tuple[int, ...]] = {}
        self.blocks: dict[int, tuple[int, ...]] = {}
        """Widths in channels of the parts in which a node sends its rows."""
        self.known: dict[tuple[StageOp, int, int], tuple[Edge, ...]] = {}
        """Edges of a stage by the blocks of channels its contexts take: those of hundreds of phases are the same."""

    def read(self, ops: Sequence[Operation]) -> list[Timing]:
        """All nodes."""
        for op in ops:
            match op:
                case StageOp():
                    self._stages(op)
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

    def _stages(self, stage: StageOp) -> None:
        """A node for every phase in which some contexts of the stage work."""
        table = self.table(stage)
        numbers: list[int] = []
        rows = table.tolist()
        for phase in sorted({row[_PHASE] for row in rows}):
            part = [row for row in rows if row[_PHASE] == phase]
            self._add(self._stage(stage, part, phase), stage.results, self._widths(part))
            numbers.append(len(self.nodes) - 1)
        self.makers[stage.result] = tuple(numbers)

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
            delay = out + self._distance() + self._port(widest, chip)
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
                    senders=senders,
                )
            )
        return found

    def _distance(self) -> int:
        """The head of a row between neighbours in the network, which first fit puts near to each other."""
        return self.units.hops(1)

    def _port(self, size: int, chip: bool) -> int:
        return self.units.buffer(size) + self.units.buffer_latency if chip else self.units.port(size)

    # -- stages ------------------------------------------------------------------------------

    def _widths(self, table: Rows) -> tuple[int, ...]:
        p0, chunk = table[0][_P0], min(row[_CHUNK] for row in table)
        mains = (row for row in table if (row[_COPY], row[_P0], row[_CHUNK]) == (0, p0, chunk))
        return tuple(row[_N1] - row[_N0] for row in mains)

    def _stage(self, stage: StageOp, table: Rows, phase: int) -> Timing:
        """``table``: the contexts that work in the phase."""
        one = [row for row in table if row[_COPY] == 0]
        channels = max(row[_N1] - row[_N0] for row in one)
        rows = shape_of(stage.result)[0]
        edges = self._sources(stage, one)
        out = self.units.buffer(prod(shape_of(stage.result)[1:]) * element_of(stage.result.type).size_bytes)
        row = out + self.units.buffer_latency + ISSUE
        block = shape_of(stage.result)[1] * element_of(stage.result.type).size_bytes
        parts = sum(self.units.buffer(width * block) for width in self._widths(table))
        if stage.read is None:
            digital = self._digital(stage, channels)
            dealing = digital.dealing(stage.copies.value.data)
            turns = digital.turn(dealing, stage.pieces.value.data)
            streaming = is_global_pool(stage) and quant_of(stage.sources[0]) is not None
            wait = self._function("fill", channels) + turns[0].tail if streaming else 0
            return Timing(
                stage.label.data,
                stage,
                rows,
                **busy(turns),
                wait=wait,
                copies=dealing.rows,
                columns=dealing.columns,
                digital=digital,
                edges=edges,
                phase=phase,
                row=row,
                parts=parts,
            )
        assert stage.write is not None
        coding = coding_of(stage.write.coding)
        load, write = self._writes(stage, [row for row in table if not row[_STAYS]], coding)
        staying = [row for row in table if row[_STAYS]]
        kept_load, kept_write = self._writes(stage, staying, coding)
        arrays = self.arrays(stage, one, channels, coding)
        dealing = arrays.dealing(stage.copies.value.data)
        together = Counter(row[_CORE] for row in table if row[_CORE] >= 0)
        if together:
            arrays = replace(arrays, sharing=max(together.values()))
        return Timing(
            stage.label.data,
            stage,
            rows,
            **busy(arrays.turn(dealing, stage.pieces.value.data)),
            copies=dealing.rows,
            columns=dealing.columns,
            arrays=arrays,
            edges=edges,
            phase=phase,
            load=load,
            kept_load=kept_load,
            staying=sum(row[_XBARS] for row in staying),
            write=max(write, kept_write),
            row=row,
            parts=parts,
        )

    def _writes(self, stage: StageOp, table: Rows, coding: Coding) -> tuple[int, int]:
        """Cycles to carry the weights of all contexts, and to write those of one."""
        if not table:
            return 0, 0
        bits = coding.weight_bits
        products = Counter((row[_K1] - row[_K0], row[_N1] - row[_N0]) for row in table)
        load = sum(n * self.units.buffer(-(-k * width * bits // 8)) for (k, width), n in products.items())
        height = stage_tile_height(stage.write, self.arch, coding)
        rows = min(height, max(k for k, _ in products))
        return load, rows * ceil(exact(self.arch.crossbar.write_latency_ns) * exact(self.arch.clock_ghz))

    def arrays(self, stage: StageOp, one: Rows, channels: int, coding: Coding) -> Arrays:
        """The slowest of a copy's contexts, whose largest block has ``channels`` channels."""
        write, read = stage.write, stage.read
        assert write is not None
        assert read is not None
        crossbar = self.arch.crossbar
        size = element_of(stage.sources[0].type).size_bytes
        together = 1 if crossbar.logical_cells else coding.cells_per_weight
        height = stage_tile_height(write, self.arch, coding)
        slowest = behind = port = 0
        first = [row for row in one if row[_P0] == one[0][_P0]]
        for k, n in {(row[_K1] - row[_K0], row[_N1] - row[_N0]) for row in first}:
            columns = min(n, crossbar.columns // together)
            cycles = window_cycles(coding, min(k, height), columns, self.arch)
            convert = conversion_cycles(coding, columns, self.arch)
            # Every window takes the memory's port; a core that slides the window itself reads a row at once.
            taken = cycles if isinstance(read, ReadCoreOp) else max(cycles, self.units.port(k * size))
            slowest, behind = max(slowest, taken), max(behind, convert)
            port = max(port, self.units.port(k * size))
        width = shape_of(read.acc)[1]
        chunks = max(row[_CHUNK] for row in one) + 1
        functions = self._functions(stage, channels)
        fixed = 2 * ISSUE * (len(stage.sources) - 1) + ISSUE + (chunks - 1) * 2 * ISSUE
        if chunks > 1:
            sums = channels * element_of(read.acc.type).size_bytes
            fixed += 2 * self.units.port(sums) + self.units.link(sums) + self._distance()
            functions += (("add_int", channels),) * (chunks - 1)
        xbars = [row[_XBARS] for row in first]
        room = max(1, self.arch.core.crossbars // max(1, *xbars))
        _, columns_in, _ = shape_of(stage.sources[0])
        lanes = read.diagonal.channels
        advance = min(read.window.kernel[0], read.window.strides[0] * stage.copies.value.data)
        moved = advance * columns_in * lanes * size
        moved += width * channels * element_of(stage.result.type).size_bytes
        return Arrays(
            self.units,
            *extents(stage),
            finest_blocks(stage, self.arch),
            width,
            slowest,
            behind,
            sum(xbars),
            functions,
            fixed,
            port,
            moved,
            room,
        )

    def _sources(self, stage: StageOp, one: Sequence[Sequence[int]]) -> tuple[Edge, ...]:
        """``one``: the placement of one copy."""
        starts, read = {row[_N0] for row in one}, stage.read
        if read is not None:
            diagonal = read.diagonal
            blocks = len({diagonal.channel_range(start) for start in starts})
        else:
            blocks = 1 if takes_whole_rows(stage) else len(starts)
        key = stage, blocks, len(starts)
        if key not in self.known:
            self.known[key] = tuple(self._edges_of(stage, blocks, len(starts)))
        return self.known[key]

    def _edges_of(self, stage: StageOp, blocks: int, outputs: int) -> list[Edge]:
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
            step = self._function("sum_positions", positions * channels) + 2 * ISSUE
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

    def _functions(self, stage: StageOp, channels: int) -> tuple[tuple[str, int], ...]:
        """Digital functions of a row of ``channels`` channels, with their elements a position of the result."""
        whole = takes_whole_rows(stage)
        return tuple(
            work_of(op, channels, whole)
            for op in stage.body.block.ops
            if isinstance(op, RequantiseOp | DcomOp | RealOp | FrameProductOp)
            and not (isinstance(op, FrameProductOp) and op.coding is not None)
        )

    def _digital(self, stage: StageOp, channels: int) -> Digital:
        """A digital stage; a product's context has one position."""
        width = 1 if stage.frame_product is not None else shape_of(stage.result)[1]
        fixed = 2 * ISSUE * len(stage.sources) + ISSUE
        product = stage.frame_product
        window = frame_window_cycles(product, self.arch) if product is not None else 0
        functions, finest = self._functions(stage, channels), finest_blocks(stage, self.arch)
        return Digital(self.units, *extents(stage), finest, width, functions, fixed, window)

    def _function(self, name: str, elements: int) -> int:
        return self.units.vector(name, elements)

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
            edges=tuple(edges),
            phase=max(self.nodes[edge.source].phase for edge in edges),
        )

    def _chip(self, op: RelayoutOp | IndexMapOp | MatmulOp | HostCallOp) -> Timing:
        """Operations that collect frames in the global buffer and send rows of another."""
        result = op.results[0]
        rows, positions, channels = shape_of(result)
        size = element_of(result.type).size_bytes
        out = self.units.buffer(size * positions * channels) + self.units.buffer_latency
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
            head = cycles_of_moves(op, size, self.units, self.store) // rows
        if isinstance(op, HostCallOp):
            wait = cycles_on_host(op, self.arch.host)
        for value in operands:
            given = shape_of(value)[1] * shape_of(value)[2] * element_of(value.type).size_bytes
            step = self.units.buffer(given) + self.units.buffer_latency + 2 * ISSUE
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
        )


_COPY, _CHUNK, _K0, _K1, _N0, _N1, _P0, _PHASE, _XBARS, _STAYS, _CORE = map(
    COLUMNS.index, ("copy", "chunk", "k0", "k1", "n0", "n1", "p0", "phase", "xbars", "stays", "core")
)
