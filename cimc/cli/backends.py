"""``cimc backends``: what is registered, from where, and what of it does not load."""

from __future__ import annotations

from dataclasses import asdict

import click

from cimc.cli.output import print_json, print_table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backends(as_json: bool) -> None:
    """List registered backends; a broken one is listed with its error and stops nobody."""
    from cimc.backends.registry import list_backends

    found = list_backends()
    if as_json:
        print_json([asdict(entry) for entry in found])
        return
    print_table(
        ("name", "origin", "version", "status"),
        [(entry.name, entry.origin, entry.version, entry.error or "ok") for entry in found],
    )
