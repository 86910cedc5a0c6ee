"""A run in rounds: control of all contexts in the compiled loop, then the values they wait for, in groups.

Contexts and rings form a bounded Kahn network, so it does not matter when a row is executed once its
context has come to it. A group whose members are not all waiting yet is put off while anything else can
be done: what is executed together costs little more than one of them.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from cimc.diagnostics import UnsupportedError
from cimc.runtime.functional import kernel
from cimc.runtime.functional import layout as y
from cimc.runtime.functional.arrays import Arrays
from cimc.runtime.functional.batches import AluGroup, ReadGroup
from cimc.runtime.functional.decode import Machinery, Step, Tally, bind_alone, decode, place
from cimc.runtime.functional.fields import Frame, ProgramRows
from cimc.runtime.functional.hosts import HostSessions, Loader
from cimc.runtime.functional.layout import Int
from cimc.runtime.functional.memory import Memory
from cimc.runtime.functional.moves import Switchboard, Waiter, events_of, taps_by_index
from cimc.runtime.functional.plan import make_plan
from cimc.runtime.functional.problems import DeadlockError, ExecutionError
from cimc.runtime.functional.reads import BoundRead, ReadBinder
from cimc.runtime.functional.tensors import HostTensor
from cimc.runtime.program.opcodes import READS, Opcode
from cimc.runtime.program.tables import LEVELS, Program

NAMED = 8
"""Blocked contexts that a deadlock message names."""


class Asked(Waiter):
    """Who asks a blocked row what it waits for."""

    reason = ""


class Rounds:
    """One execution: memory, crossbars, the compiled loop's tables, and what was counted."""

    def __init__(
        self,
        program: Program,
        tensors: list[HostTensor],
        frames: int,
        taps: dict[str, HostTensor],
        loader: Loader | None,
        *,
        count_converters: bool,
        arrays: Arrays,
    ):
        self.program = program
        self._memory = Memory(program)
        self.buffers = self._memory.buffers
        self._arrays = arrays
        self.reads = ReadBinder(self._arrays, count_converters)
        self._fields = ProgramRows(program)
        board = Switchboard(program, self.buffers, lambda _: None, events_of(program))
        self._taps = taps_by_index(program, taps)
        self._shared = Machinery(
            board, self.reads, HostSessions(loader), tensors, self._taps, frames, walk=False
        )
        self._plan = make_plan(program, self._memory, frames, self._taps.keys())
        self._groups: dict[int, ReadGroup | AluGroup] = {}
        groups = self._plan.rows[:, y.GROUP]
        self._sizes: list[int] = np.bincount(groups[groups >= 0], minlength=self._plan.groups).tolist()
        count = len(self._plan.contexts)
        self._counters = np.zeros((count, LEVELS), np.int64)
        self._ready = np.zeros(count + 1, np.int64)
        self._requests = np.zeros((count + 1, y.REQUEST_WIDTH), np.int64)
        self._head = np.zeros(y.HEAD_WIDTH, np.int64)
        self._bound: dict[int, BoundRead] = {}
        self._held = np.zeros(len(self._plan.rows), np.int64)
        self._contents: dict[int, tuple[int, object]] = {}
        self._seen_writes = 0
        self._steps: dict[int, Step] = {}
        self._tallies: dict[int, tuple[Tally, ...]] = {}

    def execute(self) -> None:
        """Until all contexts have halted. ExecutionError with its place; DeadlockError if some cannot go on."""
        plan, memory, head = self._plan, self._memory, self._head
        for context in plan.broken:
            self._decode(context)
        starting = np.flatnonzero(plan.contexts[:, y.STATE] == y.READY)
        kernel.enqueue_all(plan.contexts, self._ready, head, starting)
        while True:
            refused = kernel.control(
                memory.table,
                memory.slots,
                memory.bytes,
                plan.rows,
                plan.strides,
                plan.sets,
                plan.routes,
                plan.events,
                plan.contexts,
                self._counters,
                self._ready,
                self._requests,
                head,
            )
            if refused >= 0:
                self._alone(int(plan.contexts[refused, y.AT]))
            if not head[y.H_REQUESTS]:
                break
            self._turn(self._requests[: head[y.H_REQUESTS]].copy())
        blocked = np.flatnonzero(plan.contexts[:, y.STATE] == y.BLOCKED).tolist()
        if blocked:
            raise DeadlockError(self._deadlock(blocked))

    def counts(self) -> dict[int, list[int]]:
        """Executed instructions and multiply-accumulates by node."""
        rows, opcode, node = self._plan.rows, self._plan.opcode, self._plan.node
        hits = rows[:, y.HITS]
        plain = ~np.isin(opcode, (Opcode.LOOP, Opcode.END, Opcode.HALT, Opcode.WAIT, *READS)) & (hits > 0)
        found: dict[int, list[int]] = {}
        totals = np.bincount(node[plain] + 1, hits[plain]).astype(np.int64).tolist()
        for number, total in enumerate(totals):
            if total:
                found[number - 1] = [total, 0]
        for row, tallies in self._tallies.items():
            for tally in tallies:
                total = found.setdefault(tally.node, [0, 0])
                total[0] += int(hits[row]) * tally.instructions
                total[1] += int(hits[row]) * tally.macs
        return found

    # -- rounds ----------------------------------------------------------------------------------

    def _turn(self, requests: Int) -> None:
        """Execute what waits: rows that go alone, groups that are complete, and all others if there are none."""
        groups = self._plan.rows[requests[:, y.Q_ROW], y.GROUP]
        order = np.argsort(groups, kind="stable")
        requests, groups = requests[order], groups[order]
        cuts = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
        parts = [requests[a:b] for a, b in pairwise(cuts)]
        numbers = groups[cuts[:-1]].tolist()
        complete = [n < 0 or len(part) == self._sizes[n] for n, part in zip(numbers, parts, strict=True)]
        if not any(complete):
            complete = [True] * len(parts)
        left = [part for part, now in zip(parts, complete, strict=True) if not now]
        self._head[y.H_REQUESTS] = sum(len(part) for part in left)
        if left:
            self._requests[: self._head[y.H_REQUESTS]] = np.concatenate(left)
        for number, part, now in zip(numbers, parts, complete, strict=True):
            if not now:
                continue
            if number < 0:
                self._singly(part)
            else:
                self._together(number, part)
            self._done(part)

    def _done(self, requests: Int) -> None:
        """The contexts of executed requests can go on behind them."""
        plan, rows = self._plan, requests[:, y.Q_ROW]
        context = requests[:, y.Q_CONTEXT]
        plan.rows[rows, y.HITS] += 1
        plan.contexts[context, y.AT] = plan.rows[rows, y.FOLLOWING]
        kernel.enqueue_all(plan.contexts, self._ready, self._head, context)

    def _together(self, number: int, requests: Int) -> None:
        """Execute a group; whoever it cannot execute says itself what is wrong."""
        try:
            bad = self._group(number, int(requests[0, y.Q_ROW])).run(requests)
        except (ExecutionError, UnsupportedError):  # which of them, the rows say one by one
            for row in requests[:, y.Q_ROW].tolist():
                self._execute(row)
            return
        if bad >= 0:
            self._alone(int(requests[bad, y.Q_ROW]))

    def _singly(self, requests: Int) -> None:
        """Rows that go by themselves, and rows that were sent and are wanted by a tap."""
        for request in requests:
            row = int(request[y.Q_ROW])
            if self._plan.rows[row, y.KIND] == y.SEND:
                self._tap(request)
            else:
                self._execute(row)

    def _tap(self, request: Int) -> None:
        row, context = self._plan.row(int(request[y.Q_ROW])), int(request[y.Q_CONTEXT])
        level = int(self._plan.rows[request[y.Q_ROW], y.LEVEL])
        image = int(self._counters[context, 0]) if level else 0
        data = self.buffers[row.a].read(int(request[y.Q_A_ROW]), int(request[y.Q_A_COL]), row.n * row.m)
        corner = (row.dst_row, row.dst_col)
        self._taps[row.dst].write(image, int(request[y.Q_B_ROW]), data.reshape(row.m, row.n), *corner)

    # -- rows by themselves ------------------------------------------------------------------------

    def _group(self, number: int, row: int) -> ReadGroup | AluGroup:
        known = self._groups.get(number)
        if known is None:
            plan, memory = self._plan, self._memory
            if plan.opcode[row] == Opcode.ALU:
                known = AluGroup(self.program, memory, self._fields, plan.rows, plan.row(row))
            else:
                loop = bool(plan.opcode[row] == Opcode.LOOP)
                known = ReadGroup(memory, plan.rows, row, self._read, self._cells, loop=loop)
            self._groups[number] = known
        return known

    def _read(self, row: int) -> BoundRead:
        """The read of a row, or of the loop that begins there."""
        known = self._bound.get(row)
        if known is None:
            loop = self._plan.opcode[row] == Opcode.LOOP
            read = self._plan.row(row + 1 if loop else row)
            known = self._bound[row] = self.reads.read(self._frame(row, inside=bool(loop)), read)
            windows = int(self._plan.rows[row, y.COUNT]) if loop else known.positions
            self._tallies[row] = (Tally(read.node, windows, windows * known.reader.macs),)
        return known

    def _cells(self, rows: Int) -> Int:
        """Numbers of what the cells of reads hold at this time: equal numbers, equal cells."""
        if self._seen_writes != self._arrays.writes:
            self._seen_writes = self._arrays.writes
            self._held[:] = 0
            self._contents.clear()
        for row in rows[self._held[rows] == 0].tolist():
            blocks = self._read(row).reader.current()
            known = self._contents.setdefault(id(blocks), (len(self._contents) + 1, blocks))
            self._held[row] = known[0]
        return self._held[rows]

    def _execute(self, row: int) -> None:
        """Execute one row in Python."""
        try:
            step = self._steps.get(row)
            if step is None:
                step = self._steps[row] = self._bind(row, Asked())
            step()
        except ExecutionError as error:
            raise error.at(self._place(row)) from error
        except UnsupportedError as error:  # of the arithmetic: a NaN that should become a code
            raise UnsupportedError(error.message, where=self._place(row)) from error

    def _bind(self, row: int, asked: Asked) -> Step:
        plan = self._plan
        body, offset = plan.body(int(plan.context[row])), int(plan.offset[row])
        step, tallies = bind_alone(offset, body, self._frame(row), self._shared, asked)
        if plan.opcode[row] in (Opcode.LOOP, *READS):
            self._tallies[row] = tallies
        return step

    def _alone(self, row: int) -> None:
        """Let the Python form of a row that must not be executed say why."""
        self._execute(row)
        raise AssertionError(f"{self._place(row)}: refused by the compiled loop, executed by its Python form")

    def _decode(self, context: int) -> None:
        """Raise what is wrong with a body."""
        first, count = (int(self.program["contexts"][k][context]) for k in ("param_first", "param_count"))
        body = int(self.program["contexts"]["body"][context])
        try:
            rows = [self._fields.resolve(row, first, count) for row in self._fields.body(body)]
            frame = Frame(self.program, self._fields, self.buffers, [0] * LEVELS)
            decode(rows, frame, self._shared, Asked())
        except ExecutionError as error:
            where = f", {error.where}" if error.where else ""
            raise error.at(self._context_name(context) + where) from error

    def _frame(self, row: int, *, inside: bool = False) -> Frame:
        """What a row is bound against; ``inside`` the loop that begins there."""
        plan = self._plan
        level, counters = int(plan.rows[row, y.LEVEL]), self._counters[int(plan.context[row])]
        return Frame(
            self.program, self._fields, self.buffers, counters, level + inside, bool(plan.images[row])
        )

    # -- messages ------------------------------------------------------------------------------------

    def _context_name(self, context: int) -> str:
        table = self.program["contexts"]
        node = self.program.name_of(int(table["node"][context]))
        return f"context {context} of '{node}' on core {int(table['core'][context])}"

    def _place(self, row: int) -> str:
        plan = self._plan
        fields, context = plan.row(row), int(plan.context[row])
        name = self.program.name_of(fields.node)
        return f"{self._context_name(context)}, {place(name, int(plan.offset[row]), fields)}"

    def _deadlock(self, blocked: list[int]) -> str:
        lines: list[str] = []
        for context in blocked[:NAMED]:
            row, asked = int(self._plan.contexts[context, y.AT]), Asked()
            self._bind(row, asked)()
            lines.append(f"{self._place(row)} waits for {asked.reason}")
        more = len(blocked) - len(lines)
        streams = len(np.unique(self.program["contexts"]["stream"]))
        return (
            f"{len(blocked)} of {streams} contexts are left and none can go on; deepen the ring that "
            "has no room, or send the rows that are missing:\n  "
            + "\n  ".join(lines)
            + (f"\n  and {more} more" if more else "")
        )
