"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cimc.diagnostics import UsageError

if TYPE_CHECKING:
    from cimc.backends.protocol import Backend

Command = TypeVar("Command", bound=Callable[..., Any])
Shapes = dict[str, tuple[int, ...]]


def _shapes(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Shapes:
    """``x=1,3,224,224`` to ``{"x": (1, 3, 224, 224)}``; a name may hold ``=``."""
    shapes: Shapes = {}
    for value in values:
        name, _, text = value.rpartition("=")
        extents = [part.strip() for part in text.split(",")]
        if not name or not all(part.isdecimal() and int(part) >= 1 for part in extents):
            rule = f"write INPUT=N,N,... with whole numbers of at least 1, such as x=1,3,224,224, given '{value}'"
            raise click.BadParameter(rule, ctx=ctx, param=param)
        if name in shapes:
            raise click.BadParameter(f"input '{name}' has two shapes; give one", ctx=ctx, param=param)
        shapes[name] = tuple(int(part) for part in extents)
    return shapes


def arch_option(command: Command) -> Command:
    """``--arch`` and ``--backend``; one of them is needed (:func:`machine`)."""
    arch = click.option(
        "--arch", metavar="NAME|FILE", help="The machine: a registered name, or a .yaml or .py file."
    )
    backend = click.option(
        "--backend",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="A Python file that defines BACKEND; its machine is used unless --arch gives another.",
    )
    return arch(backend(command))


def shape_option(command: Command) -> Command:
    """``--shape``, any number of times."""
    option = click.option(
        "--shape",
        "shapes",
        metavar="INPUT=N,N,...",
        multiple=True,
        callback=_shapes,
        help="Bind an input's open dimensions, such as x=1,3,224,224; once for each input.",
    )
    return option(command)


def mapping_option(command: Command) -> Command:
    """``--mapping``."""
    option = click.option(
        "--mapping",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="How the network is quantised and copied (docs/mapping-file.md).",
    )
    return option(command)


def machine(arch: str | None, backend: Path | None) -> str | Path:
    """What names the machine. Raises ``UsageError`` when neither option is given."""
    if arch is not None:
        return arch
    if backend is not None:
        return backend
    raise UsageError("no machine given; add --arch NAME or FILE ('cimc arch list' shows the names)")


def backend_of(arch: str | None, backend: Path | None) -> Backend:
    """The rules of the machine: the backend's if one is given, else those that come with the architecture."""
    from cimc.backends.registry import resolve_backend

    return resolve_backend(backend if backend is not None else machine(arch, backend))
