"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cimc.cli.output import did_you_mean
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
    """``--arch`` and ``--backend``; one of them is needed (:func:`named_machine`)."""
    arch = click.option(
        "--arch", metavar="NAME|FILE", help="The machine: a registered name, or a .yaml or .py file."
    )
    backend = click.option(
        "--backend",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="A Python file that defines BACKEND, in place of --arch.",
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


def calibration_option(command: Command) -> Command:
    """``--calibration``."""
    option = click.option(
        "--calibration",
        metavar="FILE|DIR",
        type=click.Path(path_type=Path),
        help="Inputs to choose ranges on: an .npz of arrays by input name, or a folder of .npy.",
    )
    return option(command)


def network_option(command: Command) -> Command:
    """``--network``."""
    option = click.option(
        "--network",
        metavar="mesh|bus",
        callback=did_you_mean_choice(("mesh", "bus")),
        help="Kind of network to compile for.  [default: the mapping's, else the machine's]",
    )
    return option(command)


def scheduler_options(command: Command) -> Command:
    """``--scheduler``, ``--objective`` and ``--power-cap-mw``."""
    scheduler = click.option(
        "--scheduler",
        metavar="NAME",
        callback=did_you_mean_choice(("none", "polyxb", "cim-mlc", "cim-mlc-matmul", "cimc")),
        help="Who chooses copies: none, polyxb, cim-mlc, cim-mlc-matmul, cimc.  [default: the mapping's, else cimc]",
    )
    objective = click.option(
        "--objective",
        metavar="NAME",
        callback=did_you_mean_choice(("balanced", "throughput", "latency", "energy", "peak-power")),
        help="What cimc works for: balanced, throughput, latency, energy, peak-power.  [default: balanced]",
    )
    cap = click.option(
        "--power-cap-mw",
        metavar="MW",
        type=float,
        help="Power that arrays active together may draw, static power included.",
    )
    return scheduler(objective(cap(command)))


def stagger_options(command: Command) -> Command:
    """``--stagger`` and ``--stagger-slack``."""
    turns = click.option(
        "--stagger/--no-stagger",
        default=None,
        help="Let blocks of reads take turns, so that the peak power falls.  [default: with objective peak-power]",
    )
    slack = click.option(
        "--stagger-slack",
        metavar="SHARE",
        type=float,
        help="Share of its time that a run may take more for it.  [default: 0.02]",
    )
    return turns(slack(command))


def named_machine(arch: str | None, backend: Path | None) -> str | Path:
    """What names the machine: ``--backend``, else ``--arch``.

    Raises ``UsageError`` when neither is given, or both name different machines.
    """
    if backend is None and arch is None:
        raise UsageError("no machine given; add --arch NAME or FILE ('cimc arch list' shows the names)")
    if backend is None or arch is None:
        return backend or arch or ""
    from cimc.backends.registry import load_backend_file

    found = load_backend_file(backend).name
    if arch != found:
        raise UsageError(
            f"--arch {arch} and --backend {backend} name two machines (the file's is '{found}'); give one"
        )
    return backend


def chosen_backend(arch: str | None, backend: Path | None) -> Backend:
    """The backend behind :func:`named_machine`, with its errors."""
    from cimc.backends.registry import load_backend_file, resolve_backend

    machine = named_machine(arch, backend)
    return load_backend_file(backend) if backend is not None else resolve_backend(machine)


def did_you_mean_choice(choices: Sequence[str]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that accepts one of ``choices`` and names the nearest otherwise."""

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        if value is None or value in choices:
            return value
        message = f"'{value}' is not known here; {did_you_mean(value, choices)}"
        raise click.BadParameter(message, ctx=ctx, param=param)

    return check
