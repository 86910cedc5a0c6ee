"""The table beside PIMCOMP: both sides do the same work, and ours is faster."""

from __future__ import annotations

from pathlib import Path

import pytest

import cimc
from tools.pimcomp_table import NETWORKS, machine, ours, products


# Our mapping of a network of dense convolutions asks for exactly the products PIMCOMP counted in its own output.
@pytest.mark.parametrize("name", ["squeezenet", pytest.param("resnet-18", marks=pytest.mark.slow)])
def test_products_are_pimcomps(name: str, tmp_path: Path):
    path = NETWORKS[name].export(tmp_path / "model.onnx")
    artifact = cimc.compile(path, machine(logical=True), stop_after="mapped")
    assert products(artifact) == NETWORKS[name].interval.products == NETWORKS[name].latency.products


# One image and interval are below PIMCOMP's under its machine's memory and network timing.
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_ours_is_faster(name: str, tmp_path: Path):
    network = NETWORKS[name]
    path = network.export(tmp_path / "model.onnx")
    one = ours(path, "latency").timing
    many = ours(path, "throughput").timing
    assert one.latency_ns < network.latency.time_ms * 1e6
    assert many.interval_cycles / many.clock_ghz < network.interval.time_ms * 1e6
