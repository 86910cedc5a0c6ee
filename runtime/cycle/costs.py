"""Cycles, busy units and energy of one execution of every resolved instruction.

What depends on the targets of a row (``send``) or on the way to a core (``write_*``) is counted by the
kernel; everything else stands here once and is multiplied by the kernel's counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UnsupportedError
from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.array_costs import ArrayCost, ArrayCosts
from cimc.runtime.cycle.layout import Int
from cimc.runtime.cycle.machine import AJ_PER_PJ, Machine, attojoules, ceil_div
from cimc.runtime.cycle.resolve import Resolved, column
from cimc.runtime.program import AGAIN, IMAGES, AluFunction, Element, Program
from cimc.runtime.program.opcodes import BY_WORDLINE

Float = npt.NDArray[np.float64]

COMPONENTS = (
    "array",
    "dac",
    "adc",
    "vector_unit",
    "local_buffer",
    "network",
    "global_buffer",
    "host_link",
    "write",
)
"""Where energy goes, static power apart."""
UNIT_KINDS = ("arrays", "port", "vector_unit", "network", "global_buffer", "host_link", "host")

_ARRAY, _DAC, _ADC, _VECTOR, _LOCAL, _NETWORK, _GLOBAL, _LINK, _WRITE = range(len(COMPONENTS))
_SIZES = np.array([element.size_bytes for element in Element], np.int64)
_ARRAYS_BUSY, _PORT_BUSY, _VECTOR_BUSY, _NETWORK_BUSY, _GLOBAL_BUSY, _LINK_BUSY, _HOST_BUSY = range(
    len(UNIT_KINDS)
)
_ARRAY_COLUMNS = [y.OCCUPANCY, y.LATENCY, y.PORT, y.ENERGY, y.SIZE, y.CYCLES2, y.ENERGY2]
_SHIFT = _ARRAY_COLUMNS.index(y.CYCLES2)
NO_COST = ArrayCost(0, 0)
"""Of a write that was done before the run."""
MOST_RECORDS = 1 << 20
"""Different parts of its set that one array instruction may use over its loops."""


class Record(NamedTuple):
    """Cost of one read or write of an array set."""

    cycles: tuple[int, int, int, int, int, int, int]
    """The kernel's columns: occupancy, latency, port, attojoules of the read or write itself, bytes of weights;
    cycles and attojoules of shift-and-add in the vector unit."""
    energy_pj: tuple[float, ...]
    busy: tuple[int, ...]


@dataclass(frozen=True)
class Costs:
    """``energy_pj`` float64 [rows, components], ``busy`` int64 [rows, kinds] of one execution.

    Instructions whose cost follows the loops have zeros there and records in ``variants`` (the kernel's
    columns), ``variant_energy_pj`` and ``variant_busy``; ``variant_row`` names the instruction of each record.
    """

    energy_pj: Float
    busy: Int
    variants: Int
    variant_energy_pj: Float
    variant_busy: Int
    variant_row: Int
    strides: Int
    """The program's row strides, and behind them those that number the records."""


class CostBuilder:
    """Fills the cost columns of the kernel's rows and collects the tables beside them."""

    def __init__(
        self,
        program: Program,
        machine: Machine,
        resolved: Resolved,
        rows: Int,
        resident_weights: bool = False,
    ):
        self._program = program
        self._machine = machine
        self._resolved = resolved
        self._rows = rows
        self._resident = resident_weights
        self._energy = np.zeros((len(rows), len(COMPONENTS)))
        self._busy = np.zeros((len(rows), len(UNIT_KINDS)), np.int64)
        self._records: list[Record] = []
        self._record_rows: list[int] = []
        self._strides = [tuple(row) for row in column(program, "strides", "row").tolist()]
        self._element = _SIZES[column(program, "buffers", "element")]
        self._memory = column(program, "buffers", "core")

    def build(self) -> Costs:
        """All costs. Raises :class:`UnsupportedError` for a unit the machine lacks."""
        self._arrays()
        self._local_writes()
        self._vector_units()
        self._copies()
        self._sends()
        self._dma()
        self._hosts()
        arrays = np.isin(self._rows[:, y.OP], (y.READ, y.WRITE, y.WRITE_LOCAL))
        self._rows[~arrays, y.ENERGY] += _attojoules(self._energy[~arrays])
        count = len(self._records)
        variants = np.zeros((count, y.VARIANT_WIDTH), np.int64)
        for at, record in enumerate(self._records):
            variants[at, : y.V_COUNT] = record.cycles
        energy = np.array([r.energy_pj for r in self._records]).reshape(count, len(COMPONENTS))
        return Costs(
            energy_pj=self._energy,
            busy=self._busy,
            variants=variants,
            variant_energy_pj=energy,
            variant_busy=np.array([r.busy for r in self._records], np.int64).reshape(count, len(UNIT_KINDS)),
            variant_row=np.array(self._record_rows, np.int64),
            strides=np.array(self._strides, np.int64).reshape(-1, y.LEVELS),
        )

    def _where(self, *opcodes: int) -> Int:
        return np.flatnonzero(np.isin(self._rows[:, y.OP], opcodes))

    def _bytes(self, operand: str, at: Int, elements: Int) -> Int:
        return elements * self._element[self._resolved.fields[operand][at]]

    # -- arrays ------------------------------------------------------------------------------

    def _arrays(self) -> None:
        at = self._where(y.READ, y.WRITE)
        if not len(at):
            return
        costs = ArrayCosts(self._program, self._machine)
        rows_move, columns_move = (
            (column(self._program, "strides", k) != 0).any(axis=1) for k in ("row", "col")
        )
        moving = rows_move | columns_move
        fields, rows = self._resolved.fields, self._rows
        moved = np.zeros(len(rows), np.int64)
        reads = self._where(y.READ)
        windows = self._resolved.window(self._program)[reads]
        taken = (
            column(self._program, "windows", "hi")[windows] - column(self._program, "windows", "lo")[windows]
        )
        repeats = self._resolved.windows_read
        moved[reads] = self._bytes("a", reads, taken * repeats[reads])
        rows[at, y.UNIT] = np.where(
            rows[at, y.OP] == y.READ, rows[at, y.CORE], self._machine.unit(-1)
        )  # a read takes its core's port, a write the global buffer's
        rows[at, y.UNIT2] = self._machine.cores + 1 + rows[at, y.CORE]
        for row in at.tolist():
            is_read = bool(rows[row, y.OP] == y.READ)
            by_row = bool(fields["opcode"][row] in BY_WORDLINE)
            stays = self._resident and not is_read and int(fields["func"][row]) != AGAIN
            cost = costs.read if is_read else costs.write
            own, stride = int(rows[row, y.SET]), int(fields["b_st"][row])
            begin = (int(fields["b_row"][row]), int(fields["b_col"][row]))
            if not moving[stride]:
                once = cost(own, by_row, *begin).repeated(int(repeats[row]))
                record = self._array_record(NO_COST if stays else once, int(moved[row]), is_read)
                rows[row, _ARRAY_COLUMNS] = record.cycles
                self._energy[row], self._busy[row] = record.energy_pj, record.busy
                continue
            rows[row, y.VARIANT] = len(self._records)
            for part in self._ranges(row, stride, begin):
                once = cost(own, by_row, *part).repeated(int(repeats[row]))
                record = self._array_record(NO_COST if stays else once, int(moved[row]), is_read)
                rows[row, y.CYCLES2] = max(rows[row, y.CYCLES2], record.cycles[_SHIFT])
                self._records.append(record)
                self._record_rows.append(row)

    def _local_writes(self) -> None:
        """Rows written at run time: read from the core's memory by its port, then written one behind the other."""
        at = self._where(y.WRITE_LOCAL)
        if not len(at):
            return
        costs = ArrayCosts(self._program, self._machine)
        fields = self._resolved.fields
        for row in at.tolist():
            own, count = int(self._rows[row, y.SET]), int(fields["n"][row])
            cost = replace(costs.write_local(own, count), size=0)
            moved = int(self._bytes("a", np.array([row]), np.array([count * costs.columns[own]]))[0])
            record = self._array_record(cost, moved, local=True)
            self._rows[row, y.UNIT] = self._rows[row, y.CORE]
            self._rows[row, _ARRAY_COLUMNS] = record.cycles
            self._energy[row], self._busy[row] = record.energy_pj, record.busy

    def _array_record(self, cost: ArrayCost, moved: int, local: bool) -> Record:
        """``local``: what it takes lies in the core's memory, as for reads; weights come from the global buffer."""
        m = self._machine
        energy, busy = [0.0] * len(COMPONENTS), [0] * len(UNIT_KINDS)
        energy[_ARRAY], energy[_DAC], energy[_ADC] = cost.array_pj, cost.dac_pj, cost.adc_pj
        energy[_WRITE], energy[_GLOBAL] = cost.write_pj, cost.size * m.global_pj
        energy[_LOCAL] = moved * m.local_pj
        port = ceil_div(moved, m.local_width) if local else ceil_div(cost.size, m.global_width)
        busy[_ARRAYS_BUSY] = cost.occupancy
        busy[_PORT_BUSY if local else _GLOBAL_BUSY] = port
        own = attojoules(sum(energy))
        if m.vector is not None and m.shift_add_in_unit and cost.conversions:
            busy[_VECTOR_BUSY] = m.vector.duration(AluFunction.ADD_INT, cost.conversions)
            energy[_VECTOR] = m.vector.energy(AluFunction.ADD_INT, cost.conversions)
        columns = (cost.occupancy, cost.latency, port, own, cost.size)
        shift = (busy[_VECTOR_BUSY], attojoules(energy[_VECTOR]))
        return Record((*columns, *shift), tuple(energy), tuple(busy))

    def _ranges(self, row: int, stride: int, begin: tuple[int, int]) -> list[tuple[int, int]]:
        """The (first, count) of every iteration, the innermost loop fastest; adds the stride of records."""
        body = self._resolved.bodies[int(self._program["contexts"]["body"][self._resolved.context[row]])]
        start = row - int(self._resolved.offset[row])
        around = body.around[int(self._resolved.offset[row])]
        steps = [
            (
                int(self._program["strides"]["row"][stride][level]),
                int(self._program["strides"]["col"][stride][level]),
            )
            for level in range(y.LEVELS)
        ]
        numbering, extents, used = [0] * y.LEVELS, [1] * y.LEVELS, 1
        for level in reversed(range(len(around))):
            if steps[level] == (0, 0):
                continue
            loop = start + around[level]
            if self._resolved.fields["func"][loop] == IMAGES:
                raise UnsupportedError(
                    "the part of an array that an instruction uses must not depend on the image, given "
                    f"strides {steps[level]} over the image loop; use a loop of its own",
                    where=self._program.name_of(int(self._resolved.fields["node"][row])),
                )
            numbering[level], extents[level] = used, int(self._rows[loop, y.N])
            used *= max(1, extents[level])
        if used > MOST_RECORDS:
            raise UnsupportedError(
                f"an array instruction may use at most {MOST_RECORDS} different parts of its set, given {used}; "
                "shorten its loops",
                where=self._program.name_of(int(self._resolved.fields["node"][row])),
            )
        self._rows[row, y.VARIANT_ST] = len(self._strides)
        self._strides.append(tuple(numbering))
        counters = product(*(range(max(1, extent)) for extent in extents))
        return [
            (
                begin[0] + sum(c * s[0] for c, s in zip(counter, steps, strict=True)),
                begin[1] + sum(c * s[1] for c, s in zip(counter, steps, strict=True)),
            )
            for counter in counters
        ]

    # -- everything else ---------------------------------------------------------------------

    def _vector_units(self) -> None:
        m, fields, rows = self._machine, self._resolved.fields, self._rows
        windows = self._resolved.window(self._program)
        taps = column(self._program, "windows", "kh") * column(self._program, "windows", "kw")
        first, depths = column(self._program, "records", "i_first"), column(self._program, "const_i", "value")
        for row in self._where(y.ALU).tolist():
            core, function = int(rows[row, y.CORE]), int(fields["func"][row])
            unit = m.chip_vector if core < 0 else m.vector
            if unit is None:
                raise UnsupportedError(
                    f"the machine has no digital unit {'of the chip' if core < 0 else 'in its cores'}, given "
                    f"{AluFunction(function).name.lower()}; add one to the architecture",
                    where=self._program.name_of(int(fields["node"][row])),
                )
            elements = int(fields["n"][row] * fields["m"][row])
            if windows[row] >= 0:
                elements *= int(taps[windows[row]])
            if (
                function == AluFunction.MATMUL
            ):  # one product a step of the inner extent, the record's first integer
                elements *= int(depths[first[fields["imm"][row]]])
            cycles = unit.duration(function, elements)
            rows[row, y.UNIT] = m.vector_unit(core)
            rows[row, [y.OCCUPANCY, y.LATENCY, y.PORT]] = cycles
            self._energy[row, _VECTOR] = unit.energy(function, elements)
            self._busy[row, _VECTOR_BUSY] = cycles

    def _copies(self) -> None:
        at = self._where(y.COPY)
        pattern = self._resolved.fields["imm"][at]
        elements = (
            column(self._program, "copies", "n0")[pattern] * column(self._program, "copies", "n1")[pattern]
        )
        self._port(at, self._bytes("a", at, elements), self._rows[at, y.CORE])
        self._rows[at, y.OCCUPANCY] = self._rows[at, y.PORT]

    def _port(self, at: Int, moved: Int, memory: Int) -> None:
        """Instructions that ask for the port of ``memory`` first and then have its latency."""
        m, rows = self._machine, self._rows
        chip = memory < 0
        cycles = np.where(chip, ceil_all(moved, m.global_width), ceil_all(moved, m.local_width))
        rows[at, y.UNIT] = np.where(chip, m.unit(-1), memory)
        rows[at, y.PORT] = np.maximum(cycles, 1)
        rows[at, y.LATENCY] = rows[at, y.PORT] + np.where(chip, m.global_latency, 0)
        self._energy[at, _LOCAL] += np.where(chip, 0.0, moved * m.local_pj)
        self._energy[at, _GLOBAL] += np.where(chip, moved * m.global_pj, 0.0)
        self._busy[at, _PORT_BUSY] += np.where(chip, 0, rows[at, y.PORT])
        self._busy[at, _GLOBAL_BUSY] += np.where(chip, rows[at, y.PORT], 0)

    def _sends(self) -> None:
        """The kernel counts what sends move: it depends on who wants the row."""
        at = self._where(y.SEND)
        core = self._rows[at, y.CORE]
        self._rows[at, y.UNIT] = np.where(core < 0, self._machine.unit(-1), core)
        self._rows[at, y.SIZE] = self._element[self._resolved.fields["a"][at]]

    def _dma(self) -> None:
        m, rows, fields = self._machine, self._rows, self._resolved.fields
        at = self._where(y.DMA_IN, y.DMA_OUT)
        if not len(at):
            return
        if m.link_to_host is None:
            raise UnsupportedError(
                "the machine has no chip.host_link, given dma_in or dma_out; add one to the architecture",
                where=self._program.name_of(int(fields["node"][at[0]])),
            )
        width, latency, link_pj = m.link_to_host
        elements = np.array([_SIZES[tensor.element] for tensor in self._program.io], np.int64)
        moved = fields["n"][at] * fields["m"][at] * elements[fields["imm"][at]]
        inward = rows[at, y.OP] == y.DMA_IN
        memory = self._memory[np.where(inward, fields["dst"][at], fields["a"][at])]
        self._port(at, moved, memory)
        port, behind = rows[at, y.PORT].copy(), rows[at, y.LATENCY] - rows[at, y.PORT]
        link = np.maximum(ceil_all(moved, width), 1)
        link_aj = np.rint(moved * link_pj * 1e6).astype(np.int64)
        # A row from the host asks for the link first and for the memory's port behind it; the reverse outwards.
        rows[at, y.UNIT2] = np.where(inward, rows[at, y.UNIT], m.host_link_unit)
        rows[at, y.CYCLES2] = np.where(inward, port, link)
        rows[at, y.LATENCY2] = np.where(inward, behind, latency)
        rows[at, y.ENERGY2] = np.where(inward, _attojoules(self._energy[at]), link_aj)
        # build() adds the energy of both requests here: the second's share is taken off before.
        rows[at, y.ENERGY] = -rows[at, y.ENERGY2]
        rows[at, y.UNIT] = np.where(inward, m.host_link_unit, rows[at, y.UNIT])
        rows[at, y.PORT] = np.where(inward, link, port)
        rows[at, y.LATENCY] = np.where(inward, link + latency, port + behind)
        self._energy[at, _LINK] = moved * link_pj
        self._busy[at, _LINK_BUSY] = link

    def _hosts(self) -> None:
        m, program = self._machine, self._program
        at = self._where(y.HOST)
        if not len(at):
            return
        if m.host is None:
            raise UnsupportedError(
                "the machine has no host section, given a host operator; add one to the architecture",
                where=program.name_of(int(self._resolved.fields["node"][at[0]])),
            )
        flops, width = m.host
        for row in at.tolist():
            operator = program.hosts[int(self._resolved.fields["imm"][row])]
            shapes = (*operator.input_shapes, *operator.output_shapes)
            buffers = (*operator.inputs, *operator.outputs)
            moved = sum(
                math.prod(shape) * int(self._element[b]) for shape, b in zip(shapes, buffers, strict=True)
            )
            cycles = max(1, ceil_div(moved, width) + ceil_div(operator.flops, flops))
            self._rows[row, y.UNIT] = m.host_unit
            self._rows[row, [y.OCCUPANCY, y.LATENCY, y.PORT]] = cycles
            self._energy[row, _GLOBAL] = moved * m.global_pj
            self._energy[row, _LINK] = moved * m.link_to_host[2] if m.link_to_host else 0.0
            self._busy[row, _HOST_BUSY] = cycles


def ceil_all(amounts: Int, width: Fraction) -> Int:
    """Cycles that byte counts take at ``width`` per cycle."""
    return -(-amounts * width.denominator // width.numerator)


def _attojoules(energy_pj: Float) -> Int:
    return np.rint(energy_pj.sum(axis=1) * AJ_PER_PJ).astype(np.int64)
