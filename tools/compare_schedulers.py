"""Every scheduler on every network and machine of the comparison, in one cycle engine: cycles, bounds, power, energy.

Each row (network, machine, scheduler) is a process of its own with a bound on memory and time, and its result a file
in the folder, so that a run that was broken off goes on where it stopped. Rows that do not fit say so. The table is
written as CSV and printed as text with geometric means; ``docs/scheduling.md`` explains the columns.

    python -m tools.compare_schedulers out/            # fill what is missing, then print
    python -m tools.compare_schedulers out/ --print    # print what is there
"""

from __future__ import annotations

import csv
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

CONVOLUTIONAL = ("vgg-16", "resnet-18", "resnet-34", "resnet-50", "resnet-101", "mobilenet-v2", "squeezenet")
TRANSFORMERS = ("vit-base", "bert-base")
INTEGER = tuple(f"{network}-u8" for network in CONVOLUTIONAL[1:])
"""Those that the chip holds with 8-bit inputs (``tools/integer_inputs.py``), against ``cim-mlc``."""
SMALL_MACHINES = ("jain", "jia", "puma")
SCHEDULERS = ("none", "polyxb", "cim-mlc", "cim-mlc-matmul", "cimc", "cimc-latency")
OPSET = 20
"""Of the transformers: attention as products and a softmax."""
WIDE = 10**6
"""Bytes a cycle of a network, a buffer and a link that never bind."""

COLUMNS: tuple[str, ...] = (
    "network",
    "machine",
    "scheduler",
    "status",
    "latency_cycles",
    "interval_cycles",
    "latency_bound",
    "interval_bound",
    "latency_over_bound",
    "interval_over_bound",
    "binding",
    "interval_over_arrays_wide",
    "latency_estimate",
    "interval_estimate",
    "peak_power_mw",
    "energy_pj_per_image",
    "crossbars",
    "contexts",
    "phases",
    "schedule_seconds",
    "compile_seconds",
    "engine_seconds",
    "estimate_seconds",
    "estimate_read_seconds",
)


@dataclass(frozen=True)
class Row:
    """One row of the comparison."""

    network: str
    machine: str
    scheduler: str

    @property
    def file(self) -> str:
        """Name of the row's result."""
        return f"{self.network}.{self.machine}.{self.scheduler}.json"


def rows() -> list[Row]:
    """The rows of the comparison, small ones first."""
    pairs = [(network, machine) for machine in SMALL_MACHINES for network in ("vgg-7", "resnet-18")]
    pairs += [(network, "isaac") for network in (*CONVOLUTIONAL[1:], CONVOLUTIONAL[0], *TRANSFORMERS)]
    found = [
        Row(network, machine, scheduler)
        for network, machine in pairs
        for scheduler in SCHEDULERS
        if scheduler != "cim-mlc-matmul" or network in TRANSFORMERS
    ]
    return found + [
        Row(network, "isaac", scheduler) for network in INTEGER for scheduler in ("cim-mlc", "cimc")
    ]


def options(scheduler: str) -> dict[str, Any]:
    """Mapping options of a column of the comparison."""
    if scheduler == "cimc-latency":
        return {"scheduler": "cimc", "objective": "latency"}
    return {"scheduler": scheduler}


def model(network: str, folder: Path) -> Path:
    """The network's ONNX file, exported once."""
    path = folder / f"{network}.onnx"
    if path.exists():
        return path
    draft = path.with_suffix(".part")
    if network in TRANSFORMERS:
        from cimc.models.transformers import export

        export(network, OPSET, draft)
    elif network in INTEGER:
        import onnx

        from tools.integer_inputs import with_integer_input

        onnx.save(with_integer_input(onnx.load(model(network.removesuffix("-u8"), folder))), draft)
    else:
        from cimc import models

        models.export_onnx(network, draft)
    return draft.rename(path)


def measure(row: Row, file: Path, images: int) -> dict[str, Any]:
    """Compile and time a row."""
    import cimc
    from cimc.achieved import over_bounds
    from cimc.estimation import estimate_artifact
    from cimc.mapping_options import MappingOptions
    from cimc.runtime.cycle.engine import warm_up

    seconds: dict[str, float] = {}
    began = last = time.process_time()

    def passed(name: str, _: float) -> None:
        """Seconds of a pass are those of this process: other processes do not count."""
        nonlocal last
        now = time.process_time()
        seconds[name] = seconds.get(name, 0.0) + now - last
        last = now

    artifact = cimc.compile(
        file,
        row.machine,
        mapping=MappingOptions.model_validate(options(row.scheduler)),
        timing=passed,
    )
    compiled = time.process_time()
    warm_up()  # neither engine nor estimate is charged for loading compiled code
    ready = time.process_time()
    timing = artifact.simulate(images=images)
    timed = time.process_time()
    achieved = over_bounds(artifact.report, timing)
    assert achieved is not None
    estimated = estimate_artifact(artifact)
    return {
        "status": "ok",
        "latency_cycles": timing.latency_cycles,
        "interval_cycles": achieved["steady_interval_cycles"],
        "latency_bound": achieved["latency_bound_cycles"],
        "interval_bound": achieved["interval_bound_cycles"],
        "latency_over_bound": achieved["latency_over_bound"],
        "interval_over_bound": achieved["interval_over_bound"],
        "binding": achieved["binding"],
        "interval_over_arrays_wide": wide_interval(artifact, images)
        / artifact.report["bounds"]["interval_cycles"]["arrays"],
        "latency_estimate": estimated.estimate.latency_cycles,
        "interval_estimate": estimated.estimate.interval_cycles,
        "peak_power_mw": timing.peak_power_mw,
        "energy_pj_per_image": timing.total_energy_pj / timing.images,
        "crossbars": artifact.report["crossbars"]["used"],
        "contexts": artifact.report["contexts"],
        "phases": artifact.report["utilisation"]["phases"],
        "schedule_seconds": seconds["assign-copies"],
        "compile_seconds": compiled - began,
        "engine_seconds": timed - ready,
        "estimate_seconds": estimated.seconds,
        "estimate_read_seconds": estimated.read_seconds,
    }


def wide_interval(artifact: Any, images: int) -> float:
    """Cycles between images of the same program on a machine whose network, buffer and host link never bind."""
    from cimc.achieved import steady_interval
    from cimc.runtime.cycle.engine import simulate

    program = artifact.program
    machine = json.loads(json.dumps(program.machine))
    machine["network"] |= {"kind": "mesh", "link_bytes_per_cycle": WIDE, "hop_cycles": 1}
    machine["chip"] |= {"global_buffer_bytes_per_cycle": WIDE}
    if machine["chip"].get("host_link"):
        machine["chip"]["host_link"] |= {"bytes_per_cycle": WIDE}
    frames = min(images, program.frames) if program.phased else images
    timing = simulate(replace(program, machine=machine), images=frames, resident_weights=True)
    return steady_interval(timing)


def run_row(row: Row, folder: Path, images: int, memory_gb: float, minutes: float) -> dict[str, Any]:
    """A row in a process of its own; what went wrong, where it did."""
    size = int(memory_gb * 2**30)
    command = [
        sys.executable,
        "-m",
        "tools.compare_schedulers",
        str(folder),
        "--images",
        str(images),
        "--row",
    ]
    try:
        done = subprocess.run(
            [*command, row.network, row.machine, row.scheduler],
            capture_output=True,
            text=True,
            timeout=60 * minutes,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
        )
    except subprocess.TimeoutExpired:
        return {"status": f"more than {minutes:g} minutes"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    last = done.stderr.strip().splitlines()[-1:] or [""]
    if "MemoryError" in done.stderr or done.returncode < 0:
        return {"status": f"more than {memory_gb:g} GB"}
    return {"status": last[0]}


def table(folder: Path) -> list[dict[str, Any]]:
    """The rows that are there."""
    found: list[dict[str, Any]] = []
    for row in rows():
        file = folder / row.file
        if file.exists():
            known = {"network": row.network, "machine": row.machine, "scheduler": row.scheduler}
            found.append(known | json.loads(file.read_text()))
    return found


def geometric_mean(values: Iterable[float]) -> float:
    """NaN for none."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def gains(
    found: Sequence[Mapping[str, Any]], ours: str, base: str, key: str, nets: Sequence[str]
) -> list[float]:
    """The baseline's cycles over ours on ``isaac``, of the networks that have both."""
    at = {(r["network"], r["scheduler"]): r for r in found if r["machine"] == "isaac" and r["status"] == "ok"}
    return [at[n, base][key] / at[n, ours][key] for n in nets if (n, base) in at and (n, ours) in at]


def summary(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Geometric means over networks on ``isaac``, and how far the estimate is from the engine over all rows."""
    lines: list[str] = []
    for ours, key in (
        ("cimc-latency", "latency_cycles"),
        ("cimc", "latency_cycles"),
        ("cimc", "interval_cycles"),
    ):
        gain = gains(found, ours, "cim-mlc", key, CONVOLUTIONAL)
        lines.append(f"{ours} over cim-mlc, {key}: {geometric_mean(gain):.2f} ({len(gain)} networks)")
    for key in ("latency_cycles", "interval_cycles"):
        gain = gains(found, "cimc", "cim-mlc", key, INTEGER)
        lines.append(
            f"8-bit inputs, cimc over cim-mlc, {key}: {geometric_mean(gain):.2f} ({len(gain)} networks)"
        )
    for base in ("cim-mlc", "cim-mlc-matmul"):
        gain = gains(found, "cimc-latency", base, "latency_cycles", TRANSFORMERS)
        lines.append(
            f"transformers, cimc-latency over {base}: {geometric_mean(gain):.2f} ({len(gain)} networks)"
        )
    ok = [r for r in found if r["status"] == "ok"]
    over = (
        ("cimc", "interval_over_bound"),
        ("cimc", "latency_over_bound"),
        ("cimc-latency", "latency_over_bound"),
    )
    for scheduler, key in over:
        ratios = [
            r[key]
            for r in ok
            if (r["machine"], r["scheduler"]) == ("isaac", scheduler) and r["network"] in CONVOLUTIONAL
        ]
        lines.append(f"{scheduler}, {key}: {geometric_mean(ratios):.2f} ({len(ratios)} networks)")
    for what in ("latency", "interval"):
        off = sorted(abs(r[f"{what}_estimate"] / r[f"{what}_cycles"] - 1) for r in ok)
        if off:
            lines.append(
                f"estimate of {what} off by {off[len(off) // 2]:.1%} (median), {off[-1]:.1%} (worst)"
            )
    return lines


def estimate_share(row: Mapping[str, Any]) -> float:
    """Processor time of the estimate, costs read off the module included, over that of the cycle engine."""
    return (row["estimate_seconds"] + row.get("estimate_read_seconds", math.nan)) / row["engine_seconds"]


def show(folder: Path) -> None:
    """Write ``table.csv`` and print the table."""
    found = table(folder)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(found)
    head = (
        "latency",
        "/bound",
        "interval",
        "/bound",
        "/arrays*",
        "est.lat",
        "est.int",
        "est/eng",
        "peak W",
        "uJ",
        "xbars",
        "ph",
    )
    click.echo(f"{'network':13}{'machine':8}{'scheduler':15}" + "".join(f"{h:>11}" for h in head) + "  binds")
    for r in found:
        start = f"{r['network']:13}{r['machine']:8}{r['scheduler']:15}"
        if r["status"] != "ok":
            click.echo(f"{start} {r['status']}")
            continue
        cells = (
            f"{r['latency_cycles']}",
            f"{r['latency_over_bound']:.2f}",
            f"{r['interval_cycles']:.0f}",
            f"{r['interval_over_bound']:.2f}",
            f"{r['interval_over_arrays_wide']:.2f}",
            f"{r['latency_estimate'] / r['latency_cycles'] - 1:+.1%}",
            f"{r['interval_estimate'] / r['interval_cycles'] - 1:+.1%}",
            f"{estimate_share(r):.2%}",
            f"{r['peak_power_mw'] / 1000:.1f}",
            f"{r['energy_pj_per_image'] / 1e6:.0f}",
            f"{r['crossbars']}",
            f"{r['phases']}",
        )
        click.echo(start + "".join(f"{c:>11}" for c in cells) + f"  {r['binding']}")
    click.echo(
        "* of the same program where network, global buffer and host link never bind, over the arrays' bound; "
        "est/eng: processor time of the estimate, costs read included, over the engine's"
    )
    for line in summary(found):
        click.echo(line)


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--images", default=9, show_default=True, help="Frames of a run.")
@click.option("--memory-gb", default=6.0, show_default=True, help="Address space of a row's process.")
@click.option("--minutes", default=20.0, show_default=True, help="Time of a row's process.")
@click.option(
    "--only", multiple=True, metavar="TEXT", help="Rows whose file name holds TEXT; several add up."
)
@click.option("--again", is_flag=True, help="Measure rows that are there already.")
@click.option("--print", "printing", is_flag=True, help="Measure nothing.")
@click.option(
    "--row", nargs=3, metavar="NETWORK MACHINE SCHEDULER", help="Measure one row here and print it."
)
def main(
    folder: Path,
    images: int,
    memory_gb: float,
    minutes: float,
    only: tuple[str, ...],
    again: bool,
    printing: bool,
    row: tuple[str, str, str] | None,
) -> None:
    """Compare the schedulers; FOLDER keeps models and rows."""
    from cimc.diagnostics import CimError

    folder.mkdir(parents=True, exist_ok=True)
    if row is not None:
        one = Row(*row)
        try:
            click.echo(json.dumps(measure(one, model(one.network, folder), images)))
        except CimError as error:
            click.echo(json.dumps({"status": str(error)}))
        return
    wanted = [r for r in rows() if not only or any(text in r.file for text in only)]
    for one in [] if printing else wanted:
        file = folder / one.file
        if file.exists() and not again:
            continue
        model(one.network, folder)
        file.write_text(json.dumps(run_row(one, folder, images, memory_gb, minutes), indent=1) + "\n")
        click.echo(one.file, err=True)
    show(folder)


if __name__ == "__main__":
    main()
