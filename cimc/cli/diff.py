"""``cimc diff``: what two artifacts differ in."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from cimc.cli.output import print_json, print_table


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "--images", default=8, show_default=True, type=click.IntRange(0), help="Frames of the timing; 0: none."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def diff(before: Path, after: Path, images: int, as_json: bool) -> None:
    """Compare two artifacts: options, sizes, decisions per layer, cycles."""
    import cimc
    from cimc.difference import difference

    changes = difference(cimc.load(before), cimc.load(after), images=images)
    if as_json:
        print_json([asdict(change) for change in changes])
        return
    if not changes:
        click.echo("no difference")
        return
    print_table(
        ("part", "value", "before", "after"),
        [(c.part, c.name, _text(c.before), _text(c.after)) for c in changes],
    )


def _text(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
