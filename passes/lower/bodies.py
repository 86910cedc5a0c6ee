"""The instructions of a stage's contexts, as ``isa`` operations in terms of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from cimc.passes.place.tail_plan import ACC, FRAME, SUM, TailStep
from cimc.runtime.program.builder import ProgramBuilder

NO_BUFFER = -1
"""The buffer of an address that is a plain pair of numbers."""


@dataclass(frozen=True)
class BodyMaker:
    """Writes the bodies of one stage. Parameters: ``arrays``, ring and buffer names, ``turns``, ``copy``, ``n0``,
    ``p0``, ``at``, ``first``, ``positions``, ``window``, ``tiles``, ``wordlines``, ``hold_<ring>``, ``advance_<ring>``,
    ``routes0``."""

    node: Node
    stage: StageOp
    ctx: CimContext
    builder: ProgramBuilder
    tap: int

    def ops(self, spec: ContextSpec) -> list[Operation]:
        """The instructions of a context like ``spec``, without the final halt."""
        if self.stage.read is not None:
            return self._array(spec)
        if is_global_pool(self.stage) and not holds_image(self.stage):
            return self._streaming_pool(spec)
        return self._digital(spec)

    def _array(self, spec: ContextSpec) -> list[Operation]:
        n, m = spec.n1 - spec.n0, self._positions(spec)
        by_row = isinstance(self.stage.read, ReadRowOp)
        by_core = isinstance(self.stage.read, ReadCoreOp)
        span: Value = "wordlines" if by_row else "tiles"
        turn: list[Operation] = [
            RecvOp("in0", "advance_in0"),
            self._read_row(n, m, by_row, span),
            FreeOp("in0", "advance_in0"),
        ]
        if spec.role == PARTIAL:
            turn.append(self._send(Address(ACC), spec, n, m, tap=-1))
        else:
            for name in sorted((r for r in spec.rings if r.startswith("psum")), key=lambda r: int(r[4:])):
                at = Address(ACC)
                turn += [
                    RecvOp(name, 1),
                    AluOp("add_int", at, at, Address(name), n=n, m=m),
                    FreeOp(name, 1),
                ]
            turn += self._tail(spec, n, m, level=1)
            turn.append(self._send(self._local(self._sent, 1), spec, n, m, tap=self.tap))
        return [
            WriteOp("arrays", 0, span, by_row=by_row, by_core=by_core),
            LoopOp(None, self._held(spec, [LoopOp("turns", turn)])),
        ]

    def _positions(self, spec: ContextSpec) -> Value:
        """Positions of the context's block of a row: a number where rows are whole, else a parameter."""
        whole = shape_of(self.stage.result)[1]
        return whole if is_whole(spec, self.stage) else "positions"

    def _read_row(self, n: int, m: Value, by_row: bool, span: Value) -> Operation:
        """All windows of a block of a row: a loop over positions, or one instruction where cores slide the window."""
        read = self.stage.read
        assert read is not None
        first: Value = "first" if m == "positions" else 0
        if isinstance(read, ReadCoreOp):
            return ReadOp("arrays", 0, span, Address("in0", 0, first), "window", Address(ACC), n, positions=m)
        step = read.window.strides[1] * read.diagonal.channels
        source = Address("in0", 0, first, (), (0, 0, step))
        to = Address(ACC, 0, 0, (), (0, 0, n))
        return LoopOp(m, [ReadOp("arrays", 0, span, source, "window", to, n, by_row=by_row)])

    def _digital(self, spec: ContextSpec) -> list[Operation]:
        """Pools with windows, and stages that work row by row."""
        n, m = spec.n1 - spec.n0, spec.p1 - spec.p0
        turn = self._tail(spec, n, m, level=1)
        turn.append(self._send(self._local(self._sent, 1), spec, n, m, tap=self.tap))
        images: list[Operation] = [*self._frame(), LoopOp("turns", turn)]
        if head_window(self.stage) is not None:
            images = self._held(spec, images)
        return [LoopOp(None, images)]

    def _frame(self) -> list[Operation]:
        """Collect the frame of a product, the one position that the context takes."""
        product = self.stage.frame_product
        if product is None:
            return []
        rows, _, depth = shape_of(product.frame)
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
            "mean_codes", self._local(head.writes, 0), Address(SUM), n=n, m=1, record=finish_record
        )
        tail = [op for step in rest for op in self._step(step, spec, n, 1, level=0)]
        return [
            LoopOp(
                None,
                [
                    AluOp("fill", Address(SUM), n=n, m=1, record=zero),
                    LoopOp("turns", rows),
                    finish,
                    *tail,
                    self._send(self._local(self._sent, 0), spec, n, 1, tap=self.tap),
                ],
            )
        ]

    def _held(self, spec: ContextSpec, ops: list[Operation]) -> list[Operation]:
        """``ops`` of an image with the places that stay held between turns, if the window overlaps itself."""
        if not spec.holds:
            return ops
        return [RecvOp("in0", "hold_in0"), *ops, FreeOp("in0", "hold_in0")]

    @property
    def _sent(self) -> str:
        assert self.node.tail is not None
        return self.node.tail.sent

    def _local(self, name: str, level: int) -> Address:
        """A row of a local buffer; the one that is sent alternates its two slots with the loop at ``level``."""
        steps = (0,) * level + (1,) if name == self._sent else ()
        return Address(name, 0, 0, steps)

    def _tail(self, spec: ContextSpec, n: int, m: Value, level: int) -> list[Operation]:
        assert self.node.tail is not None
        return [op for step in self.node.tail.steps for op in self._step(step, spec, n, m, level)]

    def _step(self, step: TailStep, spec: ContextSpec, n: int, m: Value, level: int) -> list[Operation]:
        """One function, with the rows it takes from rings received before and freed after it."""
        rings = list(dict.fromkeys(r for r in step.reads if r.startswith("in")))
        reads = [Address(r) if r in rings else self._local(r, level) for r in step.reads]
        alu: AluOp
        if isinstance(step.op, RequantiseOp):
            function, record = requantise_record(step.op, self.ctx, self.builder)
            column = Address(NO_BUFFER, 0, "n0")
            alu = AluOp(function, self._local(step.writes, level), reads[0], column, n=n, m=m, record=record)
        elif isinstance(step.op, FrameProductOp):
            record = product_record(step.op, self.builder)
            alu = AluOp(
                "matmul", self._local(step.writes, level), reads[0], reads[1], n=n, m=m, record=record
            )
        elif isinstance(step.op, RealOp):
            alu = self._real(step.op, self._local(step.writes, level), reads, spec, n, m, level)
        else:
            function, record = dcom_record(step.op, self.builder, n)
            second = reads[1] if len(reads) > 1 else None
            if function.startswith("average_pool"):
                second = self._row_number(spec, level)
            alu = AluOp(
                function,
                self._local(step.writes, level),
                reads[0],
                second,
                n=n,
                m=m,
                record=record if record >= 0 else None,
            )
        before: list[Operation] = [RecvOp(r, self._advance(r)) for r in rings]
        return [*before, alu, *(FreeOp(r, self._advance(r)) for r in rings)]

    def _real(
        self, op: RealOp, dst: Address, reads: list[Address], spec: ContextSpec, n: int, m: Value, level: int
    ) -> AluOp:
        """A function on float32 rows; constants are those of the row's number and the context's block of it."""
        function, record = real_record(op, self.ctx, self.builder)
        second = reads[1] if len(reads) > 1 else None
        if function.endswith("_constant"):
            along_row = shape_of_constant(op, self.ctx)[1] > 1
            second = replace(self._row_number(spec, level), col="at" if along_row else "n0")
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

    def _send(self, source: Address, spec: ContextSpec, n: int, m: Value, tap: int) -> SendOp:
        streaming = is_global_pool(self.stage) and not holds_image(self.stage)
        row = self._row_number(spec, 0 if streaming else 1)
        if tap < 0:
            return SendOp(source, row, "routes0", n=n, m=m)
        return SendOp(source, row, "routes0", n=n, m=m, tap=tap, tap_position="p0", tap_channel="n0")


def is_whole(spec: ContextSpec, stage: StageOp) -> bool:
    """Whether a context computes whole rows of its stage's result."""
    return spec.p1 - spec.p0 == shape_of(stage.result)[1]


def used_parameters(ops: Sequence[Operation]) -> list[str]:
    """Names of the parameters ``ops`` use, in order of first use."""
    found: dict[str, None] = {}
    for op in ops:
        for inner in op.walk():
            found |= dict.fromkeys(parameters_of(inner))
    return list(found)
