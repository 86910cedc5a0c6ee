"""What a row takes on the contexts of a stage, read off its operations and the machine."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from cimc.dialects.cim import DcomOp, ReadCoreOp, RequantiseOp, StageOp
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.cim_real import RealOp, takes_whole_rows
from cimc.dialects.cim_types import CodingAttr
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.passes.place.source_rows import is_global_pool
from cimc.passes.place.tail_plan import element_of
from cimc.passes.schedule.array_frames import frame_window_cycles, write_cycles
from cimc.passes.schedule.array_product import coding_of
from cimc.passes.schedule.copies.stage_costs import conversion_cycles, window_cycles
from cimc.passes.schedule.dealing import extents, finest_blocks
from cimc.passes.schedule.estimate.contexts import Part
from cimc.passes.schedule.estimate.nodes import ISSUE, Arrays, Digital, Edge, Timing, busy
from cimc.passes.schedule.estimate.units import Units
from cimc.passes.schedule.estimate.works import work_of
from cimc.passes.schedule.row_tiles import stage_tile_height
from cimc.runtime.crossbar.coding import Coding


class Machine:
    """A machine with what stages ask of it again and again, each worked out once."""

    def __init__(self, arch: Any):
        self.arch, self.units = arch, Units(arch)
        self.write_cycles = write_cycles(arch)
        """To write a row of cells."""
        self._codings: dict[CodingAttr, Coding] = {}
        self._windows: dict[tuple[int, int, int], tuple[int, int]] = {}

    def coding(self, attr: CodingAttr) -> Coding:
        """Digits and cells of a product; one object for equal ones."""
        if attr not in self._codings:
            self._codings[attr] = coding_of(attr)
        return self._codings[attr]

    def window(self, coding: Coding, rows: int, columns: int) -> tuple[int, int]:
        """Cycles of a read of a crossbar with so many rows and columns of weights, and of its last conversion.

        ``coding``: of :meth:`coding`.
        """
        key = id(coding), rows, columns
        if key not in self._windows:
            cycles = window_cycles(coding, rows, columns, self.arch)
            self._windows[key] = cycles, conversion_cycles(coding, columns, self.arch)
        return self._windows[key]


class StageCosts:
    """The costs of a stage as a function of its contexts; phases of equal contexts share what is worked out once."""

    def __init__(self, stage: StageOp, machine: Machine):
        self._machine, self._units = machine, machine.units
        self.stage, self.read, self._write = stage, stage.read, stage.write
        self._coding = machine.coding(self._write.coding) if self._write is not None else None
        self._diagonal = self.read.diagonal if self.read is not None else None
        self.rows, self.width, self.channels = shape_of(stage.result)
        """Of the result: rows, windows of a row, channels."""
        self._size = element_of(stage.result.type).size_bytes
        self._whole = takes_whole_rows(stage)
        self._extents, self._finest = extents(stage), finest_blocks(stage, machine.arch)
        self._known: dict[Part, Timing] = {}

    @property
    def bits(self) -> int:
        """Of a weight; 0 without any."""
        return 0 if self._coding is None else self._coding.weight_bits

    @property
    def span(self) -> int:
        """Channels of the result that see the same channels of the first source."""
        if self._diagonal is not None:
            return self._diagonal.columns
        return self.channels if self._whole else 1

    def timing(self, part: Part, edges: tuple[Edge, ...]) -> Timing:
        """The node of ``part`` of the stage, which takes rows over ``edges``."""
        alike = part._replace(phase=0)
        if alike not in self._known:
            self._known[alike] = self._timing(alike, edges)
        return self._known[alike].in_phase(part.phase)

    def _timing(self, part: Part, edges: tuple[Edge, ...]) -> Timing:
        stage, units = self.stage, self._units
        arrays = self.arrays(part) if self._coding is not None else None
        digital = self._digital(part.channels) if arrays is None else None
        own = arrays or digital
        assert own is not None
        dealing = own.dealing(stage.copies.value.data)
        turns = own.turn(dealing, stage.pieces.value.data)
        streaming = digital and is_global_pool(stage) and quant_of(stage.sources[0]) is not None
        written = min(self._height, max(part.written, part.kept_written)) if arrays is not None else 0
        size = self.width * self._size
        return Timing(
            stage.label.data,
            stage,
            self.rows,
            **busy(turns),
            copies=dealing.rows,
            columns=dealing.columns,
            arrays=arrays,
            digital=digital,
            wait=units.vector("fill", part.channels) + turns[0].tail if streaming else 0,
            edges=edges,
            load=part.load if arrays is not None else 0,
            kept_load=part.kept_load if arrays is not None else 0,
            staying=part.staying if arrays is not None else 0,
            write=part.carried + written * self._machine.write_cycles if arrays is not None else 0,
            row=units.buffer(size * self.channels) + units.buffer_latency + ISSUE,
            parts=sum(units.buffer(size * width) for width in part.widths),
        )

    @cached_property
    def _height(self) -> int:
        """Rows of weights of a crossbar at most."""
        assert self._coding is not None
        return stage_tile_height(self._write, self._machine.arch, self._coding)

    def arrays(self, part: Part) -> Arrays:
        """The slowest of a copy's contexts; as many share a core as have crossbars there, where cores are not known."""
        coding, diagonal, read = self._coding, self._diagonal, self.read
        units, arch = self._units, self._machine.arch
        assert coding is not None
        assert diagonal is not None
        assert read is not None
        source = self.stage.sources[0]
        size = element_of(source.type).size_bytes
        together = 1 if arch.crossbar.logical_cells else coding.cells_per_weight
        slowest = behind = port = 0
        for k, n in part.products:
            columns = min(n, arch.crossbar.columns // together)
            cycles, convert = self._machine.window(coding, min(k, self._height), columns)
            # Every window takes the memory's port; a core that slides the window itself reads a row at once.
            taken = cycles if isinstance(read, ReadCoreOp) else max(cycles, units.port(k * size))
            slowest, behind = max(slowest, taken), max(behind, convert)
            port = max(port, units.port(k * size))
        added = part.chunks - 1
        functions = self._functions(part.channels)
        fixed = 2 * ISSUE * (len(self.stage.sources) - 1) + ISSUE + added * 2 * ISSUE
        if added:
            sums = part.channels * element_of(read.acc.type).size_bytes
            fixed += 2 * units.port(sums) + units.link(sums) + units.hops(1)
            functions += (("add_int", part.channels),) * added
        advance = min(read.window.kernel[0], read.window.strides[0] * self.stage.copies.value.data)
        moved = advance * shape_of(source)[1] * diagonal.channels * size
        width = shape_of(read.acc)[1]
        return Arrays(
            units,
            *self._extents,
            self._finest,
            width,
            slowest,
            behind,
            part.crossbars,
            part.contexts,
            functions,
            fixed,
            port,
            moved + width * part.channels * self._size,
            part.sharing or max(1, arch.core.crossbars // max(1, part.largest)),
        )

    def _functions(self, channels: int) -> tuple[tuple[str, int], ...]:
        """Digital functions of a row of ``channels`` channels, with their elements a position of the result."""
        return tuple(
            work_of(op, channels, self._whole)
            for op in self.stage.body.block.ops
            if isinstance(op, RequantiseOp | DcomOp | RealOp | FrameProductOp)
            and not (isinstance(op, FrameProductOp) and op.coding is not None)
        )

    def _digital(self, channels: int) -> Digital:
        """A digital stage; a product's context has one position."""
        product = self.stage.frame_product
        width = 1 if product is not None else self.width
        fixed = 2 * ISSUE * len(self.stage.sources) + ISSUE
        window = frame_window_cycles(product, self._machine.arch) if product is not None else 0
        functions = self._functions(channels)
        return Digital(self._units, *self._extents, self._finest, width, functions, fixed, window)
