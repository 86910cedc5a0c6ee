"""Checks of every field of every instruction in every context, alone (P006 to P014, P045)."""

from __future__ import annotations

from collections.abc import Iterator

from cimc.runtime.program.opcodes import IMAGE_WRITES, READS, WRITES, AluFunction, BufferKind, Element, Opcode
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import AGAIN, NONE, Program
from cimc.runtime.verifier.code import Decoded, Step
from cimc.runtime.verifier.functions import CODES, FLOAT, FUNCTIONS, SUMS, Function
from cimc.runtime.verifier.operands import Tables, buffers_of

_INT_RANGES = {
    Element.I8: (-128, 127),
    Element.U8: (0, 255),
    Element.I16: (-(2**15), 2**15 - 1),
    Element.U16: (0, 2**16 - 1),
    Element.I32: (-(2**31), 2**31 - 1),
    Element.I64: (-(2**63), 2**63 - 1),
}

_TABLE_OF_IMM: dict[int, str] = {
    **{opcode: "windows" for opcode in READS},
    Opcode.COPY: "copies",
    Opcode.SEND: "route_sets",
    Opcode.SIGNAL: "events",
    Opcode.WAIT: "events",
}

_EXTENTS = READS | {Opcode.ALU, Opcode.SEND, Opcode.DMA_IN, Opcode.DMA_OUT, Opcode.WRITE_LOCAL}
_ROWS = frozenset((Opcode.READ_XB, Opcode.READ_ROW, Opcode.WRITE_LOCAL))
"""Instructions without positions."""
_COUNTS = frozenset((Opcode.RECV, Opcode.FREE, Opcode.SIGNAL, Opcode.WAIT))
_ARRAYS = READS | WRITES

Problem = tuple[str, str]
"""Rule and message."""


def check_fields(decoded: Decoded, tables: Tables) -> None:
    """Report what is wrong with single fields; without a report every later check can follow them."""
    checker = _Checker(decoded.program, tables)
    for step in decoded.all():
        for rule, message in checker.problems(step):
            decoded.report(rule, message, step)


class _Checker:
    def __init__(self, program: Program, tables: Tables):
        self._program = program
        self._tables = tables
        self._counts = {table: program.count(table) for table in program.tables}
        self._elements = [Element(element) for element in tables.buffers["element"]]
        self._sets = {name: column.tolist() for name, column in program["array_sets"].items()}

    def problems(self, step: Step) -> Iterator[Problem]:
        row = step.row
        found = [*self._strides(step), *self._references(step)]
        yield from found
        if found:
            return
        yield from self._extents(step)
        if row.opcode == Opcode.ALU:
            yield from self._function(step)
        elif row.opcode in READS:
            yield from self._read(step)
        elif row.opcode in WRITES:
            yield from self._write(row)

    def _strides(self, step: Step) -> Iterator[Problem]:
        row, strides = step.row, self._counts["strides"]
        for field, stride in (("dst_st", row.dst_st), ("a_st", row.a_st), ("b_st", row.b_st)):
            if not 0 <= stride < strides:
                yield "P008", f"{field} names stride {stride}, there are {strides}"

    def _references(self, step: Step) -> Iterator[Problem]:
        row = step.row
        buffers = self._counts["buffers"]
        for operand, buffer in buffers_of(step):
            if not 0 <= buffer < buffers:
                yield "P007", f"operand {operand} names buffer {buffer}, there are {buffers}"
            elif row.opcode in (Opcode.RECV, Opcode.FREE):
                if self._tables.buffers["kind"][buffer] != BufferKind.RING:
                    yield "P007", f"{Opcode(row.opcode).name.lower()} of buffer {buffer}, which is no ring"
            elif operand == "dst" and self._tables.buffers["kind"][buffer] == BufferKind.RING:
                yield "P007", f"writes ring {buffer}; only send puts rows into a ring"
        table = _TABLE_OF_IMM.get(row.opcode)
        if table and not 0 <= row.imm < self._counts[table]:
            yield "P009", f"imm names row {row.imm} of '{table}', there are {self._counts[table]}"
        if row.opcode in _ARRAYS and not 0 <= row.xb < self._counts["array_sets"]:
            yield "P009", f"xb names array set {row.xb}, there are {self._counts['array_sets']}"
        if row.opcode in (Opcode.DMA_IN, Opcode.DMA_OUT):
            yield from self._io(step)
        if row.opcode == Opcode.HOST and not 0 <= row.imm < len(self._program.hosts):
            yield "P009", f"imm names host operator {row.imm}, there are {len(self._program.hosts)}"
        if row.opcode == Opcode.SEND:
            if not NONE <= row.dst < len(self._program.taps):
                yield "P009", f"names tap {row.dst}, there are {len(self._program.taps)}"
        if row.opcode == Opcode.ALU:
            function = FUNCTIONS[AluFunction(row.func)]
            if (function.ints or function.floats) and not 0 <= row.imm < self._counts["records"]:
                yield "P009", f"imm names record {row.imm}, there are {self._counts['records']}"

    def _io(self, step: Step) -> Iterator[Problem]:
        row = step.row
        wanted = "in" if row.opcode == Opcode.DMA_IN else "out"
        if not 0 <= row.imm < len(self._program.io):
            yield "P009", f"imm names input or output {row.imm}, there are {len(self._program.io)}"
            return
        tensor = self._program.io[row.imm]
        if tensor.direction != wanted:
            yield "P009", f"'{tensor.name}' has direction '{tensor.direction}', not '{wanted}'"

    def _extents(self, step: Step) -> Iterator[Problem]:
        row = step.row
        if row.opcode in _COUNTS and row.n < 0:
            yield "P012", f"count n is {row.n}; give at least 0"
        takes_m = row.opcode not in _ROWS
        if row.opcode in _EXTENTS and (row.n < 1 or (takes_m and row.m < 1)):
            yield "P012", f"{row.n} channels x {row.m} positions; extents are at least 1"
        if row.opcode == Opcode.COPY:
            n0, _, _, n1, _, _ = self._tables.copies[row.imm]
            if min(n0, n1) < 1:
                yield "P012", f"copies {n0} x {n1} elements; extents are at least 1"
        if row.opcode in (Opcode.SEND, Opcode.DMA_IN, Opcode.DMA_OUT) and step.trips and not step.images:
            yield "P013", "the outermost loop counts no images; make it 'loop images'"
        if row.opcode in (Opcode.DMA_IN, Opcode.DMA_OUT):
            buffer = row.dst if row.opcode == Opcode.DMA_IN else row.a
            given, wanted = self._element(buffer), Element(self._program.io[row.imm].element)
            if given != wanted:
                name = self._program.io[row.imm].name
                yield "P011", f"buffer {buffer} is {given.name}, '{name}' is {wanted.name}"
        if row.opcode == Opcode.COPY and self._element(row.dst) != self._element(row.a):
            yield "P011", f"copies {self._element(row.a).name} to {self._element(row.dst).name}"

    def _write(self, row: Row) -> Iterator[Problem]:
        """The weight image fills sets of a tensor, local memory the others, whole rows of codes at a time."""
        named = self._sets["tensor"][row.xb] != NONE
        if named != (row.opcode in IMAGE_WRITES):
            holds = "weights of the model" if named else "no tensor of the weight image"
            yield "P069", f"{Opcode(row.opcode).name.lower()} of array set {row.xb}, which holds {holds}"
        elif named and row.func not in (0, AGAIN):
            yield "P006", f"func of a write is 0 or {AGAIN}, given {row.func}"
        elif not named and self._element(row.a) not in CODES:
            yield "P011", f"write_local takes codes; buffer {row.a} is {self._element(row.a).name}"

    def _read(self, step: Step) -> Iterator[Problem]:
        row = step.row
        if row.func not in (0, 1):
            yield "P006", f"func of a read is 0 or 1, given {row.func}"
        if self._element(row.dst) not in SUMS:
            yield (
                "P011",
                f"a read delivers sums; buffer {row.dst} is {self._element(row.dst).name}, not I32 or I64",
            )
        if self._element(row.a) not in CODES:
            yield "P011", f"a read takes codes; buffer {row.a} is {self._element(row.a).name}"
        broken = self._window_problem(row.imm)
        if broken:
            yield "P014", broken
            return
        window = self._tables.windows[row.imm]
        rows = self._sets["k1"][row.xb] - self._sets["k0"][row.xb]
        columns = self._sets["n1"][row.xb] - self._sets["n0"][row.xb]
        if window.hi - window.lo != rows:
            yield "P014", f"the window has {window.hi - window.lo} elements, set {row.xb} has {rows} rows"
        if row.n != columns:
            yield "P014", f"takes {row.n} columns of set {row.xb}, which has {columns}"

    def _window_problem(self, number: int) -> str:
        window = self._tables.windows[number]
        size = window.kh * window.kw * window.c
        if min(window.kh, window.kw, window.c) < 1:
            return f"window {number} is {window.kh} x {window.kw} x {window.c}; extents are at least 1"
        if not 0 <= window.lo < window.hi <= size:
            return f"window {number} is cut to [{window.lo}, {window.hi}) of its {size} elements"
        return ""

    def _function(self, step: Step) -> Iterator[Problem]:
        row = step.row
        func = AluFunction(row.func)
        function = FUNCTIONS[func]
        name = func.name.lower()
        operands = (("dst", row.dst, function.dst), ("a", row.a, function.a), ("b", row.b, function.b))
        for operand, buffer, legal in operands:
            if legal and self._element(buffer) not in legal:
                listed = ", ".join(e.name for e in sorted(legal))
                yield "P011", f"{name}: {operand} is {self._element(buffer).name}; it takes {listed}"
        dst = self._element(row.dst)
        if function.same_type and dst != self._element(row.a):
            yield "P011", f"{name}: from {self._element(row.a).name} to {dst.name}; both have one type"
        if func == AluFunction.ADD_INT:
            widest = max(self._element(row.a).size_bytes, self._element(row.b).size_bytes)
            if dst.size_bytes < widest:
                yield "P011", f"add_int: {dst.name} is narrower than its operands ({8 * widest} bits)"
        if not (function.ints or function.floats):
            return
        problem = self._record_problem(func, function, row.imm)
        if problem:
            yield "P010", problem
            return
        yield from self._constants(step, func, function, self._tables.ints(row.imm))

    def _record_problem(self, func: AluFunction, function: Function, record: int) -> str:
        _, ints, _, floats = self._tables.records[record]
        values = self._tables.ints(record)
        wanted_ints, wanted_floats = function.ints, function.floats
        if ints >= function.ints and function.channels_at >= 0:
            wanted_ints += values[function.channels_at]
            wanted_floats += values[function.channels_at] if function.channel_floats else 0
        if ints >= function.ints and function.cells_at >= 0:
            wanted_ints += values[function.cells_at] + values[function.cells_at + 1]
        if ints == function.ints and function.more_floats is not None:
            wanted_floats += function.more_floats(values)
        if (ints, floats) == (wanted_ints, wanted_floats):
            return ""
        return (
            f"{func.name.lower()}: record {record} has {ints} integers and {floats} floats, the function takes"
            f" {wanted_ints} and {wanted_floats}"
        )

    def _constants(
        self, step: Step, func: AluFunction, function: Function, values: list[int]
    ) -> Iterator[Problem]:
        row, name, dst = step.row, func.name.lower(), self._element(step.row.dst)
        if function.clamp_at >= 0 and dst not in FLOAT:
            low, high = values[function.clamp_at], values[function.clamp_at + 1]
            least, most = _INT_RANGES[dst]
            if not least <= low <= high <= most:
                yield "P011", f"{name}: clamps to {low} … {high}; {dst.name} holds {least} … {most}"
        if func == AluFunction.FILL and dst not in FLOAT:
            least, most = _INT_RANGES[dst]
            if not least <= values[0] <= most:
                yield "P011", f"fill: {values[0]} in {dst.name}, which holds {least} … {most}"
        if function.windowed:
            if not 0 <= values[0] < len(self._tables.windows):
                yield "P009", f"{name}: names window {values[0]}, there are {len(self._tables.windows)}"
            elif self._window_problem(values[0]):
                yield "P014", f"{name}: {self._window_problem(values[0])}"
        if function.channels_at >= 0:
            count = values[function.channels_at]
            first = self._tables.col_address(step, "b")
            low, high = first.low(step.trips), first.high(step.trips) + row.n
            if low < 0 or high > count:
                yield "P045", f"{name}: takes constants {low} … {high - 1}, the record has {count} channels"
        if function.whole_at >= 0 and values[function.whole_at] != row.n:
            yield "P045", f"{name}: {row.n} channels, the record has {values[function.whole_at]}"
        if function.broadcast:
            yield from self._broadcast(step, name, values)
        if function.cells_at >= 0:
            heights, widths = values[function.cells_at : function.cells_at + 2]
            address = self._tables.row_address(step, "b")
            low, high = address.low(step.trips), address.high(step.trips)
            if low < 0 or high >= heights:
                yield "P045", f"{name}: rows {low} … {high}, the record has {heights}"
            if row.m > widths:
                yield "P045", f"{name}: {row.m} positions, the record has {widths}"

    def _broadcast(self, step: Step, name: str, values: list[int]) -> Iterator[Problem]:
        """Constants by row, position and channel lie inside the record."""
        size, row_step, pos_step, chan_step = values[:4]
        row, col = self._tables.row_address(step, "b"), self._tables.col_address(step, "b")
        low = row.low(step.trips) * row_step + col.low(step.trips) * chan_step
        high = row.high(step.trips) * row_step + (step.row.m - 1) * pos_step
        high += (col.high(step.trips) + step.row.n - 1) * chan_step
        if min(row_step, pos_step, chan_step) < 0:
            yield "P010", f"{name}: steps {row_step}, {pos_step}, {chan_step}; give at least 0"
        elif low < 0 or high >= size:
            yield "P045", f"{name}: takes constants {low} … {high}, the record has {size}"

    def _element(self, buffer: int) -> Element:
        return self._elements[buffer]
