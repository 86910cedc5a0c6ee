"""A program as tables of the compiled loop: every instruction in every context, what is control, what goes together.

A row is control (``layout.py``) only if everything it names exists; all else is a step of Python, which
executes it or says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from cimc.runtime.functional import layout as y
from cimc.runtime.functional.fields import IMMEDIATE
from cimc.runtime.functional.layout import Array, Int
from cimc.runtime.functional.memory import Memory
from cimc.runtime.program.opcodes import AluFunction, Opcode
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import IMAGES, LEVELS, NONE, Program

_F = {name: at for at, name in enumerate(Row._fields)}
_KINDS = {
    Opcode.LOOP: y.LOOP,
    Opcode.END: y.END,
    Opcode.SEND: y.SEND,
    Opcode.RECV: y.RECV,
    Opcode.FREE: y.FREE,
    Opcode.SIGNAL: y.SIGNAL,
    Opcode.WAIT: y.WAIT,
    Opcode.HALT: y.HALT,
}
_WINDOW_READS = (Opcode.READ_XB, Opcode.READ_ROW)
_ELEMENTWISE = (
    AluFunction.ADD_INT,
    AluFunction.REQUANTISE,
    AluFunction.ACC_TO_FLOAT,
    AluFunction.ADD_CODES,
    AluFunction.ADD_FLOAT,
    AluFunction.CLAMP_CODES,
    AluFunction.CLIP_FLOAT,
    AluFunction.QUANTISE,
    AluFunction.DEQUANTISE,
    AluFunction.REQUANTISE_CODES,
)
"""Functions whose positions do not depend on each other: rows of several contexts are positions of one row."""


@dataclass(frozen=True)
class Plan:
    """Tables of ``layout.py``; ``context`` and ``offset`` in its body of every row."""

    rows: Int
    context: Int
    offset: Int
    node: Int
    opcode: Int
    first: Int
    strides: Array
    sets: Int
    routes: Int
    events: Int
    contexts: Int
    groups: int
    """Number of groups of rows that may be executed together."""
    broken: list[int]
    """Contexts whose bodies cannot be executed; decoding one says why."""
    images: Array
    """Whether the outermost loop around a row counts images."""
    fields: Int
    """Instructions with their parameters, columns as those of the instruction table."""

    def row(self, number: int) -> Row:
        """A row's fields."""
        return Row(*self.fields[number].tolist())

    def body(self, context: int) -> list[Row]:
        """All rows of a context."""
        first = int(self.first[context])
        last = int(self.first[context + 1]) if context + 1 < len(self.first) else len(self.fields)
        return [Row(*values) for values in self.fields[first:last].tolist()]


@dataclass(frozen=True)
class _Flow:
    """Control flow of all bodies, by instruction: see the columns of ``layout.py``."""

    level: Int
    partner: Int
    """Of a loop its end, of an end its loop, as distance."""
    images: Array
    reads: Int
    """Instructions in a loop that holds nothing but reads of windows, else 0."""
    sound: Array
    """By body: loops nest, and it ends in halt."""


def make_plan(program: Program, memory: Memory, frames: int, taps: Collection[int]) -> Plan:
    """The tables of a run over ``frames`` images; ``taps``: indices of the tensors to keep."""
    flow = _flow(program)
    contexts = {name: np.asarray(column).astype(np.int64) for name, column in program["contexts"].items()}
    bodies = {name: np.asarray(column).astype(np.int64) for name, column in program["bodies"].items()}
    counts = bodies["count"][contexts["body"]]
    first = np.cumsum(counts) - counts
    context = np.repeat(np.arange(len(counts)), counts)
    offset = np.arange(len(context)) - first[context]
    source = bodies["first"][contexts["body"]][context] + offset
    fields, unknown = _resolved(program, contexts, context, source)
    rows = np.zeros((len(context), y.ROW_WIDTH), np.int64)
    opcode = fields[:, _F["opcode"]]
    strides = np.stack(
        [np.asarray(program["strides"][k]).astype(np.int64).reshape(-1, LEVELS) for k in ("row", "col")], 1
    )
    number = np.arange(len(rows))
    level, partner = flow.level[source], number + flow.partner[source]
    loops, ends = opcode == Opcode.LOOP, opcode == Opcode.END
    count = np.where(loops, np.where(fields[:, _F["func"]] == IMAGES, frames, fields[:, _F["n"]]), 0)
    count[ends] = count[np.clip(partner[ends], 0, len(rows) - 1)]
    for at, name in (
        *((y.A + i, name) for i, name in enumerate(("a", "a_row", "a_col", "a_st"))),
        *((y.B + i, name) for i, name in enumerate(("b", "b_row", "b_col", "b_st"))),
        *((y.D + i, name) for i, name in enumerate(("dst", "dst_row", "dst_col", "dst_st"))),
        (y.N, "n"),
        (y.M, "m"),
        (y.IMM, "imm"),
    ):
        rows[:, at] = fields[:, _F[name]]
    rows[:, y.LEVEL], rows[:, y.COUNT] = level, count
    rows[:, y.FOLLOWING] = np.where(loops | ends, partner + 1, number + 1)
    stray = (rows[:, [y.A_ST, y.B_ST, y.D_ST]] < 0) | (rows[:, [y.A_ST, y.B_ST, y.D_ST]] >= len(strides))
    bad = stray.any(axis=1) | (count < 0) | ~flow.sound[contexts["body"]][context]
    broken = sorted({*unknown, *np.unique(context[bad]).tolist()})
    if broken:
        rows[:, [y.A_ST, y.B_ST, y.D_ST]] = 0
    routes, sets, usable = _routes(program, memory)
    rows[:, y.KIND] = _kinds(program, memory, rows, opcode, flow.images[source], usable)
    rows[:, y.TAPPED] = (opcode == Opcode.SEND) & np.isin(fields[:, _F["dst"]], list(taps))
    _fuse_loops(rows, fields, strides, flow.reads[source])
    plan_events = np.full((program.count("events"), 2), y.NOBODY, np.int64)
    plan_events[:, y.E_COUNT] = program["events"]["initial"]
    groups = _groups(program, memory, rows, fields, strides)
    return Plan(
        rows,
        context,
        offset,
        fields[:, _F["node"]],
        opcode,
        first,
        strides,
        sets,
        routes,
        plan_events,
        _contexts(contexts, first),
        groups,
        broken,
        flow.images[source],
        fields,
    )


def _resolved(program: Program, contexts: dict[str, Int], context: Int, source: Int) -> tuple[Int, list[int]]:
    """Instructions of all contexts with their parameters, and contexts that name one they do not have."""
    columns = [np.asarray(program["instructions"][name]) for name in Row._fields]
    fields = np.stack([column.astype(np.int64)[source] for column in columns], axis=1)
    named = fields < NONE
    named[:, [_F[name] for name in IMMEDIATE]] = False
    row, field = np.nonzero(named)
    index = -2 - fields[row, field]
    known = index < contexts["param_count"][context[row]]
    at = (contexts["param_first"][context[row]] + index)[known]
    fields[row[known], field[known]] = np.asarray(program["params"]["value"])[at]
    return fields, np.unique(context[row[~known]]).tolist()


def _flow(program: Program) -> _Flow:
    opcodes = np.asarray(program["instructions"]["opcode"]).tolist()
    functions = np.asarray(program["instructions"]["func"]).tolist()
    total = len(opcodes)
    flow = _Flow(
        np.zeros(total, np.int64),
        np.zeros(total, np.int64),
        np.zeros(total, np.bool_),
        np.zeros(total, np.int64),
        np.zeros(program.count("bodies"), np.bool_),
    )
    firsts, counts = (np.asarray(program["bodies"][name]).tolist() for name in ("first", "count"))
    for body, (first, count) in enumerate(zip(firsts, counts, strict=True)):
        open_loops: list[int] = []
        images = sound = False
        for at in range(first, first + count):
            opcode = opcodes[at]
            if opcode == Opcode.END:
                if not open_loops:
                    break
                begin = open_loops.pop()
                flow.partner[at], flow.partner[begin] = begin - at, at - begin
                inside = opcodes[begin + 1 : at]
                flow.reads[begin] = len(inside) if all(op in _WINDOW_READS for op in inside) else 0
            if opcode == Opcode.LOOP and not open_loops:
                images = functions[at] == IMAGES
            flow.level[at], flow.images[at] = len(open_loops), images
            if opcode == Opcode.LOOP:
                open_loops.append(at)
            if len(open_loops) > LEVELS:
                break
        else:
            sound = not open_loops and count > 0 and opcodes[first + count - 1] == Opcode.HALT
        flow.sound[body] = sound
    return flow


def _routes(program: Program, memory: Memory) -> tuple[Int, Int, Array]:
    """Routes, route sets, and which sets hold nothing but parts that lie inside rings."""
    columns = ("ring", "src_pos", "src_chan", "positions", "channels", "dst_pos", "dst_chan")
    routes = np.stack([np.asarray(program["routes"][name]).astype(np.int64) for name in columns], axis=1)
    sets = np.stack(
        [np.asarray(program["route_sets"][name]).astype(np.int64) for name in ("first", "count")], axis=1
    )
    rings, count = routes[:, y.R_RING], len(memory.table)
    exists = (rings >= 0) & (rings < count)
    table = memory.table[np.where(exists, rings, 0)] if count else np.zeros((0, y.BUFFER_WIDTH), np.int64)
    channels = np.maximum(table[:, y.CHANNELS], 1)
    inside = exists & (table[:, y.RING] == 1) & (table[:, y.CHANNELS] > 0) & (routes[:, 1:].min(axis=1) >= 0)
    inside &= routes[:, y.R_DST_POS] + routes[:, y.R_POSITIONS] <= table[:, y.PITCH] // channels
    inside &= routes[:, y.R_DST_CHAN] + routes[:, y.R_CHANNELS] <= channels
    outside = np.concatenate([[0], np.cumsum(~inside)])
    first, last = sets[:, 0], sets.sum(axis=1)
    legal = (first >= 0) & (sets[:, 1] >= 0) & (last <= len(routes))
    usable = legal & (outside[np.where(legal, last, 0)] == outside[np.where(legal, first, 0)])
    return routes, sets, usable


def _kinds(program: Program, memory: Memory, rows: Int, opcode: Int, images: Array, usable: Array) -> Int:
    """Kinds of rows: control where all it names exists."""
    kind = np.full(len(rows), y.STEP)
    for code, control in _KINDS.items():
        kind[opcode == code] = control
    source, imm = rows[:, y.A], rows[:, y.IMM]
    exists = (source >= 0) & (source < len(memory.table))
    ring = exists & (memory.table[np.where(exists, source, 0), y.RING] == 1) if len(memory.table) else exists
    kind[np.isin(opcode, (Opcode.RECV, Opcode.FREE)) & ~ring] = y.STEP
    event = (imm >= 0) & (imm < program.count("events"))
    kind[np.isin(opcode, (Opcode.SIGNAL, Opcode.WAIT)) & ~event] = y.STEP
    known = (imm >= 0) & (imm < len(usable))
    known[known] = usable[imm[known]]
    sane = exists & known & (images | (rows[:, y.LEVEL] == 0)) & (rows[:, y.N] > 0) & (rows[:, y.M] > 0)
    kind[(opcode == Opcode.SEND) & ~sane] = y.STEP
    return kind


def _fuse_loops(rows: Int, fields: Int, strides: Array, reads: Int) -> None:
    """Loops of nothing but reads whose iterations do not depend on each other become one step.

    No window reads what another writes, and no two write the same place: docs/functional-engine.md.
    """
    at = np.flatnonzero((reads > 0) & (rows[:, y.KIND] == y.LOOP) & (rows[:, y.COUNT] > 0))
    level, count = rows[at, y.LEVEL], rows[at, y.COUNT]
    free = np.ones(len(at), np.bool_)
    for k in range(int(reads[at].max(initial=0))):
        here = reads[at] > k
        one, other = np.where(here, at + 1 + k, at + 1), at + 1
        free &= strides[rows[one, y.A_ST], 0, level] == 0
        free &= strides[rows[one, y.D_ST], 0, level] == 0
        free &= (count == 1) | (strides[rows[one, y.D_ST], 1, level] >= rows[one, y.N])
        free &= rows[one, y.A] != rows[other, y.D]
        free &= (rows[one, y.D : y.D_ST + 1] == rows[other, y.D : y.D_ST + 1]).all(axis=1)
    at = at[free]
    rows[at, y.KIND] = y.STEP
    for column in (*range(y.A, y.D_ST + 1), y.N, y.M, y.IMM):
        rows[at, column] = rows[at + 1, column]


def _groups(program: Program, memory: Memory, rows: Int, fields: Int, strides: Array) -> int:
    """Number rows that may be executed together; the others are ALONE."""
    rows[:, y.GROUP] = y.ALONE
    opcode = fields[:, _F["opcode"]]
    steps = np.flatnonzero(rows[:, y.KIND] == y.STEP)
    inner = steps + (opcode[steps] == Opcode.LOOP)  # the first read of a fused loop
    single = (inner == steps) | (rows[steps, y.FOLLOWING] == steps + 3)
    count = len(memory.table)

    def element(column: int) -> Int:
        buffer = rows[steps, column]
        exists = (buffer >= 0) & (buffer < count)
        return np.where(exists, memory.table[np.where(exists, buffer, 0), y.ELEMENT], -1) if count else buffer

    a, b, d = element(y.A), element(y.B), element(y.D)
    window = np.isin(opcode[inner], (*_WINDOW_READS, Opcode.READ_CORE)) & single & (a >= 0) & (d >= 0)
    alu = (opcode[steps] == Opcode.ALU) & np.isin(fields[steps, _F["func"]], _ELEMENTWISE)
    alu &= (a >= 0) & (d >= 0) & (rows[steps, y.N] > 0) & (rows[steps, y.M] > 0)
    plain = rows[steps, y.B] == NONE
    alu &= (b >= 0) | (plain & (rows[steps, y.B_ST] == 0))
    blocks = np.stack(
        [
            np.asarray(program["array_sets"][k]).astype(np.int64)
            for k in ("coding", "tensor", "k0", "k1", "n0", "n1")
        ],
        1,
    )
    xb = fields[inner, _F["xb"]]
    window &= (xb >= 0) & (xb < len(blocks))
    block = blocks[np.where(window, xb, 0)] if len(blocks) else np.zeros((len(steps), 6), np.int64)
    read_fields = fields[inner][
        :, [_F[k] for k in ("opcode", "func", "imm", "n", "b_row", "b_col", "a_st", "dst_st")]
    ]
    # A loop of one window has no steps to differ in; others step as their strides say, however many they are.
    of_loop = np.stack([rows[steps, y.LEVEL], inner != steps], 1)
    several = opcode[inner] == Opcode.READ_CORE
    rows[steps[window], y.COUNT] = np.where(
        inner == steps, np.where(several, fields[inner, _F["m"]], 1), rows[steps, y.COUNT]
    )[window]
    window &= rows[steps, y.COUNT] > 0
    # What is written at run time is equal in no two sets.
    own = np.where(window & (block[:, 1] == NONE), xb, NONE)
    reads = np.concatenate([read_fields, of_loop, block, own[:, None], a[:, None], d[:, None]], axis=1)
    alu_fields = fields[steps][:, [_F[k] for k in ("opcode", "func", "imm", "n")]]
    plain_numbers = np.where(plain[:, None], rows[steps][:, [y.B_ROW, y.B_COL]], 0)
    alus = np.concatenate([alu_fields, plain_numbers, np.stack([a, b, d], 1)], axis=1)
    numbers: dict[tuple[int, ...], int] = {}
    for chosen, keys in ((window, reads), (alu, alus)):
        found = [numbers.setdefault(tuple(key), len(numbers)) for key in keys[chosen].tolist()]
        rows[steps[chosen], y.GROUP] = found
    return len(numbers)


def _contexts(contexts: dict[str, Int], first: Int) -> Int:
    """Contexts at their first row; of each stream the lowest phase first."""
    table = np.full((len(first), y.CONTEXT_WIDTH), y.NOBODY, np.int64)
    table[:, y.AT], table[:, y.STATE] = first, y.READY
    order = np.lexsort((contexts["phase"], contexts["stream"]))
    before, after = order[:-1], order[1:]
    same = contexts["stream"][before] == contexts["stream"][after]
    table[before[same], y.NEXT] = after[same]
    table[after[same], y.STATE] = y.LATER
    return table
