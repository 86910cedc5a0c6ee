"""Crossbars that several phases use: written again only behind the last read of what they held (P085), and one set's
alone where its weights stay in all calls (P086).

What is known to be over is followed through the program without running it: a context knows what it has read itself, a
later context of its control stream knows all that, and a ``wait`` knows what every ``signal`` knew without which the
event cannot reach its count. Events inside loops count for their amounts only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

from cimc.runtime.program.opcodes import IMAGE_WRITES, READS, WRITES, Opcode
from cimc.runtime.program.tables import AGAIN, NONE
from cimc.runtime.verifier.code import Decoded, Step


def check_reuse(decoded: Decoded) -> None:
    """Report writes of crossbars whose former set may still be read, and weights that cannot stay."""
    former = _former_sets(decoded)
    _check_staying(decoded, former)
    if not former:
        return
    watched = {one for sets in former.values() for one in sets}
    known = _Known(decoded, _signals(decoded), watched)
    known.follow()
    for step, knows in known.at_writes:
        for before in sorted(former.get(step.row.xb, ())):
            if not knows >> before & 1:
                sets = decoded.program["array_sets"]
                decoded.report(
                    "P085",
                    f"writes array set {step.row.xb} over set {before} of phase {sets['phase'][before]}, whose reads "
                    "may not be over; let it wait for an event that is signalled behind them",
                    step,
                )


def _former_sets(decoded: Decoded) -> dict[int, set[int]]:
    """Sets that held crossbars of a set in the last phase before its own in which they were used."""
    sets = {name: column.tolist() for name, column in decoded.program["array_sets"].items()}
    tiles = {name: column.tolist() for name, column in decoded.program["tiles"].items()}
    holders: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for tile, owner in enumerate(tiles["set"]):
        holders[sets["core"][owner], tiles["xbar"][tile]].append((sets["phase"][owner], owner))
    former: dict[int, set[int]] = defaultdict(set)
    for held in holders.values():
        held.sort()
        for (_, before), (_, after) in pairwise(held):
            former[after].add(before)
    return former


def _check_staying(decoded: Decoded, former: Mapping[int, set[int]]) -> None:
    """Report sets that are written once for all calls on crossbars that another set takes, in any phase."""
    sharing = {before: after for after, held in former.items() for before in held}
    sharing |= {after: min(held) for after, held in former.items()}
    for step in decoded.all():
        row = step.row
        if row.opcode in IMAGE_WRITES and row.func != AGAIN and row.xb in sharing:
            decoded.report(
                "P086",
                f"array set {row.xb} is written once for all calls, to crossbars that set {sharing[row.xb]} takes as "
                "well; write both in every call, or give it crossbars of its own",
                step,
            )


@dataclass(frozen=True)
class _Signal:
    """A signal: how much it adds to its event in all, and where it stands; ``looped``: not at a known time."""

    context: int
    index: int
    amount: int
    looped: bool


def _signals(decoded: Decoded) -> dict[int, list[_Signal]]:
    found: dict[int, list[_Signal]] = defaultdict(list)
    for step in decoded.all():
        if step.row.opcode == Opcode.SIGNAL:
            amount = step.row.n * prod(step.trips)
            found[step.row.imm].append(_Signal(step.context, step.number, amount, bool(step.loops)))
    return found


@dataclass
class _Known:
    """Array sets whose reads are over, as bits, at every signal and at the end of every context."""

    decoded: Decoded
    signals: dict[int, list[_Signal]]
    watched: set[int]
    """Sets that are followed."""
    at_signal: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    at_end: dict[int, int] = field(default_factory=dict[int, int])
    at_writes: list[tuple[Step, int]] = field(default_factory=list[tuple[Step, int]])

    def follow(self) -> None:
        """Go through all contexts, phase by phase, until nothing more becomes known."""
        contexts = self.decoded.program["contexts"]
        phases, streams = contexts["phase"].tolist(), contexts["stream"].tolist()
        order = sorted(range(len(phases)), key=lambda c: (phases[c], c))
        before: dict[int, int] = {}
        last: dict[int, int] = {}
        for context in order:
            if streams[context] in last:
                before[context] = last[streams[context]]
            last[streams[context]] = context
        steps = {c: [s for s in self.decoded.steps[c] if s.runs and _matters(s)] for c in order}
        while True:
            self.at_writes.clear()
            changed = False
            for context in order:
                start = self.at_end.get(before.get(context, NONE), 0)
                changed |= self._walk(context, steps[context], start)
            if not changed:
                return

    def _walk(self, context: int, steps: Sequence[Step], knows: int) -> bool:
        """One context from what is known at its start; whether something became known."""
        changed = False
        reads = {
            s.row.xb: i for i, s in enumerate(steps) if s.row.opcode in READS and s.row.xb in self.watched
        }
        over = {i: 1 << xb for xb, i in reads.items()}
        ended = 0  # sets whose last read stands in a loop that is not over
        for i, step in enumerate(steps):
            if not step.loops:
                knows |= ended
                ended = 0
            ended |= over.get(i, 0)
            if step.row.opcode == Opcode.WAIT and not step.loops:
                knows |= self._behind(step)
            elif step.row.opcode == Opcode.SIGNAL and not step.loops:
                at = context, step.number
                changed |= self.at_signal.get(at) != knows
                self.at_signal[at] = knows
            elif step.row.opcode in WRITES:
                self.at_writes.append((step, knows))
        knows |= ended
        changed |= self.at_end.get(context) != knows
        self.at_end[context] = knows
        return changed

    def _behind(self, wait: Step) -> int:
        """What is known when a wait is over: that of each signal without which its count is not reached."""
        event = wait.row.imm
        signals = self.signals.get(event, [])
        most = int(self.decoded.program["events"]["initial"][event]) + sum(s.amount for s in signals)
        knows = 0
        for signal in signals:
            if not signal.looped and most - signal.amount < wait.row.n:
                knows |= self.at_signal.get((signal.context, signal.index), 0)
        return knows


def _matters(step: Step) -> bool:
    """Whether a step takes part: events, reads and writes."""
    return step.row.opcode in (Opcode.WAIT, Opcode.SIGNAL) or step.row.opcode in READS | WRITES
