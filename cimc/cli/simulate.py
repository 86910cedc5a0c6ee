"""``cimc simulate``: an artifact in time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimc.cli.output import print_json, print_table

if TYPE_CHECKING:
    from cimc import Timing


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--images",
    default=8,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="Frames to send through.",
)
@click.option("--arch", metavar="NAME|FILE", help="Refuse an artifact that was built for another machine.")
@click.option(
    "--trace",
    metavar="FILE.json",
    type=click.Path(path_type=Path),
    help="Write a Chrome trace; one cycle is one microsecond of it.",
)
@click.option(
    "--window-cycles",
    metavar="N",
    type=click.IntRange(1),
    help="Window of the power series.  [default: the longest array read]",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def simulate(
    artifact: Path,
    images: int,
    arch: str | None,
    trace: Path | None,
    window_cycles: int | None,
    as_json: bool,
) -> None:
    """Time ARTIFACT on the machine it was built for: cycles, energy, power."""
    if trace is not None:
        from cimc.arrays_io import check_writable

        check_writable(trace)
    import cimc
    from cimc.achieved import over_bounds

    loaded = cimc.load(artifact, arch=arch)
    timing = loaded.simulate(images=images, trace=trace, window_cycles=window_cycles)
    achieved = over_bounds(loaded.report, timing)
    if as_json:
        print_json({**timing.to_dict(), "achieved": achieved})
        return
    _print(timing, achieved or {})


def _print(timing: Timing, achieved: Mapping[str, Any]) -> None:
    total = sum(timing.energy_pj.values())
    print_table(
        ("figure", "value", "unit"),
        [
            ("images", timing.images, ""),
            ("cycles", timing.cycles, "cycles"),
            ("latency of the first image", timing.latency_cycles, "cycles"),
            ("latency of the first image", timing.latency_ns, "ns"),
            ("interval of the last two images", timing.interval_cycles, "cycles"),
            *((name.replace("_", " "), value, "") for name, value in achieved.items() if value is not None),
            ("array writes done at", timing.setup_cycles, "cycles"),
            ("peak power", timing.peak_power_mw, f"mW over {timing.window_cycles} cycles"),
            ("energy", total, "pJ"),
            *((f"energy of {name}", value, "pJ") for name, value in timing.energy_pj.items()),
            ("executed instructions", timing.executed_instructions, ""),
            ("host's share of cycles", timing.host_share, ""),
        ],
    )
