"""What the documentation names exists: files, folders, modules, tools; and the list of what is left to the host."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import defs

from cimc.frontend.onnx.convert_qoperators import QUANTISED_CONVERTERS
from cimc.frontend.onnx.definition import DEFINED
from cimc.frontend.onnx.importer import CONVERTERS

ROOT = Path(__file__).resolve().parents[2]
PAGES = (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
FOLDERS = ("backends", "cimc", "dialects", "docs", "models", "passes", "runtime", "tests", "tools")

MOST_ON_THE_HOST = 81
"""Operators left to the host in docs/onnx.md; this number is only ever lowered."""


def _named(page: Path, pattern: str) -> Iterator[str]:
    for match in re.finditer(pattern, page.read_text()):
        yield match.group(1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_exist(page: Path) -> None:
    """Every path in backquotes that begins with a folder of the tree, and every tool that a command runs."""
    folders = "|".join(FOLDERS)
    paths = {
        path.split("::")[0] for path in _named(page, rf"`((?:{folders})/[\w./-]*)`") if not path.endswith("-")
    }
    paths |= {f"tools/{name}.py" for name in _named(page, r"python -m tools\.(\w+)")}
    paths |= set(_named(page, r"python (tools/\w+\.py)"))
    paths |= set(_named(page, r"pytest (?:-\w+ )*((?:tests/)[\w./]+)"))
    missing = sorted(path for path in paths if not (ROOT / path.rstrip(".")).exists())
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_names_exist(page: Path) -> None:
    """Every dotted name in backquotes that begins with the package."""
    for name in {*_named(page, r"`(cimc(?:\.\w+)+)(?:\(.*?\))?`")}:
        parts, found = name.split("."), importlib.import_module("cimc")
        for number, part in enumerate(parts[1:], 2):
            if not hasattr(found, part):
                importlib.import_module(".".join(parts[:number]))
            found = getattr(found, part)


def test_the_list_of_the_host_is_complete_and_only_shrinks() -> None:
    """Each numeric operator of ONNX has a converter, a definition, or a place in the list; nothing is in two."""
    page = (ROOT / "docs" / "onnx.md").read_text()
    listed = re.search(r"Operators without a place on the chip:\n\n(.*?)\n\n", page, re.DOTALL)
    assert listed is not None
    host = re.findall(r"\w+", listed.group(1))
    assert len(host) == len(set(host))
    folded = {"Constant", "ConstantOfShape", "Shape", "Size"}
    placed = {*CONVERTERS, *QUANTISED_CONVERTERS, *DEFINED, *folded}
    assert set(host) == _numeric_operators() - placed
    assert len(host) <= MOST_ON_THE_HOST


def _numeric_operators() -> set[str]:
    """Operators of ONNX's own domain, as its newest set has them, all of whose operands can be numbers."""
    newest: dict[str, defs.OpSchema] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "" and not schema.deprecated:
            known = newest.get(schema.name)
            newest[schema.name] = (
                schema if known is None or schema.since_version > known.since_version else known
            )
    return {
        name
        for name, schema in newest.items()
        if all(any(_is_number(kind) for kind in p.types) for p in (*schema.inputs, *schema.outputs))
    }


def _is_number(kind: str) -> bool:
    return kind.startswith("tensor(") and kind != "tensor(string)"
