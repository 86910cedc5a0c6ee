"""``cimc device``: devices of the library, as a list, written out, checked, and as a schema for editors."""

from __future__ import annotations

from pathlib import Path

import click

from cimc.cli.output import Names, print_json, print_table
from cimc.diagnostics import CimError, raise_all


@click.group(cls=Names)
def device() -> None:
    """Describe devices and check their files."""


@device.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_devices(as_json: bool) -> None:
    """List the devices that --device-model takes by name."""
    from cimc.runtime.device.loader import load_device, preset_names

    files = [load_device(name).file for name in preset_names()]
    if as_json:
        print_json([{"name": file.name, "description": file.description} for file in files])
        return
    print_table(
        ("name", "off uS", "on uS", "reads", "description"),
        [
            (
                file.name,
                f"{file.cell.g_off_us:.3g}",
                f"{file.cell.g_on_us:.3g}",
                file.read_scope if file.read_noise else "-",
                file.description,
            )
            for file in files
        ],
    )


@device.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Print device NAME (a preset or a .yaml file) with every default written out."""
    from cimc.runtime.device.loader import load_device, resolved_yaml

    found = load_device(name)
    if as_json:
        print_json(found.file.model_dump(mode="json", exclude_none=True))
        return
    click.echo(resolved_yaml(found), nl=False)


@device.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def validate(files: tuple[Path, ...]) -> None:
    """Check device FILES: every problem of all of them, each with its line."""
    from cimc.runtime.device.loader import load_device

    problems: list[CimError] = []
    for path in files:
        try:
            found = load_device(path)
        except CimError as problem:
            problems.append(problem)
            continue
        click.echo(f"{path}: ok, {found.name}")
    raise_all(problems)


@device.command()
def schema() -> None:
    """Print the JSON Schema of device files, for editors."""
    from cimc.runtime.device.schema import json_schema

    print_json(json_schema())
