"""Accumulators wide enough for the largest possible sum (P065).

A read adds at most ``sum over its rows of max|input| * max|w|``; with the weights themselves, the largest
column of ``sum |w|``. A converter that can lose information is bounded by its codes instead. Bounds flow
with the rows: through adds, copies and rings to the context that accumulates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.program.opcodes import BY_WORDLINE, READS, AluFunction, BufferKind, Element, Opcode
from cimc.runtime.program.tables import NONE
from cimc.runtime.verifier.code import Decoded, Step
from cimc.runtime.verifier.functions import SUMS
from cimc.runtime.verifier.operands import Tables

_ROUNDS = 64
"""Partial sums pass through at most so many rings one after another."""


def check_sums(
    decoded: Decoded,
    tables: Tables,
    codings: Sequence[Coding | None],
    weights: Mapping[str, npt.NDArray[Any]] | None,
) -> None:
    """Report sums that may exceed their buffer."""
    bounds = _Bounds(decoded, tables, codings, weights)
    for _ in range(_ROUNDS):
        if not bounds.round():
            break
    bounds.report()


class _Bounds:
    """Largest magnitude each buffer of sums may hold."""

    def __init__(
        self,
        decoded: Decoded,
        tables: Tables,
        codings: Sequence[Coding | None],
        weights: Mapping[str, npt.NDArray[Any]] | None,
    ):
        self._decoded = decoded
        self._tables = tables
        self._of_buffer: dict[int, int] = defaultdict(int)
        self._worst: dict[int, tuple[int, Step]] = {}
        self._is_sum = [Element(e) in SUMS for e in tables.buffers["element"]]
        program = decoded.program
        self._read = [
            _read_bound(decoded, codings, weights, number) for number in range(program.count("array_sets"))
        ]
        self._blocks = [_row_blocks(decoded, number) for number in range(program.count("array_sets"))]
        self._routes: list[int] = program["routes"]["ring"].tolist()
        self._route_sets = list(
            zip(program["route_sets"]["first"].tolist(), program["route_sets"]["count"].tolist(), strict=True)
        )
        self._steps = [[s for s in steps if s.runs and s.row.opcode in _RELEVANT] for steps in decoded.steps]

    def round(self) -> bool:
        """Pass over all contexts once; whether a ring's bound grew."""
        grew = False
        for steps in self._steps:
            current: dict[int, int] = {}
            since: dict[int, Step] = {}
            for step in steps:
                grew |= self._step(step, current, since)
        return grew

    def report(self) -> None:
        """One finding for each buffer that is too narrow."""
        for buffer, (bound, step) in sorted(self._worst.items()):
            limit = (1 << (8 * Element(self._tables.buffers["element"][buffer]).size_bytes - 1)) - 1
            if bound > limit:
                self._decoded.report(
                    "P065",
                    f"sums in buffer {buffer} may reach {bound}; it holds at most {limit}. Use I64",
                    step,
                )

    def _step(self, step: Step, current: dict[int, int], since: dict[int, Step]) -> bool:
        row = step.row
        if row.opcode == Opcode.SEND:
            return self._send(row.imm, self._value(row.a, current))
        if not self._is_sum[row.dst]:
            return False
        if row.opcode in READS:
            share = self._share(step)
            if row.func == 1:
                share = current.get(row.dst, 0) + share * _repeats(self._tables, step, since.get(row.dst))
            else:
                since[row.dst] = step
            self._set(row.dst, share, step, current)
        elif row.opcode == Opcode.COPY:
            self._set(row.dst, max(current.get(row.dst, 0), self._value(row.a, current)), step, current)
        elif row.func == AluFunction.FILL:
            value = abs(self._tables.ints(row.imm)[0])
            since[row.dst] = step
            self._set(row.dst, value, step, current)
        elif row.func == AluFunction.ADD_INT:
            self._set(row.dst, self._value(row.a, current) + self._value(row.b, current), step, current)
        return False

    def _share(self, step: Step) -> int:
        """The set's bound times the part of its rows that one execution of the read adds."""
        row = step.row
        blocks = self._blocks[row.xb]
        total = sum(k1 - k0 for k0, k1 in set(blocks))
        if row.opcode not in BY_WORDLINE:
            taken = sum(k1 - k0 for k0, k1 in set(blocks[row.b_row : row.b_row + row.b_col]))
        else:
            taken = total * row.b_col // max(k1 - k0 for k0, k1 in blocks)
        return -(-self._read[row.xb] * min(taken, total) // total)

    def _value(self, buffer: int, current: dict[int, int]) -> int:
        if self._tables.buffers["kind"][buffer] == BufferKind.RING:
            return self._of_buffer[buffer]
        return current.get(buffer, 0)

    def _set(self, buffer: int, bound: int, step: Step, current: dict[int, int]) -> None:
        current[buffer] = bound
        if buffer not in self._worst or bound > self._worst[buffer][0]:
            self._worst[buffer] = (bound, step)

    def _send(self, route_set: int, bound: int) -> bool:
        grew = False
        first, count = self._route_sets[route_set]
        for ring in self._routes[first : first + count]:
            if self._is_sum[ring] and bound > self._of_buffer[ring]:
                self._of_buffer[ring] = bound
                grew = True
        return grew


_RELEVANT = READS | {Opcode.COPY, Opcode.ALU, Opcode.SEND}


def _repeats(tables: Tables, step: Step, since: Step | None) -> int:
    """How often an adding read meets the same accumulator after ``since`` overwrote it."""
    shared = 0
    if since is not None and since.context == step.context:
        for a, b in zip(step.loops, since.loops, strict=False):
            if a != b:
                break
            shared += 1
    rows, cols = tables.row_address(step, "dst"), tables.col_address(step, "dst")
    return prod(
        n
        for level, n in enumerate(step.trips)
        if level >= shared
        and not rows.steps[level]
        and not cols.steps[level]
        and not (level == 0 and step.images)
    )


def _read_bound(
    decoded: Decoded,
    codings: Sequence[Coding | None],
    weights: Mapping[str, npt.NDArray[Any]] | None,
    number: int,
) -> int:
    """Largest magnitude one read of all tiles of a set delivers, in units of 2^-F."""
    sets = decoded.program["array_sets"]
    coding = codings[int(sets["coding"][number])]
    if coding is None:
        return 0
    k0, k1 = int(sets["k0"][number]), int(sets["k1"][number])
    n0, n1 = int(sets["n0"][number]), int(sets["n1"][number])
    drive = max(abs(coding.input_min - coding.input_offset), abs(coding.input_max - coding.input_offset))
    peak = max(abs(value) for value in coding.weight_range) * (k1 - k0)
    tensor = int(sets["tensor"][number])
    name = decoded.program.weights[tensor] if tensor != NONE else None
    if weights is not None and name is not None and name in weights:
        block = weights[name][k0:k1, n0:n1]
        peak = int(np.abs(block.astype(np.int64)).sum(axis=0).max(initial=0))
    ideal = drive * peak * (1 << coding.frac_bits)
    first = int(sets["step_first"][number])
    steps = decoded.program["steps"]["h"][first : first + coding.step_count].astype(np.int64)
    if coding.always_lossless(k1 - k0) and (steps == 1).all() and coding.frac_bits == 0:
        return ideal
    codes = max(coding.converter_hi - coding.converter_zero, coding.converter_zero - coding.converter_lo)
    groups = sum(-(-(b - a) // coding.parallel_rows) for a, b in set(_row_blocks(decoded, number)))
    digits = np.array([abs(phase.coefficient) for phase in coding.phases], np.int64)
    planes = np.array([abs(plane.coefficient) for plane in coding.conversions], np.int64)
    converted = int(digits @ steps.reshape(len(digits), -1) @ planes) * codes * groups
    offset = coding.weight_offset * drive * (k1 - k0) * (1 << coding.frac_bits)
    # Column flip adds back what it took out: at most the whole top-level sum of each plane.
    flips = sum(abs(plane.coefficient) * plane.top for plane in coding.planes) if coding.column_flip else 0
    return max(ideal, converted + offset + flips * drive * (k1 - k0) * (1 << coding.frac_bits))


def _row_blocks(decoded: Decoded, number: int) -> list[tuple[int, int]]:
    """[k0, k1) of each tile of a set."""
    sets, tiles = decoded.program["array_sets"], decoded.program["tiles"]
    first, count = int(sets["tile_first"][number]), int(sets["tile_count"][number])
    k0, k1 = (tiles[name][first : first + count].tolist() for name in ("k0", "k1"))
    return list(zip(k0, k1, strict=True))
