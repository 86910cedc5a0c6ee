"""What commands print: results on stdout so that programs can read them, all else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from math import isfinite
from typing import Any, TextIO

import click

import cimc


def error(message: str) -> None:
    """``error: message`` on stderr."""
    _say("error", "red", message)


def warning(message: str) -> None:
    """``warning: message`` on stderr."""
    _say("warning", "yellow", message)


def print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Stands in for ``warnings.showwarning``: our categories, and plain warnings that our own code gives."""
    ours = category.__module__.split(".")[0] == "cimc"
    if ours or (category is UserWarning and filename.startswith(tuple(cimc.__path__))):
        warning(" ".join(str(message).split()))


def coloured(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal whose owner did not set NO_COLOR (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def progress(text: str) -> None:
    """Replace the one line of progress on stderr; silent unless stderr is a terminal."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, err: bool = False) -> None:
    """Aligned columns on stdout (or stderr), two spaces apart; numbers to the right; an empty cell is ``-``."""
    listed = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *listed]) for i in range(len(header))]
    right = [bool(listed) and all(_is_number(row[i]) for row in listed) for i in range(len(header))]
    for number, row in enumerate([list(header), *listed]):
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        text = "  ".join(cells).rstrip()
        bold = number == 0 and coloured(sys.stderr if err else sys.stdout)
        click.echo(click.style(text, bold=True) if bold else text, err=err)


def print_json(value: Any) -> None:
    """``value`` on stdout: keys sorted, one document; ``null`` for NaN and infinity, which JSON does not have."""
    text = json.dumps(_finite(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    click.echo(text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?``, or the list of all when none is near."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names) or 'none'}"


class Names(click.Group):
    """A group that says which command may have been meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of ``args``; an unknown one is a usage error with the nearest name."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"no command is named '{args[0]}'; {did_you_mean(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


def _say(kind: str, colour: str, message: str) -> None:
    head = click.style(f"{kind}:", fg=colour, bold=True) if coloured(sys.stderr) else f"{kind}:"
    progress("")
    click.echo(f"{head} {message}", err=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else " ".join(str(value).split()) or "-"


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).replace("e+", "", 1).replace("e-", "", 1).isdigit()
