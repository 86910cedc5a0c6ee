"""``cimc run``: an artifact on input arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimc.cli.device_options import chip_options
from cimc.cli.options import did_you_mean_choice
from cimc.cli.output import print_json, print_table
from cimc.diagnostics import UsageError

if TYPE_CHECKING:
    from cimc import RunResult

ENGINES = ("program", "mapped", "quantised", "graph", "device")


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "source",
    required=True,
    metavar="FILE.npz",
    type=click.Path(path_type=Path),
    help="Arrays by input name, dimension 0 is the images.",
)
@click.option(
    "--output",
    "target",
    required=True,
    metavar="FILE.npz",
    type=click.Path(path_type=Path),
    help="Outputs by name; their codes as integer:NAME; tapped tensors as tap:NAME.",
)
@click.option("--arch", metavar="NAME|FILE", help="Refuse an artifact that was built for another machine.")
@click.option(
    "--engine",
    default="program",
    show_default=True,
    metavar="|".join(ENGINES),
    callback=did_you_mean_choice(ENGINES),
    help="The instruction stream, the interpreter of a level, or the device simulator.",
)
@click.option(
    "--tap", "taps", metavar="NAME", multiple=True, help="Also write this tensor; any number of times."
)
@click.option("--walk", is_flag=True, help="One window and one digit at a time: slow, for comparison.")
@chip_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def run(
    artifact: Path,
    source: Path,
    target: Path,
    arch: str | None,
    engine: str,
    taps: tuple[str, ...],
    walk: bool,
    device_model: str | None,
    chip: int,
    seed: int,
    time_s: float,
    digital: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run ARTIFACT on the arrays of an .npz and write its outputs to another."""
    if walk and engine != "program":
        raise UsageError(f"--walk is a way to run the program, given --engine {engine}; drop one of the two")
    if (engine == "device") != (device_model is not None):
        raise UsageError("--engine device and --device-model go together; give both or neither")
    from cimc.arrays_io import check_writable, read_arrays, write_arrays

    check_writable(target)
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target}: --output is the file of --input; give another name")
    inputs = read_arrays(source)
    import cimc

    loaded = cimc.load(artifact, arch=arch)
    on_chip = None
    if device_model is not None:
        from cimc.device_run import DeviceRun
        from cimc.runtime.device.loader import load_device

        on_chip = DeviceRun(load_device(device_model), seed, chip, time_s, digital)
    result = loaded.run(inputs, taps=taps, engine=engine, walk=walk, device=on_chip)
    arrays: dict[str, Any] = {
        **result.outputs,
        **{f"integer:{name}": array for name, array in result.integer_outputs.items()},
        **{f"tap:{name}": array for name, array in result.taps.items()},
    }
    write_arrays(target, arrays)
    _print(arrays, result, as_json)


def _print(arrays: dict[str, Any], result: RunResult, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "arrays": {n: {"shape": list(a.shape), "type": str(a.dtype)} for n, a in arrays.items()},
                "array_macs": result.array_macs,
                "total_macs": result.total_macs,
                "executed_instructions": result.executed_instructions,
            }
        )
        return
    print_table(
        ("array", "type", "shape"),
        [(name, array.dtype, "x".join(map(str, array.shape))) for name, array in arrays.items()],
    )
    if not result.total_macs:  # interpreters do not count
        return
    share = result.array_macs / result.total_macs
    click.echo(f"macs on the arrays: {result.array_macs} of {result.total_macs} ({share:.2%})")
    click.echo(f"executed instructions: {result.executed_instructions}")
