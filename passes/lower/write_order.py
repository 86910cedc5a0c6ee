"""When the weights of a later phase are written: beside the phase before, where its crossbars are free.

A context writes early, before its phase may begin, if nobody in the phase before holds its crossbars but the context
whose control stream it continues: program order then keeps its write behind the last read of what they held. One whose
stream has no part in the phase before waits until that phase has begun, when all phases before it are over. Early
writes of a phase take turns, so that rows of the running phase find the global buffer's port free in between.

Weights that stay are written once, on crossbars that nobody else takes: as early as can be, and in no turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from cimc.passes.place.network import CHIP, ContextSpec

Flags = tuple[bool, bool, bool, bool]


@dataclass
class Order:
    """How a context's write stands to the phases. ``stream``: the first context of its control stream."""

    stream: int
    early: bool = False
    """Whether it is written before its phase begins."""
    waits: bool = False
    """Whether that waits for the phase before to begin."""
    turn: int | None = None
    """Its place among the early writes of its phase."""
    last: bool = True
    """Whether no other comes behind it."""

    @property
    def flags(self) -> Flags:
        """What a body depends on."""
        return self.early, self.waits, bool(self.turn), not self.last


@dataclass
class _Slot:
    """A control stream of a core."""

    stream: int
    context: int
    phase: int


@dataclass
class _Core:
    """Control streams of a core, and which context last held each crossbar."""

    streams: int
    slots: list[_Slot] = field(default_factory=list[_Slot])
    holder: dict[int, int] = field(default_factory=dict[int, int])


def write_order(contexts: Sequence[ContextSpec], streams: int) -> list[Order]:
    """The order of every context's write, for cores with ``streams`` control streams; contexts on cores only."""
    orders = [Order(number) for number in range(len(contexts))]
    by_core: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, spec in enumerate(contexts):
        if spec.core != CHIP:
            by_core[spec.core][spec.phase].append(number)
    for phases in by_core.values():
        core = _Core(streams)
        for phase in sorted(phases):
            _continue(core, phases[phase], phase, contexts, orders)
    _take_turns(contexts, orders)
    return orders


def _continue(
    core: _Core, members: Sequence[int], phase: int, contexts: Sequence[ContextSpec], orders: list[Order]
) -> None:
    """Control streams for the contexts of a core's next phase: that of the only holder, an idle one, any one."""
    held: dict[int, set[int]] = {}
    for number in members:
        spec = contexts[number]
        found = {core.holder.get(spec.xbar + i) for i in range(spec.xbars)} - {None}
        held[number] = {h for h in found if h is not None and contexts[h].phase == phase - 1}
    for number in sorted(members, key=lambda n: (len(held[n]) != 1, len(held[n]) > 1, n)):
        free = [slot for slot in core.slots if slot.phase < phase]
        own = [slot for slot in free if slot.context in held[number]] if len(held[number]) == 1 else []
        idle = [slot for slot in free if slot.phase < phase - 1]
        chosen = next(iter(own or (idle if not own else [])), None)
        if chosen is None and len(core.slots) < core.streams:
            chosen = _Slot(number, number, -1)
            core.slots.append(chosen)
        if chosen is None:
            chosen = free[0]
        order = orders[number]
        order.stream = chosen.stream
        order.early = phase > 0 and contexts[number].k1 > 0 and (not held[number] or bool(own))
        order.waits = order.early and chosen.phase < phase - 1 and phase > 1 and not contexts[number].stays
        chosen.context, chosen.phase = number, phase
    for number in members:
        spec = contexts[number]
        core.holder |= {spec.xbar + i: number for i in range(spec.xbars)}


def _take_turns(contexts: Sequence[ContextSpec], orders: list[Order]) -> None:
    """Early writes of a phase one after the other: those first that wait for no context of their stream."""
    by_phase: dict[int, list[int]] = defaultdict(list)
    for number, order in enumerate(orders):
        if order.early and not contexts[number].stays:
            by_phase[contexts[number].phase].append(number)
    behind = {(o.stream, contexts[n].phase): n for n, o in enumerate(orders)}
    for phase, members in by_phase.items():
        members.sort(key=lambda n: (behind.get((orders[n].stream, phase - 1), -1), n))
        for turn, number in enumerate(members):
            orders[number].turn = turn
            orders[number].last = turn == len(members) - 1
