"""The closed-form estimate against the cycle engine, and the sensitivity of cycles to the machine."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from xdsl.dialects.builtin import ModuleOp

import cimc
from cimc import models
from cimc.backends.registry import resolve_backend
from cimc.estimation import estimate_artifact
from cimc.mapping_options import MappingOptions
from cimc.passes.schedule.estimate.nodes import Edge, Timing
from cimc.passes.schedule.estimate.pipeline import latency, pipeline
from tools import sensitivity

Compile = Callable[[str, str], cimc.Artifact]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network."""
    return models.export_onnx("digits", tmp_path_factory.mktemp("models") / "digits.onnx")


@pytest.mark.parametrize("machine", ["isaac", "isaac-ce", "puma", "pimcomp", "jia", "jain"])
@pytest.mark.parametrize("scheduler", ["none", "cimc"])
def test_the_estimate_is_near_the_engine(digits: Path, machine: str, scheduler: str) -> None:
    """Contention on, phases included: the latency within 25 % on every machine, the interval within 30 %."""
    mapping = MappingOptions.model_validate({"scheduler": scheduler})
    calibration = {"x": models.images(2, models.network("digits").shape, seed=1)}
    artifact = cimc.compile(digits, machine, calibration=calibration, mapping=mapping)
    timing = artifact.simulate(images=12)
    off = estimate_artifact(artifact).disagreement(timing)
    assert abs(off["latency"]) <= 0.25, off
    assert abs(off["interval"]) <= 0.3, off


def node(rows: int, head: int, *edges: Edge, copies: int = 1, tail: int = 0, between: int = 0) -> Timing:
    """A node without IR."""
    return Timing("n", ModuleOp([]), rows, head, tail, between, copies, edges=edges)


def by_hand(nodes: list[Timing]) -> list[list[int]]:
    """The recurrence row by row: a context takes its rows in order, a window waits for its last source row."""
    sent: list[list[int]] = []
    for one in nodes:
        mine: list[int] = []
        for row in range(one.rows):
            ready = 0
            for edge in one.edges:
                last = min(max(row * edge.stride + edge.kernel - 1 - edge.pad, 0), edge.rows - 1)
                ready = max(ready, *(sent[edge.source][i] + edge.delay for i in range(last + 1)))
            end = ready + one.head + one.tail
            if row >= one.copies:
                end = max(end, mine[row - one.copies] + one.turn)
            mine.append(end)
        for row in range(1, one.rows):
            mine[row] = max(mine[row], mine[row - 1] + one.between) if one.between else mine[row]
        sent.append(mine)
    return sent


def test_the_recurrence_is_the_one_by_rows() -> None:
    """Unrolled over copies and windows it equals the recurrence evaluated row by row, on random chains and a branch."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        rows = [int(n) for n in rng.integers(1, 20, 4)]
        copies = [int(n) for n in rng.integers(1, 6, 4)]
        heads = [int(n) for n in rng.integers(1, 30, 4)]
        between = int(rng.integers(0, 9))

        def edge(source: int, rows: list[int] = rows) -> Edge:
            kernel = int(rng.integers(1, 4))
            return Edge(
                source, rows[source], kernel, int(rng.integers(1, 3)), int(rng.integers(0, kernel)), delay=3
            )

        nodes = [node(rows[0], heads[0], copies=copies[0], between=between)]
        nodes.append(node(rows[1], heads[1], edge(0), copies=copies[1], tail=2))
        nodes.append(node(rows[2], heads[2], edge(0), copies=copies[2]))
        nodes.append(node(rows[3], heads[3], edge(1), edge(2), copies=copies[3]))
        expected = by_hand(nodes)
        assert [found.sent.tolist() for found in pipeline(nodes)] == expected
        assert latency(nodes) == max(mine[-1] for mine in expected)


def test_rows_of_the_tail_and_of_gathers_wait() -> None:
    """A row that enters behind the products costs the tail only; a node that gathers starts behind the last row."""
    source = node(4, 10)
    products = Timing("n", ModuleOp([]), 4, 5, 2, edges=(Edge(0, 4, side=True, delay=1),), copies=4)
    assert pipeline([source, products])[1].sent.tolist() == [13, 24, 35, 46]
    whole = Timing("n", ModuleOp([]), 1, 7, 0, wait=100, edges=(Edge(0, 4, gather=2),))
    assert latency([source, whole]) == 10 + 3 * 11 + 2 + 100 + 7


def test_sensitivity_changes_what_it_says(tmp_path: Path, digits: Path) -> None:
    """Each parameter changes its own number; with fewer parallel rows the interval grows; curves as CSV and SVG."""
    fields = resolve_backend("isaac").architecture().model_dump(mode="json")
    for parameter, place in (("cores", "chip"), ("crossbars", "core"), ("parallel_rows", "crossbar")):
        changed, value = sensitivity.scaled(fields, parameter, 0.5)
        assert changed[place][parameter] == value == fields[place][parameter] / 2
    wide = sensitivity.scaled(fields, "bandwidth", 2.0)[0]
    assert wide["chip"]["host_link"]["bytes_per_cycle"] == 2 * fields["chip"]["host_link"]["bytes_per_cycle"]
    arguments = [str(digits), "isaac", str(tmp_path), "--images", "2", "--picture", "svg"]
    arguments += ["--parameter", "parallel_rows", "--factor", "0.25", "--factor", "1"]
    result = CliRunner().invoke(sensitivity.main, arguments)
    assert result.exit_code == 0, result.output
    slow, fast = list(csv.DictReader((tmp_path / "sensitivity.csv").open()))
    assert int(slow["interval_cycles"]) > int(fast["interval_cycles"]) > 0
    assert (tmp_path / "sensitivity.svg").read_text().lstrip().startswith("<?xml")
