"""``cimc eval``: what accuracy is left on devices."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimc.cli.device_options import data_options, run_options, sweep_options
from cimc.cli.options import calibration_option, mapping_option, shape_option
from cimc.cli.output import print_json, print_table
from cimc.diagnostics import UsageError

if TYPE_CHECKING:
    from cimc.evaluate.sensitivity import Selection, Sensitivity, StageStudy
    from cimc.evaluate.settings import Settings
    from cimc.evaluate.study import Outcome
    from cimc.evaluate.sweep import Cluster


@click.command("eval")
@click.argument("source", type=click.Path(path_type=Path))
@data_options
@sweep_options
@run_options
@click.option("--arch", metavar="NAME|FILE", help="Machine to compile an ONNX source for.")
@calibration_option
@mapping_option
@shape_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def evaluate(
    source: Path,
    data: Path,
    device: str,
    metrics: tuple[str, ...],
    output_name: str,
    chips: int,
    seed: int,
    confidence: float,
    axes: tuple[str, ...],
    digital: tuple[str, ...],
    sensitivity: bool,
    threshold: float | None,
    folder: Path,
    scheduler: str | None,
    workers: int | None,
    plot: bool,
    arch: str | None,
    calibration: Path | None,
    mapping: Path | None,
    shapes: dict[str, tuple[int, ...]],
    as_json: bool,
) -> None:
    """Measure SOURCE, an artifact or an ONNX model, on chips of a device that is not ideal.

    Every chip of every combination of the sweep's axes is one line of results.csv. Means carry confidence intervals
    over chips.
    """
    _check_combination(axes, digital, sensitivity, threshold, scheduler, workers)
    if plot and not (axes or sensitivity):
        raise UsageError("a figure needs an axis; add --sweep", where="--plot")
    from cimc.evaluate.point import Request
    from cimc.evaluate.settings import DIGITAL
    from cimc.evaluate.study import Source, Study, check_settings, prepared
    from cimc.evaluate.sweep import Cluster, tasks_of

    groups, swept = _groups(axes, digital)
    check_settings(device, groups)
    artifacts = prepared(Source(source, arch, calibration, mapping, shapes), groups, folder)
    request = Request(str(data), device, metrics or ("top1",), seed, output_name)
    keys = [DIGITAL] if sensitivity else [key for key, _ in groups[0]]
    study = Study(artifacts, request, keys, folder, confidence=confidence)
    cluster = Cluster(scheduler, workers)
    if sensitivity:
        from cimc.evaluate.sensitivity import StageStudy

        _rank(
            StageStudy(study, chips, request.metrics[0]),
            threshold,
            cluster,
            folder if plot else None,
            as_json,
        )
        return
    if digital:
        from cimc.evaluate.sensitivity import check_stages

        check_stages(study.artifact.report, digital)
    tasks = tasks_of(groups, chips)
    with _bar(study.missing(tasks)) as advance:
        outcomes = study.run(tasks, cluster, advance)
    if plot:
        _plot(outcomes, request.metrics, swept, folder)
    _print(outcomes, request.metrics, as_json)


def _check_combination(
    axes: Sequence[str],
    digital: Sequence[str],
    sensitivity: bool,
    threshold: float | None,
    scheduler: str | None,
    workers: int | None,
) -> None:
    if threshold is not None and not sensitivity:
        raise UsageError("--threshold selects among ranked stages; add --sensitivity")
    if sensitivity and (axes or digital):
        raise UsageError("--sensitivity chooses itself what runs digitally; drop --sweep and --digital")
    if workers is not None and scheduler != "local":
        raise UsageError("--workers are processes of this machine; add --scheduler local")


def _groups(axes: Sequence[str], digital: Sequence[str]) -> tuple[list[Settings], list[str]]:
    """All combinations of the axes, each with what runs digitally, and the axes' keys."""
    from cimc.evaluate.point import SEPARATOR
    from cimc.evaluate.settings import DIGITAL, parse_axis, settings_of
    from cimc.evaluate.sweep import combinations

    parsed = [parse_axis(text) for text in axes]
    keys = [key for key, _ in parsed]
    if len(set(keys)) != len(keys):
        raise UsageError(
            f"an axis is given twice among {', '.join(keys)}; join their values", where="--sweep"
        )
    fixed = {DIGITAL: SEPARATOR.join(digital)} if digital else {}
    return [settings_of({**dict(one), **fixed}) for one in combinations(dict(parsed))], keys


@contextmanager
def _bar(total: int) -> Generator[Callable[[], None]]:
    """A progress bar on a terminal's stderr; nothing elsewhere."""
    if not sys.stderr.isatty() or not total:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("chips", total=total)
        yield lambda: bar.advance(task)


def _print(outcomes: Sequence[Outcome], metrics: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json([_as_json(outcome) for outcome in outcomes])
        return
    rows = [
        (*(value for _, value in outcome.settings), metric, s.count, s.mean, s.std, s.low, s.high)
        for outcome in outcomes
        for metric in metrics
        for s in [outcome.summaries[metric]]
    ]
    keys = [key for key, _ in outcomes[0].settings]
    print_table((*keys, "metric", "chips", "mean", "std", "low", "high"), rows)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    summaries = {metric: vars(summary) for metric, summary in outcome.summaries.items()}
    return {"settings": dict(outcome.settings), "metrics": summaries}


def _plot(outcomes: Sequence[Outcome], metrics: Sequence[str], swept: Sequence[str], folder: Path) -> None:
    from cimc.evaluate.plots import plot_sweep

    for metric in metrics:
        for axis in swept:
            print(plot_sweep(outcomes, metric, axis, folder / f"{metric}-{axis}.svg"), file=sys.stderr)


def _rank(
    stages: StageStudy, threshold: float | None, cluster: Cluster, figures: Path | None, as_json: bool
) -> None:
    with _bar(stages.study.missing(stages.tasks())) as advance:
        ranked = stages.rank(cluster, advance)
    chosen = None if threshold is None else stages.select(ranked, threshold, cluster)
    if figures is not None:
        from cimc.evaluate.plots import plot_ranking

        print(plot_ranking(ranked, stages.metric, figures / f"{stages.metric}-by-stage.svg"), file=sys.stderr)
    _print_ranking(ranked, chosen, stages.metric, as_json)


def _print_ranking(
    ranked: Sequence[Sensitivity], chosen: Selection | None, metric: str, as_json: bool
) -> None:
    if as_json:
        selection = None
        if chosen is not None:
            selection = {
                "digital": chosen.digital,
                "analog_share": chosen.analog_share,
                **_as_json(chosen.outcome),
            }
        print_json({"metric": metric, "stages": [vars(one) for one in ranked], "selection": selection})
        return
    print_table(
        ("stage", metric, "loss", "macs"), [(one.stage, one.mean, one.loss, one.macs) for one in ranked]
    )
    if chosen is None:
        return
    s = chosen.outcome.summaries[metric]
    off = ", ".join(chosen.digital) or "none"
    click.echo(f"digital: {off}; {chosen.analog_share:.2%} of the multiply-accumulates stay on devices")
    click.echo(f"{metric} of {s.count} chips: {s.mean:.6g} ({s.low:.6g} … {s.high:.6g})")
