"""Accuracy of the digits network against converter bits and against programming variation, over chips, as figures.

    python -m tools.digits_on_devices out/devices          # tables, and the figures of docs/evaluation.md

The trained network of `make demo` on `isaac`; every point is the mean over chips with its 95 % interval. Goes on where
it was broken off.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from cimc.evaluate.plots import plot_sweep
from cimc.evaluate.point import Request
from cimc.evaluate.settings import Settings, Value
from cimc.evaluate.study import Outcome, Source, Study, check_settings, prepared
from cimc.evaluate.sweep import Cluster, combinations, tasks_of
from cimc.models.digits import digits_data, train
from cimc.models.export import export_module

VARIATION, BITS = "device.programming.gaussian.relative", "arch.crossbar.adc_bits"

DEVICE = """\
name: varied
description: Gaussian programming variation
provenance: ours, no measured device
cell: {g_off_us: 1.0, g_on_us: 50.0}
programming: {gaussian: {relative: 0.1}}
"""

SWEEPS: dict[str, tuple[Value, ...]] = {VARIATION: (0.01, 0.05, 0.1, 0.2, 0.3, 0.5), BITS: (1, 2, 3, 4, 5, 8)}
"""By setting: its values. The other setting is that of the machine (8 bits) and of the device (10 %)."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--chips", default=20, help="Chip instances of every point.")
@click.option("--images", default=200, help="Test images.")
@click.option("--workers", default=2, help="Processes.")
def main(folder: Path, chips: int, images: int, workers: int) -> None:
    """Run both sweeps in FOLDER and print them."""
    source, data, device = _inputs(folder, images)
    for key, values in SWEEPS.items():
        groups = combinations({key: values})
        outcomes = _study(
            source, Request(str(data), str(device), ("top1",)), groups, folder / key, chips, workers
        )
        for outcome in outcomes:
            (_, value), summary = outcome.settings[0], outcome.summaries["top1"]
            print(f"{key} {value}: top-1 {summary.mean:.4f} ({summary.low:.4f} … {summary.high:.4f})")
        print(plot_sweep(outcomes, "top1", key, folder / f"digits-{key.rpartition('.')[2]}.svg"))


def _inputs(folder: Path, images: int) -> tuple[Source, Path, Path]:
    """Model, test data and device file, made once."""
    folder.mkdir(parents=True, exist_ok=True)
    model, data, device = folder / "digits.onnx", folder / "test.npz", folder / "varied.yaml"
    calibration = folder / "calibration.npz"
    device.write_text(DEVICE)
    if not model.exists():
        digits = digits_data()
        np.savez(calibration, x=digits.train_images[:256])
        np.savez(data, x=digits.test_images[:images], labels=digits.test_labels[:images])
        export_module(train(), (1, 8, 8), model)
    return Source(model, "isaac", calibration), data, device


def _study(
    source: Source, request: Request, groups: list[Settings], folder: Path, chips: int, workers: int
) -> list[Outcome]:
    check_settings(request.device, groups)
    study = Study(prepared(source, groups, folder), request, [key for key, _ in groups[0]], folder)
    cluster = Cluster("local", workers) if workers > 1 else Cluster()
    return study.run(tasks_of(groups, chips), cluster)


if __name__ == "__main__":
    main()
