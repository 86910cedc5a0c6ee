"""``cimc verify``: after every pass, does what the compiler holds still mean the model?"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from cimc.cli.options import (
    Shapes,
    arch_option,
    calibration_option,
    mapping_option,
    named_machine,
    network_option,
    shape_option,
)
from cimc.cli.output import print_json
from cimc.diagnostics import MismatchError, UsageError, raise_all


@click.command()
@click.argument("subject", metavar="MODEL|ARTIFACT", type=click.Path(path_type=Path))
@arch_option
@click.option(
    "--input",
    "source",
    metavar="FILE.npz",
    type=click.Path(path_type=Path),
    help="Inputs to compare on, all of them.  [default: the first of the calibration, else seeded pictures]",
)
@shape_option
@calibration_option
@mapping_option
@network_option
@click.option("--static", is_flag=True, help="Only the rules of the program that need no data.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def verify(
    subject: Path,
    arch: str | None,
    backend: Path | None,
    source: Path | None,
    shapes: Shapes,
    calibration: Path | None,
    mapping: Path | None,
    network: Literal["mesh", "bus"] | None,
    static: bool,
    as_json: bool,
) -> None:
    """Compile MODEL and compare what every pass leaves with onnxruntime and the level before.

    Exits 1 and names the first operation that diverges. With --static the program of an ARTIFACT (or of a
    MODEL, compiled for that) is checked without running it.
    """
    if static and source is not None:
        raise UsageError("--static runs nothing, given --input; drop one of the two", where=str(subject))
    if static:
        _static(subject, arch, backend, shapes, calibration, mapping, network, as_json)
        return
    if subject.is_dir():
        message = "an artifact holds no model to compare with; give the model, or add --static"
        raise UsageError(message, where=str(subject))
    machine = named_machine(arch, backend)
    from cimc.arrays_io import read_arrays
    from cimc.verification import verify

    report = verify(
        subject,
        machine,
        inputs=read_arrays(source) if source is not None else None,
        shapes=shapes,
        calibration=calibration,
        mapping=mapping,
        backend=backend,
        network=network,
    )
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(report.text())
    failure = report.first_failure
    if failure is not None:
        place = failure.location or failure.operation
        raise MismatchError(f"{failure.message} (after {failure.after})", where=place)


def _static(
    subject: Path,
    arch: str | None,
    backend: Path | None,
    shapes: Shapes,
    calibration: Path | None,
    mapping: Path | None,
    network: str | None,
    as_json: bool,
) -> None:
    import cimc
    from cimc.verification import verify_static

    if subject.is_dir():
        machine = named_machine(arch, backend) if arch or backend else None
        artifact = cimc.load(subject, arch=machine)
    else:
        artifact = cimc.compile(
            subject,
            named_machine(arch, backend),
            shapes=shapes,
            calibration=calibration,
            mapping=mapping,
            network=network,
            backend=backend,
        )
    findings = verify_static(artifact.program, artifact.weights)
    if as_json:
        found = [{"rule": f.rule, "where": f.where, "message": f.message} for f in findings]
        print_json({"ok": not findings, "findings": found})
    elif not findings:
        click.echo("ok: the program breaks no rule")
    raise_all([finding.error() for finding in findings])
