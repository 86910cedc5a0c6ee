"""``cimc arch``: machines, as a list, resolved, checked, and as a schema for editors."""

from __future__ import annotations

from pathlib import Path

import click

from cimc.cli.output import Names, print_json, print_table
from cimc.diagnostics import CimError, UsageError, raise_all


@click.group(cls=Names)
def arch() -> None:
    """Describe machines and check their files."""


@arch.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_machines(as_json: bool) -> None:
    """List the machines of all registered backends that load."""
    from cimc.backends.loader import load_architecture
    from cimc.backends.registry import list_backends

    machines = [load_architecture(entry.name) for entry in list_backends() if not entry.error]
    if as_json:
        print_json([{"name": m.name, "description": m.description, "sha256": m.sha256} for m in machines])
        return
    print_table(
        ("name", "mode", "cores", "crossbars", "rows", "columns", "description"),
        [
            (
                m.name,
                m.mode,
                m.chip.cores,
                m.chip.cores * m.core.crossbars,
                m.crossbar.rows,
                m.crossbar.columns,
                m.description,
            )
            for m in machines
        ],
    )


@arch.command()
@click.argument("machine")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(machine: str, as_json: bool) -> None:
    """Print MACHINE (a name, a .yaml or a .py file) with every default written out."""
    from cimc.backends.loader import load_architecture, resolved_yaml

    found = load_architecture(machine)
    if as_json:
        print_json({**found.model_dump(mode="json", exclude_none=True), "sha256": found.sha256})
        return
    click.echo(resolved_yaml(found), nl=False)


@arch.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def validate(files: tuple[Path, ...]) -> None:
    """Check architecture FILES: every problem of all of them, each with its line."""
    from cimc.backends.loader import load_architecture

    problems: list[CimError] = []
    for path in files:
        try:
            found = load_architecture(_file(path))
        except CimError as problem:
            problems.append(problem)
            continue
        click.echo(f"{path}: ok, {found.name}, sha256 {found.sha256}")
    raise_all(problems)


def _file(path: Path) -> Path:
    """``path``, unless it would be looked up as the name of a backend."""
    if path.suffix in (".yaml", ".yml", ".py"):
        return path
    raise UsageError("an architecture file ends in .yaml, .yml or .py; rename it", where=str(path))


@arch.command()
def schema() -> None:
    """Print the JSON Schema of architecture files, for editors."""
    from cimc.backends.loader import json_schema

    print_json(json_schema())
