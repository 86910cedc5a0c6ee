"""``cimc report``: what an artifact decided, how full the machine is, how fast and how efficient it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimc.cli.output import print_json, print_table

if TYPE_CHECKING:
    from cimc.performance import Performance
    from cimc.verification.report import TensorError


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--images", default=8, show_default=True, type=click.IntRange(0), help="Frames of the timing; 0: none."
)
@click.option(
    "--calibration",
    metavar="FILE|DIR",
    type=click.Path(path_type=Path),
    help="Inputs to measure the error of every layer on: an .npz of arrays by input name, or a folder of .npy.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def report(artifact: Path, images: int, calibration: Path | None, as_json: bool) -> None:
    """Print the report of ARTIFACT: layers, crossbars, utilisation, TOPS, TOPS/W, writes, area."""
    import cimc
    from cimc.performance import performance

    made = cimc.load(artifact)
    timing = performance(made, images) if images else None
    errors: tuple[TensorError, ...] = ()
    if calibration is not None:
        from cimc.calibration import load_samples
        from cimc.quantisation_error import quantisation_error

        errors = quantisation_error(made, load_samples(calibration, made.level("graph")[0]).arrays)
    if as_json:
        print_json(_document(made.report, timing, errors))
        return
    _layers(made.report, errors)
    click.echo()
    print_table(("figure", "value", "unit"), [*_machine(made.report), *_timing(timing)])


def _document(
    report: Mapping[str, Any], timing: Performance | None, errors: tuple[TensorError, ...]
) -> dict[str, Any]:
    found: dict[str, Any] = dict(report)
    if timing is not None:
        found["timing"] = timing.to_dict()
    if errors:
        found["quantisation_error"] = [vars(error) for error in errors]
    return found


def _layers(report: Mapping[str, Any], errors: tuple[TensorError, ...]) -> None:
    """One line a stage; the error is that of the tensor it delivers."""
    by_tensor = {error.tensor: error.sqnr_db for error in errors}
    print_table(
        ("layer", "copies", "weights", "bits", "crossbars", "cells used %", "activations", "SQNR dB"),
        [
            (
                s["name"],
                s["copies"],
                "x".join(map(str, s["weights"])) if s["crossbars"] else None,
                s["weight_bits"] or None,
                s["crossbars"] or None,
                100 * s["utilisation"] if s["crossbars"] else None,
                s["activations"]["crossbars"] or None,
                next((by_tensor[t] for t in s["tensors"] if t in by_tensor), None),
            )
            for s in report["stages"]
        ],
    )


def _machine(report: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    bars, use, wear = report["crossbars"], report["utilisation"], report["writes"]
    cores = [core["utilisation"] for core in use["cores"]]
    rows: list[tuple[str, Any, str]] = [
        ("machine", report["machine"], ""),
        ("crossbars in use", bars["used"], f"of {bars['supply']}"),
        ("physical crossbars", bars["physical"], ""),
        ("phases", use["phases"], ""),
        ("array-group activations", report["activations"]["array_groups"], "per image"),
        ("crossbar activations", report["activations"]["crossbars"], "per image"),
        ("cells in use, mean of arrays", 100 * use["arrays"]["mean"], "%"),
        ("cores in use", len(cores), ""),
        ("crossbars in use, mean of cores", 100 * sum(cores) / max(len(cores), 1), "%"),
        ("products on the arrays", 100 * report["array_macs"] / max(report["total_macs"], 1), "%"),
        ("writes per cell and inference", wear["per_cell_and_inference"], ""),
    ]
    if wear["inferences_until_worn"] is not None:
        rows.append(("inferences until a cell is worn", wear["inferences_until_worn"], ""))
    return rows + [
        (name.removesuffix("_mm2").replace("_", " "), v, "mm2") for name, v in report["area"].items()
    ]


def _timing(timing: Performance | None) -> list[tuple[str, Any, str]]:
    if timing is None:
        return []
    rows: list[tuple[str, Any, str]] = [
        ("latency", timing.latency_ns, "ns"),
        ("interval", timing.interval_ns, "ns"),
        ("energy per image", timing.energy_pj_per_image, "pJ"),
        ("throughput", timing.tops, "TOPS"),
        ("efficiency", timing.tops_per_watt, "TOPS/W"),
    ]
    if timing.tops_per_mm2 is not None:
        rows.append(("density", timing.tops_per_mm2, "TOPS/mm2"))
    if timing.lifetime_days is not None:
        rows.append(("lifetime", timing.lifetime_days, "days of inferences"))
    return rows
