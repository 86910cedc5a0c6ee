"""Level 4 to rows: every operation of a body becomes one row of the instruction table."""

from __future__ import annotations

from collections.abc import Mapping

from xdsl.ir import Operation

from cimc.dialects import isa
from cimc.runtime.program import AGAIN, NONE, AluFunction, Opcode, parameter
from cimc.runtime.program.builder import ProgramBuilder
from cimc.runtime.program.rows import At, Row, end, halt, loop, loop_images, write_local


def body_rows(body: isa.BodyOp, builder: ProgramBuilder) -> list[Row]:
    """The rows of a body, ending in ``halt``; strides and the node's name go into the builder's tables."""
    params = {p.data: parameter(i) for i, p in enumerate(body.params)}
    emitter = _Emitter(params, builder, builder.name(body.node.data))
    rows = [row for op in body.body.block.ops for row in emitter.rows(op)]
    return [*rows, halt()]


class _Emitter:
    def __init__(self, params: Mapping[str, int], builder: ProgramBuilder, node: int):
        self.params = params
        self.builder = builder
        self.node = node

    def value(self, attr: isa.ValueAttr | None) -> int:
        """An immediate, a parameter's field value, or none."""
        return NONE if attr is None else self._resolve(attr.data)

    def _resolve(self, value: int | str) -> int:
        return self.params[value] if isinstance(value, str) else value

    def at(self, attr: isa.AddressAttr | None) -> At:
        """The four fields of an operand."""
        if attr is None:
            return At(NONE)
        a = attr.data
        return At(
            self._resolve(a.buffer),
            self._resolve(a.row),
            self._resolve(a.col),
            self.builder.add_stride(a.row_steps, a.col_steps),
        )

    def rows(self, op: Operation) -> list[Row]:
        """The row of an operation; a loop is its own row, its body's and an ``end``."""
        match op:
            case isa.LoopOp():
                head = loop_images() if op.images is not None else loop(self.value(op.count))
                return [head, *(row for inner in op.body.block.ops for row in self.rows(inner)), end()]
            case isa.WriteOp():
                return [self._write(op)]
            case isa.WriteLocalOp():
                return [
                    write_local(
                        self.at(op.source),
                        self.value(op.arrays),
                        self.at(op.row),
                        self.value(op.n),
                        self.node,
                    )
                ]
            case isa.ReadOp():
                return [self._read(op)]
            case isa.AluOp():
                return [self._alu(op)]
            case isa.SendOp():
                return [self._send(op)]
            case isa.RecvOp() | isa.FreeOp():
                opcode = Opcode.RECV if isinstance(op, isa.RecvOp) else Opcode.FREE
                return [Row(opcode, node=self.node, a=self.value(op.ring), n=self.value(op.n))]
            case isa.SignalOp() | isa.WaitOp():
                opcode = Opcode.SIGNAL if isinstance(op, isa.SignalOp) else Opcode.WAIT
                return [Row(opcode, node=self.node, n=self.value(op.n), imm=self.value(op.event))]
            case isa.CopyOp():
                dst, a = self.at(op.dst), self.at(op.source)
                return [Row(Opcode.COPY, 0, self.node, *dst, *a, imm=self.value(op.pattern))]
            case isa.DmaOp():
                return [self._dma(op)]
            case isa.HostOp():
                return [Row(Opcode.HOST, node=self.node, imm=op.operator.value.data)]
            case _:
                raise TypeError(f"{op.name} has no row")

    def _write(self, op: isa.WriteOp) -> Row:
        opcode = Opcode.WRITE_ROW if op.by_row is not None else Opcode.WRITE_XB
        if op.by_core is not None:
            opcode = Opcode.WRITE_CORE
        first, count = self.value(op.start), self.value(op.count)
        again = AGAIN if op.again is not None else 0
        return Row(opcode, again, self.node, b_row=first, b_col=count, xb=self.value(op.arrays))

    def _read(self, op: isa.ReadOp) -> Row:
        opcode = Opcode.READ_ROW if op.by_row is not None else Opcode.READ_XB
        return Row(
            Opcode.READ_CORE if op.by_core is not None else opcode,
            0,
            self.node,
            *self.at(op.dst),
            *self.at(op.source),
            NONE,
            b_row=self.value(op.start),
            b_col=self.value(op.count),
            n=self.value(op.n),
            m=self.value(op.m) if op.m is not None else 0,
            xb=self.value(op.arrays),
            imm=self.value(op.window),
        )

    def _alu(self, op: isa.AluOp) -> Row:
        function = AluFunction[op.function.data.upper()]
        return Row(
            Opcode.ALU,
            function,
            self.node,
            *self.at(op.dst),
            *self.at(op.a),
            *self.at(op.b),
            n=self.value(op.n),
            m=self.value(op.m),
            imm=self.value(op.record),
        )

    def _send(self, op: isa.SendOp) -> Row:
        tap, position, channel = map(self.value, (op.tap, op.tap_position, op.tap_channel))
        return Row(
            Opcode.SEND,
            0,
            self.node,
            tap,
            position,
            channel,
            0,
            *self.at(op.source),
            *self.at(op.row),
            n=self.value(op.n),
            m=self.value(op.m),
            imm=self.value(op.routes),
        )

    def _dma(self, op: isa.DmaOp) -> Row:
        row, buffer = self.at(op.row), self.at(op.buffer)
        if op.out is not None:
            return Row(
                Opcode.DMA_OUT, 0, self.node, NONE, 0, 0, 0, *buffer, *row,
                n=self.value(op.n), m=self.value(op.m), imm=self.value(op.port),
            )  # fmt: skip
        return Row(
            Opcode.DMA_IN, 0, self.node, *buffer, NONE, 0, 0, 0, *row,
            n=self.value(op.n), m=self.value(op.m), imm=self.value(op.port),
        )  # fmt: skip
