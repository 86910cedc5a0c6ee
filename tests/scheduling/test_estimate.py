"""The closed-form estimate against the cycle engine, and the sensitivity of cycles to the machine."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from xdsl.dialects.builtin import ModuleOp

import cimc
from cimc import models
from cimc.backends.registry import resolve_backend
from cimc.dialects.cim import StageOp
from cimc.dialects.graph import main_function
from cimc.estimation import estimate_artifact
from cimc.mapping_options import MappingOptions
from cimc.passes.place.network import COLUMNS
from cimc.passes.place.pieces import cut
from cimc.passes.schedule.estimate.across import Across, last_pieces
from cimc.passes.schedule.estimate.distances import placed
from cimc.passes.schedule.estimate.flow import Flow
from cimc.passes.schedule.estimate.nodes import Arrays, Edge, Step, Timing, arriving, sending
from cimc.passes.schedule.estimate.pipeline import fetched, last_uses, latency, left, pipeline
from cimc.passes.schedule.estimate.recurrence import BARRIER
from cimc.passes.schedule.estimate.timings import timings
from cimc.passes.schedule.estimate.units import Units
from tools import sensitivity

Compile = Callable[[str, str], cimc.Artifact]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network."""
    return models.export_onnx("digits", tmp_path_factory.mktemp("models") / "digits.onnx")


@pytest.mark.parametrize("machine", ["isaac", "isaac-ce", "puma", "pimcomp", "jia", "jain"])
@pytest.mark.parametrize("scheduler", ["none", "cimc"])
def test_the_estimate_is_near_the_engine(digits: Path, machine: str, scheduler: str) -> None:
    """Contention on, phases included: the latency within 25 % on every machine, the interval within 30 %, and without
    phases what the global buffer's port carries within 10 %."""
    mapping = MappingOptions.model_validate({"scheduler": scheduler})
    calibration = {"x": models.images(2, models.network("digits").shape, seed=1)}
    artifact = cimc.compile(digits, machine, calibration=calibration, mapping=mapping)
    timing = artifact.simulate(images=12)
    found = estimate_artifact(artifact)
    off = found.disagreement(timing)
    assert abs(off["latency"]) <= 0.25, off
    assert abs(off["interval"]) <= 0.3, off
    if "phases" not in found.estimate.interval:
        carried = timing.busiest_cycles["global_buffer"] / timing.images
        assert found.estimate.interval["global_buffer"] == pytest.approx(carried, rel=0.1)


def node(
    rows: int, head: int, *edges: Edge, copies: int = 1, tail: int = 0, between: int = 0, pieces: int = 1
) -> Timing:
    """A node without IR; its pieces take one cycle more each."""
    steps = tuple(Step(head + piece, tail) for piece in range(pieces))
    return Timing("n", ModuleOp([]), rows, steps, between, copies, edges=edges)


def by_hand(nodes: list[Timing]) -> list[list[int]]:
    """The recurrence piece by piece: a context takes its pieces in order, a window waits for all before its last."""
    sent: list[list[int]] = []
    for one in nodes:
        mine: list[int] = []
        pieces = len(one.steps)
        for row in range(one.rows):
            for piece, step in enumerate(one.steps):
                ready = 0
                for edge in one.edges:
                    source = nodes[edge.source]
                    last = min(max(row * edge.stride + edge.kernel - 1 - edge.pad, 0), edge.rows - 1)
                    number = last * len(source.steps) + edge.pieces(source, one)[piece]
                    delay = edge.delay // len(source.steps)
                    ready = max(ready, *(sent[edge.source][i] + delay for i in range(number + 1)))
                end = ready + step.head + step.tail
                before = len(mine) - (1 if piece else 1 + (one.copies - 1) * pieces)
                mine.append(max(end, mine[before] + step.turn) if before >= 0 else end)
        for row in range(1, one.rows):
            mine[row] = max(mine[row], mine[row - 1] + one.between) if one.between else mine[row]
        sent.append(mine)
    return sent


@pytest.mark.parametrize("most", [1, 4])
def test_the_recurrence_is_the_one_by_rows(most: int) -> None:
    """Unrolled over copies, windows and pieces it equals the recurrence evaluated one by one, on random chains and a
    branch."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        rows = [int(n) for n in rng.integers(1, 20, 4)]
        copies = [int(n) for n in rng.integers(1, 6, 4)]
        heads = [int(n) for n in rng.integers(1, 30, 4)]
        pieces = [1, *(int(n) for n in rng.integers(1, most + 1, 3))]
        between = int(rng.integers(0, 9))

        def edge(source: int, rows: list[int] = rows) -> Edge:
            kernel = int(rng.integers(1, 4))
            across = Across(12, 12, kernel, 1, int(rng.integers(0, kernel)))
            return Edge(
                source,
                rows[source],
                kernel,
                int(rng.integers(1, 3)),
                int(rng.integers(0, kernel)),
                delay=3,
                across=across if rng.integers(0, 3) else None,
            )

        nodes = [node(rows[0], heads[0], copies=copies[0], between=between)]
        nodes.append(node(rows[1], heads[1], edge(0), copies=copies[1], tail=2, pieces=pieces[1]))
        nodes.append(node(rows[2], heads[2], edge(0), copies=copies[2], pieces=pieces[2]))
        nodes.append(node(rows[3], heads[3], edge(1), edge(2), copies=copies[3], pieces=pieces[3]))
        expected = by_hand(nodes)
        assert [found.sent.tolist() for found in pipeline(nodes)] == expected
        assert latency(nodes) == max(mine[-1] for mine in expected)


def test_phases_follow_each_other_as_one_by_one() -> None:
    """All phases at once give the rows of phase after phase, each behind what the one before leaves, on random models
    whose nodes share edges."""
    units = Units(resolve_backend("jia").architecture())
    arrays = Arrays(units, 6, 1, 1, 1, 9, 0, 3, 2, (), 0, 0, 0, 1)
    rng = np.random.default_rng(4)
    leads: set[int] = set()
    for _ in range(40):
        nodes = [replace(node(6, 7), row=2, parts=1)]
        for phase in range(int(rng.integers(1, 6))):
            first = len(nodes)
            edges = tuple(
                Edge(n, 6, int(rng.integers(1, 4)), delay=2) for n in range(int(rng.integers(1, first + 1)))
            )
            for _ in range(int(rng.integers(1, 4))):
                load, head, staying = (int(n) for n in rng.integers(0, (300, 60, 3)))
                given = (*edges, Edge(len(nodes) - 1, 6)) if rng.integers(0, 2) else edges
                one = replace(node(6, head, *given), arrays=arrays, load=load, staying=staying, write=5)
                nodes.append(replace(one, row=2, parts=1).in_phase(phase))
        rows, last = pipeline(nodes), last_uses(nodes)
        begin, before = 0, None
        for phase in range(nodes[-1].phase + 1):
            here = [n for n, own in enumerate(nodes) if own.phase == phase]
            if nodes[-1].phase == 0:
                assert latency(nodes) == Flow(nodes, here).span(rewrites=False)
                break
            kept = [n for n in here if nodes[last[n]].phase > phase]
            moved = fetched(nodes, here) + left(nodes, kept)
            cycles, lead, before = Flow(nodes, here).behind(before, moved, sum(own.staying for own in nodes))
            assert max(rows[n].sent[-1] for n in here) == begin + cycles
            begin += BARRIER + max(cycles, sum(nodes[n].load for n in here) - lead + moved)
            leads.add(lead)
    assert len(leads) > 10


def test_a_context_that_fills_the_chip_is_written_when_the_one_before_is_done() -> None:
    """Phases of one context with all crossbars: from phase to phase its weights leave the buffer, cross the link and
    are written row by row, then its row is computed; nothing of that is beside the phase before. What comes from the
    host waits behind the weights of the first phase."""
    units = Units(resolve_backend("jain").architecture())
    arrays = Arrays(units, 1, 1, 1, 1, 9, 0, units.crossbars, 1, (), 0, 0, 0, 1)
    nodes = [replace(node(1, 4), row=2, parts=1)]
    for phase in range(5):
        one = replace(node(1, 20, Edge(phase, 1), tail=3), arrays=arrays, load=1024, write=1280)
        nodes.append(replace(one, row=2, parts=1).in_phase(phase))
    sent = [int(rows.sent[-1]) for rows in pipeline(nodes)]
    assert sent[0] == 1024 + 4
    assert sent[1] == 1024 + 1280 + 23
    assert [after - before for before, after in pairwise(sent[1:])] == [1024 + 1280 + 23] * 4


def test_distances_are_those_between_contexts(digits: Path) -> None:
    """The hops of an edge are counted pair by pair: from every context to the farthest of those whose blocks its
    windows see, in the mean; where a core is open there are none."""
    artifact = cimc.compile(digits, "isaac")
    module, ctx = artifact.level("mapped")
    assert ctx.arch is not None
    stages = [op for op in module.walk() if isinstance(op, StageOp)]
    tables = {stage: ctx.store.array(stage.placement.key.data) for stage in stages if stage.placement}
    nodes = timings(list(main_function(module).body.block.ops), ctx.arch, tables.__getitem__, ctx.store)
    columns, seen = ctx.arch.network.columns, 0
    core, p0, p1 = (COLUMNS.index(name) for name in ("core", "p0", "p1"))
    for own in placed(nodes, tables.__getitem__, ctx.arch):
        for edge in own.edges:
            source = nodes[edge.source]
            if not isinstance(own.op, StageOp) or not isinstance(source.op, StageOp):
                assert edge.arrival is None
                continue
            farthest: list[int] = []
            for to in tables[own.op].tolist():
                seen_columns = range(10**4)
                if edge.across is not None:
                    first = to[p0] * edge.across.stride - edge.across.pad
                    last = (to[p1] - 1) * edge.across.stride - edge.across.pad + edge.across.kernel
                    seen_columns = range(first, last)
                hops = [
                    abs(a[core] % columns - to[core] % columns)
                    + abs(a[core] // columns - to[core] // columns)
                    for a in tables[source.op].tolist()
                    if seen_columns.start < a[p1] and a[p0] < seen_columns.stop
                ]
                farthest.append(max(hops))
            # 64 bytes of a part of a row take a cycle of a link; the port that it enters takes one for all of it.
            part = math.ceil(edge.part / (source.columns * len(source.steps)))
            assert edge.arrival == round(sum(farthest) / len(farthest)) + math.ceil(part / 64) + 1
            seen += 1
    assert seen >= 3
    for stage in stages:
        tables[stage] = tables[stage].copy()
    tables[stages[1]][0, core] = -1
    assert placed(nodes, tables.__getitem__, ctx.arch) == nodes


def test_changed_nodes_are_as_if_they_had_been_there(digits: Path) -> None:
    """A flow whose nodes get other copies and pieces, one at a time, gives the cycles of a flow made of them; so does
    one whose nodes are those held before."""
    artifact = cimc.compile(digits, "isaac")
    module, ctx = artifact.level("mapped")
    stages = [op for op in module.walk() if isinstance(op, StageOp)]
    tables = {stage: ctx.store.array(stage.placement.key.data) for stage in stages if stage.placement}
    ops = list(main_function(module).body.block.ops)
    nodes = timings(ops, ctx.arch, tables.__getitem__, ctx.store)
    open_to = [n for n, own in enumerate(nodes) if own.arrays is not None and own.rows > 1]
    flow, rng, seen = Flow(nodes, range(len(nodes))), np.random.default_rng(3), set[int]()
    flow.keep()
    kept = list(nodes)
    for _ in range(60):
        number = int(rng.choice(open_to))
        nodes[number] = nodes[number].dealt(
            int(rng.integers(1, nodes[number].rows + 1)), int(rng.integers(1, 5))
        )
        flow.put(number, nodes[number])
        seen.add(flow.span(rewrites=False))
        assert flow.span(rewrites=False) == Flow(nodes, range(len(nodes))).span(rewrites=False)
        if rng.random() < 0.5:
            flow.keep()
            kept = list(nodes)
        else:
            flow.back()
            nodes = list(kept)
        sends = sending(nodes, range(len(nodes)))
        assert flow.span(rewrites=False) == Flow(nodes, range(len(nodes))).span(rewrites=False)
        assert flow.intervals().tolist() == [own.interval(sends[n]) for n, own in enumerate(nodes)]
        products = [-(-own.rows // own.copies) * own.port for own in nodes]
        assert flow.ports().tolist() == [
            arriving(own, nodes)[1] + busy for own, busy in zip(nodes, products, strict=True)
        ]
    assert len(seen) > 10


def test_a_piece_waits_for_the_columns_of_its_windows() -> None:
    """The piece of a source that a consumer's piece waits for is the last one with a column of its windows, in every
    block of a row, each looked up by itself."""
    rng = np.random.default_rng(2)
    for _ in range(200):
        kernel, stride = int(rng.integers(1, 5)), int(rng.integers(1, 3))
        pad = int(rng.integers(0, kernel))
        width = int(rng.integers(kernel, 30))
        positions = (width + 2 * pad - kernel) // stride + 1
        given = int(rng.integers(1, width // 4 + 2)), int(rng.integers(1, 5))
        taken = int(rng.integers(1, positions // 4 + 2)), int(rng.integers(1, 5))
        made = np.full(width, -1)
        for j in range(given[0]):
            parts = cut(j * width // given[0], (j + 1) * width // given[0], given[1])
            for piece, (a, b) in enumerate(parts[::-1] if j % 2 else parts):
                made[a:b] = piece
        needed = [0] * taken[1]
        for j in range(taken[0]):
            block = j * positions // taken[0], (j + 1) * positions // taken[0]
            parts = cut(*block, taken[1])
            for piece, (a, b) in enumerate(parts[::-1] if j % 2 else parts):
                seen = {c * stride - pad + k for c in range(a, b) for k in range(kernel)}
                needed[piece] = max([needed[piece], *(made[c] for c in seen if 0 <= c < width)])
        assert last_pieces(Across(width, positions, kernel, stride, pad), given, taken) == tuple(needed)


def test_a_chain_of_points_holds_the_last_row_back_by_a_piece_a_stage() -> None:
    """n stages of 1 x 1 windows, one copy each with equal turns: rows R behind each other take R turns of the first
    stage and, for every other, a turn with whole rows, one piece of it with pieces (closed form)."""
    for pieces in (1, 2, 3, 6):
        nodes: list[Timing] = []
        for number in range(5):
            steps = (Step(120 // pieces - 1, 0),) * pieces
            edges = (Edge(number - 1, 7, across=Across(12, 12)),) if number else ()
            nodes.append(Timing("n", ModuleOp([]), 7, steps, edges=edges))
        step = nodes[0].steps[0]
        last = 7 * pieces * step.turn - 1
        assert latency(nodes) == last + 4 * step.head


def test_rows_of_the_tail_and_of_gathers_wait() -> None:
    """A row that enters behind the products costs the tail only; a node that gathers starts behind the last row."""
    source = node(4, 10)
    products = Timing("n", ModuleOp([]), 4, (Step(5, 2),), edges=(Edge(0, 4, side=True, delay=1),), copies=4)
    assert pipeline([source, products])[1].sent.tolist() == [13, 24, 35, 46]
    whole = Timing("n", ModuleOp([]), 1, (Step(7, 0),), wait=100, edges=(Edge(0, 4, gather=2),))
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
