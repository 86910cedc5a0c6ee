"""Bodies that keep phases apart and carry rows from one to a later one."""

from __future__ import annotations

from xdsl.ir import Operation

from cimc.dialects.isa import Address, CopyOp, FreeOp, LoopOp, RecvOp, SendOp, SignalOp, WaitOp
from cimc.passes.lower.write_order import Order
from cimc.passes.place.network import RELOAD, Spill
from cimc.runtime.program.builder import ProgramBuilder

BARRIER_PARAMS = ("done", "waiting", "go", "starting")
"""Parameters of the barrier: the events of two phases, and how many contexts each phase has."""


def barrier_ops() -> list[Operation]:
    """Wait until every context of a phase is done, then let every context of the next one go."""
    return [WaitOp("done", "waiting"), SignalOp("go", "starting")]


def ordered(ops: list[Operation], order: Order, *, waits: bool, signals: bool) -> list[Operation]:
    """A context's instructions with the events that keep phases apart.

    Parameters: ``go`` (its phase begins), ``done`` (it is over), and of an early write ``before`` (the phase before has
    begun), ``turn`` and ``next`` (its turn among the early writes of its phase, and the next one's).
    """
    first: list[Operation] = []
    if order.early:
        write, *ops = ops
        _, before, turn, following = order.flags
        first += [WaitOp("before", 1)] if before else []
        first += [WaitOp("turn", 1)] if turn else []
        first.append(write)
        first += [SignalOp("next", 1)] if following else []
    first += [WaitOp("go", 1)] if waits else []
    last: list[Operation] = [SignalOp("done", 1)] if signals else []
    return [*first, *ops, *last]


def spill_ops(role: str, spill: Spill, builder: ProgramBuilder) -> list[Operation]:
    """Rows of a ring into a buffer of whole frames, or out of it again.

    Parameters: ``spill`` (the buffer, a slot a frame), ``turns``, ``copy`` (the first row), ``base`` (its column).
    """
    row = spill.positions * spill.channels
    held = Address("spill", 0, "base", (1,), (0, spill.copies * row))
    if role == RELOAD:
        number = Address(-1, "copy", 0, (0, spill.copies))
        turn: list[Operation] = [SendOp(held, number, "routes0", n=spill.channels, m=spill.positions)]
    else:
        pattern = builder.add_copy(1, 0, 0, row, 1, 1)
        turn = [RecvOp("in0", 1), CopyOp(held, Address("in0"), pattern), FreeOp("in0", 1)]
    return [LoopOp(None, [LoopOp("turns", turn)])]
