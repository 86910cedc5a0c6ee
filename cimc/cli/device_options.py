"""Options of the commands that simulate devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

METRICS = ("top1", "top5", "perplexity", "cosine", "relative_error")


def _together(options: list[Callable[[Any], Any]]) -> Callable[[Command], Command]:
    def apply(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


data_options = _together(
    [
        click.option(
            "--data",
            required=True,
            metavar="FILE.npz",
            type=click.Path(path_type=Path),
            help="Inputs by name, and labels, tokens or reference.",
        ),
        click.option(
            "--device-model",
            "device",
            required=True,
            metavar="NAME|FILE",
            help="A preset or a device file (docs/device-file.md).",
        ),
        click.option(
            "--metric",
            "metrics",
            multiple=True,
            type=click.Choice(METRICS),
            help="What to measure; any number of times.  [default: top1]",
        ),
        click.option("--output-name", default="", metavar="NAME", help="The output, if there are several."),
    ]
)
"""What is measured on what."""

sweep_options = _together(
    [
        click.option("--chips", default=1, show_default=True, type=click.IntRange(1), help="Chip instances."),
        click.option(
            "--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of all chips."
        ),
        click.option(
            "--confidence",
            default=0.95,
            show_default=True,
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            help="Of the intervals over chips.",
        ),
        click.option(
            "--sweep",
            "axes",
            multiple=True,
            metavar="KEY=V1,V2,...",
            help="An axis: time_s, without, device.KEY or arch.KEY; any number of times.",
        ),
        click.option(
            "--digital",
            multiple=True,
            metavar="STAGE",
            help="Compute this stage digitally; any number of times.",
        ),
        click.option("--sensitivity", is_flag=True, help="Rank stages by what each alone on devices costs."),
        click.option(
            "--threshold",
            type=float,
            help="With --sensitivity: stages that lose more run digitally, and the rest is measured.",
        ),
    ]
)
"""Which chips, under which settings."""

run_options = _together(
    [
        click.option(
            "-o",
            "--output",
            "folder",
            required=True,
            metavar="DIR",
            type=click.Path(path_type=Path),
            help="Folder of results.csv; an interrupted evaluation continues there.",
        ),
        click.option(
            "--scheduler",
            metavar="local|tcp://HOST:PORT",
            help="Measure on processes of this machine or a dask cluster.",
        ),
        click.option(
            "--workers", type=click.IntRange(1), help="Processes of --scheduler local.  [default: one a core]"
        ),
        click.option("--plot", is_flag=True, help="Write figures beside the results."),
    ]
)
"""Where it runs and what it leaves."""

chip_options = _together(
    [
        click.option(
            "--device-model",
            metavar="NAME|FILE",
            help="Device of --engine device: a preset or a device file (docs/device-file.md).",
        ),
        click.option("--chip", default=0, show_default=True, type=click.IntRange(0), help="Chip instance."),
        click.option(
            "--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of all chips."
        ),
        click.option(
            "--time-s",
            default=0.0,
            show_default=True,
            type=click.FloatRange(0),
            help="Seconds since programming.",
        ),
        click.option(
            "--digital",
            metavar="GLOB",
            multiple=True,
            help="Stages to compute without devices; any number of times.",
        ),
    ]
)
"""One chip at one time."""
