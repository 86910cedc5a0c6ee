"""The instructions of a stage's contexts, as ``isa`` operations in terms of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from xdsl.ir import Operation

from cimc.dialects.cim import DcomOp, ReadCoreOp, ReadRowOp, RequantiseOp, StageOp
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.cim_real import RealOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph_rows import REDUCTIONS
from cimc.dialects.graph_types import shape_of
from cimc.dialects.isa import (
    Address,
    AluOp,
    CopyOp,
    FreeOp,
    LoopOp,
    ReadOp,
    RecvOp,
    SendOp,
    Value,
    WriteLocalOp,
    WriteOp,
    parameters_of,
)
from cimc.passes.lower.records import (
    dcom_record,
    mean_record,
    product_record,
    real_record,
    requantise_record,
    shape_of_constant,
)
from cimc.passes.place.network import PARTIAL, ContextSpec, Node
from cimc.passes.place.source_rows import head_window, holds_image, is_global_pool
from cimc.passes.place.tail_plan import ACC, FRAME, SUM, TailStep, piece_name, plain_name
from cimc.runtime.program.builder import ProgramBuilder

NO_BUFFER = -1
"""The buffer of an address that is a plain pair of numbers."""


@dataclass(frozen=True)
class Piece:
    """Piece ``number`` of the row that a turn computes, of ``count``; the only one where rows are whole."""

    number: int
    count: int

    @staticmethod
    def all(spec: ContextSpec) -> list[Piece]:
        """The pieces of a context's row, in order."""
        return [Piece(number, len(spec.pieces)) for number in range(len(spec.pieces))]

    def own(self, name: str) -> str:
        """The name of what the piece has for itself."""
        return piece_name(name, self.number)


WHOLE = Piece(0, 1)
"""A row in one piece."""


@dataclass(frozen=True)
class BodyMaker:
    """Writes the bodies of one stage. Parameters: ``arrays``, ring and buffer names, ``turns``, ``copy``, ``n0``,
    ``p0``, ``at``, ``first_<ring>``, ``positions``, ``window``, ``tiles``, ``wordlines``, ``hold_<ring>``,
    ``advance_<ring>``, ``routes0``; what differs between pieces has their number behind its name."""

    node: Node
    stage: StageOp
    ctx: CimContext
    builder: ProgramBuilder
    tap: int
    phased: bool
    """Whether the program has several phases: what does not stay is written in every call."""
    requantised: dict[Operation, tuple[str, int]] = field(default_factory=dict[Operation, tuple[str, int]])
    """Function and record of every requantisation: all bodies and pieces have the same."""

    def ops(self, spec: ContextSpec) -> list[Operation]:
        """The instructions of a context like ``spec``, without the final halt."""
        if self.stage.read is not None:
            return self._array(spec)
        if is_global_pool(self.stage) and not holds_image(self.stage):
            return self._streaming_pool(spec)
        return self._digital(spec)

    def _array(self, spec: ContextSpec) -> list[Operation]:
        by_row = isinstance(self.stage.read, ReadRowOp)
        by_core = isinstance(self.stage.read, ReadCoreOp)
        span: Value = "wordlines" if by_row else "tiles"
        turn = [op for piece in Piece.all(spec) for op in self._array_piece(spec, piece, by_row, span)]
        return [
            WriteOp("arrays", 0, span, by_row=by_row, by_core=by_core, again=self.phased and not spec.stays),
            LoopOp(None, self._held(spec, [LoopOp("turns", turn)])),
        ]

    def _array_piece(self, spec: ContextSpec, piece: Piece, by_row: bool, span: Value) -> list[Operation]:
        """Products, partial sums, tail and send of a piece of a row."""
        n, m = spec.n1 - spec.n0, self._positions(spec, piece)
        received, freed = self._taking(spec, piece, "in0")
        turn: list[Operation] = [*received, self._read_row(spec, piece, n, m, by_row, span), *freed]
        if spec.role == PARTIAL:
            return [*turn, self._send(Address(ACC), spec, piece, n, m, tap=-1)]
        sums = {plain_name(r) for r in spec.rings if r.startswith("psum")}
        for name in sorted(sums, key=lambda r: int(r[4:])):
            at, own = Address(ACC), piece.own(name)
            turn += [RecvOp(own, 1), AluOp("add_int", at, at, Address(own), n=n, m=m), FreeOp(own, 1)]
        turn += self._tail(spec, piece, n, m, level=1)
        turn.append(self._send(self._local(self._sent, piece, 1), spec, piece, n, m, tap=self.tap))
        return turn

    def _positions(self, spec: ContextSpec, piece: Piece) -> Value:
        """Positions of a piece: a number where rows are whole, else a parameter."""
        whole = shape_of(self.stage.result)[1]
        return whole if is_whole(spec, self.stage) else piece.own("positions")

    def _taking(self, spec: ContextSpec, piece: Piece, ring: str) -> tuple[list[Operation], list[Operation]]:
        """``recv`` and ``free`` of what a piece takes of a source: once a row where one ring serves all."""
        name, advance = self._ring_of(spec, piece, ring), self._advance(ring)
        shared = piece_name(ring, 1) not in spec.rings
        received: list[Operation] = [RecvOp(name, advance)] if not shared or piece.number == 0 else []
        freed: list[Operation] = (
            [FreeOp(name, advance)] if not shared or piece.number == piece.count - 1 else []
        )
        return received, freed

    def _ring_of(self, spec: ContextSpec, piece: Piece, ring: str) -> str:
        """The ring from which a piece takes a source: its own, or the one for all pieces."""
        return piece.own(ring) if piece.own(ring) in spec.rings else ring

    def _first(self, spec: ContextSpec, piece: Piece, ring: str) -> Value:
        """The column at which a piece begins in its ring."""
        if is_whole(spec, self.stage) or piece_name(ring, 1) in spec.rings:
            return 0
        # A ring may hold columns of other contexts' blocks where the windows of all come from the global buffer.
        shares = ring == "in0" and self.stage.read is not None
        return piece.own(f"first_{ring}") if shares or piece.count > 1 else 0

    def _read_row(
        self, spec: ContextSpec, piece: Piece, n: int, m: Value, by_row: bool, span: Value
    ) -> Operation:
        """All windows of a piece of a row: a loop over positions, or one instruction where cores slide the window."""
        read = self.stage.read
        assert read is not None
        ring, first = self._ring_of(spec, piece, "in0"), self._first(spec, piece, "in0")
        if isinstance(read, ReadCoreOp):
            return ReadOp("arrays", 0, span, Address(ring, 0, first), "window", Address(ACC), n, positions=m)
        step = read.window.strides[1] * read.diagonal.channels
        source = Address(ring, 0, first, (), (0, 0, step))
        to = Address(ACC, 0, 0, (), (0, 0, n))
        return LoopOp(m, [ReadOp("arrays", 0, span, source, "window", to, n, by_row=by_row)])

    def _digital(self, spec: ContextSpec) -> list[Operation]:
        """Pools with windows, and stages that work row by row."""
        n, turn = spec.n1 - spec.n0, list[Operation]()
        for piece, (first, last) in zip(Piece.all(spec), spec.pieces, strict=True):
            m = last - first
            turn += self._tail(spec, piece, n, m, level=1)
            turn.append(self._send(self._local(self._sent, piece, 1), spec, piece, n, m, tap=self.tap))
        images: list[Operation] = [*self._frame(), LoopOp("turns", turn)]
        if head_window(self.stage) is not None:
            images = self._held(spec, images)
        return [LoopOp(None, images)]

    def _frame(self) -> list[Operation]:
        """Collect the frame of a product, the one position that the context takes, in memory or in cells."""
        product = self.stage.frame_product
        if product is None:
            return []
        rows, _, depth = shape_of(product.frame)
        if product.coding is not None:
            number = Address(NO_BUFFER, 0, 0, (0, 1))
            write = WriteLocalOp("arrays", number, Address("in1"))
            return [LoopOp(rows, [RecvOp("in1", 1), write, FreeOp("in1", 1)])]
        pattern = self.builder.add_copy(1, 0, 0, depth, 1, 1)
        to = Address(FRAME, 0, 0, (), (0, depth))
        return [LoopOp(rows, [RecvOp("in1", 1), CopyOp(to, Address("in1"), pattern), FreeOp("in1", 1)])]

    def _streaming_pool(self, spec: ContextSpec) -> list[Operation]:
        """Sum rows as they come; the tail runs once an image."""
        n = spec.n1 - spec.n0
        width = shape_of(self.stage.sources[0])[1]
        assert self.node.tail is not None
        head, *rest = self.node.tail.steps
        assert isinstance(head.op, DcomOp)
        sum_record, finish_record = mean_record(head.op, self.builder)
        zero = self.builder.add_record([0])
        rows: list[Operation] = [
            RecvOp("in0", 1),
            AluOp("sum_positions", Address(SUM), Address("in0"), n=n, m=width, record=sum_record),
            FreeOp("in0", 1),
        ]
        finish = AluOp(
            "mean_codes", self._local(head.writes, WHOLE, 0), Address(SUM), n=n, m=1, record=finish_record
        )
        tail = [op for step in rest for op in self._step(step, spec, WHOLE, n, 1, level=0)]
        return [
            LoopOp(
                None,
                [
                    AluOp("fill", Address(SUM), n=n, m=1, record=zero),
                    LoopOp("turns", rows),
                    finish,
                    *tail,
                    self._send(self._local(self._sent, WHOLE, 0), spec, WHOLE, n, 1, tap=self.tap),
                ],
            )
        ]

    def _held(self, spec: ContextSpec, ops: list[Operation]) -> list[Operation]:
        """``ops`` of an image with the places that stay held between turns, if the window overlaps itself."""
        if not spec.holds:
            return ops
        rings = dict.fromkeys(self._ring_of(spec, piece, "in0") for piece in Piece.all(spec))
        return [
            *(RecvOp(ring, "hold_in0") for ring in rings),
            *ops,
            *(FreeOp(ring, "hold_in0") for ring in rings),
        ]

    @property
    def _sent(self) -> str:
        assert self.node.tail is not None
        return self.node.tail.sent

    def _local(self, name: str, piece: Piece, level: int) -> Address:
        """A piece in a local buffer; what is sent alternates two slots from piece to piece, rows at ``level``."""
        if name != self._sent:
            return Address(name)
        return Address(name, piece.number % 2, 0, (0,) * level + (piece.count,))

    def _tail(self, spec: ContextSpec, piece: Piece, n: int, m: Value, level: int) -> list[Operation]:
        assert self.node.tail is not None
        return [op for step in self.node.tail.steps for op in self._step(step, spec, piece, n, m, level)]

    def _step(
        self, step: TailStep, spec: ContextSpec, piece: Piece, n: int, m: Value, level: int
    ) -> list[Operation]:
        """One function, with the rows it takes from rings received before and freed after it."""
        rings = list(dict.fromkeys(r for r in step.reads if r.startswith("in")))
        reads = [
            Address(self._ring_of(spec, piece, r), 0, self._first(spec, piece, r))
            if r in rings
            else self._local(r, piece, level)
            for r in step.reads
        ]
        to = self._local(step.writes, piece, level)
        alu: Operation
        if isinstance(step.op, FrameProductOp) and step.op.coding is not None:
            alu = self._read_frame(reads[0], to, n)
        elif isinstance(step.op, RequantiseOp):
            if step.op not in self.requantised:
                self.requantised[step.op] = requantise_record(step.op, self.ctx, self.builder)
            function, record = self.requantised[step.op]
            column = Address(NO_BUFFER, 0, "n0")
            alu = AluOp(function, to, reads[0], column, n=n, m=m, record=record)
        elif isinstance(step.op, FrameProductOp):
            record = product_record(step.op, self.builder)
            alu = AluOp("matmul", to, reads[0], reads[1], n=n, m=m, record=record)
        elif isinstance(step.op, RealOp):
            alu = self._real(step.op, to, reads, spec, piece, n, m, level)
        else:
            function, record = dcom_record(step.op, self.builder, n)
            second = reads[1] if len(reads) > 1 else None
            if function.startswith("average_pool"):
                second = self._row_number(spec, level)
            alu = AluOp(function, to, reads[0], second, n=n, m=m, record=record if record >= 0 else None)
        taken = [self._taking(spec, piece, ring) for ring in rings]
        before = [op for received, _ in taken for op in received]
        return [*before, alu, *(op for _, freed in taken for op in freed)]

    def _read_frame(self, source: Address, to: Address, n: int) -> ReadOp:
        """A row through the cells that hold a frame: one window, in the machine's mode."""
        assert self.ctx.arch is not None
        mode = self.ctx.arch.mode
        span: Value = "wordlines" if mode == "wordline" else "tiles"
        return ReadOp(
            "arrays",
            0,
            span,
            source,
            "window",
            to,
            n,
            by_row=mode == "wordline",
            positions=1 if mode == "core" else None,
        )

    def _real(
        self,
        op: RealOp,
        dst: Address,
        reads: list[Address],
        spec: ContextSpec,
        piece: Piece,
        n: int,
        m: Value,
        level: int,
    ) -> AluOp:
        """A function on float32 rows; constants are those of the row's number and the context's block of it."""
        function, record = real_record(op, self.ctx, self.builder)
        second = reads[1] if len(reads) > 1 else None
        if function.endswith("_constant"):
            along_row = shape_of_constant(op, self.ctx)[1] > 1
            second = replace(self._row_number(spec, level), col=piece.own("at") if along_row else "n0")
        if op.kind in REDUCTIONS:
            n = shape_of(op.args[0])[2]
        return AluOp(
            function,
            dst,
            reads[0],
            second,
            n=n,
            m=m,
            record=record if record >= 0 else None,
        )

    def _advance(self, ring: str) -> Value:
        return "advance_in0" if ring == "in0" and head_window(self.stage) is not None else 1

    def _row_number(self, spec: ContextSpec, level: int) -> Address:
        return Address(NO_BUFFER, "copy", 0, (0, spec.copies)) if level else Address(NO_BUFFER)

    def _send(self, source: Address, spec: ContextSpec, piece: Piece, n: int, m: Value, tap: int) -> SendOp:
        streaming = is_global_pool(self.stage) and not holds_image(self.stage)
        row = self._row_number(spec, 0 if streaming else 1)
        routes = f"routes{piece.number}"
        if tap < 0:
            return SendOp(source, row, routes, n=n, m=m)
        return SendOp(source, row, routes, n=n, m=m, tap=tap, tap_position=piece.own("p0"), tap_channel="n0")


def is_whole(spec: ContextSpec, stage: StageOp) -> bool:
    """Whether a context computes whole rows of its stage's result, each in one piece."""
    return spec.pieces == [(0, shape_of(stage.result)[1])]


def used_parameters(ops: Sequence[Operation]) -> list[str]:
    """Names of the parameters ``ops`` use, in order of first use."""
    found: dict[str, None] = {}
    for op in ops:
        for inner in op.walk():
            found |= dict.fromkeys(parameters_of(inner))
    return list(found)
