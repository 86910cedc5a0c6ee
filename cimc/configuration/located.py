"""Validation of a YAML file against a pydantic model, each problem with its line.

A model derives from :class:`Section`. Single values are checked by their types; rules that span
values are yielded by :meth:`Section.broken_rules` and name the key to look at. Everything a file
does wrong is reported at once, as ``file:line:column: key: rule, given value; remedy``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from cimc.configuration.yaml_document import KeyPath, Problem, YamlDocument, dotted, parse_yaml, read_yaml
from cimc.diagnostics import raise_all

_RULES = "cimc_rules"
_PLAIN_RULES = {
    "model_type": "must be a section of keys, indented below this one",
    "dict_type": "must be a section of names and numbers, indented below this one",
    "mapping_type": "must be a section of names and numbers, indented below this one",
    "tuple_type": "must be a list, one item after each dash",
    "bool_type": "must be true or false",
}


@dataclass(frozen=True)
class BrokenRule:
    """A rule over several keys that does not hold; ``path`` is the key to point at."""

    path: KeyPath
    message: str


class Section(BaseModel):
    """A mapping of a configuration file: immutable, no conversions, no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def broken_rules(self) -> Iterator[BrokenRule]:
        """The rules over several keys that this section breaks; the single values are valid here."""
        yield from ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        broken = tuple(self.broken_rules())
        if broken:
            text = "; ".join(f"{dotted(rule.path)}: {rule.message}" for rule in broken)
            raise PydanticCustomError(_RULES, "{text}", {"text": text, "broken": broken})
        return self


M = TypeVar("M", bound=Section)


def load_located(path: Path, model: type[M]) -> M:
    """The validated content of the YAML file ``path``.

    Raises :class:`CimError` with exit code 2: all problems at once, each with its line.
    """
    return validate_located(read_yaml(path), model)


def parse_located(text: str, file: str, model: type[M]) -> M:
    """As :func:`load_located` for text at hand; ``file`` is the name that messages carry."""
    return validate_located(parse_yaml(text, file), model)


def validate_located(document: YamlDocument, model: type[M]) -> M:
    """``document`` as a ``model``; all its problems are raised together, in the order of the lines."""
    problems = list(document.problems)
    known_bad = {problem.key for problem in problems}
    try:
        result = model.model_validate(document.data)
    except ValidationError as error:
        found = [p for e in error.errors(include_url=False) for p in _problems(e, document, model)]
        # A value that could not even be read is reported once, by the reader.
        problems += [problem for problem in found if problem.key not in known_bad]
        result = None
    raise_all([p.as_error(document.file) for p in sorted(problems, key=lambda p: (p.line, p.column))])
    assert result is not None  # a ValidationError leaves at least one problem
    return result


def _problems(error: Mapping[str, Any], document: YamlDocument, model: type[Section]) -> Iterator[Problem]:
    path = cast(KeyPath, error["loc"])
    kind = str(error["type"])
    if kind == _RULES:
        for rule in cast(Sequence[BrokenRule], error["ctx"]["broken"]):
            yield _at((*path, *rule.path), document, rule.message)
        return
    if kind == "extra_forbidden":
        yield _at(path, document, _unknown_key(path, model), point_at_key=True)
        return
    if kind == "missing":
        yield _at(path, document, f"required key is missing; add it: {_meaning(path, model)}")
        return
    yield _at(path, document, _wrong_value(error, path, model))


def _at(path: KeyPath, document: YamlDocument, message: str, *, point_at_key: bool = False) -> Problem:
    """The problem at the nearest key that stands in the file: a missing key is its section's."""
    known = path
    while known not in document.positions:
        known = known[:-1]
    position = document.positions[known]
    # A section begins in the line below its key; the key is where one looks.
    at_key = point_at_key or known != path or position.value[0] != position.key[0]
    line, column = position.key if at_key else position.value
    return Problem(line, column, dotted(path), message)


def _unknown_key(path: KeyPath, model: type[Section]) -> str:
    section = _section_at(path[:-1], model)
    known = sorted(section.model_fields) if section else []
    near = get_close_matches(str(path[-1]), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return f"unknown key; {hint}"


def _wrong_value(error: Mapping[str, Any], path: KeyPath, model: type[Section]) -> str:
    given = error["input"]
    rule = str(error["msg"]).replace("Input should be", "must be")
    rule = _PLAIN_RULES.get(str(error["type"]), rule)
    expected = str(error.get("ctx", {}).get("expected", ""))
    near = get_close_matches(
        str(given), [w.strip("' ") for w in expected.replace(" or ", ",").split(",")], n=1
    )
    if near:
        return f"{rule}, given {given!r}; did you mean {near[0]!r}?"
    if isinstance(given, str) and ("number" in rule or "integer" in rule):
        return f"{rule}, given {_shown(given)}; write a plain number, the unit is in the key's name"
    return f"{rule}, given {_shown(given)}; {_meaning(path, model)}"


def _shown(value: Any) -> str:
    text = "null" if value is None else f"{value!r}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _meaning(path: KeyPath, model: type[Section]) -> str:
    """What the key is for, from its attribute docstring: the remedy names what to write."""
    while path:
        section = _section_at(path[:-1], model)
        field = section.model_fields.get(str(path[-1])) if section else None
        if field and field.description:
            return f"{path[-1]} = {' '.join(field.description.split())}"
        path = path[:-1]  # an item of a list or table means what the list or table means
    return "see docs/architecture-file.md, docs/mapping-file.md and docs/device-file.md"


def _section_at(path: KeyPath, model: type[Section]) -> type[Section] | None:
    section: type[Section] | None = model
    for part in path:
        if isinstance(part, int):
            continue  # an item of a list has the section of the list
        field = section.model_fields.get(part) if section else None
        section = _section_in(field.annotation) if field else None
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _section_in(arg))), None)
