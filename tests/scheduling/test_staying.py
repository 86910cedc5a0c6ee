"""Weights that stay in crossbars of their own while those of other phases take turns: right, proven, and worth it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import cimc
from cimc.backends.schema import Architecture
from cimc.diagnostics import DoesNotFitError, UsageError
from cimc.mapping_options import MappingOptions
from cimc.passes.place.network import COLUMNS
from cimc.passes.schedule.packing import Table
from cimc.passes.schedule.phase_costs import STAYS, Work
from cimc.passes.schedule.segments import best
from cimc.passes.schedule.staying import plans, spread
from cimc.runtime.functional.arrays import Arrays
from cimc.runtime.functional.engine import run_program
from cimc.runtime.program import AGAIN
from cimc.runtime.program.opcodes import WRITES
from cimc.runtime.verifier import verify_program
from tests.mapping.small_machine import small_machine
from tests.scheduling.test_segments import work_of

LAYERS, WIDTH, ROWS = 6, 16, 2
XBARS = COLUMNS.index("xbars")


def layers(width: int = WIDTH) -> ModelProto:
    """Products of rows of ``width`` by as many columns, one behind the other."""
    rng = np.random.default_rng(5)
    weights = [
        numpy_helper.from_array(rng.normal(size=(width, width)).astype(np.float32), f"w{i}")
        for i in range(LAYERS)
    ]
    nodes = [helper.make_node("MatMul", [f"v{i}", f"w{i}"], [f"v{i + 1}"], f"mm{i}") for i in range(LAYERS)]
    x = helper.make_tensor_value_info("v0", TensorProto.FLOAT, [1, ROWS, width])
    y = helper.make_tensor_value_info(f"v{LAYERS}", TensorProto.FLOAT, [1, ROWS, width])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


def machine(cores: int) -> Architecture:
    """Cores of four crossbars of 16 x 4 weights: one holds a layer; a narrow buffer makes writing most of the time."""
    fields = small_machine(cores=cores, crossbars=4, contexts=4, allow_writes=True).model_dump(mode="json")
    fields["chip"]["global_buffer_bytes_per_cycle"] = 1
    return Architecture.model_validate(fields)


@pytest.fixture(scope="module")
def artifact() -> cimc.Artifact:
    """Six layers on four cores."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ranges from random numbers serve here
        return cimc.compile(layers(), machine(4), mapping=MappingOptions(scheduler="cimc"))


def rewritten(artifact: cimc.Artifact) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether the body of an array set's context writes it in every call."""
    program = artifact.program
    rows, bodies, contexts = program["instructions"], program["bodies"], program["contexts"]
    found: list[bool] = []
    for context in program["array_sets"]["context"].tolist():
        body = int(contexts["body"][context])
        span = slice(int(bodies["first"][body]), int(bodies["first"][body] + bodies["count"][body]))
        writes = np.isin(rows["opcode"][span], sorted(WRITES))
        found.append(bool((rows["func"][span][writes] == AGAIN).all()))
    return np.array(found)


def test_the_program_is_proven_and_crossbars_that_stay_have_one_set(artifact: cimc.Artifact) -> None:
    """No finding; a set that stays shares no crossbar with any other, in any phase."""
    program = artifact.program
    again = rewritten(artifact)
    assert int(program["contexts"]["phase"].max()) > 0
    assert 0 < again.sum() < len(again)
    assert verify_program(program, weights=artifact.weights) == []
    sets, tiles = program["array_sets"], program["tiles"]
    places = list(zip(sets["core"][tiles["set"]].tolist(), tiles["xbar"].tolist(), strict=True))
    for place, owner in zip(places, tiles["set"].tolist(), strict=True):
        assert again[owner] or places.count(place) == 1
    assert artifact.report["writes"]["crossbars_that_stay"] == (~again[tiles["set"]]).sum()


def test_weights_that_cannot_stay_are_found(artifact: cimc.Artifact) -> None:
    """With every write done once for all calls, P086 names the sets that take turns, and no other."""
    program = artifact.program
    rows = program["instructions"]
    once = np.where(np.isin(rows["opcode"], sorted(WRITES)), 0, rows["func"]).astype(np.uint8)
    wrong = replace(program, tables={**program.tables, "instructions": {**rows, "func": once}})
    found = verify_program(wrong)
    assert {finding.rule for finding in found} == {"P086"}
    turns = program["array_sets"]["context"][rewritten(artifact)].tolist()
    assert {finding.context for finding in found} <= set(turns)


@pytest.mark.parametrize("walk", [False, True])
def test_later_calls_read_what_the_first_one_wrote(artifact: cimc.Artifact, walk: bool) -> None:
    """Three calls on the same crossbars equal the quantised model; the later ones write what takes turns alone."""
    x = {"v0": np.random.default_rng(1).normal(size=(3, ROWS, WIDTH)).astype(np.float32)}
    expected = artifact.run(x, engine="quantised").outputs
    found = artifact.run(x, walk=walk).outputs
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    arrays = Arrays(artifact.program, artifact.weights)
    written: list[int] = []
    for frame in range(2):
        one = {"v0": x["v0"][frame : frame + 1]}
        run_program(artifact.program, artifact.weights, one, walk=walk, arrays=arrays)
        written.append(arrays.writes)
    again = rewritten(artifact)
    assert written[0] == len(again)
    assert written[1] - written[0] == again.sum()


def test_a_call_takes_the_frames_that_it_spills(artifact: cimc.Artifact) -> None:
    """More frames than wait between phases are refused: the earlier ones would read what later ones left there."""
    two = {"v0": np.zeros((artifact.program.frames + 1, ROWS, WIDTH), np.float32)}
    with pytest.raises(UsageError, match=r"2 frames, a call of this program of several phases takes 1"):
        run_program(artifact.program, artifact.weights, two)


def test_energy_and_traffic_of_writes_are_those_of_what_is_rewritten(artifact: cimc.Artifact) -> None:
    """Closed form: cells of rewritten tiles x energy of a cell; with the writes before the first call, all of them."""
    program, again = artifact.program, rewritten(artifact)
    tiles = program["tiles"]
    weights = (tiles["k1"] - tiles["k0"]) * (tiles["n1"] - tiles["n0"]).astype(np.int64)
    each = float(program.machine["crossbar"]["write_energy_pj_per_cell"]) * 4  # 8 bits in cells of 2
    for include, marked in ((False, again[tiles["set"]]), (True, np.ones(len(weights), bool))):
        timing = artifact.simulate(include_writes=include)
        assert timing.energy_pj["write"] == pytest.approx(each * weights[marked].sum())


def marked(work: Work, choice: Sequence[int]) -> list[Table]:
    """The tables of a model with the contexts of ``choice`` staying."""
    bits = iter(choice)
    found: list[Table] = []
    for table in work.tables:
        done = table.copy()
        for row in np.flatnonzero(table[:, XBARS] > 0):
            done[row, STAYS] = next(bits)
        found.append(done)
    return found


@pytest.mark.parametrize(("cores", "gain"), [(3, False), (4, True), (5, True)])
def test_the_choice_against_all_sets_of_weights_that_could_stay(cores: int, gain: bool) -> None:
    """Every subset of the contexts, each with its best cuts: what is chosen takes at most a tenth longer than the best,
    and no longer than without any that stays. With three cores the rest has too little room for a gain."""
    first = work_of(layers(), machine(cores), copies=False)

    def make(tables: Sequence[Table]) -> Work:
        kept = [int((t[:, STAYS] * t[:, XBARS]).sum()) for t in tables]
        nodes = list(first.nodes)
        for i, (number, table, xbars) in enumerate(zip(first.numbers, tables, kept, strict=True)):
            node = nodes[number]
            share = xbars / max(1, int(first.tables[i][:, XBARS].sum()))
            load = round(node.load * (1 - share))
            nodes[number] = replace(node, load=load, kept_load=node.load - load, staying=xbars)
            assert len(table) == len(first.tables[i])
        return replace(first, tables=tables, nodes=nodes)

    contexts = sum(int((table[:, XBARS] > 0).sum()) for table in first.tables)
    totals: list[int] = []
    for choice in product((0, 1), repeat=contexts):
        try:
            totals.append(best(make(marked(first, choice)))[1])
        except DoesNotFitError:
            continue
    found = min(plan.cycles for plan in plans(make, first.tables, stay=True) if plan.cycles is not None)
    assert min(totals) <= found <= 1.1 * min(totals)
    assert found <= best(first)[1]
    assert (min(totals) < best(first)[1]) == gain


def test_contexts_that_stay_are_spread_over_the_model() -> None:
    """Of any run of stages about the same share, by crossbars."""
    work = work_of(layers(), machine(4), copies=False)
    for share in (0.25, 0.5, 0.75):
        tables = spread(work.tables, share)
        total = 0
        for count, table in enumerate(tables, start=1):
            total += int((table[:, STAYS] * table[:, XBARS]).sum())
            assert abs(total - share * 4 * count) <= 4
