"""Cuts of a model that is larger than the chip: the search against all ways to cut, and against the greedy ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cimc.backends.schema import Architecture
from cimc.compiler import CompileOptions, build
from cimc.dialects.cim import StageOp
from cimc.dialects.graph import main_function
from cimc.mapping_options import MappingOptions
from cimc.passes.place.network import COLUMNS
from cimc.passes.schedule.copies.stage_costs import stage_cost
from cimc.passes.schedule.estimate.recurrence import BARRIER
from cimc.passes.schedule.estimate.timings import timings
from cimc.passes.schedule.packing import Room
from cimc.passes.schedule.partition_stages import partition
from cimc.passes.schedule.phase_costs import Choices, Member, Work, phase_cycles
from cimc.passes.schedule.segments import best, greedy
from tests.mapping.small_machine import small_machine

PHASE = COLUMNS.index("phase")


def chain(rng: np.random.Generator, widest: int, side: int = 8) -> ModelProto:
    """Convolutions of 1 x 1 and 3 x 3, some of them strided, with a residual Add behind the third."""
    nodes: list[Any] = []
    weights: list[Any] = []
    given, value = 3, "x"
    for i in range(6):
        kernel, stride = int(rng.choice([1, 3])), int(rng.choice([1, 1, 2])) if i != 2 else 1
        channels = int(rng.integers(2, widest)) if i != 2 else given
        weight = rng.normal(size=(channels, given, kernel, kernel)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        node = helper.make_node(
            "Conv", [value, f"w{i}"], [f"c{i}"], f"conv{i}", pads=[kernel // 2] * 4, strides=[stride] * 2
        )
        nodes.append(node)
        if i == 2:
            nodes.append(helper.make_node("Add", [value, "c2"], ["sum"], "add"))
        given, value = channels, "sum" if i == 2 else f"c{i}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side])
    y = helper.make_tensor_value_info(value, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.filterwarnings("ignore")
def work_of(model: ModelProto, arch: Architecture, *, copies: bool, frames: int = 1) -> Work:
    """What the search gets for a model, with or without copies for spare crossbars."""
    options = CompileOptions(mapping=MappingOptions(scheduler="none"), stop_after="mapped")
    compiled = build(model, arch, None, options)
    module, store = compiled.modules["mapped"], compiled.store
    stages = [op for op in module.walk() if isinstance(op, StageOp)]
    tables = [partition(stage, arch) for stage in stages]
    by_stage = dict(zip(stages, tables, strict=True))
    nodes = timings(list(main_function(module).body.block.ops), arch, by_stage.__getitem__, store)
    choices: dict[int, Choices] = {}
    for i, stage in enumerate(stages):
        cost = stage_cost(stage, arch)
        if cost is not None and copies:
            numbers, cycles = np.array(cost.ways, np.int64).T
            choices[i] = Choices(numbers, cycles, cost.tiles, len(tables[i]))
    return Work(stages, tables, nodes, arch, frames, choices, 256)


def all_cuts(work: Work) -> Iterator[tuple[int, ...]]:
    """First stages of the phases of every way to cut whose phases fit the chip, by brute force."""
    count = len(work.stages)
    for cuts in range(count):
        for inner in combinations(range(1, count), cuts):
            edges = (0, *inner, count)
            if all(fits(work, a, b) for a, b in pairwise(edges)):
                yield edges


def fits(work: Work, first: int, last: int) -> bool:
    """Whether stages [first, last) stand on the chip together, context by context."""
    cores = Room.empty(work.arch).cores
    return all(cores.take(*need) is not None for stage in range(first, last) for need in work.needs[stage])


def cycles_of(work: Work, edges: Sequence[int]) -> int:
    """Of phases that begin with the stages of ``edges``, chip operations with the phase of their last source."""
    phase = [0] * len(work.nodes)
    for number, node in enumerate(work.nodes):
        stage = work.stage_of.get(number)
        sources = max((phase[e.source] for e in node.edges), default=0)
        phase[number] = sources if stage is None else sum(stage >= first for first in edges[1:-1])
    total = BARRIER * (len(edges) - 2)
    left = None
    for one in range(len(edges) - 1):
        here = [n for n in range(len(phase)) if phase[n] == one]
        loads = [work.nodes[n].load if n in work.stage_of else 0 for n in here]
        members = [Member(n, load) for n, load in zip(here, loads, strict=True)]
        cycles, left = phase_cycles(work, members, left)
        total += cycles
    return total


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_the_best_of_all_cuts(seed: int, copies: bool, frames: int) -> None:
    """On chips that hold every operator but not the model: as few cycles as the best of all ways to cut it; within 2 %
    of that with the few open phases that a compile keeps."""
    rng = np.random.default_rng(seed)
    arch = small_machine(cores=6 + 2 * (seed % 3), crossbars=4, contexts=4, allow_writes=True)
    work = work_of(chain(rng, 9), arch, copies=copies, frames=frames)
    ways = list(all_cuts(work))
    assert len(ways) > 3
    decided, found = best(work, len(ways), len(ways))
    least = min(cycles_of(work, edges) for edges in ways)
    assert found == least <= best(work)[1] <= 1.02 * least
    firsts = [int(phases.min()) for phases in decided]
    edges = [0, *(i for i in range(1, len(firsts)) if firsts[i] > firsts[i - 1]), len(firsts)]
    assert cycles_of(work, edges) == found


def test_never_more_cycles_than_greedy() -> None:
    """Greedy phases are among the ways the search knows; some networks gain from others."""
    gained: list[int] = []
    for seed in range(4):
        arch = small_machine(cores=7, crossbars=4, contexts=4, allow_writes=True)
        work = work_of(chain(np.random.default_rng(seed), 9), arch, copies=True)
        firsts = [int(phases.min()) for phases in greedy(work)]
        edges = [0, *(i for i in range(1, len(firsts)) if firsts[i] > firsts[i - 1]), len(firsts)]
        gained.append(cycles_of(work, edges) - best(work)[1])
    assert min(gained) >= 0
    assert max(gained) > 0


def test_an_operator_larger_than_the_chip_is_cut_and_shares_its_phases() -> None:
    """Its contexts keep their order of chunks, every phase fits the chip, and none is left empty."""
    arch = small_machine(cores=2, crossbars=4, contexts=4, allow_writes=True)
    work = work_of(chain(np.random.default_rng(7), 14), arch, copies=False)
    for decided in (best(work)[0], greedy(work)):
        assert any(int(phases.max()) > int(phases.min()) for phases in decided)
        count = 1 + max(int(phases.max()) for phases in decided)
        for phase in range(count):
            here = [
                need
                for needs, phases in zip(work.needs, decided, strict=True)
                for need, at in zip(needs, phases.tolist(), strict=True)
                if at == phase
            ]
            cores = Room.empty(arch).cores
            assert here
            assert all(cores.take(*need) is not None for need in sorted(here, reverse=True))
        for table, phases in zip(work.tables, decided, strict=True):
            for row, at in zip(table, phases.tolist(), strict=True):
                ends = (table[:, 4] == row[4]) & (table[:, 1] == 0)
                assert at <= int(phases[ends].max())
