"""Schedulers on compiled models: copies, exactness, predicted and measured intervals, bounds."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from cimc import models
from cimc.achieved import over_bounds, steady_interval
from cimc.diagnostics import UsageError
from cimc.mapping_options import MappingOptions, load_mapping
from cimc.passes.schedule.copies.bounds import bounds
from cimc.passes.schedule.copies.stage_costs import StageCost, cut_costs, stage_cost, stages_of
from cimc.runtime.verifier import verify_program
from tests.fewer_cores import with_fewer_cores
from tests.mapping.small_machine import small_machine

NETWORK = "resnet-cifar-20"
SCHEDULERS = ("none", "polyxb", "cim-mlc", "cimc")
IMAGES = {"x": models.images(2, models.network(NETWORK).shape, seed=1)}

Compile = Callable[..., cimc.Artifact]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """The network compiled for a machine with mapping options; every combination once. A machine that is named has 96
    of its cores: many times the crossbars of the network, so that schedulers have a choice."""
    path = models.export_onnx(NETWORK, tmp_path_factory.mktemp("models") / f"{NETWORK}.onnx")
    made: dict[tuple[Any, str], cimc.Artifact] = {}

    def get(arch: Any, **options: Any) -> cimc.Artifact:
        machine = with_fewer_cores(arch, 8, 12) if isinstance(arch, str) else arch
        key = (machine.model_dump_json(), repr(options))
        if key not in made:
            mapping = MappingOptions.model_validate(options)
            made[key] = cimc.compile(path, machine, calibration=IMAGES, mapping=mapping)
        return made[key]

    return get


def copies_and_costs(artifact: cimc.Artifact) -> list[tuple[int, StageCost]]:
    """Copies and cost of the array stages."""
    module, ctx = artifact.level("mapped")
    found = [(s.copies.value.data, stage_cost(s, ctx.arch)) for s in stages_of(module)]
    return [(n, cost) for n, cost in found if cost is not None]


def predicted(artifact: cimc.Artifact) -> int:
    """The interval that the arrays of the slowest stage allow."""
    return max(cost.interval(n) for n, cost in copies_and_costs(artifact))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedules_are_exact_and_legal(compiled: Compile, scheduler: str) -> None:
    """The stream of every scheduler verifies and gives the integers of level 2; at most one copy a row."""
    artifact = compiled("isaac", scheduler=scheduler)
    verify_program(artifact.program)
    one = {"x": IMAGES["x"][:1]}
    stream, level = artifact.run(one), artifact.run(one, engine="quantised")
    for name, codes in level.integer_outputs.items():
        assert np.array_equal(stream.integer_outputs[name], codes)
    assert all(1 <= n <= cost.most for n, cost in copies_and_costs(artifact))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("machine", ["isaac", "puma"])
def test_no_run_beats_its_bounds(compiled: Compile, machine: str, scheduler: str) -> None:
    """Interval and latency of the engine, contention on, are never below the bounds of the report."""
    artifact = compiled(machine, scheduler=scheduler)
    timing = artifact.simulate(images=48)  # up to twelve are under way at a time
    achieved = over_bounds(artifact.report, timing)
    assert achieved is not None
    assert timing.cycles >= timing.images * achieved["interval_bound_cycles"]
    assert achieved["interval_over_bound"] >= 1
    assert achieved["interval_over_arrays"] >= 1
    assert achieved["latency_over_bound"] >= 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_short_run_says_what_a_long_one_says(compiled: Compile, scheduler: str) -> None:
    """Eight images, all under way before the first ends, have no shorter interval than the bound, and nearly that of
    sixty."""
    artifact = compiled("isaac", scheduler=scheduler)
    short = over_bounds(artifact.report, artifact.simulate(images=8))
    assert short is not None
    assert short["interval_over_bound"] >= 1
    long = steady_interval(artifact.simulate(images=60))
    assert short["steady_interval_cycles"] == pytest.approx(long, rel=0.05)


def test_writes_in_front_of_the_images_are_no_interval(compiled: Compile) -> None:
    """With the weights written first, images follow each other as they do when the weights are there: the global buffer
    then works longer than for images, which says nothing of their pace."""
    artifact = compiled("isaac")
    written, there = (artifact.simulate(images=12, include_writes=writes) for writes in (True, False))
    assert written.busiest_cycles["global_buffer"] / 12 > 2 * steady_interval(there)
    assert steady_interval(written) == pytest.approx(steady_interval(there), rel=0.1)


def test_bounds_do_not_depend_on_the_schedule(compiled: Compile) -> None:
    """Copies and placement are not read: all schedulers have the same bounds."""
    assert len({repr(compiled("isaac", scheduler=s).report["bounds"]) for s in SCHEDULERS}) == 1


def test_the_interval_drops_as_predicted(compiled: Compile) -> None:
    """With one copy each the arrays bind and the measured interval is the predicted one; with ours it drops with it."""
    before, after = compiled("isaac", scheduler="none"), compiled("isaac")
    first, last = (steady_interval(artifact.simulate(images=8)) for artifact in (before, after))
    assert predicted(before) <= first <= 1.04 * predicted(before)  # behind every row its digital tail
    assert predicted(after) <= last
    assert first / last > 0.5 * predicted(before) / predicted(after) > 5


def test_minmax_is_never_behind_the_baselines(compiled: Compile) -> None:
    """The predicted interval is the smallest of all schedulers', or no longer than inputs need."""
    artifact = compiled("isaac", scheduler="cimc")
    terms = artifact.report["bounds"]["interval_cycles"]
    floor = max(terms["global_buffer"], terms["host_link"])
    assert all(
        predicted(artifact) <= max(floor, predicted(compiled("isaac", scheduler=s))) for s in SCHEDULERS
    )


def test_named_copies_stay(compiled: Compile) -> None:
    """An override's copies are kept, and nobody gets copies that could not run faster than it."""
    pins = [{"match": "*stages.0.0/conv1*", "copies": 2}]
    roomy = with_fewer_cores("isaac", 12, 16)  # more than the pinned stage leaves work for
    made = copies_and_costs(compiled(roomy, scheduler="cimc", overrides=pins))
    pinned = [(n, cost) for n, cost in made if "stages.0.0/conv1" in cost.label]
    assert [n for n, _ in pinned] == [2]
    slowest = pinned[0][1].interval(2)
    assert max(cost.interval(n) for n, cost in made) == slowest
    free = copies_and_costs(compiled(roomy, scheduler="cimc"))
    assert sum(n * c.tiles for n, c in made) < sum(n * c.tiles for n, c in free)


def test_smaller_chips_get_fewer_copies(compiled: Compile) -> None:
    """Contexts that leave cores partly empty make the scheduler take fewer crossbars, never phases."""
    tight = small_machine(
        cores=40, crossbars=16, contexts=64, rows=128, columns=128, parallel_rows=8, adcs=128
    )
    artifact = compiled(tight, scheduler="cimc")
    assert artifact.report["crossbars"]["used"] <= 640
    assert int(artifact.program["contexts"]["phase"].max()) == 0
    assert (
        predicted(compiled("isaac", scheduler="cimc"))
        <= predicted(artifact)
        < predicted(compiled("isaac", scheduler="none"))
    )


def test_models_larger_than_the_chip_are_scheduled_by_phase(compiled: Compile) -> None:
    """Without room for one copy each, what a phase leaves free goes to copies that are worth writing; exactly."""
    tiny = small_machine(
        cores=4,
        crossbars=16,
        contexts=64,
        rows=128,
        columns=128,
        parallel_rows=8,
        adcs=128,
        allow_writes=True,
    )
    artifact = compiled(tiny, scheduler="cimc")
    least = compiled(tiny, scheduler="none")
    assert artifact.report["utilisation"]["phases"] >= least.report["utilisation"]["phases"] > 1
    assert max(n for n, _ in copies_and_costs(artifact)) > 1
    assert artifact.simulate(images=1).latency_cycles < least.simulate(images=1).latency_cycles
    one = {"x": IMAGES["x"][:1]}
    stream, level = artifact.run(one), artifact.run(one, engine="quantised")
    for name, codes in level.integer_outputs.items():
        assert np.array_equal(stream.integer_outputs[name], codes)
    achieved = over_bounds(artifact.report, artifact.simulate(images=1))
    assert achieved is not None
    assert achieved["interval_over_bound"] >= 1


def test_copies_and_scheduler_exclude_each_other(tmp_path: Path) -> None:
    """The error names line, rule, value and remedy."""
    (tmp_path / "m.yaml").write_text("scheduler: cimc\ncopies: 4\n")
    with pytest.raises(
        UsageError, match=r"m.yaml:2:\d+: copies: belongs to scheduler: none, given .*cimc; remove"
    ):
        load_mapping(tmp_path / "m.yaml")


def test_bounds_see_the_machine(compiled: Compile) -> None:
    """Half the host link doubles its term; fewer cores raise that of the arrays to the fluid one at the least."""
    module, ctx = compiled("isaac").level("mapped")
    arch = ctx.arch
    assert arch is not None
    wide = bounds(module, arch)
    half = arch.chip.host_link.model_copy(update={"bytes_per_cycle": arch.chip.host_link.bytes_per_cycle / 2})
    slow = arch.model_copy(update={"chip": arch.chip.model_copy(update={"host_link": half, "cores": 4})})
    tight = bounds(module, slow)
    assert tight.interval["host_link"] == 2 * wide.interval["host_link"]
    cuts = [own for stage in stages_of(module) if (own := cut_costs(stage, arch))]
    costs = [min(own, key=lambda c: c.cycles * c.tiles) for own in cuts]
    work = sum(c.cycles * c.tiles for c in costs)
    assert tight.interval["arrays"] == Fraction(work, 4 * arch.core.crossbars), "one copy each does not fit"
    assert wide.interval["arrays"] >= Fraction(work, arch.chip.cores * arch.core.crossbars)
    assert wide.critical_path >= max(c.window_cycles for c in costs)
