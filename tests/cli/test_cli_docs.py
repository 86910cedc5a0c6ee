"""docs/cli.md and docs/errors.md say what the command line has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cimc.cli.entry import cimc
from cimc.diagnostics import ExitCode

DOCS = Path(__file__).parents[2] / "docs"


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


@pytest.mark.parametrize(("path", "command"), list(_commands(cimc, "cimc")), ids=lambda value: str(value))
def test_every_command_and_option_is_documented(path: str, command: click.Command) -> None:
    """An option that nobody documents is one that nobody finds."""
    text = (DOCS / "cli.md").read_text()
    section = re.search(rf"## `{path}.*?(?=\n## )", text, re.DOTALL)
    row = re.search(rf"^\| `{path}.*$", text, re.MULTILINE)
    place = section or row
    assert place is not None, path
    for option in command.params:
        spelt = [word for word in (*option.opts, *option.secondary_opts) if word.startswith("-")]
        if spelt and spelt != ["--json"]:
            assert any(re.search(rf"`{word}\b", place[0]) or f" {word} " in place[0] for word in spelt), spelt


def test_documented_options_exist() -> None:
    """No option in the document that the command line lost."""
    known = {"--help"}
    for _, command in _commands(cimc, "cimc"):
        for option in command.params:
            known.update([*option.opts, *option.secondary_opts])
    assert set(re.findall(r"--[a-z][a-z-]+", (DOCS / "cli.md").read_text())) <= known


def test_every_exit_code_is_documented() -> None:
    """The table of docs/errors.md has each code once, and the classes that carry it."""
    rows = dict(re.findall(r"^\| (\d+) \| .*? \| (.*)\|$", (DOCS / "errors.md").read_text(), re.MULTILINE))
    assert {str(int(code)) for code in ExitCode} <= set(rows)
    from cimc import diagnostics

    for name in ("UnsupportedError", "MismatchError", "UsageError", "DoesNotFitError"):
        code = int(getattr(diagnostics, name).exit_code)
        assert f"`{name}`" in rows[str(code)]
