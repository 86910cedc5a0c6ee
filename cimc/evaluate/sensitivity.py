"""Which stages suffer most from the devices, and which to keep off the arrays (selective CIM)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.diagnostics import UsageError
from cimc.evaluate.point import LOWER_IS_BETTER, SEPARATOR
from cimc.evaluate.settings import DIGITAL, Settings, settings_of
from cimc.evaluate.study import Outcome, Study
from cimc.evaluate.sweep import Cluster, Task, tasks_of


@dataclass(frozen=True)
class Sensitivity:
    """What one stage alone on the devices costs."""

    stage: str
    mean: float
    """The metric with only this stage on devices, mean over chips."""
    loss: float
    """How much worse than with no stage on devices; positive is worse."""
    macs: int


def array_stages(report: Mapping[str, Any]) -> dict[str, int]:
    """Multiply-accumulates of every stage with arrays, in the order of the network."""
    return {stage["name"]: int(stage["macs"]) for stage in report["stages"] if stage["crossbars"]}


def alone(stages: Sequence[str]) -> dict[str, Settings]:
    """By stage: the settings under which only it is on the devices."""
    return {stage: digital([other for other in stages if other != stage]) for stage in stages}


def digital(stages: Sequence[str]) -> Settings:
    """The settings under which ``stages`` are computed digitally."""
    return settings_of({DIGITAL: SEPARATOR.join(stages)})


def ranking(
    metric: str, stages: Mapping[str, int], means: Mapping[str, float], baseline: float
) -> list[Sensitivity]:
    """Stages by loss, the worst first; equal ones in the order of the network."""
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
    found = [Sensitivity(s, means[s], sign * (means[s] - baseline), macs) for s, macs in stages.items()]
    return [found[i] for i in np.argsort([-one.loss for one in found], kind="stable")]


def selected(ranked: Sequence[Sensitivity], threshold: float) -> list[str]:
    """Stages that lose more than ``threshold`` alone: those to compute digitally."""
    return [one.stage for one in ranked if one.loss > threshold]


def analog_share(stages: Mapping[str, int], off: Sequence[str]) -> float:
    """Share of the arrays' multiply-accumulates that stay on devices."""
    total = sum(stages.values())
    return sum(macs for stage, macs in stages.items() if stage not in set(off)) / total if total else 0.0


@dataclass(frozen=True)
class Selection:
    """Stages kept off the arrays, and what is then measured."""

    digital: tuple[str, ...]
    analog_share: float
    """Share of the arrays' multiply-accumulates that stay on devices."""
    outcome: Outcome


@dataclass(frozen=True)
class StageStudy:
    """All stages of a network, one at a time on the devices."""

    study: Study
    chips: int
    metric: str

    @property
    def stages(self) -> dict[str, int]:
        """Multiply-accumulates by stage."""
        return array_stages(self.study.artifact.report)

    def tasks(self) -> list[Task]:
        """Every stage alone on every chip, and none on one: without devices all chips are alike."""
        names = list(self.stages)
        return [*tasks_of([digital(names)], 1), *tasks_of(list(alone(names).values()), self.chips)]

    def rank(self, cluster: Cluster, advance: Callable[[], None] = lambda: None) -> list[Sensitivity]:
        """Stages by loss, the worst first."""
        names = list(self.stages)
        found = {
            o.settings: o.summaries[self.metric].mean for o in self.study.run(self.tasks(), cluster, advance)
        }
        means = {stage: found[settings] for stage, settings in alone(names).items()}
        return ranking(self.metric, self.stages, means, found[digital(names)])

    def select(
        self,
        ranked: Sequence[Sensitivity],
        threshold: float,
        cluster: Cluster,
        advance: Callable[[], None] = lambda: None,
    ) -> Selection:
        """Compute digitally what loses more than ``threshold`` alone, and measure the rest together on all chips."""
        off = selected(ranked, threshold)
        (outcome,) = self.study.run(tasks_of([digital(off)], self.chips), cluster, advance)
        return Selection(tuple(off), analog_share(self.stages, off), outcome)


def check_stages(report: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise ``UsageError`` for names that are no stage with arrays."""
    known = array_stages(report)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"no array stage is called {', '.join(unknown)}; there are {', '.join(known)}")
