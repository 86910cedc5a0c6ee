"""``cimc compile``: a model to an artifact."""

from __future__ import annotations

from pathlib import Path

import click

from cimc.cli.options import (
    Shapes,
    arch_option,
    calibration_option,
    did_you_mean_choice,
    mapping_option,
    named_machine,
    network_option,
    scheduler_options,
    shape_option,
    stagger_options,
)
from cimc.cli.output import print_table, progress
from cimc.diagnostics import UsageError
from cimc.garbage import rare_collections

LEVELS = ("graph", "quantised", "mapped")


class _OptionalValue(click.Command):
    """Reads ``--dump-ir`` without ``=`` as a flag; click itself would take the next word as its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give the bare option an empty value."""
        return super().parse_args(ctx, ["--dump-ir=" if word == "--dump-ir" else word for word in args])


@click.command(cls=_OptionalValue)
@click.argument("model", type=click.Path(path_type=Path))
@arch_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the artifact.  [default: name of MODEL with .cim]",
)
@shape_option
@calibration_option
@mapping_option
@network_option
@scheduler_options
@stagger_options
@click.option(
    "--dump-ir",
    metavar="[=DIR]",
    help="Write the IR after every pass to numbered files.  [default DIR: name of MODEL with -ir]",
)
@click.option(
    "--stop-after",
    metavar="LEVEL",
    callback=did_you_mean_choice(LEVELS),
    help=f"Stop after a level, dump the IR and write no artifact: {', '.join(LEVELS)}.",
)
@click.option("--resume", is_flag=True, help="MODEL is a file of --dump-ir; go on from there.")
@click.option("--timing", is_flag=True, help="Print the time of each pass on stderr.")
@click.option("--require-arrays", is_flag=True, help="Exit 1 if no operator runs on the arrays.")
@rare_collections()
def compile(
    model: Path,
    arch: str | None,
    backend: Path | None,
    output: Path | None,
    shapes: Shapes,
    calibration: Path | None,
    mapping: Path | None,
    network: str | None,
    scheduler: str | None,
    objective: str | None,
    power_cap_mw: float | None,
    stagger: bool | None,
    stagger_slack: float | None,
    dump_ir: str | None,
    stop_after: str | None,
    resume: bool,
    timing: bool,
    require_arrays: bool,
) -> None:
    """Compile MODEL (.onnx, or a dumped .mlir with --resume) and print the artifact's folder."""
    if resume != (model.suffix == ".mlir"):
        remedy = "give an .mlir of --dump-ir" if resume else "add --resume to go on from a dump"
        raise UsageError(f"--resume and a dumped .mlir belong together; {remedy}", where=str(model))
    machine = named_machine(arch, backend)
    import cimc

    dumps = Path(dump_ir or f"{model.stem}-ir") if dump_ir is not None or stop_after else None
    if dumps is not None and dumps.exists() and not dumps.is_dir():
        raise UsageError("exists and is not a folder; choose another for --dump-ir", where=str(dumps))
    passes: list[tuple[str, float]] = []

    def done(name: str, seconds: float) -> None:
        passes.append((name, seconds))
        progress(f"{name} {seconds:.2f} s")

    artifact = cimc.compile(
        model,
        machine,
        shapes=shapes,
        calibration=calibration,
        mapping=mapping,
        output=None if stop_after else output or Path(f"{model.stem}.cim"),
        dump_ir=dumps,
        stop_after=stop_after,
        resume=resume,
        network=network,
        scheduler=scheduler,
        objective=objective,
        power_cap_mw=power_cap_mw,
        stagger=stagger,
        stagger_slack=stagger_slack,
        require_arrays=require_arrays,
        backend=backend,
        timing=done,
    )
    progress("")
    if timing:
        total = sum(seconds for _, seconds in passes)
        print_table(("pass", "seconds"), [(n, f"{s:.3f}") for n, s in [*passes, ("total", total)]], err=True)
    click.echo(dumps if stop_after else artifact.path)
