"""``cimc device``: devices as a list, written out, checked, as a schema for editors; memory budgets of networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from cimc.cli.output import Names, print_json, print_table
from cimc.diagnostics import CimError, UsageError, raise_all


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


@device.command()
@click.argument("networks", nargs=-1, required=True)
@click.option("--arch", required=True, metavar="NAME|FILE", help="Machine whose arrays hold the weights.")
@click.option(
    "--device-model", "device_name", required=True, metavar="NAME|FILE", help="Device of the cells."
)
@click.option(
    "--budget-gb",
    "budgets",
    multiple=True,
    type=click.FloatRange(0, min_open=True),
    help="Memory in GB of 10^9 bytes; any number of times.  [default: five between least and resident]",
)
@click.option(
    "--resident",
    type=click.Choice(("cells", "codes")),
    default="cells",
    show_default=True,
    help="What stays in memory of a block that does not stream.",
)
@click.option(
    "--chunk-bytes",
    type=click.IntRange(1 << 16),
    default=1 << 20,
    show_default=True,
    help="Of a layer's reads.",
)
@click.option("--measure", is_flag=True, help="Run a pass under every budget, too.")
@click.option(
    "-o",
    "--output",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write budgets.csv there.",
)
@click.option("--plot", is_flag=True, help="With -o: write figures, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def budget(
    networks: tuple[str, ...],
    arch: str,
    device_name: str,
    budgets: tuple[float, ...],
    resident: Literal["cells", "codes"],
    chunk_bytes: int,
    measure: bool,
    folder: Path | None,
    plot: bool,
    as_json: bool,
) -> None:
    """Print what memory budgets would cost NETWORKS (cimc models): streamed bytes, peak and time of a pass."""
    if plot and folder is None:
        raise UsageError("figures are files; say where with -o", where="--plot")
    from cimc.backends.registry import resolve_backend
    from cimc.evaluate import budgets as table
    from cimc.runtime.device.loader import load_device

    request = table.BudgetRequest(
        resolve_backend(arch).architecture(), load_device(device_name), resident, chunk_bytes, measure
    )
    for name in networks:
        table.check_name(name)
    rows = [row for name in networks for row in table.budget_rows(name, budgets, request)]
    if folder is not None:
        table.write_budgets(rows, folder)
    if folder is not None and plot:
        for path in table.plot_budgets(rows, folder):
            print(path, file=sys.stderr)
    if as_json:
        print_json([vars(row) for row in rows])
        return
    columns = list(vars(rows[0]))
    print_table(columns, [[_shown(value) for value in vars(row).values()] for row in rows])


def _shown(value: object) -> object:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value
