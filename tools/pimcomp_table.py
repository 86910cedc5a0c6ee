"""Our schedules beside PIMCOMP's on PIMCOMP's own machine, for one image and for the interval between images.

    python -m tools.pimcomp_table                # ResNet-18, AlexNet (grouped), SqueezeNet 1.1
    python -m tools.pimcomp_table squeezenet

PIMCOMP's figures are what its public simulator says of its public compiler's output (docs/placement.md). Both
sides have the same machine (``backends/pimcomp.yaml``): crossbars, times of products, memories, vector units,
network. It is compiled for with ``logical_cells: true``, as PIMCOMP counts crossbars; the physical count stands
beside it.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cimc
from cimc import models
from cimc.backends.registry import resolve_backend
from cimc.backends.schema import Architecture
from cimc.mapping_options import MappingOptions, Objective
from cimc.passes.schedule.copies.stage_costs import stage_cost, stages_of
from cimc.runtime.cycle import Timing, simulate

IMAGES = 8

CELLS = 4
"""Physical cells of 2 bits that hold a weight of 8."""


@dataclass(frozen=True)
class Published:
    """A figure of PIMCOMP: compiler and simulator of arXiv 2411.09159 as published, run on this network by us."""

    time_ms: float
    energy_mj: float
    products: int
    """``mvmul`` of one crossbar each."""
    instructions: int


@dataclass(frozen=True)
class Network:
    """A network of the table; ``latency`` and ``interval`` are PIMCOMP's modes for one image and for many."""

    title: str
    export: Callable[[Path], Path]
    latency: Published
    interval: Published


def _alexnet(path: Path) -> Path:
    from cimc.models.alexnet import SHAPE, AlexNet
    from cimc.models.export import export_module
    from cimc.models.tuning import tuned

    return export_module(tuned(AlexNet, SHAPE, 0), SHAPE, path)


NETWORKS = {
    "resnet-18": Network(
        "ResNet-18",
        lambda path: models.export_onnx("resnet-18", path),
        Published(48.31, 8.15, 163_888, 3_270_000),
        Published(13.66, 5.18, 163_888, 3_120_000),
    ),
    "alexnet": Network(
        "AlexNet (grouped)",
        _alexnet,
        Published(21.54, 3.89, 65_236, 1_020_000),
        Published(7.73, 2.42, 65_236, 1_250_000),
    ),
    "squeezenet": Network(
        "SqueezeNet 1.1",
        lambda path: models.export_onnx("squeezenet", path),
        Published(26.75, 3.48, 59_412, 1_460_000),
        Published(7.30, 2.01, 59_412, 1_200_000),
    ),
}

DIFFERENCES = """\
Differences in accounting:
  * A product of one crossbar takes 1305 ns on both sides; memories, vector units and network as in PIMCOMP's
    configuration (backends/pimcomp.yaml marks each number). Ours goes from the image's first byte on the host link, as
    float32, to the last byte of the result; PIMCOMP's simulator starts and ends in global memory.
  * PIMCOMP reads 8 times the input of a product from local memory (once a digit), ours once.
  * Crossbars are logical, 128 x 128 weights of 8 bits; "physical" are those of 2-bit cells that they stand for. Energy
    "its way" charges a logical crossbar 24.49 nJ a product as PIMCOMP does, "ours" charges its four physical ones.
  * Energy: arrays, converters, vector units, buffers, network and, in ours alone, the host link; static power nowhere.
  * Products: ours are windows x tiles of the layers as mapped. A grouped convolution packs the groups that fit on a
    crossbar's diagonal.
  * Rows: ours are those of the program, with counted loops and strided addresses; PIMCOMP's are unrolled."""


def machine(*, logical: bool) -> Architecture:
    """PIMCOMP's machine, with crossbars of weights or of cells."""
    fields = resolve_backend("pimcomp").architecture().model_dump(mode="json")
    fields["crossbar"]["logical_cells"] = logical
    return Architecture.model_validate(fields)


@dataclass(frozen=True)
class Ours:
    """One compiled network in time."""

    timing: Timing
    instructions: int
    crossbars: int
    physical: int
    products: int


def ours(path: Path, objective: Objective) -> Ours:
    """Compile for PIMCOMP's machine and time it; weights are in the arrays, as in PIMCOMP."""
    artifact = cimc.compile(path, machine(logical=True), mapping=MappingOptions(objective=objective))
    timing = simulate(artifact.program, images=IMAGES, resident_weights=True)
    crossbars = artifact.report["crossbars"]
    return Ours(
        timing,
        artifact.report["instruction_rows"],
        crossbars["used"],
        crossbars["physical"],
        products(artifact),
    )


def products(artifact: cimc.Artifact) -> int:
    """Products of single crossbars of one image: windows x tiles of every array stage."""
    module, context = artifact.level("mapped")
    costs = (stage_cost(stage, context.arch) for stage in stages_of(module))
    return sum(cost.windows * cost.tiles for cost in costs if cost is not None)


def main(arguments: list[str]) -> int:
    """Print the table for the named networks, or all."""
    unknown = [name for name in arguments if name not in NETWORKS]
    if unknown:
        print(f"no such network: {', '.join(unknown)}; there are {', '.join(NETWORKS)}", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")  # calibration on random images changes no time
    print(
        f"{'network':18} {'':9} {'PIMCOMP':>10} {'ours':>10} {'faster':>7} {'mJ PIMCOMP':>10} {'its way':>8} "
        f"{'ours':>8} {'crossbars':>9} {'physical':>9} {'products':>9} {'PIMCOMP':>8} {'rows':>9} {'PIMCOMP':>9}"
    )
    slower = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments or NETWORKS:
            slower += _print(NETWORKS[name], Path(folder, f"{name}.onnx"))
    print(DIFFERENCES)
    return 1 if slower else 0


def _energies(timing: Timing) -> tuple[float, float]:
    """pJ of all images as we count, and with the arrays as PIMCOMP counts them: a product costs that of one crossbar.

    A crossbar of weights is four of cells here, each with its own converters.
    """
    arrays = sum(timing.energy_pj[part] for part in ("array", "dac", "adc"))
    return timing.total_energy_pj, timing.total_energy_pj - arrays * (1 - 1 / CELLS)


def _print(network: Network, path: Path) -> int:
    network.export(path)
    slower = 0
    objectives: tuple[tuple[str, Published, Objective], ...] = (
        ("one image", network.latency, "latency"),
        ("interval", network.interval, "throughput"),
    )
    for mode, published, objective in objectives:
        made = ours(path, objective)
        cycles = made.timing.latency_cycles if mode == "one image" else made.timing.interval_cycles
        time_ms = cycles / made.timing.clock_ghz / 1e6
        energy_mj, counted_mj = (pj / IMAGES / 1e9 for pj in _energies(made.timing))
        slower += time_ms >= published.time_ms
        print(
            f"{network.title:18} {mode:9} {published.time_ms:7.2f} ms {time_ms:7.2f} ms "
            f"{published.time_ms / time_ms:6.2f}x {published.energy_mj:10.2f} {counted_mj:8.2f} {energy_mj:8.2f} "
            f"{made.crossbars:9} {made.physical:9} {made.products:9} {published.products:8} "
            f"{made.instructions:9} {published.instructions:9}"
        )
    return slower


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
