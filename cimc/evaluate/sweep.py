"""Many points: every chip under every combination of settings, here or on a cluster, continued after a kill."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

from cimc.diagnostics import UsageError
from cimc.evaluate.point import Request, evaluate_point
from cimc.evaluate.results import ResultsFile
from cimc.evaluate.settings import Settings, Value, arch_settings, settings_of

Artifacts = Mapping[Settings, str]
"""Folder of the artifact by the settings of the machine it was compiled for."""

LOCAL = "local"
"""A cluster of processes on this machine."""


@dataclass(frozen=True)
class Cluster:
    """Where points are measured: in this process, on processes of this machine, or by a dask scheduler."""

    scheduler: str | None = None
    """None, ``local`` or the address of a scheduler (``tcp://host:8786``), whose workers must see the same files."""
    workers: int | None = None
    """Processes of ``local``."""


@dataclass(frozen=True)
class Task:
    """One chip under one group of settings."""

    settings: Settings
    chip: int


def combinations(axes: Mapping[str, Sequence[Value]]) -> list[Settings]:
    """Every combination of the axes' values, the last axis fastest; one empty combination without axes."""
    return [settings_of(dict(zip(axes, values, strict=True))) for values in product(*axes.values())]


def tasks_of(groups: Sequence[Settings], chips: int) -> list[Task]:
    """All chips of every group. Raises ``UsageError`` for fewer than one chip."""
    if chips < 1:
        raise UsageError(f"at least one chip instance is needed, given {chips}", where="--chips")
    return [Task(settings, chip) for settings in groups for chip in range(chips)]


def run_tasks(
    tasks: Sequence[Task],
    request: Request,
    artifacts: Artifacts,
    results: ResultsFile,
    cluster: Cluster,
    advance: Callable[[], None],
) -> None:
    """Measure what ``results`` does not hold yet; ``advance`` is called after every point.

    Raises ``UsageError`` when the cluster cannot be reached.
    """
    open_tasks = [task for task in tasks if (task.settings, task.chip) not in results.done]
    if cluster.scheduler is None:
        for task in open_tasks:
            results.add(task.settings, task.chip, _measured(request, artifacts, task))
            advance()
        return
    with _client(cluster.scheduler, cluster.workers) as client:
        from distributed import as_completed

        futures = {
            client.submit(_measured, request, dict(artifacts), task, pure=False): task for task in open_tasks
        }
        for future in as_completed(list(futures)):
            task = futures[future]
            results.add(task.settings, task.chip, future.result())
            advance()


def _measured(request: Request, artifacts: Artifacts, task: Task) -> dict[str, float]:
    return evaluate_point(request, artifacts[arch_settings(task.settings)], task.settings, task.chip)


@contextmanager
def _client(scheduler: str, workers: int | None) -> Generator[Any]:
    """A connection to a cluster, closed at the end."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UsageError(
            "runs on a cluster need dask's scheduler; install the extra 'scale' (pip install 'cimc[scale]')",
            where="--scheduler",
        ) from error
    if scheduler == LOCAL:
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no dask scheduler answers at '{scheduler}' ({error}); give '{LOCAL}' or tcp://host:port",
            where="--scheduler",
        ) from error
    with client:
        yield client
