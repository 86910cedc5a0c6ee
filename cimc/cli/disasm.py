"""``cimc disasm``: a program as text."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--body", metavar="NAME", help="Only the bodies of this name and the contexts that run them.")
@click.option("--contexts/--no-contexts", default=True, help="Whether to list contexts and their parameters.")
def disasm(artifact: Path, body: str | None, contexts: bool) -> None:
    """Print the program of ARTIFACT in the text form of docs/isa.md, which the assembler reads back."""
    from cimc.runtime.artifact_files import open_artifact
    from cimc.runtime.program.text import disassemble

    click.echo(disassemble(open_artifact(artifact).program(), body=body, contexts=contexts), nl=False)
