"""Figures of a sweep: a metric against one setting, one line for each combination of the others; losses by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cimc.diagnostics import UsageError
from cimc.evaluate.sensitivity import Sensitivity
from cimc.evaluate.settings import Value
from cimc.evaluate.study import Outcome


def plot_sweep(outcomes: Sequence[Outcome], metric: str, axis: str, target: Path) -> Path:
    """Mean and confidence interval of ``metric`` along ``axis``, as ``target`` (``.svg``, ``.png`` or ``.pdf``).

    Values that are all above 0 and span three decades or more are drawn on a logarithmic axis.
    """
    figure, axes = _figure()
    lines: dict[str, list[tuple[Value, Outcome]]] = {}
    for outcome in outcomes:
        given = dict(outcome.settings)
        label = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in outcome.settings if k != axis)
        lines.setdefault(label, []).append((given[axis], outcome))
    numeric = all(not isinstance(value, str) for line in lines.values() for value, _ in line)
    for label, line in lines.items():
        ordered = sorted(line, key=lambda pair: pair[0]) if numeric else line  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownLambdaType, reportUnknownVariableType]: numbers only
        xs = [value for value, _ in ordered]
        found = [outcome.summaries[metric] for _, outcome in ordered]
        means = np.array([summary.mean for summary in found])
        half = np.array([summary.high - summary.mean if summary.count > 1 else 0.0 for summary in found])
        axes.errorbar(xs, means, yerr=half, marker="o", capsize=3, label=label or None)
    values = [float(v) for line in lines.values() for v, _ in line if not isinstance(v, str)]
    if numeric and min(values) > 0 and max(values) >= 1000 * min(values):
        axes.set_xscale("log")
    axes.set_xlabel(axis)
    axes.set_ylabel(metric)
    if any(lines):
        axes.legend()
    return _saved(figure, target)


def plot_ranking(ranked: Sequence[Sensitivity], metric: str, target: Path) -> Path:
    """Loss of ``metric`` with one stage on devices at a time, the worst on top."""
    figure, axes = _figure()
    names = [one.stage for one in reversed(ranked)]
    axes.barh(names, [one.loss for one in reversed(ranked)])
    axes.set_xlabel(f"loss of {metric} with this stage alone on devices")
    return _saved(figure, target)


def plot_lines(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    axes_names: tuple[str, str],
    target: Path,
    *,
    log: bool,
) -> Path:
    """Named lines of (x, y) points; ``log`` draws both axes logarithmic."""
    figure, axes = _figure()
    for name, points in lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel(axes_names[0])
    axes.set_ylabel(axes_names[1])
    axes.legend()
    return _saved(figure, target)


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "figures need matplotlib; install the extra 'viz' (pip install 'cimc[viz]')", where="--plot"
        ) from error
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _saved(figure: Any, target: Path) -> Path:
    # No date and no random identifiers: the same results give the same bytes.
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "cimc"}):
        figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
    return target
