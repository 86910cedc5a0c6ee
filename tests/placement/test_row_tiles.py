"""Rows over crossbars that read groups of wordlines: exact counts of steps, and results that do not change."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cimc
from cimc import models
from cimc.backends.registry import resolve_backend
from cimc.dialects.graph_types import QuantType
from cimc.mapping_options import MappingOptions
from cimc.passes.schedule import row_tiles as module
from cimc.passes.schedule.array_product import machine_coding
from cimc.passes.schedule.row_tiles import row_tiles, spreads, tile_height
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.crossbar.rows import group_bounds


def coding(machine: str = "isaac") -> Coding:
    """The coding of 8-bit weights and codes on a machine."""
    codes = QuantType.of(8, signed=False, scale=1.0, zero_point=0)
    return machine_coding(resolve_backend(machine).architecture(), 8, codes, 127)


def steps_of(rows: int, height: int, parallel: int) -> int:
    """Steps of a window: those of the tallest tile, tile by tile."""
    return max(ceil(min(height, rows - start) / parallel) for start in range(0, rows, height))


# The counts of the table by hand: packed 16 steps on 2, 5 and 9 crossbars; spread 10, 12 and 16 on 2, 6 and 9.
@pytest.mark.parametrize(
    ("rows", "tiles", "steps"), [(147, 2, 10), (576, 6, 12), (1152, 9, 16), (64, 1, 8), (128, 1, 16)]
)
def test_known_layers(rows: int, tiles: int, steps: int):
    assert row_tiles(rows, coding(), 128) == tiles
    assert steps_of(rows, tile_height(rows, tiles, coding(), 128), 8) == steps


# No number of crossbars up to twice the packed one does more work a crossbar in a cycle, and none is left without rows.
@given(st.integers(1, 3000))
def test_choice_is_the_best_of_all(rows: int):
    packed = ceil(rows / 128)
    work = {t: t * ceil(ceil(rows / 8) / t) for t in range(packed, 2 * packed + 1)}
    tiles = row_tiles(rows, coding(), 128)
    height = tile_height(rows, tiles, coding(), 128)
    assert tiles * steps_of(rows, height, 8) == min(work.values())
    assert ceil(rows / height) == tiles
    assert height <= 128


# Wherever tiles are cut, the groups of wordlines that are read together hold the same rows.
@given(st.integers(1, 2000))
def test_groups_do_not_change(rows: int):
    def bounds(height: int) -> list[int]:
        return group_bounds([(min(height, rows - k), 0) for k in range(0, rows, height)], 8).tolist()

    tiles = row_tiles(rows, coding(), 128)
    assert bounds(tile_height(rows, tiles, coding(), 128)) == bounds(128)


# Machines that read all wordlines at once, or flip columns, keep packed tiles; too few tiles are refused.
def test_packed_where_height_is_not_free():
    assert not spreads(coding("puma"), 128)
    assert row_tiles(147, coding("puma"), 128) == 2
    assert tile_height(147, 2, coding("puma"), 128) == 128
    with pytest.raises(ValueError, match="147 rows do not fit 1"):
        tile_height(147, 1, coding(), 128)


def packed(given_coding: Coding, crossbar_rows: int) -> bool:
    """Answer in place of ``spreads``: tiles are as tall as the crossbar."""
    return False


# A compiled network gives the integers of level 2 with spread tiles, and is quicker on the same crossbars.
def test_compiled_network_is_exact_and_quicker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = models.export_onnx("digits", tmp_path / "digits.onnx")
    x = {"x": models.images(2, models.network("digits").shape, seed=4)}
    spread = cimc.compile(path, "isaac", calibration=x, mapping=MappingOptions(copies=1))
    result, level_2 = spread.run(x), spread.run(x, engine="quantised")
    for name, codes in level_2.integer_outputs.items():
        np.testing.assert_array_equal(result.integer_outputs[name], codes)

    monkeypatch.setattr(module, "spreads", packed)
    before = cimc.compile(path, "isaac", calibration=x, mapping=MappingOptions(copies=1))
    assert spread.simulate().latency_cycles < before.simulate().latency_cycles
    assert spread.report["crossbars"]["used"] == before.report["crossbars"]["used"]
