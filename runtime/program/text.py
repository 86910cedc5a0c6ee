"""A program as text that a person reads and the assembler reads back (``docs/isa.md``, "Text form").

``assembler.assemble(disassemble(program))`` has the same tables, value for value, for any tables of the
schema's types, valid or not: what an instruction's syntax has no word for follows it in braces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from cimc.diagnostics import UsageError
from cimc.runtime.program.opcodes import AluFunction, BufferKind, Element, Opcode
from cimc.runtime.program.syntax import (
    DEFAULTS,
    PLAIN,
    PREFIXES,
    ROW_WORDS,
    SYNTAX,
    VALUE_TABLES,
    Syntax,
    float_text,
)
from cimc.runtime.program.tables import (
    FORMAT_VERSION,
    IMAGES,
    LEVELS,
    NONE,
    SCHEMAS,
    Program,
    is_parameter,
    parameter_index,
)

_VALUES_PER_LINE = 16
_TABLES_AFTER_CODE = (
    "strides",
    "buffers",
    "route_sets",
    "routes",
    "array_sets",
    "tiles",
    "codings",
    "steps",
    "windows",
    "copies",
    "records",
    "const_i",
    "const_f",
    "events",
)


def disassemble(program: Program, *, body: str | None = None, contexts: bool = True) -> str:
    """The text of ``program``.

    ``body``: only the code of bodies of that name and the contexts that run them (not to be read back);
    ``contexts``: False leaves out contexts and their parameters. Raises ``UsageError`` for an unknown body.
    """
    writer = _Writer(program)
    if body is None:
        lines = [*writer.header(), *writer.all_code()]
        if contexts:
            lines += [*writer.table("contexts"), *writer.table("params")]
        for table in _TABLES_AFTER_CODE:
            lines += writer.table(table)
        return "\n".join(lines) + "\n"
    chosen = writer.bodies_named(body)
    lines = [line for index in chosen for line in writer.body_code(index)]
    if contexts:
        lines += [writer.row("contexts", row) for row in writer.contexts_of(chosen)]
    return "\n".join(lines) + "\n"


class _Writer:
    def __init__(self, program: Program):
        self._program = program
        self._instructions: list[dict[str, int]] = _rows_of(program, "instructions")
        self._kinds: list[int] = program["buffers"]["kind"].tolist()
        self._strides: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
            (tuple(row), tuple(col))
            for row, col in zip(
                program["strides"]["row"].tolist(), program["strides"]["col"].tolist(), strict=True
            )
        ]

    def header(self) -> Iterator[str]:
        program = self._program
        yield f"program {FORMAT_VERSION[0]}.{FORMAT_VERSION[1]}"
        yield f"frames {program.frames}"
        yield f"total_macs {program.total_macs}"
        yield f"machine {_json(dict(program.machine))}"
        for name in program.names:
            yield f"name {_json(name)}"
        for name in program.weights:
            yield f"weight {_json(name)}"
        for tensor in program.io:
            yield f"io {_json(asdict(tensor))}"
        for tensor in program.taps:
            yield f"tap {_json(asdict(tensor))}"
        for host in program.hosts:
            yield f"host {_json(asdict(host))}"
        yield ""

    def all_code(self) -> Iterator[str]:
        yield from self.table("bodies")
        heads: dict[int, list[int]] = {}
        for index, first in enumerate(self._program["bodies"]["first"].tolist()):
            heads.setdefault(first, []).append(index)
        depth = 0
        for row in range(len(self._instructions)):
            for index in heads.get(row, ()):
                depth = 0
                yield f"# body {index}: {self._body_name(index)}"
            depth, line = self._indented(row, depth)
            yield line
        yield ""

    def body_code(self, index: int) -> Iterator[str]:
        bodies = self._program["bodies"]
        first, count = int(bodies["first"][index]), int(bodies["count"][index])
        yield f"# body {index}: {self._body_name(index)}"
        depth = 0
        for row in range(first, min(first + count, len(self._instructions))):
            depth, line = self._indented(row, depth)
            yield line

    def bodies_named(self, name: str) -> list[int]:
        names = [self._body_name(index) for index in range(self._program.count("bodies"))]
        found = [index for index, given in enumerate(names) if given == name]
        if not found:
            listed = ", ".join(f"'{known}'" for known in dict.fromkeys(names))
            raise UsageError(f"the program has no body '{name}'; there are {listed}")
        return found

    def contexts_of(self, bodies: list[int]) -> list[int]:
        return [row for row, body in enumerate(self._program["contexts"]["body"].tolist()) if body in bodies]

    def table(self, table: str) -> Iterator[str]:
        count = self._program.count(table)
        if table in VALUE_TABLES:
            yield from self._values(table)
        else:
            for row in range(count):
                yield self.row(table, row)
        if count:
            yield ""

    def row(self, table: str, row: int) -> str:
        word = next(word for word, named in ROW_WORDS.items() if named == table)
        parts = [f"{word} {row}"]
        for column in SCHEMAS[table]:
            value = self._program[table][column][row].tolist()
            if isinstance(value, list):
                if any(value):
                    parts.append(f"{column}={','.join(str(v) for v in value)}")
            elif value:
                parts.append(f"{column}={_word(table, column, value)}")
        return " ".join(parts) + self._comment(table, row)

    def _values(self, table: str) -> Iterator[str]:
        values = self._program[table][VALUE_TABLES[table]]
        for start in range(0, len(values), _VALUES_PER_LINE):
            run = values[start : start + _VALUES_PER_LINE]
            texts = [float_text(v) if table == "const_f" else str(int(v)) for v in run]
            yield f"{table} {start}: {' '.join(texts)}"

    def _comment(self, table: str, row: int) -> str:
        """What the numbers of a row stand for; the assembler skips it."""
        program = self._program
        if table == "contexts":
            columns = program[table]
            first, count = int(columns["param_first"][row]), int(columns["param_count"][row])
            values = program["params"]["value"][max(first, 0) : max(first, 0) + max(count, 0)].tolist()
            shown = " ".join(f"p{i}={v}" for i, v in enumerate(values))
            return f"  # {_one_line(program.name_of(_inside(columns['node'][row], program.names)))} {shown}"
        if table == "bodies":
            return f"  # {self._body_name(row)}"
        if table == "array_sets":
            tensor = _inside(program[table]["tensor"][row], program.weights)
            return f"  # {_one_line(program.weights[tensor])}" if tensor >= 0 else ""
        return ""

    def _body_name(self, index: int) -> str:
        name = int(self._program["bodies"]["name"][index])
        return _one_line(self._program.name_of(_inside(name, self._program.names)))

    def _indented(self, row: int, depth: int) -> tuple[int, str]:
        """The depth after this row and its line."""
        opcode = self._instructions[row]["opcode"]
        if opcode == Opcode.END:
            depth = max(0, depth - 1)
        line = f"{row:6d}: {'  ' * depth}{self._instruction(self._instructions[row])}"
        return depth + (opcode == Opcode.LOOP), line

    def _instruction(self, fields: Mapping[str, int]) -> str:
        left = {name: value for name, value in fields.items() if value != DEFAULTS[name]}
        left.pop("opcode", None)
        mnemonic, syntax = self._mnemonic(fields, left)
        arguments: list[str] = []
        for operand in syntax.operands:
            arguments.append(self._operand(operand, fields, left))
        while arguments and arguments[-1] == "_":
            arguments.pop()
        for label, field in syntax.labels:
            if label == "row":
                place = self._place("b", fields, left, column=False)
                arguments += [f"row={place}"] if place else []
            elif field in left:
                arguments.append(f"{label}={_number(left.pop(field), field)}")
        node = left.pop("node", NONE)
        text = mnemonic + (" " + ", ".join(arguments) if arguments else "")
        if left:
            text += " {" + ", ".join(f"{name}={value}" for name, value in left.items()) + "}"
        return text if node == NONE else f"{text}  @{self._node(node)}"

    def _mnemonic(self, fields: Mapping[str, int], left: dict[str, int]) -> tuple[str, Syntax]:
        opcode, func = fields["opcode"], fields["func"]
        if opcode not in list(Opcode):
            return f"op{opcode}", PLAIN
        syntax = SYNTAX[Opcode(opcode)]
        name = Opcode(opcode).name.lower()
        if opcode == Opcode.ALU:
            left.pop("func", None)
            known = func in list(AluFunction)
            return f"alu {AluFunction(func).name.lower() if known else func}", syntax
        if opcode == Opcode.LOOP:
            images = func == IMAGES and fields["n"] == NONE
            if images:
                left.pop("func")
                left.pop("n")
                return "loop images", syntax
            left.pop("n", None)
            return f"loop {_number(fields['n'], 'n')}", syntax
        return name, syntax

    def _operand(self, name: str, fields: Mapping[str, int], left: dict[str, int]) -> str:
        place = self._place(name, fields, left, column=True)
        left.pop(name, None)
        return self._buffer(fields[name]) + (place or "")

    def _place(self, name: str, fields: Mapping[str, int], left: dict[str, int], *, column: bool) -> str:
        """``[row, column]`` of an operand, taking from ``left`` the fields it expresses."""
        row, col, stride = fields[f"{name}_row"], fields[f"{name}_col"], fields[f"{name}_st"]
        terms = self._terms(stride)
        if not column and (col or (terms and terms[1])):
            return ""
        left.pop(f"{name}_row", None)
        left.pop(f"{name}_col", None)
        if terms is not None:
            left.pop(f"{name}_st", None)
        rows, cols = terms or ("", "")
        if not (row or col or rows or cols):
            return ""
        row_text = _number(row, "row") + rows
        return f"[{row_text}, {_number(col, 'col')}{cols}]" if column else f"[{row_text}]"

    def _terms(self, stride: int) -> tuple[str, str] | None:
        """`` + 2*i1`` of rows and of columns, or None when the number of the stride is not to be found again."""
        if stride == 0 and self._strides and not any(map(any, self._strides[0])):
            return "", ""
        if not 0 <= stride < len(self._strides) or self._strides.index(self._strides[stride]) != stride:
            return None
        if not any(map(any, self._strides[stride])):
            return None
        rows, cols = self._strides[stride]
        return _sum(rows), _sum(cols)

    def _buffer(self, value: int) -> str:
        if value == NONE:
            return "_"
        if is_parameter(value):
            return f"p{parameter_index(value)}"
        kind = self._kinds[value] if value < len(self._kinds) else 0
        return f"{PREFIXES[kind] if kind < len(PREFIXES) else 'buf'}{value}"

    def _node(self, node: int) -> str:
        names = self._program.names
        if 0 <= node < len(names) and names.count(names[node]) == 1:
            return _json(names[node])
        return str(node)


def _sum(steps: tuple[int, ...]) -> str:
    return "".join(f" + {steps[level]}*i{level}" for level in range(LEVELS) if steps[level])


def _number(value: int, field: str) -> str:
    return f"p{parameter_index(value)}" if is_parameter(value) and field != "func" else str(value)


def _inside(index: int, names: tuple[str, ...]) -> int:
    return int(index) if 0 <= index < len(names) else NONE


def _one_line(name: str) -> str:
    return " ".join(name.split())


def _word(table: str, column: str, value: int) -> str:
    if table == "buffers" and column == "kind" and value in list(BufferKind):
        return BufferKind(value).name.lower()
    if table == "buffers" and column == "element" and value in list(Element):
        return Element(value).name.lower()
    return str(value)


def _rows_of(program: Program, table: str) -> list[dict[str, int]]:
    names = list(SCHEMAS[table])
    lists = [program[table][name].tolist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
