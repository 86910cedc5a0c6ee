"""Bodies as every context runs them: parameters resolved, loops known, checks of form on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from cimc.runtime.program.opcodes import AluFunction, Opcode
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import IMAGES, LEVELS, NONE, Program, is_parameter, parameter_index
from cimc.runtime.verifier.findings import Finding

IMMEDIATE = frozenset(("opcode", "func", "node", "dst_st", "a_st", "b_st"))
"""Fields that never name a parameter."""

_INT32 = range(-(2**31), 2**31)


class Step(NamedTuple):
    """One instruction in one context, with the loops around it."""

    context: int
    number: int
    """Row of the instruction table."""
    row: Row
    """Fields, parameters resolved."""
    trips: tuple[int, ...]
    """Trip counts of the loops around it, outermost first; the image loop's is the number of images."""
    loops: tuple[int, ...]
    """Rows of those loops: two steps share the loops of their common prefix."""
    images: bool
    """Whether the outermost loop counts images."""
    runs: bool
    """Whether it is ever executed: no loop around it has no iteration."""


@dataclass
class Decoded:
    """All contexts of a program as steps."""

    program: Program
    images: int
    findings: list[Finding] = field(default_factory=list[Finding])
    steps: list[list[Step]] = field(default_factory=list[list[Step]])
    """Per context, in the order of its body."""

    def report(self, rule: str, message: str, step: Step | None = None, *, node: int = NONE) -> None:
        """Add a finding at a step, or at a node."""
        if step is None:
            self.findings.append(Finding(rule, self.name(node), NONE, NONE, message))
            return
        own = step.row.node if step.row.node != NONE else self.node_of(step.context)
        self.findings.append(Finding(rule, self.name(own), step.context, step.number, message))

    def name(self, node: int) -> str:
        """A node's name, ``-`` if it has none."""
        return self.program.names[node] if 0 <= node < len(self.program.names) else "-"

    def node_of(self, context: int) -> int:
        """The node a context belongs to, else that of its body's name."""
        contexts = self.program["contexts"]
        if not 0 <= context < len(contexts["node"]):
            return NONE
        node = int(contexts["node"][context])
        return node if node != NONE else int(self.program["bodies"]["name"][contexts["body"][context]])

    def buffer_node(self, buffer: int) -> int:
        """The node of the context that owns a buffer."""
        owner = int(self.program["buffers"]["context"][buffer])
        return self.node_of(owner) if owner != NONE else NONE

    @cached_property
    def running(self) -> list[list[Step]]:
        """Per context, the steps that run; read once all contexts are decoded."""
        return [[step for step in steps if step.runs] for steps in self.steps]

    def all(self) -> Iterator[Step]:
        """Every step that runs."""
        return chain.from_iterable(self.running)


def decode(program: Program, images: int) -> Decoded:
    """Resolve every context; ``findings`` of the result hold what is malformed (P003 to P006, P012)."""
    decoded = Decoded(program, images)
    columns = [program["instructions"][name].tolist() for name in Row._fields]
    rows = [Row(*values) for values in zip(*columns, strict=True)]
    bodies = program["bodies"]
    sound = [
        _check_body(decoded, rows, body, int(bodies["first"][body]), int(bodies["count"][body]))
        for body in range(program.count("bodies"))
    ]
    params: list[int] = program["params"]["value"].tolist()
    contexts = {name: column.tolist() for name, column in program["contexts"].items()}
    firsts, counts = bodies["first"].tolist(), bodies["count"].tolist()
    read: dict[int, _Body] = {}
    for context, body in enumerate(contexts["body"]):
        if not sound[body]:
            decoded.steps.append([])
            continue
        first, count = firsts[body], counts[body]
        start = contexts["param_first"][context]
        own = params[start : start + contexts["param_count"][context]]
        if body not in read:
            read[body] = _Body.of(rows[first : first + count], first)
        decoded.steps.append(_resolve(decoded, context, read[body], own))
    return decoded


def _check_body(decoded: Decoded, rows: list[Row], body: int, first: int, count: int) -> bool:
    """Whether the body is well formed; reports otherwise."""
    name = int(decoded.program["bodies"]["name"][body])
    before = len(decoded.findings)

    def report(rule: str, index: int, message: str) -> None:
        node = rows[index].node if rows[index].node != NONE else name
        decoded.findings.append(Finding(rule, decoded.name(node), NONE, index, message))

    open_loops: list[int] = []
    for index in range(first, first + count):
        row = rows[index]
        if row.opcode not in list(Opcode):
            report("P006", index, f"operation code {row.opcode} is unknown; there are 0 … {max(Opcode)}")
        elif row.opcode == Opcode.ALU and row.func not in list(AluFunction):
            report("P006", index, f"digital function {row.func} is unknown; there are 0 … {max(AluFunction)}")
        elif row.opcode == Opcode.LOOP:
            if row.func == IMAGES and open_loops:
                report("P003", index, "a loop over images inside another loop; it must be the outermost")
            open_loops.append(index)
            if len(open_loops) == LEVELS + 1:
                report("P004", index, f"loops nest {len(open_loops)} deep, given at most {LEVELS}; fold one")
        elif row.opcode == Opcode.END:
            if not open_loops:
                report("P003", index, "an end without a loop; remove it")
                return False
            open_loops.pop()
        elif row.opcode == Opcode.HALT and index != first + count - 1:
            report("P003", index, "halt before the end of the body; a body has one, as its last row")
    for index in open_loops:
        report("P003", index, "a loop without its end; add it")
    if rows[first + count - 1].opcode != Opcode.HALT:
        report("P003", first + count - 1, "the body does not end in halt; add it")
    return len(decoded.findings) == before


@dataclass(frozen=True)
class _Body:
    """A body as its contexts share it."""

    first: int
    rows: list[Row]
    parameters: list[tuple[tuple[int, int], ...]]
    """Per row: the fields that name parameters, with the parameters' numbers."""

    @staticmethod
    def of(rows: list[Row], first: int) -> _Body:
        """From its rows, the first of which is row ``first`` of the table."""
        parameters = [
            tuple((at, parameter_index(value)) for at, value in enumerate(row) if is_parameter(value))
            if min(row) < NONE
            else ()
            for row in rows
        ]
        return _Body(first, rows, parameters)


def _resolve(decoded: Decoded, context: int, body: _Body, params: list[int]) -> list[Step]:
    steps: list[Step] = []
    trips: tuple[int, ...] = ()
    loops: tuple[int, ...] = ()
    images, runs = False, True
    sound = all(-(2**31) <= value < 2**31 for value in params)
    for index, (row, named) in enumerate(zip(body.rows, body.parameters, strict=True), body.first):
        if row.opcode == Opcode.END:
            trips, loops = trips[:-1], loops[:-1]
            runs = all(trips)
        if named:
            row = _with_params(decoded, context, index, row, named, params, sound)
        step = Step(context, index, row, trips, loops, images and bool(loops), runs)
        steps.append(step)
        if row.opcode == Opcode.LOOP:
            counts_images = row.func == IMAGES
            if not loops:
                images = counts_images
            if not counts_images and row.n < 0:
                decoded.report("P012", f"the loop runs {row.n} times; a count is at least 0", step)
            trips = (*trips, decoded.images if counts_images else max(0, row.n))
            loops = (*loops, index)
            runs = all(trips)
    return steps


def _with_params(
    decoded: Decoded,
    context: int,
    index: int,
    row: Row,
    named: tuple[tuple[int, int], ...],
    params: list[int],
    sound: bool,
) -> Row:
    """The row with the values of the parameters it names; ``sound``: all values have 32 bits."""
    values = list(row)
    for at, number in named:
        name = Row._fields[at]
        problem = ""
        if name in IMMEDIATE:
            problem = (
                f"field {name} holds {row[at]}, but takes no parameter; give an immediate of at least -1"
            )
        elif number >= len(params):
            problem = f"field {name} names parameter {number}, the context has {len(params)}; add it"
        elif not sound and params[number] not in _INT32:
            problem = f"parameter {number} is {params[number]}, outside the 32 bits of field {name}"
        if problem:
            node = row.node if row.node >= 0 else decoded.node_of(context)
            decoded.findings.append(Finding("P005", decoded.name(node), context, index, problem))
        values[at] = NONE if problem else params[number]
    return Row._make(values)
