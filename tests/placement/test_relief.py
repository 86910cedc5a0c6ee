"""Relief of ports and links: prices are those of walked routes, seats stay valid, busy ports are shared out."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cimc
from cimc import models
from cimc.backends.registry import resolve_backend
from cimc.backends.schema import Architecture
from cimc.mapping_options import MappingOptions
from cimc.passes.place import place_contexts
from cimc.passes.place import relief as relief_module
from cimc.passes.place.multicasts import Multicasts
from cimc.passes.place.relief import relief
from cimc.passes.place.relief_search import Contexts, relieve
from cimc.runtime.cycle import simulate
from tests.placement.routes import routed_links

Ints = npt.NDArray[np.int64]

CORES, COLUMNS, PACE = 6, 3, 50.0


def a_case(seed: int) -> tuple[Multicasts, Contexts, Ints]:
    """Contexts of one to three crossbars on six cores of six, multicasts between them and from the chip at node 4, and
    what the cores have left: nothing in the fullest one."""
    random = np.random.default_rng(seed)
    xbars = np.array([3, 2, 1] * CORES, np.int64)
    count = len(xbars)
    size = random.integers(5, 30, count)
    place = np.array([*np.repeat(np.arange(CORES), 3), 4], np.int64)
    ways: list[tuple[int, list[int]]] = []
    cycles: list[int] = []
    for sender in [*range(count), count]:
        others = [c for c in range(count) if c != sender and random.random() < 0.15]
        if others:
            ways.append((sender, others))
            cycles.append(int(random.integers(1, 20)))
    slot = np.tile(np.array([0, 3, 5], np.int64), CORES)
    own = Contexts(place, slot, xbars, size, random.integers(0, 40, count), random.integers(0, 4, count))
    taken = np.bincount(place[:-1], size, CORES).astype(np.int64)
    return Multicasts.of(ways, cycles, count + 1), own, taken.max() - taken


def link_cycles(casts: Multicasts, place: Ints, columns: int) -> list[int]:
    """Cycles of an image on every link that is used."""
    found: Counter[tuple[int, int]] = Counter()
    for f, sender in enumerate(casts.source.tolist()):
        takers = casts.target[casts.first[f] : casts.first[f + 1]]
        for link in routed_links(int(place[sender]), place[takers].tolist(), columns):
            found[link] += int(casts.load[f])
    return list(found.values())


def price(casts: Multicasts, own: Contexts) -> float:
    """The price of a placement, term by term."""
    place = own.place[:-1]
    ports = np.bincount(place, own.port_cycles, CORES)
    bursts = np.bincount(place * 4 + own.stage, own.port_cycles, 4 * CORES)
    loads = np.array([*link_cycles(casts, own.place, COLUMNS), *ports.tolist()]) / PACE
    return float((0.03 * loads + loads**6).sum() + ((bursts / PACE) ** 2).sum())


# The price that the search keeps is that of its placement, before and after, and never grows.
@given(st.integers(0, 10**6), st.sampled_from([0, 500, 20_000]))
@settings(max_examples=40)
def test_price_equals_walked_routes(seed: int, work: int):
    casts, own, left = a_case(seed)
    first = price(casts, own)
    before, after = relieve(casts, own, left, COLUMNS, PACE, work)
    assert before == pytest.approx(first)
    assert after == pytest.approx(price(casts, own))
    assert after <= before


# Whatever changes places: crossbars of a core belong to one context, memory is not overdrawn, the account is right.
@given(st.integers(0, 10**6))
@settings(max_examples=40)
def test_seats_stay_valid(seed: int):
    casts, own, left = a_case(seed)
    memory = left + np.bincount(own.place[:-1], own.size_bytes, CORES)
    relieve(casts, own, left, COLUMNS, PACE, 20_000)
    place = own.place[:-1]
    assert own.place[-1] == 4
    for core in range(CORES):
        here = np.flatnonzero(place == core)
        taken = sorted(x for c in here for x in range(own.slot[c], own.slot[c] + own.xbars[c]))
        assert taken == list(range(6))
    assert (left == memory - np.bincount(place, own.size_bytes, CORES)).all()
    assert (left >= 0).all()


# Without multicasts, like contexts share the ports as well as the best of all ways to seat them.
@pytest.mark.parametrize("seed", range(6))
def test_ports_equal_exhaustive_search(seed: int):
    cycles = np.random.default_rng(seed).integers(1, 60, 6)
    place = np.array([0, 0, 1, 1, 2, 2, 0], np.int64)
    ones = np.ones(6, np.int64)

    def seated(places: tuple[int, ...]) -> float:
        load = np.bincount(places, cycles, 3) / PACE
        return float((0.03 * load + load**6 + load**2).sum())

    own = Contexts(place, np.tile(np.arange(2), 3), ones, ones, cycles, 0 * ones)
    _, found = relieve(Multicasts.of([], [], 7), own, np.zeros(3, np.int64), 3, PACE, 50_000)
    assert found == pytest.approx(min(seated(p) for p in set(permutations((0, 0, 1, 1, 2, 2)))))


# The same input gives the same placement.
def test_repeats():
    one, two = a_case(7), a_case(7)
    for casts, own, left in (one, two):
        relieve(casts, own, left, COLUMNS, PACE, 20_000)
    assert one[1].place.tolist() == two[1].place.tolist()
    assert one[1].slot.tolist() == two[1].slot.tolist()


# The loads of a placement are those that the cycle engine counts at the busiest port and link, whatever codes take: a
# memory port as narrow as a byte is busy with windows, a wide one with parts of rows.
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("width", [1.0, 64.0])
def test_loads_are_the_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, width: float):
    fields = resolve_backend("isaac").architecture().model_dump(mode="json")
    fields["core"]["local_buffer_bytes_per_cycle"] = width
    machine = Architecture.model_validate(fields)
    seen: list[tuple[Multicasts, Contexts]] = []

    def spy(casts: Multicasts, own: Contexts, *rest: Any) -> tuple[float, float]:
        seen.append((casts, own))
        return relieve(casts, own, *rest)

    monkeypatch.setattr(relief_module, "relieve", spy)
    path = models.export_onnx("digits", tmp_path / "digits.onnx")
    program = cimc.compile(path, machine, mapping=MappingOptions(activation_bits=bits, copies=1)).program
    ((casts, own),) = seen
    busiest = simulate(program, images=1, resident_weights=True).busiest_cycles
    assert np.bincount(own.place[:-1], own.port_cycles).max() == busiest["port"]
    assert max(link_cycles(casts, own.place, machine.network.columns)) == busiest["network"]


# On a compiled network the busiest link has less to carry with the search than without.
def test_busiest_link_carries_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = models.export_onnx("digits", tmp_path / "digits.onnx")
    relieved = simulate(cimc.compile(path, "isaac").program, images=8)
    monkeypatch.setattr(place_contexts, "relief", partial(relief, work=0))
    planned = simulate(cimc.compile(path, "isaac").program, images=8)
    assert relieved.busiest_cycles["network"] < planned.busiest_cycles["network"]
    assert relieved.busiest_cycles["port"] <= planned.busiest_cycles["port"]
