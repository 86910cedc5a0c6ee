"""How cycles change with the machine: cores, crossbars of a core, crossbar size, parallel rows, bandwidth.

Every point is a compile with our scheduler and a run of the cycle engine on the machine with one number changed. The
result is ``sensitivity.csv`` and, where matplotlib is installed (extra ``viz``), a picture of the curves.

    python -m tools.sensitivity model.onnx isaac out/ --picture svg
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Point:
    """One machine. ``value`` is that of the number that changed; cycles are 0 where the model does not fit."""

    parameter: str
    factor: float
    value: float
    latency_cycles: int
    interval_cycles: int
    crossbars: int
    status: str = "ok"


def scaled(fields: Mapping[str, Any], parameter: str, factor: float) -> tuple[dict[str, Any], float]:
    """The JSON form of a machine with one parameter times ``factor``, and its new value.

    ``bandwidth`` scales all of network, global buffer, host link and local memories; its value is the factor. A mesh
    grows in rows with the cores, a crossbar keeps one converter for as many columns.
    """
    changed = {key: dict(part) if isinstance(part, Mapping) else part for key, part in fields.items()}
    chip, core, crossbar, network = (changed[key] for key in ("chip", "core", "crossbar", "network"))

    def times(part: dict[str, Any], key: str) -> float:
        part[key] = max(1, round(part[key] * factor))
        return float(part[key])

    match parameter:
        case "cores":
            value = times(chip, "cores")
            network["rows"] = -(-chip["cores"] // network["columns"])
        case "crossbars":
            value = times(core, "crossbars")
        case "crossbar_size":
            value = times(crossbar, "rows")
            for key in ("columns", "adcs"):
                times(crossbar, key)
            crossbar["parallel_rows"] = min(crossbar["parallel_rows"], crossbar["rows"])
        case "parallel_rows":
            value = times(crossbar, "parallel_rows")
            crossbar["parallel_rows"] = min(crossbar["parallel_rows"], crossbar["rows"])
        case "bandwidth":
            value = factor
            core["local_buffer_bytes_per_cycle"] *= factor
            chip["global_buffer_bytes_per_cycle"] *= factor
            network["link_bytes_per_cycle"] *= factor
            if chip.get("host_link") is not None:
                chip["host_link"] = {
                    **chip["host_link"],
                    "bytes_per_cycle": chip["host_link"]["bytes_per_cycle"] * factor,
                }
        case _:
            raise ValueError(f"no parameter {parameter!r}")
    return changed, value


PARAMETERS = ("cores", "crossbars", "crossbar_size", "parallel_rows", "bandwidth")


def measure(model: Path, fields: Mapping[str, Any], parameter: str, factor: float, images: int) -> Point:
    """Compile and time one machine; what is wrong with it where that cannot be."""
    from pydantic import ValidationError

    import cimc
    from cimc.backends.schema import Architecture
    from cimc.diagnostics import CimError

    changed, value = scaled(fields, parameter, factor)
    try:
        artifact = cimc.compile(model, Architecture.model_validate(changed))
        timing = artifact.simulate(images=images)
    except CimError as error:
        return Point(parameter, factor, value, 0, 0, 0, str(error))
    except ValidationError as error:
        return Point(parameter, factor, value, 0, 0, 0, error.errors()[0]["msg"])
    used = artifact.report["crossbars"]["used"]
    return Point(parameter, factor, value, timing.latency_cycles, timing.interval_cycles, used)


def write_csv(points: list[Point], path: Path) -> None:
    """One line a point."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(points[0])))
        writer.writeheader()
        writer.writerows(asdict(point) for point in points)


def draw(points: list[Point], path: Path) -> None:
    """Latency and interval over each parameter's factor, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharex=True)
    fields: tuple[tuple[str, Callable[[Point], int]], ...] = (
        ("latency", lambda p: p.latency_cycles),
        ("interval", lambda p: p.interval_cycles),
    )
    for axis, (name, cycles) in zip(axes, fields, strict=True):
        for parameter in dict.fromkeys(p.parameter for p in points):
            own = [p for p in points if p.parameter == parameter and p.status == "ok"]
            axis.plot([p.factor for p in own], [cycles(p) for p in own], marker="o", label=parameter)
        axis.set(xscale="log", yscale="log", xlabel="factor", ylabel=f"{name} in cycles")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("machine")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--parameter", "parameters", multiple=True, type=click.Choice(PARAMETERS), help="Default: all.")
@click.option("--factor", "factors", multiple=True, type=float, help=f"Default: {FACTORS}.")
@click.option("--images", default=6, show_default=True, help="Frames of a run.")
@click.option("--picture", type=click.Choice(("svg", "png")), help="Draw the curves (extra viz).")
def main(
    model: Path,
    machine: str,
    folder: Path,
    parameters: tuple[str, ...],
    factors: tuple[float, ...],
    images: int,
    picture: str | None,
) -> None:
    """Vary MACHINE and time MODEL on it; FOLDER gets the curves."""
    from cimc.compiler import choose_backend

    fields = choose_backend(machine, None)[1].model_dump(mode="json")
    folder.mkdir(parents=True, exist_ok=True)
    points: list[Point] = []
    for parameter in parameters or PARAMETERS:
        for factor in factors or FACTORS:
            point = measure(model, fields, parameter, factor, images)
            points.append(point)
            click.echo(
                f"{parameter:14} x{factor:<5g} {point.value:<8g} latency {point.latency_cycles:>10} "
                f"interval {point.interval_cycles:>10} crossbars {point.crossbars:>6}  {point.status}"
            )
    write_csv(points, folder / "sensitivity.csv")
    if picture is not None:
        draw(points, folder / f"sensitivity.{picture}")


if __name__ == "__main__":
    main()
