"""Copies of digital stages: they keep pace with the arrays, and compute the same."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp

import cimc
from cimc import models
from cimc.achieved import steady_interval
from cimc.backends.registry import resolve_backend
from cimc.dialects.cim import StageOp
from cimc.dialects.graph_types import shape_of
from cimc.mapping_options import MappingOptions
from cimc.passes.schedule.copies.stage_costs import stages_of
from cimc.passes.schedule.dealing import Dealing
from cimc.passes.schedule.estimate.across import Across
from cimc.passes.schedule.estimate.nodes import Digital, Edge, Step, Timing, arriving
from cimc.passes.schedule.estimate.units import Units

POOL = "/features/features.6/MaxPool"
"""Of 8 x 8 x 32 elements to 4 x 4 x 32, a window of 2 x 2."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with two pools."""
    return models.export_onnx("digits", tmp_path_factory.mktemp("models") / "digits.onnx")


def images(count: int) -> Any:
    """Images of the network."""
    return {"x": models.images(count, models.network("digits").shape, seed=1)}


def compiled(model: Path, **mapping: Any) -> cimc.Artifact:
    """The network on ``puma``, whose digital units have four lanes."""
    return cimc.compile(model, "puma", calibration=images(2), mapping=MappingOptions.model_validate(mapping))


def stage(artifact: cimc.Artifact, label: str) -> StageOp:
    """A stage as it was placed."""
    return next(s for s in stages_of(artifact.level("mapped")[0]) if s.label.data == label)


def named(copies: int) -> list[dict[str, Any]]:
    """Overrides: so many copies of the pool, one of everything else."""
    return [{"match": "*", "copies": 1}, {"match": POOL, "copies": copies}]


@pytest.mark.parametrize("copies", [2, 4, 8, 16])
def test_copies_of_a_pool_compute_the_same(digits: Path, copies: int) -> None:
    """Rows in turn and blocks of them: every output integer is that of one copy, and the images' differ."""
    given = images(3)
    one, many = (compiled(digits, overrides=named(n)) for n in (1, copies))
    assert [stage(a, POOL).copies.value.data for a in (one, many)] == [1, copies]
    expected, found = one.run(given).outputs, many.run(given).outputs
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert all(np.ptp(value) > 0 for value in expected.values())


def test_a_pool_keeps_pace_with_the_arrays(digits: Path) -> None:
    """With all windows of the arrays at once, the pool has as few copies as take no longer than they do, by the
    elements it compares over four lanes; with one copy it would set the pace."""
    free = compiled(digits)
    pool = stage(free, POOL)
    rows, positions, channels = shape_of(pool.result)
    window = 4
    slow = compiled(digits, overrides=[{"match": POOL, "copies": 1}])
    pace = steady_interval(free.simulate(images=12))
    alone = rows * ceil(positions * channels * window / 4)
    copies = pool.copies.value.data
    assert prod(shape_of(pool.sources[0])) == rows * positions * channels * window
    assert alone / copies < pace
    assert copies == 1 or alone / (copies - 1) > 0.9 * pace
    assert steady_interval(slow.simulate(images=12)) >= max(pace, alone)


@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_parts_of_rows_that_enter_a_core(
    kernel: int, stride: int, positions: int, blocks: int, columns: int
) -> None:
    """As an enumeration of the blocks under all windows counts: the most over a link, the mean at a port."""
    width = (positions - 1) * stride + kernel
    blocks, columns = min(blocks, width), min(columns, positions)
    units = Units(resolve_backend("puma").architecture())
    own = Digital(units, 8, positions, None, positions, (), 0)
    across = Across(width, positions, kernel, stride)
    source = Timing("source", ModuleOp([]), 8, (Step(1, 1),), columns=blocks)
    edge = Edge(0, 8, 1, 1, across=across, size=width)
    node = Timing("node", ModuleOp([]), 8, (Step(1, 1),), columns=columns, digital=own, edges=(edge,))
    counts: list[int] = []
    for first, last in Dealing(1, columns).blocks(positions):
        seen = range(first * stride, (last - 1) * stride + kernel)
        counts.append(len({bisect_right(edges_of(width, blocks), x) for x in seen}))
    size = ceil(width / blocks)
    mean = round(8 * sum(counts) / len(counts))
    assert arriving(node, [source, node]) == (8 * max(counts) * units.link(size), mean * units.port(size))


@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 4), st.integers(5, 20), st.booleans())
def test_rows_that_enter_a_core(kernel: int, stride: int, copies: int, rows: int, chunk: bool) -> None:
    """As an enumeration of the rows under the windows of a copy counts: of all rows of the kernel, or of one where the
    context has a chunk of the weights. What is gathered enters every copy whole."""
    units = Units(resolve_backend("puma").architecture())
    taken = 1 if chunk else kernel
    given_rows = (rows - 1) * stride + kernel
    source = Timing("source", ModuleOp([]), given_rows, (Step(1, 1),))
    own = Digital(units, rows, 1, None, 1, (), 0)
    edge = Edge(0, given_rows, kernel, stride, size=1)
    node = Timing("node", ModuleOp([]), rows, (Step(1, 1),), copies=copies, digital=own, edges=(edge,))
    seen = {row * stride + k for row in range(0, rows, copies) for k in range(taken)}
    assert arriving(node, [source, node], taken) == (len(seen), len(seen))
    gathered = replace(node, edges=(replace(edge, gather=1),))
    assert arriving(gathered, [source, gathered], taken) == (given_rows, given_rows)


def edges_of(width: int, blocks: int) -> list[int]:
    """Where the blocks of a row begin."""
    return [j * width // blocks for j in range(blocks)]
