"""Reads the text form back into a program: the inverse of ``text.disassemble`` (``docs/isa.md``, "Text form")."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from cimc.diagnostics import UsageError
from cimc.runtime.program.opcodes import AluFunction, BufferKind, Element, Opcode
from cimc.runtime.program.syntax import (
    DEFAULTS,
    PLAIN,
    ROW_WORDS,
    SYNTAX,
    VALUE_TABLES,
    Syntax,
    text_float,
)
from cimc.runtime.program.tables import (
    FORMAT_VERSION,
    IMAGES,
    LEVELS,
    NONE,
    SCHEMAS,
    HostOperator,
    IoTensor,
    Program,
    parameter,
)

_ROW = re.compile(r"^\s*(\d+):\s*(.*)$")
_NODE = re.compile(r"\s@(\d+|-\d+|\"(?:[^\"\\]|\\.)*\")$")
_BRACES = re.compile(r"\s\{([^{}]*)\}$")
_ARGUMENTS = re.compile(r"(?:[^,\[\]]|\[[^\[\]]*\])+")
_OPERAND = re.compile(r"^(?:_|p(\d+)|[a-z]*(\d+))(?:\[([^\[\],]*),([^\[\],]*)\])?$")
_TERM = re.compile(r"^(-?\d+)\*i([0-5])$")
_MOST_ERRORS = 20


def assemble(text: str, source: str = "program text") -> Program:
    """The program that ``text`` describes.

    Raises :class:`~cimc.diagnostics.UsageError` that lists up to 20 bad lines with their numbers, or
    names a newer major version. Nothing else is checked: that is the verifier's part.
    """
    reader = _Reader()
    errors: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            reader.line(line)
        except (ValueError, KeyError, IndexError) as error:
            errors.append(f"line {number}: {_reason(error)}: {line.strip()[:80]}")
    if not errors:
        try:
            return reader.program()
        except ValueError as error:
            errors.append(str(error))
    more = f"\n... and {len(errors) - _MOST_ERRORS} more" if len(errors) > _MOST_ERRORS else ""
    raise UsageError("\n".join(errors[:_MOST_ERRORS]) + more, where=source)


class _Reader:
    """Collects lines; code is understood at the end, when strides and names are known."""

    def __init__(self) -> None:
        self._version: tuple[int, int] | None = None
        self._numbers = {"frames": 1, "total_macs": 0}
        self._machine: dict[str, Any] = {}
        self._lists: dict[str, list[Any]] = {"name": [], "weight": [], "io": [], "tap": [], "host": []}
        self._code: list[str] = []
        self._rows: dict[str, list[dict[str, Any]]] = {table: [] for table in ROW_WORDS.values()}
        self._values: dict[str, list[Any]] = {table: [] for table in VALUE_TABLES}

    def line(self, line: str) -> None:
        if not line.strip() or line.lstrip().startswith("#"):
            return
        code = _ROW.match(line)
        if code:
            if int(code[1]) != len(self._code):
                raise ValueError(f"row {code[1]} stands where row {len(self._code)} belongs")
            self._code.append(code[2].strip())
            return
        word, _, rest = line.partition(" ")
        handler = self._handlers().get(word)
        if handler is None:
            raise ValueError(f"unknown word '{word}'")
        handler(word, rest)

    def _handlers(self) -> dict[str, Callable[[str, str], None]]:
        return {
            "program": self._on_version,
            "frames": self._on_number,
            "total_macs": self._on_number,
            "machine": self._on_machine,
            "name": self._on_name,
            "weight": self._on_name,
            "io": self._on_object,
            "tap": self._on_object,
            "host": self._on_object,
            **dict.fromkeys(ROW_WORDS, self._on_row),
            **dict.fromkeys(VALUE_TABLES, self._on_values),
        }

    def _on_version(self, word: str, rest: str) -> None:
        major, minor = (int(part) for part in rest.split("."))
        self._version = (major, minor)
        if major > FORMAT_VERSION[0]:
            raise ValueError(
                f"program format {rest} is newer than {FORMAT_VERSION[0]}.{FORMAT_VERSION[1]}, the newest"
                " this version of cimc reads"
            )

    def _on_number(self, word: str, rest: str) -> None:
        self._numbers[word] = int(rest)

    def _on_machine(self, word: str, rest: str) -> None:
        machine = json.loads(rest)
        if not isinstance(machine, dict):
            raise ValueError("the machine is not an object")
        self._machine = dict(machine)

    def _on_name(self, word: str, rest: str) -> None:
        name = json.loads(rest)
        if not isinstance(name, str):
            raise ValueError("a name is a quoted string")
        self._lists[word].append(name)

    def _on_object(self, word: str, rest: str) -> None:
        kind = HostOperator if word == "host" else IoTensor
        self._lists[word].append(TypeAdapter[Any](kind).validate_json(rest))

    def _on_row(self, word: str, rest: str) -> None:
        table = ROW_WORDS[word]
        number, *assignments = rest.partition("#")[0].split()
        rows = self._rows[table]
        if int(number) != len(rows):
            raise ValueError(f"{word} {number} stands where {word} {len(rows)} belongs")
        row: dict[str, Any] = {}
        for assignment in assignments:
            column, _, value = assignment.partition("=")
            if column not in SCHEMAS[table]:
                raise ValueError(f"table '{table}' has no column '{column}'")
            row[column] = _row_value(table, column, value)
        rows.append(row)

    def _on_values(self, word: str, rest: str) -> None:
        start, _, values = rest.partition(":")
        if int(start) != len(self._values[word]):
            raise ValueError(f"{word} {start} stands where {word} {len(self._values[word])} belongs")
        read = text_float if word == "const_f" else int
        self._values[word].extend(read(value) for value in values.split())

    def program(self) -> Program:
        if self._version is None:
            raise ValueError("the first line 'program <major>.<minor>' is missing")
        tables: dict[str, dict[str, npt.NDArray[Any]]] = {}
        for table, rows in self._rows.items():
            tables[table] = _columns(table, rows)
        for table, column in VALUE_TABLES.items():
            tables[table] = {column: _array(self._values[table], SCHEMAS[table][column], table)}
        tables["instructions"] = _columns("instructions", self._instructions(tables["strides"]))
        return Program(
            tables={table: tables[table] for table in SCHEMAS},
            names=tuple(self._lists["name"]),
            io=tuple(self._lists["io"]),
            hosts=tuple(self._lists["host"]),
            weights=tuple(self._lists["weight"]),
            machine=self._machine,
            frames=self._numbers["frames"],
            total_macs=self._numbers["total_macs"],
            taps=tuple(self._lists["tap"]),
        )

    def _instructions(self, strides: dict[str, npt.NDArray[Any]]) -> list[dict[str, int]]:
        numbers: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        for index, (row, col) in enumerate(
            zip(strides["row"].tolist(), strides["col"].tolist(), strict=True)
        ):
            numbers.setdefault((tuple(row), tuple(col)), index)
        nodes = {name: index for index, name in enumerate(self._lists["name"])}
        rows: list[dict[str, int]] = []
        problems: list[str] = []
        for index, text in enumerate(self._code):
            try:
                rows.append(_Instruction(text, numbers, nodes).fields)
            except (ValueError, KeyError) as error:
                problems.append(f"row {index}: {_reason(error)}: {text[:80]}")
        if problems:
            raise ValueError("\n".join(problems[:_MOST_ERRORS]))
        return rows


class _Instruction:
    """One line of code to the fields of a row."""

    def __init__(
        self,
        text: str,
        strides: dict[tuple[tuple[int, ...], tuple[int, ...]], int],
        nodes: dict[str, int],
    ):
        self.fields: dict[str, int] = dict(DEFAULTS)
        self._strides = strides
        node = _NODE.search(text)
        if node:
            text = text[: node.start()].rstrip()
            self.fields["node"] = self._node(node[1], nodes)
        braces = _BRACES.search(text)
        if braces:
            text = text[: braces.start()].rstrip()
        syntax, rest = self._mnemonic(text)
        arguments = [argument.strip() for argument in _ARGUMENTS.findall(rest)]
        labels = dict(syntax.labels)
        positional = [a for a in arguments if not re.match(r"[a-z_]+=", a)]
        if len(positional) > len(syntax.operands):
            raise ValueError(f"{len(positional)} operands, not {len(syntax.operands)}")
        for name, argument in zip(syntax.operands, positional, strict=False):
            self._operand(name, argument)
        for argument in arguments[len(positional) :]:
            label, _, value = argument.partition("=")
            if label not in labels:
                raise ValueError(f"unknown field '{label}'")
            self._labelled(label, labels[label], value)
        for assignment in braces[1].split(",") if braces else ():
            name, _, value = assignment.strip().partition("=")
            if name not in self.fields:
                raise ValueError(f"unknown field '{name}'")
            self.fields[name] = int(value)

    def _node(self, text: str, nodes: dict[str, int]) -> int:
        if not text.startswith('"'):
            return int(text)
        name = json.loads(text)
        if name not in nodes:
            raise ValueError(f"no name {text} is declared")
        return nodes[name]

    def _mnemonic(self, text: str) -> tuple[Syntax, str]:
        word, _, rest = text.partition(" ")
        if re.fullmatch(r"op\d+", word):
            self.fields["opcode"] = int(word[2:])
            return PLAIN, rest
        if word.upper() not in Opcode.__members__:
            raise ValueError(f"unknown instruction '{word}'")
        opcode = Opcode[word.upper()]
        self.fields["opcode"] = opcode
        if opcode == Opcode.ALU:
            name, _, rest = rest.partition(" ")
            known = name.upper() in AluFunction.__members__
            self.fields["func"] = AluFunction[name.upper()] if known else int(name)
        if opcode == Opcode.LOOP:
            count, _, rest = rest.partition(" ")
            images = count == "images"
            self.fields["func"] = IMAGES if images else 0
            self.fields["n"] = NONE if images else _number(count)
        return SYNTAX[opcode], rest

    def _operand(self, name: str, text: str) -> None:
        match = _OPERAND.match(text)
        if not match:
            raise ValueError(f"'{text}' is no operand")
        if match[1] is not None:
            self.fields[name] = parameter(int(match[1]))
        elif match[2] is not None:
            self.fields[name] = int(match[2])
        if match[3] is not None:
            self._place(name, match[3], match[4])

    def _labelled(self, label: str, field: str, value: str) -> None:
        if label != "row":
            self.fields[field] = _number(value)
            return
        if not (value.startswith("[") and value.endswith("]")):
            raise ValueError(f"'{value}' is no row number: write [row]")
        self._place(field, value[1:-1], "0")

    def _place(self, name: str, row: str, col: str) -> None:
        rows, cols = [0] * LEVELS, [0] * LEVELS
        self.fields[f"{name}_row"] = _affine(row, rows)
        self.fields[f"{name}_col"] = _affine(col, cols)
        if not any(rows) and not any(cols):
            return
        key = (tuple(rows), tuple(cols))
        if key not in self._strides:
            raise ValueError(f"no stride has rows {rows} and columns {cols}")
        self.fields[f"{name}_st"] = self._strides[key]


def _affine(text: str, steps: list[int]) -> int:
    """The constant of ``3 + 2*i1``; increments go to ``steps``."""
    constant, *terms = (part.strip() for part in text.split(" + "))
    for term in terms:
        match = _TERM.match(term)
        if not match:
            raise ValueError(f"'{term}' is no increment: write <step>*i<level>")
        steps[int(match[2])] = int(match[1])
    return _number(constant)


def _number(text: str) -> int:
    return parameter(int(text[1:])) if text.startswith("p") else int(text)


def _row_value(table: str, column: str, text: str) -> Any:
    if table == "buffers" and column == "kind" and text.upper() in BufferKind.__members__:
        return int(BufferKind[text.upper()])
    if table == "buffers" and column == "element" and text.upper() in Element.__members__:
        return int(Element[text.upper()])
    width = SCHEMAS[table][column].partition(":")[2]
    if not width:
        return int(text)
    values = [int(value) for value in text.split(",")]
    if len(values) != int(width):
        raise ValueError(f"column '{column}' has {width} values a row, not {len(values)}")
    return values


def _columns(table: str, rows: list[dict[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    columns: dict[str, npt.NDArray[Any]] = {}
    for column, spec in SCHEMAS[table].items():
        width = int(spec.partition(":")[2] or 0)
        missing: Any = [0] * width if width else 0
        columns[column] = _array([row.get(column, missing) for row in rows], spec, f"{table}.{column}")
    return columns


def _array(values: list[Any], spec: str, name: str) -> npt.NDArray[Any]:
    dtype, _, width = spec.partition(":")
    if dtype == "float32":
        return np.array(values, np.float32)
    wide = np.array(values, np.int64).reshape((len(values), int(width)) if width else (len(values),))
    limits = np.iinfo(np.dtype(dtype))
    if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        raise ValueError(f"a value of {name} is outside {dtype}")
    return wide.astype(dtype)


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{item['loc']}: {item['msg']}" for item in error.errors())
    return str(error) if str(error) else type(error).__name__
