"""Programs whose blocks of reads take turns: waits and signals of one event that counts power.

Every block of reads (the windows of a row that a context computes) stands between a ``wait`` and a ``signal`` of an
event that counts microwatts: the event starts with what may be drawn at once, a block takes what its crossbars draw
and gives it back. Nothing blocks on another context between the two, so every block ends and the program finishes
whatever the count, as long as the largest block fits (the verifier runs it: P080, P084). Results do not change: waits
order instructions only.

A block gives back when its last sum is there, not when its last read was issued: the signal stands behind the first
digital function of the sums where that follows at once, else behind a copy of one sum to itself. An in-order context
issues either when the sums are ready, and neither waits for another context. What comes behind holds nothing, so
nobody waits for a row or for room with power in hand.

``tilt`` makes blocks take more than they draw, the first stages most (below 0: the last ones). An image that enters
then leaves less to those before it, while the last rows of an image that is alone find the whole limit: one limit does
for the latency of an image and for a stream of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UsageError
from cimc.runtime.cycle.array_costs import ArrayCosts
from cimc.runtime.cycle.machine import Machine
from cimc.runtime.program import Opcode, Program, parameter
from cimc.runtime.program.opcodes import READS

Ints = npt.NDArray[np.int64]

UNIT_MW = 0.001
"""Power of one count of an event."""


@dataclass(frozen=True)
class Blocks:
    """A program with its blocks of reads between waits and signals of one event.

    ``draws``: counts that the arrays of each context draw, 0 for those without reads. ``takes``: what its blocks take,
    never less.
    """

    program: Program
    event: int
    draws: Ints
    takes: Ints

    def limited(self, limit_mw: float) -> Program:
        """The program with at most ``limit_mw`` drawn by arrays at once.

        Raises :class:`UsageError` where one block draws more.
        """
        initial = self.program["events"]["initial"].copy()
        initial[self.event] = self.counts(limit_mw)
        return replace(self.program, tables={**self.program.tables, "events": {"initial": initial}})

    def counts(self, limit_mw: float) -> int:
        """The event's count for a limit. Raises :class:`UsageError` where one block takes more."""
        count = round(limit_mw / UNIT_MW)
        if count < self.takes.max(initial=0):
            raise UsageError(
                f"arrays may draw {limit_mw} mW at once, the largest block of reads draws {self.least_mw}; "
                "raise the limit",
                where="stagger",
            )
        return count

    @property
    def least_mw(self) -> float:
        """The least limit: what the largest block takes."""
        return int(self.takes.max(initial=0)) * UNIT_MW


def with_blocks(program: Program, tilt: float = 0.0) -> Blocks:
    """Put every block of reads between ``wait`` and ``signal`` of a new event; at first nobody waits.

    A block of the first stage takes ``1 + tilt`` times what it draws, one of the last just that; with ``tilt`` below
    0 one of the last stage takes ``1 - tilt`` times what it draws, one of the first just that.
    """
    draws = _draws(program)
    depths = _depths(program, draws > 0)
    takes = np.ceil(draws * (1 + max(tilt, 0.0) * (1 - depths) + max(-tilt, 0.0) * depths)).astype(np.int64)
    event = program.count("events")
    made = _with_params(_Writer(program).run(), event, takes, _first_parameter(program))
    initial = program["events"]["initial"]
    events = {"initial": np.append(initial, takes.sum()).astype(initial.dtype)}
    return Blocks(replace(made, tables={**made.tables, "events": events}), event, draws, takes)


def _depths(program: Program, reads: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Where the stage of every context that reads comes among them: 0 the first, 1 the last; contexts stand in the
    order of the network, and those of a stage have their layer in common."""
    rows, bodies = program["instructions"], program["bodies"]
    reading = np.flatnonzero(np.isin(rows["opcode"], list(READS)))
    body = np.searchsorted(bodies["first"], reading, side="right") - 1
    layers = np.full(program.count("bodies"), -1, np.int64)
    layers[body] = rows["node"][reading]
    stages: dict[int, int] = {}
    found = [stages.setdefault(n, len(stages)) for n in layers[program["contexts"]["body"]][reads].tolist()]
    depths = np.zeros(len(reads))
    depths[reads] = np.array(found) / max(1, len(stages) - 1)
    return depths


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


@dataclass(frozen=True)
class _Block:
    """Rows of one block: its first and last, the read in it, the loops around the block, and whether its last row is
    a digital function of its sums."""

    first: int
    last: int
    read: int
    depth: int
    used: bool


class _Writer:
    """Writes the instructions anew, with two or three more for every block of reads."""

    def __init__(self, program: Program):
        self._program = program
        self._rows = program["instructions"]
        self._opcodes: list[int] = self._rows["opcode"].tolist()
        self._neutral = int(np.flatnonzero(self._rows["opcode"] == Opcode.HALT)[0])
        self._first_parameter = _first_parameter(program)
        self._source: list[int] = []
        self._values: list[tuple[int, dict[str, int]]] = []
        self._strides = {name: values.tolist() for name, values in program["strides"].items()}

    def run(self) -> Program:
        """The program with waits, copies and signals; parameters of contexts are still missing."""
        bodies = self._program["bodies"]
        firsts: list[int] = []
        for body, (first, count) in enumerate(
            zip(bodies["first"].tolist(), bodies["count"].tolist(), strict=True)
        ):
            firsts.append(len(self._source))
            blocks = self._blocks(first, count)
            begins, ends = {b.first: b for b in blocks}, {b.last: b for b in blocks}
            for row in range(first, first + count):
                if row in begins:
                    self._event(Opcode.WAIT, body, begins[row])
                self._source.append(row)
                if row in ends:
                    if not ends[row].used:
                        self._copy(ends[row])
                    self._event(Opcode.SIGNAL, body, ends[row])
        columns = {name: values[self._source].copy() for name, values in self._rows.items()}
        for at, values in self._values:
            for name, value in values.items():
                columns[name][at] = value
        counts = np.diff([*firsts, len(self._source)])
        placed = {**bodies, "first": _like(bodies["first"], firsts), "count": _like(bodies["count"], counts)}
        one = {"n0": 1, "n1": 1}
        copies = {
            name: np.append(values, one.get(name, 0)).astype(values.dtype)
            for name, values in self._program["copies"].items()
        }
        strides = {name: _like(self._program["strides"][name], rows) for name, rows in self._strides.items()}
        tables = {"instructions": columns, "bodies": placed, "copies": copies, "strides": strides}
        return replace(self._program, tables={**self._program.tables, **tables})

    def _blocks(self, first: int, count: int) -> list[_Block]:
        """The blocks of a body: a read, the loop around it alone, the ``free`` and the digital function behind it."""
        found: list[_Block] = []
        depth = 0
        for row in range(first, first + count):
            opcode = self._opcodes[row]
            depth += (opcode == Opcode.LOOP) - (opcode == Opcode.END)
            if opcode not in READS:
                continue
            looped = self._opcodes[row - 1] == Opcode.LOOP and self._opcodes[row + 1] == Opcode.END
            last = row + looped
            last += self._opcodes[last + 1] == Opcode.FREE
            used = self._takes_sums(last + 1, row)
            found.append(_Block(row - looped, last + used, row, depth - looped, used))
        return found

    def _takes_sums(self, row: int, read: int) -> bool:
        """Whether an instruction is a digital function of the row of sums that ``read`` writes."""
        rows, steps = self._rows, self._strides["row"]
        same = all(rows[f"a{part}"][row] == rows[f"dst{part}"][read] for part in ("", "_row"))
        moves = steps[int(rows["a_st"][row])] == steps[int(rows["dst_st"][read])]
        return self._opcodes[row] == Opcode.ALU and same and moves

    def _event(self, opcode: Opcode, body: int, block: _Block) -> None:
        place = int(self._first_parameter[body])
        node = int(self._rows["node"][block.read])
        values = {"opcode": opcode, "imm": parameter(place), "n": parameter(place + 1), "node": node}
        self._add(values)

    def _copy(self, block: _Block) -> None:
        """One sum of the block to itself: it issues when the last read is done."""
        read = {name: int(values[block.read]) for name, values in self._rows.items()}
        stride = self._outside(read["dst_st"], block.depth)
        values = {"opcode": int(Opcode.COPY), "imm": self._program.count("copies"), "node": read["node"]}
        for operand in ("dst", "a"):
            values |= {operand: read["dst"], f"{operand}_st": stride}
            values |= {f"{operand}_{part}": read[f"dst_{part}"] for part in ("row", "col")}
        self._add(values)

    def _add(self, values: dict[str, int]) -> None:
        self._values.append((len(self._source), values))
        self._source.append(self._neutral)

    def _outside(self, stride: int, depth: int) -> int:
        """The stride without the loops that are not around an instruction at ``depth``."""
        cut = {
            name: [step if level < depth else 0 for level, step in enumerate(rows[stride])]
            for name, rows in self._strides.items()
        }
        for number in range(len(self._strides["row"])):
            if all(rows[number] == cut[name] for name, rows in self._strides.items()):
                return number
        for name, rows in self._strides.items():
            rows.append(cut[name])
        return len(self._strides["row"]) - 1


def _like(column: npt.NDArray[np.generic], values: object) -> npt.NDArray[np.generic]:
    return np.asarray(values).astype(column.dtype)


def _with_params(program: Program, event: int, takes: Ints, longest: Ints) -> Program:
    """Two more parameters for every context that reads: the event and what its block takes."""
    contexts, values = program["contexts"], program["params"]["value"]
    firsts: list[int] = []
    counts: list[int] = []
    params: list[int] = []
    for number, (body, first, count) in enumerate(
        zip(*(contexts[k].tolist() for k in ("body", "param_first", "param_count")), strict=True)
    ):
        firsts.append(len(params))
        params += values[first : first + count].tolist()
        if takes[number] > 0:
            params += [0] * int(longest[body] - count)
            params += [event, int(takes[number])]
        counts.append(len(params) - firsts[-1])
    placed = {
        **contexts,
        "param_first": _like(contexts["param_first"], firsts),
        "param_count": _like(contexts["param_count"], counts),
    }
    tables = {**program.tables, "contexts": placed, "params": {"value": _like(values, params)}}
    return replace(program, tables=tables)
