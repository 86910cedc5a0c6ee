"""Staggered activation: a program whose arrays take turns, so that fewer of them draw power at once.

Every block of reads (the windows of a row that a context computes) is put between a ``wait`` and a ``signal`` of an
event that counts power: it starts with what may be drawn at once, a block takes what its crossbars draw and gives it
back.
Nothing blocks between the two, so every block ends and the program finishes whatever the count, as long as the
largest block fits (the verifier runs it: P080, P084). Results do not change: waits order instructions only.

A block is over when the function that takes its sums has issued: the last read is done then. Where sums of other
contexts are awaited first, nothing can be waited for safely, and the block is over when its last read is issued.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UsageError
from cimc.runtime.cycle.array_costs import ArrayCosts
from cimc.runtime.cycle.engine import simulate
from cimc.runtime.cycle.machine import Machine
from cimc.runtime.cycle.timing import Timing
from cimc.runtime.program import Opcode, Program, parameter

Ints = npt.NDArray[np.int64]

UNIT_MW = 0.001
"""Power of one count of an event."""

READS = (Opcode.READ_XB, Opcode.READ_ROW, Opcode.READ_CORE)


LIMITS = tuple(0.97**step for step in range(1, 46))
"""Limits that are tried, as shares of the peak without any; down to a quarter."""

MISSES = 4
"""Limits in a row that cost too much time before the search ends: time does not grow evenly."""


@dataclass(frozen=True)
class Blocks:
    """A program with its blocks of reads between waits and signals of one event.

    ``draws``: counts each context takes, 0 for those without reads.
    """

    program: Program
    event: int
    draws: Ints

    def limited(self, limit_mw: float) -> Program:
        """The program with at most ``limit_mw`` drawn by arrays at once.

        Raises :class:`UsageError` where one block draws more.
        """
        least = int(self.draws.max(initial=0))
        count = round(limit_mw / UNIT_MW)
        if count < least:
            raise UsageError(
                f"arrays may draw {limit_mw} mW at once, the largest block of reads draws {least * UNIT_MW}; "
                "raise the limit",
                where="stagger",
            )
        initial = self.program["events"]["initial"].copy()
        initial[self.event] = count
        return replace(self.program, tables={**self.program.tables, "events": {"initial": initial}})


@dataclass(frozen=True)
class Staggered:
    """What a limit brings: the program, its times, and those of the program it was made from."""

    program: Program
    limit_mw: float | None
    """``None`` where no limit lowers the peak in the time allowed: the program is then the one given."""
    before: Timing
    after: Timing


def stagger(program: Program, *, slack: float = 0.02, images: int = 1) -> Staggered:
    """The limit with the lowest peak of ``images`` images whose run takes at most ``1 + slack`` of the time.

    Weights are in the arrays. With one image the run is its latency.
    """
    before = simulate(program, images=images, resident_weights=True)
    best = Staggered(program, None, before, before)
    blocks = with_blocks(program)
    misses = 0
    for share in LIMITS:
        limit_mw = share * (before.peak_power_mw - static_mw(program))
        if misses == MISSES or limit_mw < blocks.draws.max(initial=0) * UNIT_MW:
            break
        limited = blocks.limited(limit_mw)
        timed = simulate(limited, images=images, resident_weights=True)
        misses = misses + 1 if timed.cycles > (1 + slack) * before.cycles else 0
        if not misses and timed.peak_power_mw < best.after.peak_power_mw:
            best = Staggered(limited, limit_mw, before, timed)
    return best


def static_mw(program: Program) -> float:
    """Power that no schedule changes."""
    return float(program.machine["static_power_mw"])


def with_blocks(program: Program) -> Blocks:
    """Put every block of reads between ``wait`` and ``signal`` of a new event; at first nobody waits."""
    draws = _draws(program)
    event = program.count("events")
    made = _with_params(_with_waits(program, _first_parameter(program)), event, draws)
    initial = program["events"]["initial"]
    events = {"initial": np.append(initial, draws.sum()).astype(initial.dtype)}
    return Blocks(replace(made, tables={**made.tables, "events": events}), event, draws)


def _draws(program: Program) -> Ints:
    """Counts of every context's reads: the power of one window over the cycles its arrays are taken."""
    costs = ArrayCosts(program, Machine.of(program.machine))
    clock = float(program.machine["clock_ghz"])
    sets = program["array_sets"]
    draws = np.zeros(program.count("contexts"), np.int64)
    for number, (context, tiles) in enumerate(
        zip(sets["context"].tolist(), sets["tile_count"].tolist(), strict=True)
    ):
        read = costs.read(number, False, 0, tiles)
        energy = read.array_pj + read.dac_pj + read.adc_pj
        draws[context] += max(1, round(energy * clock / read.occupancy / UNIT_MW))
    return draws


def _first_parameter(program: Program) -> Ints:
    """The first parameter behind those of any context, by body."""
    first = np.zeros(program.count("bodies"), np.int64)
    columns = program["contexts"]
    np.maximum.at(first, columns["body"], columns["param_count"])
    return first


def _with_waits(program: Program, first_parameter: Ints) -> Program:
    """The instructions with a ``wait`` before and a ``signal`` behind every block of reads."""
    rows = program["instructions"]
    bodies = program["bodies"]
    opcodes = rows["opcode"].tolist()
    neutral = int(np.flatnonzero(rows["opcode"] == Opcode.HALT)[0])
    source: list[int] = []
    added: list[tuple[int, Opcode, int]] = []
    firsts: list[int] = []
    for body, (first, count) in enumerate(
        zip(bodies["first"].tolist(), bodies["count"].tolist(), strict=True)
    ):
        firsts.append(len(source))
        before, behind = _borders(opcodes, first, count)
        for row in range(first, first + count):
            if row in before:
                added.append((len(source), Opcode.WAIT, body))
                source.append(neutral)
            source.append(row)
            if row in behind:
                added.append((len(source), Opcode.SIGNAL, body))
                source.append(neutral)
    columns = {name: values[source].copy() for name, values in rows.items()}
    for at, opcode, body in added:
        columns["opcode"][at] = opcode
        columns["imm"][at] = parameter(int(first_parameter[body]))
        columns["n"][at] = parameter(int(first_parameter[body]) + 1)
        columns["node"][at] = columns["node"][at - 1] if opcode is Opcode.SIGNAL else columns["node"][at + 1]
    counts = np.diff([*firsts, len(source)])
    placed = {**bodies, "first": _like(bodies["first"], firsts), "count": _like(bodies["count"], counts)}
    return replace(program, tables={**program.tables, "instructions": columns, "bodies": placed})


def _like(column: npt.NDArray[np.generic], values: object) -> npt.NDArray[np.generic]:
    return np.asarray(values).astype(column.dtype)


def _borders(opcodes: Sequence[int], first: int, count: int) -> tuple[set[int], set[int]]:
    """First and last rows of the blocks of a body: a read with the loop around it alone."""
    before: set[int] = set()
    behind: set[int] = set()
    for row in range(first, first + count):
        if opcodes[row] not in READS:
            continue
        looped = opcodes[row - 1] == Opcode.LOOP and opcodes[row + 1] == Opcode.END
        before.add(row - looped)
        last = row + looped
        takes_sums = opcodes[last + 1 : last + 3] == [Opcode.FREE, Opcode.ALU]
        behind.add(last + 2 * takes_sums)
    return before, behind


def _with_params(program: Program, event: int, draws: Ints) -> Program:
    """Two more parameters for every context that reads: the event and what its block takes."""
    contexts, values = program["contexts"], program["params"]["value"]
    longest = _first_parameter(program)
    firsts: list[int] = []
    counts: list[int] = []
    params: list[int] = []
    for number, (body, first, count) in enumerate(
        zip(*(contexts[k].tolist() for k in ("body", "param_first", "param_count")), strict=True)
    ):
        firsts.append(len(params))
        params += values[first : first + count].tolist()
        if draws[number] > 0:
            params += [0] * int(longest[body] - count)
            params += [event, int(draws[number])]
        counts.append(len(params) - firsts[-1])
    placed = {
        **contexts,
        "param_first": _like(contexts["param_first"], firsts),
        "param_count": _like(contexts["param_count"], counts),
    }
    tables = {**program.tables, "contexts": placed, "params": {"value": _like(values, params)}}
    return replace(program, tables=tables)
