"""The floor plan: bytes x links are counted as the engine counts them, and never grow."""

from __future__ import annotations

from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cimc
from cimc import models
from cimc.backends.registry import resolve_backend
from cimc.backends.schema import Architecture
from cimc.passes.place import floor_plan
from cimc.passes.place.cores import Cores
from cimc.passes.place.floor_plan import Mesh, arrange, between_blocks, bisect, hop_bytes, plan
from cimc.passes.place.relief import relief
from cimc.passes.place.traffic import Flow
from cimc.runtime.cycle import simulate
from cimc.runtime.program import Program
from tests.placement.routes import routed_links

Blocks = st.integers(2, 5)


def _not_installed(name: str) -> None:
    """What ``find_spec`` answers for a package that is not there."""


def random_flows(seed: int, contexts: int) -> list[Flow]:
    """Multicasts between ``contexts`` contexts, the last of which stands on the chip."""
    random = np.random.default_rng(seed)
    found: list[Flow] = []
    for source in range(contexts):
        targets = [t for t in range(contexts) if t != source and random.random() < 0.5]
        if targets:
            found.append(Flow(source, tuple(targets), ((int(random.integers(1, 1000)), 1),), 0))
    return found


# Bytes x links of a placement are the links of the walked routes, on any mesh.
@given(st.integers(0, 10**6), Blocks)
def test_price_equals_walked_routes(seed: int, blocks: int):
    mesh = Mesh(columns=3, cores=7, chip=4)
    given_flows = random_flows(seed, blocks + 1)
    block_of = {c: c for c in range(blocks)}
    place = np.array([*np.random.default_rng(seed).permutation(mesh.cores)[:blocks], mesh.chip], np.int64)
    expected = sum(
        f.size_bytes * len(routed_links(int(place[f.source]), place[[*f.targets]].tolist(), mesh.columns))
        for f in given_flows
    )
    assert hop_bytes(between_blocks(given_flows, block_of, blocks), place, mesh) == expected


# On meshes small enough to try every placement, the search finds the cheapest one.
@pytest.mark.parametrize("seed", range(12))
def test_search_equals_exhaustive_search(seed: int):
    mesh = Mesh(columns=3, cores=6, chip=0)
    blocks = 4 + seed % 2
    casts = between_blocks(random_flows(seed, blocks + 1), {c: c for c in range(blocks)}, blocks)
    start = np.array([*range(blocks), mesh.chip], np.int64)
    least = min(
        hop_bytes(casts, np.array([*nodes, mesh.chip], np.int64), mesh)
        for nodes in permutations(range(mesh.cores), blocks)
    )
    assert hop_bytes(casts, arrange(casts, start, mesh, work=100_000), mesh) == least


# However little the search may look at, the plan costs no more than the placement it starts from.
@pytest.mark.parametrize("work", [0, 10, 1000])
def test_never_worse_than_its_start(work: int):
    mesh = Mesh(columns=8, cores=60, chip=9)
    casts = between_blocks(random_flows(3, 41), {c: c for c in range(40)}, 40)
    for seed in range(5):
        start = np.array([*np.random.default_rng(seed).permutation(60)[:40], mesh.chip], np.int64)
        assert hop_bytes(casts, arrange(casts, start, mesh, work=work), mesh) <= hop_bytes(casts, start, mesh)


# Every core gets the contents of one core, and the same input gives the same plan.
def test_plan_is_a_permutation_and_repeats():
    mesh = Mesh(columns=6, cores=30, chip=0)
    core_of = {c: c // 2 for c in range(40)}
    given_flows = random_flows(5, 41)
    where = plan(given_flows, core_of, mesh, work=50_000)
    assert sorted(where) == list(range(20))
    assert len(set(where.values())) == 20
    assert set(where.values()) <= set(range(30))
    assert where == plan(given_flows, core_of, mesh, work=50_000)


# With and without METIS a part has exactly the blocks asked for, and all blocks are in one of the two.
@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("share", [0, 3, 8, 12])
def test_parts_have_their_share(installed: bool, share: int, monkeypatch: pytest.MonkeyPatch):
    if not installed:
        monkeypatch.setattr(floor_plan, "find_spec", _not_installed)
    weights = {b: {(b + 1) % 12: 5, (b - 1) % 12: 5} for b in range(12)}
    one, other = bisect(list(range(12)), share, weights)
    assert len(one) == share
    assert sorted(one + other) == list(range(12))


# Two cliques with one thin edge between them are cut at the edge, with and without METIS.
@pytest.mark.parametrize("installed", [True, False])
def test_parts_cut_the_thin_edge(installed: bool, monkeypatch: pytest.MonkeyPatch):
    if not installed:
        monkeypatch.setattr(floor_plan, "find_spec", _not_installed)
    weights = {b: {o: 100 for o in range(8) if o != b and o // 4 == b // 4} for b in range(8)}
    weights[3][4] = weights[4][3] = 1
    one, other = bisect([0, 4, 1, 5, 2, 6, 3, 7], 4, weights)
    assert {frozenset(one), frozenset(other)} == {frozenset(range(4)), frozenset(range(4, 8))}


# What cores have left moves with their contents.
def test_room_moves_with_the_contents():
    cores = Cores(np.array([1, 2, 3, 4]), np.array([5, 6, 7, 8]), np.array([9, 10, 11, 12]))
    moved = cores.moved({0: 3, 1: 0})
    assert moved.crossbars.tolist() == [2, 3, 4, 1]
    assert moved.memory.tolist() == [10, 11, 12, 9]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolutional network of 8 x 8 digits."""
    return models.export_onnx("digits", tmp_path_factory.mktemp("placement") / "digits.onnx")


def _machine() -> Architecture:
    """``isaac`` with two crossbars a core, so that many cores talk."""
    fields = resolve_backend("isaac").architecture().model_dump(mode="json")
    fields["core"] |= {"crossbars": 2, "contexts": 2}
    return Architecture.model_validate(fields)


def _link_bytes(program: Program, machine: Architecture) -> float:
    timing = simulate(program, images=1, resident_weights=True)
    return timing.energy_pj["network"] / machine.network.energy_pj_per_byte_hop


# A compiled network's price is what the cycle engine counts on the links, and below that of first fit.
def test_price_is_the_engines_and_below_first_fit(digits: Path, monkeypatch: pytest.MonkeyPatch):
    from cimc.passes.place import place_contexts

    machine = _machine()
    prices: list[int] = []

    def spy(given: list[Flow], core_of: dict[int, int], mesh: Mesh) -> dict[int, int]:
        where = plan(given, core_of, mesh)
        for cores in (core_of, {c: where[core] for c, core in core_of.items()}):
            blocks = {core: i for i, core in enumerate(sorted(set(cores.values())))}
            casts = between_blocks(given, {c: blocks[core] for c, core in cores.items()}, len(blocks))
            prices.append(hop_bytes(casts, np.array([*blocks, mesh.chip], np.int64), mesh))
        return where

    def stay(given: list[Flow], core_of: dict[int, int], mesh: Mesh) -> dict[int, int]:
        return {core: core for core in core_of.values()}

    monkeypatch.setattr(place_contexts, "relief", partial(relief, work=0))
    monkeypatch.setattr(place_contexts, "plan", spy)
    planned = _link_bytes(cimc.compile(digits, machine).program, machine)
    monkeypatch.setattr(place_contexts, "plan", stay)
    first_fit = _link_bytes(cimc.compile(digits, machine).program, machine)
    assert prices == pytest.approx([first_fit, planned])
    assert planned < first_fit
