"""Networks under memory budgets: what would stream, how long a pass takes, what peak it has; as CSV and figures.

The networks are those of ``cimc.models`` with the weights of their constructor: neither memory nor time depends on
values. Bits are the same under every budget, so accuracy is no part of this table (docs/streaming.md).
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cimc.analog
from cimc.analog.convert import run_of
from cimc.analog.plan import Resident
from cimc.analog.report import Row
from cimc.backends.schema import Architecture
from cimc.diagnostics import UsageError
from cimc.evaluate.plots import plot_lines
from cimc.models.registry import names, network
from cimc.models.transformers import NETWORKS, Size, Vit
from cimc.runtime.device.library import DeviceModel

if TYPE_CHECKING:
    from torch import Tensor, nn

BUDGETS = "budgets.csv"
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Of the resident need, between it and the least peak: the budgets where none are given."""
GB, MB = 1e9, 1e6


@dataclass(frozen=True)
class BudgetRow:
    """One network under one budget and policy; a peak of 0 where nothing fits."""

    network: str
    weights: int
    budget_gb: float
    policy: str
    streamed_mb: float
    """A pass."""
    peak_mb: float
    """Predicted."""
    pass_s: float
    """Predicted."""
    measured_s: float | None
    """CPU time of one pass, where it was asked for."""


@dataclass(frozen=True)
class BudgetRequest:
    """What all networks share."""

    arch: Architecture
    device: DeviceModel
    resident: Resident
    chunk_bytes: int
    measured: bool
    """Whether a pass is run under every budget of the fast policy, too."""


def check_name(name: str) -> None:
    """Raise ``UsageError`` unless :func:`image_network` knows ``name``."""
    known = (*names(), *_transformers())
    if name not in known:
        raise UsageError(f"no network is named '{name}'; there are: {', '.join(known)}")


def _transformers() -> dict[str, Size]:
    return {key: size for key, (kind, size) in NETWORKS.items() if kind is Vit}


def image_network(name: str) -> tuple[nn.Module, Tensor]:
    """A network of the registry, or a vision transformer, and one image. Raises ``UsageError`` for other names."""
    import torch

    check_name(name)
    torch.manual_seed(0)
    if name in _transformers():
        size = _transformers()[name]
        return Vit(size).eval(), torch.randn(1, 3, size.image, size.image)
    entry = network(name)
    module, function = entry.source.split(":")
    return getattr(import_module(module), function)().eval(), torch.randn(1, *entry.shape)


def budget_rows(name: str, budgets_gb: Sequence[float], request: BudgetRequest) -> list[BudgetRow]:
    """Both policies of ``docs/streaming.md`` under every budget, from one plan of the network.

    Without budgets, :data:`SHARES` of the way from the least peak there is to everything resident.
    """
    module, x = image_network(name)
    module = cimc.analog.convert(
        module,
        request.arch,
        request.device,
        streaming="auto_speed",
        inference_chunk_size=request.chunk_bytes,
        resident=request.resident,
        example=x,
    )
    run = run_of(module)
    table = run.what_if([1.0]).rows
    least, most = (next(r.placement for r in table if r.policy == p) for p in ("auto_memory", "auto_speed"))
    assert least is not None
    assert most is not None
    low, high = least.peak_bytes, most.peak_bytes
    asked = budgets_gb or [(low + share * (high - low) + 1) / GB for share in SHARES]
    weights = sum(block.width * block.recipe.rows for block in run.blocks.values())

    def row_of(row: Row) -> BudgetRow:
        found = row.placement
        if found is None:
            return BudgetRow(name, weights, row.budget_gb, row.policy, 0.0, 0.0, 0.0, None)
        seconds: float | None = None
        if request.measured and row.policy == "auto_speed":
            run.use_budget(int(row.budget_gb * GB))
            seconds = _seconds(lambda: module(x))
        return BudgetRow(
            name,
            weights,
            row.budget_gb,
            row.policy,
            found.streamed_bytes / MB,
            found.peak_bytes / MB,
            found.time.total_ns / 1e9,
            seconds,
        )

    return [row_of(row) for row in run.what_if(asked).rows]


def _seconds(work: Callable[[], Any]) -> float:
    import torch

    start = time.process_time()
    with torch.no_grad():
        work()
    return time.process_time() - start


def write_budgets(rows: Sequence[BudgetRow], folder: Path) -> Path:
    """``budgets.csv``, one line a row."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / BUDGETS
    header = [field.name for field in fields(BudgetRow)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([["" if v is None else v for v in vars(row).values()] for row in rows])
    return path


def pareto(rows: Sequence[BudgetRow]) -> list[BudgetRow]:
    """The rows of one network that no other beats in both peak and time, by ascending peak."""
    best: list[BudgetRow] = []
    for row in sorted((r for r in rows if r.peak_mb), key=lambda r: (r.peak_mb, r.pass_s)):
        if not best or row.pass_s < best[-1].pass_s:
            best.append(row)
    return best


def plot_budgets(rows: Sequence[BudgetRow], folder: Path) -> list[Path]:
    """``speed-memory.svg``, the Pareto front of each network; with several, ``scale-up.svg``: peaks over weights."""
    by_name = {
        name: [r for r in rows if r.network == name] for name in dict.fromkeys(r.network for r in rows)
    }
    fronts = {name: [(row.peak_mb, row.pass_s) for row in pareto(found)] for name, found in by_name.items()}
    made = [
        plot_lines(
            fronts, ("predicted peak, MB", "predicted pass, s"), folder / "speed-memory.svg", log=False
        )
    ]
    if len(by_name) > 1:
        fitting = [[r for r in found if r.peak_mb] for found in by_name.values()]
        some = sorted((found for found in fitting if found), key=lambda found: found[0].weights)
        peaks = {
            "least peak": [(found[0].weights, min(r.peak_mb for r in found)) for found in some],
            "largest budget": [(found[0].weights, max(r.peak_mb for r in found)) for found in some],
        }
        made.append(plot_lines(peaks, ("weights", "predicted peak, MB"), folder / "scale-up.svg", log=True))
    return made
