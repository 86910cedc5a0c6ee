"""Bodies that keep phases apart and carry rows from one to a later one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from xdsl.ir import Operation

from cimc.dialects.isa import Address, BodyOp, CopyOp, FreeOp, LoopOp, RecvOp, SendOp, SignalOp, WaitOp
from cimc.passes.lower.emit import body_rows
from cimc.passes.lower.write_order import Order
from cimc.passes.place.network import CHIP, RELOAD, ContextSpec, Spill
from cimc.runtime.program.builder import ProgramBuilder

BARRIER_PARAMS = ("done", "waiting", "go", "starting")
"""Parameters of the barrier: the events of two phases, and how many contexts each phase has."""


def add_barriers(
    contexts: Sequence[ContextSpec],
    orders: Sequence[Order],
    values: Mapping[int, dict[str, int]],
    builder: ProgramBuilder,
) -> BodyOp:
    """Between two phases a chip context waits for all ``contexts`` of the first and lets those of the second go, and
    those of the third that write beside the second.

    Adds events to the ``values`` of the contexts' parameters (:func:`ordered`), and a context behind theirs for every
    border of two phases; the body of these.
    """
    counts = np.bincount([c.phase for c in contexts])
    going, borders = counts.copy(), len(counts) - 1
    done = [builder.add_event() for _ in range(borders)]
    go = [builder.add_event() for _ in range(borders)]
    turns: dict[tuple[int, int], int] = {}
    for number, (spec, order) in enumerate(zip(contexts, orders, strict=True)):
        own = values[number]
        if spec.phase < borders:
            own["done"] = done[spec.phase]
        if spec.phase > 0:
            own["go"] = go[spec.phase - 1]
        if order.waits:
            own["before"] = go[spec.phase - 2]
            going[spec.phase - 1] += 1
        if order.turn is not None:
            for name, turn in (("turn", order.turn), ("next", order.turn + 1)):
                if (name == "turn" and turn == 0) or (name == "next" and order.last):
                    continue
                if (spec.phase, turn) not in turns:
                    turns[spec.phase, turn] = builder.add_event()
                own[name] = turns[spec.phase, turn]
    body = BodyOp(
        "phases", "phases", list(BARRIER_PARAMS), [WaitOp("done", "waiting"), SignalOp("go", "starting")]
    )
    code = builder.add_body("phases", body_rows(body, builder))
    for phase in range(borders):
        params = [done[phase], int(counts[phase]), go[phase], int(going[phase + 1])]
        builder.add_context(CHIP, code, params, node=builder.name("phases"), phase=phase)
    return body


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
