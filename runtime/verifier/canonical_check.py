"""Fields that mean nothing hold their neutral value (P015): a stray number is a sign of a wrong emitter.

Without this rule a change to an unused field would pass every other check and every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np

from cimc.runtime.program.opcodes import READS, AluFunction, BufferKind, Opcode
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import IMAGES, NONE, Program
from cimc.runtime.verifier.findings import Finding
from cimc.runtime.verifier.functions import FUNCTIONS

_DST = frozenset(("dst", "dst_row", "dst_col", "dst_st"))
_A = frozenset(("a", "a_row", "a_col", "a_st"))
_B = frozenset(("b", "b_row", "b_col", "b_st"))
_RANGE = frozenset(("xb", "b_row", "b_col", "b_st"))
_ROW = frozenset(("b_row", "b_st"))
_WRITE = _RANGE | {"func"}
_READ = _DST | _A | _RANGE | {"func", "n", "imm"}

_USED: Mapping[int, frozenset[str]] = MappingProxyType(
    {
        Opcode.HALT: frozenset[str](),
        Opcode.END: frozenset[str](),
        Opcode.LOOP: frozenset(("func", "n")),
        Opcode.WRITE_XB: _WRITE,
        Opcode.WRITE_ROW: _WRITE,
        Opcode.WRITE_CORE: _WRITE,
        Opcode.WRITE_LOCAL: _A | _ROW | {"n", "xb"},
        Opcode.READ_XB: _READ,
        Opcode.READ_ROW: _READ,
        Opcode.READ_CORE: _READ | {"m"},
        Opcode.COPY: _DST | _A | {"imm"},
        Opcode.SEND: _A | _ROW | {"dst", "dst_row", "dst_col", "n", "m", "imm"},
        Opcode.RECV: frozenset(("a", "n")),
        Opcode.FREE: frozenset(("a", "n")),
        Opcode.DMA_IN: _DST | _ROW | {"n", "m", "imm"},
        Opcode.DMA_OUT: _A | _ROW | {"n", "m", "imm"},
        Opcode.SIGNAL: frozenset(("imm", "n")),
        Opcode.WAIT: frozenset(("imm", "n")),
        Opcode.HOST: frozenset(("imm",)),
    }
)
"""Fields each instruction uses, beyond ``opcode`` and ``node``; ``alu`` by its function."""

_NEUTRAL = Row(0)._asdict()
_RING_FIELDS = ("first", "last", "period", "advance", "places", "top", "bottom", "fill", "pad")


def check_canonical(program: Program) -> list[Finding]:
    """Findings of rule P015 over instructions, strides, windows and buffers."""
    return [*_instructions(program), *_taps(program), *_buffers(program), *_windows(program)]


def _used(row: Row) -> frozenset[str] | None:
    """Fields an instruction uses; ``None`` where this table does not know it."""
    if row.opcode != Opcode.ALU:
        return _USED.get(row.opcode)
    function = FUNCTIONS[AluFunction(row.func)]
    used = _DST | {"func", "n", "m"}
    if function.a:
        used |= _A
    if function.b:
        used |= _B
    if function.channels_at >= 0:
        used |= {"b_col"}
    if function.cells_at >= 0:
        used |= _ROW
    if function.broadcast:
        used |= {"b_row", "b_col", "b_st"}
    return used | {"imm"}


def _instructions(program: Program) -> Iterator[Finding]:
    columns = [program["instructions"][name].tolist() for name in Row._fields]
    rows = [Row(*values) for values in zip(*columns, strict=True)]
    bodies = program["bodies"]
    strides = {name: program["strides"][name] for name in ("row", "col")}
    for first, count in zip(bodies["first"].tolist(), bodies["count"].tolist(), strict=True):
        depth = 0
        for index in range(first, first + count):
            row = rows[index]
            if row.opcode == Opcode.END:
                depth -= 1
            for message in _row_problems(row, depth, strides):
                yield Finding("P015", program.name_of(row.node), NONE, index, message)
            if row.opcode == Opcode.LOOP:
                depth += 1


def _row_problems(
    row: Row, depth: int, strides: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.int32]]]
) -> Iterator[str]:
    used = _used(row)
    if used is None:
        return
    for name, neutral in _NEUTRAL.items():
        value = getattr(row, name)
        if name in ("opcode", "node") or name in used or value == neutral:
            continue
        yield f"field {name} is not used by this instruction and must be {neutral}, given {value}"
    if row.opcode == Opcode.LOOP and row.func == IMAGES and row.n != NONE:
        yield f"the count of a loop over images is the run's: n must be {NONE}, given {row.n}"
    for operand in ("dst", "a", "b"):
        if f"{operand}_st" not in used:
            continue
        index = getattr(row, f"{operand}_st")
        for part, columns in strides.items():
            last = depth if f"{operand}_{part}" in used else 0
            if columns[index, last:].any():
                yield (
                    f"strides[{index}].{part} moves {operand} by loops that are not around it or in a direction it "
                    f"does not use: {columns[index].tolist()} at depth {depth}"
                )


def _taps(program: Program) -> Iterator[Finding]:
    """A tap is one tensor: the sends that carry it belong to one node."""
    instructions = program["instructions"]
    sends = np.flatnonzero((instructions["opcode"] == Opcode.SEND) & (instructions["dst"] >= 0))
    nodes: dict[int, int] = {}
    for row in sends.tolist():
        tap, node = int(instructions["dst"][row]), int(instructions["node"][row])
        if nodes.setdefault(tap, node) != node:
            message = f"tap {tap} is carried by two nodes, {program.name_of(nodes[tap])} and this one"
            yield Finding("P015", program.name_of(node), NONE, row, message)


def _buffers(program: Program) -> Iterator[Finding]:
    buffers = program["buffers"]
    rings = buffers["kind"] == BufferKind.RING
    for name in _RING_FIELDS:
        for index in np.flatnonzero(~rings & (buffers[name] != 0)).tolist():
            yield Finding(
                "P015",
                "-",
                NONE,
                NONE,
                f"buffer {index} is no ring, its {name} must be 0, given {buffers[name][index]}",
            )
    bare = (buffers["top"] == 0) & (buffers["bottom"] == 0) & (buffers["fill"] == buffers["pitch"])
    for index in np.flatnonzero(rings & bare & (buffers["pad"] != 0)).tolist():
        yield Finding(
            "P015",
            "-",
            NONE,
            NONE,
            f"ring {index} has no padding, its pad must be 0, given {buffers['pad'][index]}",
        )


def _windows(program: Program) -> Iterator[Finding]:
    """Steps of an extent of one are neutral; what only some instructions use is neutral for the others.

    ``pos_step`` is used by pools and by reads of more than one window (``read_core``).
    """
    names = ("kh", "row_step", "kw", "col_step", "c", "lo", "hi", "pos_step")
    windows = [program["windows"][name].tolist() for name in names]
    instructions = program["instructions"]
    reads = np.isin(instructions["opcode"], sorted(READS))
    sliding = bool((instructions["opcode"] == Opcode.READ_CORE).any())
    read = set(instructions["imm"][reads & (instructions["imm"] >= 0)].tolist())
    # Windows that contexts choose by a parameter belong to reads as well.
    chosen = bool((instructions["imm"][reads] < NONE).any())
    pooled = set(_pool_windows(program))
    for index, (kh, row_step, kw, col_step, c, lo, hi, pos_step) in enumerate(zip(*windows, strict=True)):
        problems: list[str] = []
        if kh == 1 and row_step != 1:
            problems.append(f"row_step of a window of one row must be 1, given {row_step}")
        if kw == 1 and col_step != 0:
            problems.append(f"col_step of a window of one column must be 0, given {col_step}")
        if index in pooled and (lo, hi) != (0, kh * kw * c):
            problems.append(
                f"a pool takes all of its window, lo and hi must be 0 and {kh * kw * c}, given {lo} and {hi}"
            )
        if index not in pooled and not (lo < kw * c and (kh - 1) * kw * c < hi):
            problems.append(
                f"rows of the window outside its cut [{lo}, {hi}) are not needed; shift or shorten it"
            )
        if pos_step and not sliding and index not in pooled and (chosen or index in read):
            problems.append(f"a read takes one position, pos_step must be 0, given {pos_step}")
        for problem in problems:
            yield Finding("P015", "-", NONE, NONE, f"windows[{index}]: {problem}")


def _pool_windows(program: Program) -> Iterator[int]:
    instructions, records = program["instructions"], program["records"]
    for func, imm in zip(instructions["func"].tolist(), instructions["imm"].tolist(), strict=True):
        function = FUNCTIONS.get(AluFunction(func)) if func in list(AluFunction) else None
        if function is not None and function.windowed and 0 <= imm < program.count("records"):
            yield int(program["const_i"]["value"][records["i_first"][imm]])
