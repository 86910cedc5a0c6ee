"""``cimc models``: the networks of the tree, as a list and as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from cimc.cli.output import Names, did_you_mean, print_json, print_table
from cimc.diagnostics import UsageError


def _batch(ctx: click.Context, param: click.Parameter, value: str) -> int | Literal["dynamic"]:
    if value == "dynamic":
        return "dynamic"
    if not value.isdecimal() or int(value) < 1:
        rule = f"a batch is a whole number of at least 1, or 'dynamic', given '{value}'"
        raise click.BadParameter(rule, ctx=ctx, param=param)
    return int(value)


@click.group(cls=Names)
def models() -> None:
    """List and export the networks that come with the compiler."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(as_json: bool) -> None:
    """List the networks."""
    from cimc.models.registry import names, network

    found = [network(name) for name in names()]
    if as_json:
        keys = ("name", "shape", "classes", "summary")
        print_json([{key: getattr(entry, key) for key in keys} for entry in found])
        return
    print_table(
        ("name", "input", "classes", "summary"),
        [(e.name, "x".join(map(str, e.shape)), e.classes, e.summary) for e in found],
    )


@models.command()
@click.argument("name")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The .onnx file to write."
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1), help="Of the weights."
)
@click.option("--batch", default="1", show_default=True, callback=_batch, help="Batch size, or 'dynamic'.")
def export(name: str, output: Path, seed: int, batch: int | Literal["dynamic"]) -> None:
    """Write network NAME with seeded random weights, tuned so that its outputs vary over inputs."""
    from cimc.models.registry import names

    if name not in names():
        raise UsageError(f"no network is named '{name}'; {did_you_mean(name, names())}")
    if output.is_dir() or not output.parent.is_dir():
        kind = "this is a folder" if output.is_dir() else "its folder does not exist"
        raise UsageError(f"{kind}; give the name of an .onnx file", where=str(output))
    from cimc.models.export import export_onnx

    click.echo(export_onnx(name, output, seed=seed, batch=batch))
