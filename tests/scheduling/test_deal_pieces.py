"""Pieces of rows: as many as may be, against all numbers of pieces, and what they may cost of the interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cimc
from cimc import models
from cimc.dialects.cim import StageOp
from cimc.dialects.graph import main_function
from cimc.estimation import estimate_artifact
from cimc.mapping_options import MappingOptions, Objective
from cimc.passes.schedule.copies.ours import SLACK
from cimc.passes.schedule.deal_pieces import MORE, in_pieces, useful
from cimc.passes.schedule.estimate.nodes import Timing
from cimc.passes.schedule.estimate.timings import timings

pytestmark = pytest.mark.filterwarnings("ignore:no calibration data given")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with residuals and rows of 32 windows."""
    return models.export_onnx("resnet-cifar-20", tmp_path_factory.mktemp("models") / "cifar.onnx")


def nodes_of(artifact: cimc.Artifact) -> list[Timing]:
    """The nodes of the estimate, each with all its copies."""
    module, ctx = artifact.level("mapped")

    def table(stage: StageOp) -> Any:
        assert stage.placement is not None
        return ctx.store.array(stage.placement.key.data)

    assert ctx.arch is not None
    return timings(list(main_function(module).body.block.ops), ctx.arch, table, ctx.store)


def compiled(network: Path, objective: Objective, pieces: int | None = None) -> cimc.Artifact:
    """The network for ``isaac``, rows in as many pieces as the estimate says where none are named; a cap on the power
    leaves it few copies, with rows long enough for pieces."""
    given = MappingOptions(objective=objective, pieces=pieces, power_cap_mw=12_000)
    return cimc.compile(network, "isaac", mapping=given)


def test_useful_pieces_are_the_most_that_are_cheap(network: Path) -> None:
    """The largest number of pieces whose turn is at most a tenth longer, of all that a search one by one tries; a bound
    on the interval holds."""
    nodes = [node.dealt(1) for node in nodes_of(compiled(network, "balanced", pieces=1)) if node.arrays]
    for whole in nodes:
        for bound in (float("inf"), 1.05 * whole.interval()):
            tried = [in_pieces(whole, pieces) for pieces in range(1, 17)]
            cheap = [t for t in tried if t.turn <= (1 + MORE) * whole.turn and t.interval() <= bound]
            assert len(useful(whole, 16, bound).steps) == max(len(t.steps) for t in cheap)
    assert {len(useful(node, 16).steps) for node in nodes} != {1}


@pytest.mark.parametrize("objective", ["balanced", "throughput"])
def test_pieces_cost_no_more_of_the_interval_than_the_objective_says(
    network: Path, objective: Objective
) -> None:
    """By the estimate, stages of a program in pieces take at most the share of the slack more than those of the same
    objective in whole rows, and an image ends no later."""
    whole = estimate_artifact(compiled(network, objective, pieces=1)).estimate
    made = compiled(network, objective)
    cut = estimate_artifact(made).estimate
    assert any(len(node.steps) > 1 for node in nodes_of(made))
    assert cut.interval["stages"] <= (1 + SLACK[objective]) * whole.interval["stages"]
    assert cut.latency_cycles <= whole.latency_cycles
