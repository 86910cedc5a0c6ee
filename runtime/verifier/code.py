"""Bodies as every context runs them: parameters resolved, loops known, checks of form on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cimc.runtime.program.opcodes import AluFunction, Opcode
from cimc.runtime.program.rows import Row
from cimc.runtime.program.tables import IMAGES, LEVELS, NONE, Program, is_parameter, parameter_index
from cimc.runtime.verifier.findings import Finding

IMMEDIATE = frozenset(("opcode", "func", "node", "dst_st", "a_st", "b_st"))
"""Fields that never name a parameter."""

_INT32 = range(-(2**31), 2**31)


@dataclass(frozen=True)
class Step:
    """One instruction in one context, with the loops around it."""

    context: int
    index: int
    """Row of the instruction table."""
    row: Row
    """Fields, parameters resolved."""
    trips: tuple[int, ...]
    """Trip counts of the loops around it, outermost first; the image loop's is the number of images."""
    loops: tuple[int, ...]
    """Rows of those loops: two steps share the loops of their common prefix."""
    images: bool
    """Whether the outermost loop counts images."""

    @property
    def runs(self) -> bool:
        """Whether it is ever executed."""
        return all(self.trips)


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
        self.findings.append(Finding(rule, self.name(own), step.context, step.index, message))

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

    def all(self) -> Iterator[Step]:
        """Every step that runs."""
        for steps in self.steps:
            for step in steps:
                if step.runs:
                    yield step


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
    for context, body in enumerate(contexts["body"]):
        if not sound[body]:
            decoded.steps.append([])
            continue
        first, count = int(bodies["first"][body]), int(bodies["count"][body])
        start = contexts["param_first"][context]
        own = params[start : start + contexts["param_count"][context]]
        decoded.steps.append(_resolve(decoded, context, rows[first : first + count], first, own))
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


def _resolve(decoded: Decoded, context: int, rows: list[Row], first: int, params: list[int]) -> list[Step]:
    steps: list[Step] = []
    trips: list[int] = []
    loops: list[int] = []
    images = False
    for index, row in enumerate(rows, first):
        if row.opcode == Opcode.END:
            trips.pop()
            loops.pop()
        if min(row) < NONE:
            row = _with_params(decoded, context, index, row, params)
        step = Step(context, index, row, tuple(trips), tuple(loops), images and bool(loops))
        steps.append(step)
        if row.opcode == Opcode.LOOP:
            if not loops:
                images = row.func == IMAGES
            counts_images = row.func == IMAGES
            if not counts_images and row.n < 0:
                decoded.report("P012", f"the loop runs {row.n} times; a count is at least 0", step)
            trips.append(decoded.images if counts_images else max(0, row.n))
            loops.append(index)
    return steps


def _with_params(decoded: Decoded, context: int, index: int, row: Row, params: list[int]) -> Row:
    values: dict[str, int] = {}
    for name, value in zip(Row._fields, row, strict=True):
        if not is_parameter(value):
            continue
        number = parameter_index(value)
        node = row.node if row.node >= 0 else decoded.node_of(context)
        problem = ""
        if name in IMMEDIATE:
            problem = f"field {name} holds {value}, but takes no parameter; give an immediate of at least -1"
        elif number >= len(params):
            problem = f"field {name} names parameter {number}, the context has {len(params)}; add it"
        elif params[number] not in _INT32:
            problem = f"parameter {number} is {params[number]}, outside the 32 bits of field {name}"
        if problem:
            decoded.findings.append(Finding("P005", decoded.name(node), context, index, problem))
        values[name] = NONE if problem else params[number]
    return row._replace(**values)
