"""``cimc check``: where each operator of a model goes, and why not to the arrays."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cimc.cli.options import Shapes, arch_option, chosen_backend, mapping_option, shape_option
from cimc.cli.output import print_json, print_table

if TYPE_CHECKING:
    from cimc.checking import CheckReport, Row

_NAMES_SHOWN = 4


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@arch_option
@shape_option
@mapping_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every operator of its own, nothing cut.")
def check(
    model: Path, arch: str | None, backend: Path | None, shapes: Shapes, mapping: Path | None, as_json: bool
) -> None:
    """Show for every operator of MODEL where it goes on a machine (array, digital unit, host) and why.

    Exits 1 if an operator has no place, 3 if the machine has too few crossbars.
    """
    from cimc.checking import check_model
    from cimc.mapping_options import load_mapping

    options = load_mapping(mapping) if mapping is not None else None
    report = check_model(model, chosen_backend(arch, backend), shapes=shapes, mapping=options)
    if as_json:
        print_json(
            {
                "machine": report.machine,
                "crossbars_needed": report.crossbars_needed,
                "crossbars_supply": report.crossbars_supply,
                "phases_at_least": report.phases,
                "operators": [asdict(row) for row in report.rows],
            }
        )
    else:
        _print(report)
    report.raise_problems()


def _print(report: CheckReport) -> None:
    """One line for operators of one kind that go to one place for one reason."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in report.rows:
        groups.setdefault((row.operator, row.where, row.reason), []).append(row)
    print_table(
        ("operator", "count", "where", "crossbars", "reason", "nodes"),
        [
            (operator, len(rows), where, sum(r.crossbars for r in rows) or "", reason, _names(rows))
            for (operator, where, reason), rows in groups.items()
        ],
    )
    click.echo(report.summary())


def _names(rows: list[Row]) -> str:
    shown = ", ".join(row.node for row in rows[:_NAMES_SHOWN])
    return f"{shown}, ... ({len(rows)})" if len(rows) > _NAMES_SHOWN else shown
