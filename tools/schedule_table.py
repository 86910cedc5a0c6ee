"""The published tables of the closed-form schedulers beside ours, cell by cell.

    python -m tools.schedule_table            # all networks; exit status 1 where a cell that must be met is not
    python -m tools.schedule_table ResNet18

``tools/published_schedules.json`` holds the published numbers; docs/scheduling.md says which are met exactly (the
baselines, the greedy, the bounds) and which are optima that our scheduler comes close to.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from cimc.passes.schedule.closed_form import cim_mlc, copies, latency, scheduler
from cimc.passes.schedule.closed_form.networks import NETWORKS
from cimc.passes.schedule.closed_form.operators import REFERENCE as MACHINE
from cimc.passes.schedule.closed_form.operators import Operator

PUBLISHED = Path(__file__).with_name("published_schedules.json")
WITHIN = 1.02
"""How close to a proven optimum our own copies have to be."""


@dataclass(frozen=True)
class Cell:
    """A published value and ours."""

    group: str
    name: str
    published: Any
    ours: Any
    optimum: bool = False
    """Whether the published value is a proven optimum, to be met within :data:`WITHIN`."""
    tolerance: float = 0.0
    """Cycles that ours may be off; for values a solver finds in floating point."""

    @property
    def met(self) -> bool:
        """Whether ours is what it has to be. Published fractions are rounded to their printed digits."""
        if self.optimum:
            return bool(self.published <= self.ours * (1 + 1e-9) and self.ours <= WITHIN * self.published)
        if self.tolerance:
            return abs(float(self.ours) - self.published) <= self.tolerance
        if isinstance(self.published, float):
            digits = len(repr(self.published).partition(".")[2])
            return abs(float(self.ours) - self.published) <= 0.5 * 10**-digits + 1e-9
        return bool(self.published == self.ours)


def published() -> dict[str, Any]:
    """The published numbers by network."""
    return json.loads(PUBLISHED.read_text())


def written(ops: Sequence[Operator], counts: Sequence[int]) -> str:
    """Copies of the convolutions as the tables write them: ``28x2`` is 28 twice."""
    chosen = [n for op, n in zip(ops, counts, strict=True) if not op.is_pool]
    runs = [(value, len(list(run))) for value, run in groupby(chosen)]
    return " ".join(f"{value}x{count}" if count > 1 else str(value) for value, count in runs)


def cells(network: str) -> Iterator[Cell]:
    """Every published cell of a network with ours."""
    ops, table = NETWORKS[network], published()[network]
    convolutions = [op for op in ops if not op.is_pool]
    yield Cell("network", "convolutions", table["convolutions"], len(convolutions))
    yield Cell("network", "cores", table["cores"], sum(map(MACHINE.cores_of, ops)))
    yield Cell("network", "crossbars", table["crossbars"], sum(map(MACHINE.tiles, ops)))
    yield from _cim_mlc(ops, table)
    yield from _polyxb(ops, table)
    yield from _greedy(ops, table)
    yield from _bounds(ops, table["bounds"])


def columns(ops: Sequence[Operator]) -> dict[str, int]:
    """Cycles of the baseline ``cim-mlc`` in all columns of the table."""
    ops, one = tuple(ops), (1,) * len(ops)
    made = cim_mlc.assign(ops, MACHINE)
    refined = {
        "+MVM duplication": latency.MVM_DUPLICATION,
        "+MVM pipeline": latency.MVM_PIPELINE,
        "+VVM": latency.VVM,
        "+VVM plain": latency.VVM_PLAIN,
    }
    return {
        "none": latency.serial(ops, MACHINE),
        "CG pipeline": latency.pipelined(ops, MACHINE, latency.CG_PIPELINE, one),
        "CG duplication": latency.serial(ops, MACHINE, made.duplicated),
        "CG both": latency.pipelined(ops, MACHINE, latency.CG_BOTH, made.balanced),
    } | {
        name: latency.pipelined(ops, MACHINE, column, made.refined, made.balanced)
        for name, column in refined.items()
    }


def _cim_mlc(ops: Sequence[Operator], table: dict[str, Any]) -> Iterator[Cell]:
    made = cim_mlc.assign(tuple(ops), MACHINE)
    for key, counts in (("d", made.duplicated), ("b", made.balanced), ("x", made.refined)):
        yield Cell("cim-mlc copies", key, table["cim-mlc copies"][key], written(ops, counts))
    ours = columns(ops)
    for name, cycles in table["cycles"].items():
        yield Cell("cim-mlc cycles", name, cycles, ours[name])


def pixel_pipelined(ops: Sequence[Operator], counts: Sequence[int]) -> int:
    """Cycles in the column "+MVM pipeline" with ``counts`` copies of the convolutions."""
    return latency.pipelined(ops, MACHINE, latency.MVM_PIPELINE, scheduler.with_pools(ops, counts))


def _polyxb(ops: Sequence[Operator], table: dict[str, Any]) -> Iterator[Cell]:
    given, baseline = copies.products(ops, MACHINE), columns(ops)
    chosen = copies.polyxb(given, MACHINE.crossbars)
    cycles = latency.serial(ops, MACHINE, scheduler.with_pools(ops, chosen))
    ours = {
        "crossbars": copies.used(given, chosen),
        "serial": cycles,
        "none over serial": baseline["none"] / cycles,
        "cim-mlc over it": cycles / baseline["+MVM pipeline"],
        "interval": round(copies.interval(given, chosen)),
        "pixel pipelined": pixel_pipelined(ops, chosen),
    }
    for name, value in table["polyxb"].items():
        yield Cell("polyxb", name, value, ours[name])


def _greedy(ops: Sequence[Operator], table: dict[str, Any]) -> Iterator[Cell]:
    given, baseline = copies.products(ops, MACHINE), columns(ops)
    chosen = copies.greedy(given, MACHINE.crossbars)
    cycles = pixel_pipelined(ops, chosen)
    refined = [
        n for op, n in zip(ops, cim_mlc.assign(tuple(ops), MACHINE).refined, strict=True) if not op.is_pool
    ]
    ours = {
        "cim-mlc over none": baseline["none"] / baseline["+MVM pipeline"],
        "over none": baseline["none"] / cycles,
        "cycles": cycles,
        "gain": baseline["+MVM pipeline"] / cycles,
        "cim-mlc interval": round(copies.interval(given, refined)),
        "interval": round(copies.interval(given, chosen)),
        "copies": written(ops, scheduler.with_pools(ops, chosen)),
        "free": MACHINE.crossbars - copies.used(given, chosen),
    }
    for name, value in table["greedy"].items():
        yield Cell("greedy", name, value, ours[name])


def _bounds(ops: Sequence[Operator], table: dict[str, Any]) -> Iterator[Cell]:
    given, by_rows = copies.products(ops, MACHINE), copies.products(ops, MACHINE, wordline=True)
    smallest = copies.min_max(given, MACHINE.crossbars)
    wordline = copies.interval(by_rows, copies.min_max(by_rows, MACHINE.crossbars))
    quick = scheduler.schedule(ops, MACHINE, "latency")
    held = scheduler.schedule(ops, MACHINE, "throughput")
    exact = {
        "fluid interval": int(copies.fluid_interval(given, MACHINE.crossbars)),
        "min-max interval": round(copies.interval(given, smallest)),
        "crossbars left": MACHINE.crossbars - copies.used(given, smallest),
        "min-max interval, VVM row groups": float(wordline),
        "L0 written and read": int(scheduler.bus_cycles(ops, MACHINE, written=True)),
        "L0 read only": int(scheduler.bus_cycles(ops, MACHINE, written=False)),
    }
    for name, value in exact.items():
        yield Cell("bounds", name, table[name], value)
    # Printed without its fraction, and solved in floating point.
    yield Cell("bounds", "LP latency", table["LP latency"], quick.latency_bound, tolerance=1.0)
    yield Cell("ours", "best latency", table["best latency"], quick.latency, optimum=True)
    yield Cell(
        "ours", "best latency at min-max", table["best latency at min-max"], held.latency, optimum=True
    )
    yield Cell("ours", "interval in throughput mode", table["min-max interval"], round(held.interval))


def shown(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main(arguments: Sequence[str]) -> int:
    """Print the cells of the networks named, all by default. Returns the exit status."""
    unknown = [name for name in arguments if name not in NETWORKS]
    if unknown:
        print(f"no network {', '.join(unknown)}; there are {', '.join(NETWORKS)}", file=sys.stderr)
        return 2
    missed = 0
    for network in arguments or NETWORKS:
        print(f"{network}\n  {'':16} {'':34} {'published':>14} {'ours':>14}")
        for cell in cells(network):
            missed += not cell.met
            note = "" if cell.met else "  MISSED"
            if cell.optimum:
                note += f"  {cell.ours / cell.published:.4f} of the optimum"
            print(
                f"  {cell.group:16} {cell.name:34} {shown(cell.published):>14} {shown(cell.ours):>14}{note}"
            )
    print(f"{missed} cells missed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
