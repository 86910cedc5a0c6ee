"""A YAML file as plain data plus the line and column of every key and value.

A configuration file is data written by a person: no tags, no anchors, no duplicate keys. All such
problems of a file are collected as :class:`Problem` so that one run reports them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from cimc.diagnostics import UsageError

MAX_BYTES = 1_000_000
"""No description of a machine or a mapping comes near; a larger file is a mistake or an attack."""

KeyPath: TypeAlias = tuple[str | int, ...]

_SCALARS = ("int", "float", "bool", "null", "str")


@dataclass(frozen=True)
class Position:
    """Line and column of a key and of its value, both counted from 1."""

    key: tuple[int, int]
    value: tuple[int, int]


@dataclass(frozen=True)
class Problem:
    """One violated rule of a document; ``line`` and ``column`` count from 1."""

    line: int
    column: int
    key: str
    message: str

    def as_error(self, file: str) -> UsageError:
        """``file:line:column: key: message`` (exit 2)."""
        text = f"{self.key}: {self.message}" if self.key else self.message
        return UsageError(text, where=f"{file}:{self.line}:{self.column}")


@dataclass(frozen=True)
class YamlDocument:
    """Plain data (dict, tuple, str, int, float, bool, None) with positions by key path."""

    file: str
    data: Any
    positions: Mapping[KeyPath, Position]
    problems: tuple[Problem, ...]


def read_yaml(path: Path) -> YamlDocument:
    """Read ``path``; a file that cannot be read or is too large is a :class:`UsageError`."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UsageError(
                f"file has {size} bytes, at most {MAX_BYTES} are read; is this a YAML file of cimc?",
                where=str(path),
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot read the file: {error.strerror}; check the path", where=str(path)
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"byte {error.start} is not UTF-8; save the file as UTF-8 text", where=str(path)
        ) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, file: str) -> YamlDocument:
    """Parse YAML 1.2 ``text``; ``file`` is the name that messages carry.

    Syntax errors end the parse and raise; duplicate keys, tags, anchors and keys that are not text
    are collected in ``problems``.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        raise _syntax_error(error, file) from error
    except YAMLError as error:
        raise UsageError(f"not YAML: {' '.join(str(error).split())}; fix the syntax", where=file) from error
    except RecursionError as error:
        raise UsageError(
            "nested deeper than a description ever is; close the open brackets", where=file
        ) from error
    if root is None:
        raise UsageError(
            "the file is empty; see docs/{architecture,mapping,device}-file.md for an example",
            where=f"{file}:1:1",
        )
    reader = _Reader(yaml, {}, [])
    data = reader.read(root, ())
    return YamlDocument(file, data, reader.positions, tuple(reader.problems))


def _syntax_error(error: MarkedYAMLError, file: str) -> UsageError:
    mark = error.problem_mark or error.context_mark
    where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
    said = ", ".join(part for part in (error.context, error.problem) if part)
    return UsageError(f"not YAML: {said}; fix the syntax at or just above this line", where=where)


def dotted(path: KeyPath) -> str:
    """``("overrides", 0, "copies")`` as a reader writes it: ``overrides[0].copies``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _start(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


@dataclass(frozen=True)
class _Reader:
    yaml: YAML
    positions: dict[KeyPath, Position]
    problems: list[Problem]

    def read(self, node: Node, path: KeyPath) -> Any:
        if path not in self.positions:  # the root and the items of a list have no key
            self.positions[path] = Position(_start(node), _start(node))
        if node.anchor is not None:
            # also what stops a file of a few hundred bytes from unfolding into gigabytes
            self._report(node, path, "anchors and aliases are not supported; write the value out")
            return None
        if isinstance(node, MappingNode):
            return dict(self._items(node, path))
        if isinstance(node, SequenceNode):
            return tuple(self.read(item, (*path, i)) for i, item in enumerate(node.value))
        return self._scalar(node, path)

    def _items(self, node: MappingNode, path: KeyPath) -> Iterator[tuple[str, Any]]:
        first_seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode) or not str(key_node.tag).endswith(":str"):
                given = f", given {key_node.value}" if isinstance(key_node, ScalarNode) else ""
                self._report(key_node, path, f"keys are names{given}; write one in plain text")
                continue
            key = str(key_node.value)
            line, column = _start(key_node)
            if key in first_seen:
                message = f"duplicate key, first given in line {first_seen[key]}; remove one of the two"
                self.problems.append(Problem(line, column, dotted((*path, key)), message))
                continue
            first_seen[key] = line
            self.positions[(*path, key)] = Position((line, column), _start(value_node))
            yield key, self.read(value_node, (*path, key))

    def _scalar(self, node: Node, path: KeyPath) -> Any:
        tag = str(node.tag)
        kind = tag.removeprefix("tag:yaml.org,2002:")
        if kind == "timestamp":
            return node.value
        if kind not in _SCALARS or tag == kind:
            self._report(node, path, f"tag {tag} is not supported; write a plain value")
            return None
        try:
            return self.yaml.constructor.construct_object(node)
        except (ValueError, OverflowError):
            self._report(node, path, f"not a number that can be read, given {node.value[:40]!r}; shorten it")
            return None

    def _report(self, node: Node, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(*_start(node), dotted(path), message))
