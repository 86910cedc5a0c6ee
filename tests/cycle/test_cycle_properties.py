"""What holds for any program: two forms of the engine agree, sums add up, bounds are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cimc.diagnostics import UsageError
from cimc.runtime.cycle import Timing, write_trace
from cimc.runtime.program import AluFunction, Element, IoTensor
from cimc.runtime.program import rows as r
from cimc.runtime.program.geometry import ring_geometry
from cimc.runtime.program.rows import At

ROWS = 6


def _pipeline(bench: Any, seed: int, depth: int | None = None) -> None:
    """Random stages with random copies on random cores: convolution-like reads, tails, multicasts, DMA.

    Stage k+1 takes windows of 1 to 3 rows with padding from all copies of stage k. ``depth``: slots beyond
    the window instead of a random number.
    """
    rng = np.random.default_rng(seed)
    b = bench.builder
    shape = (ROWS, 4, 2)
    inputs = b.add_io(IoTensor("x", "in", int(Element.U8), shape, ROWS, 4, 2, 8, 2, 1))
    outputs = b.add_io(IoTensor("y", "out", int(Element.U8), shape, ROWS, 4, 2, 8, 2, 1))
    stages = int(rng.integers(1, 5))
    plans: list[list[tuple[int, int, int, Any]]] = []
    for stage in range(stages + 1):
        last = stage == stages
        copies = 1 if last else int(rng.integers(1, 4))
        kh = 1 if last else int(rng.integers(1, 4))
        plan: list[tuple[int, int, int, Any]] = []
        for copy in range(copies):
            core = -1 if last else int(rng.integers(0, 16))
            geometry = ring_geometry(kh, 1, 1, (kh - 1) // 2, ROWS, ROWS, copy, copies)
            extra = int(rng.integers(1, 4)) if depth is None else depth
            ring = b.add_ring(
                core, Element.U8, geometry.window + extra * geometry.advance, 8, geometry, channels=8, fill=8
            )
            plan.append((core, copy, ring, geometry))
        plans.append(plan)
    routes = [bench.routes(*((ring, 0, 8) for _, _, ring, _ in plan)) for plan in plans]
    row = b.add_stride((0, 1))
    g = bench.buffer(-1, 8, slots=2)
    load = r.dma_in(At(g, st=row), inputs, n=2, m=4, row_st=row)
    send = r.send(At(g, st=row), routes[0], n=2, m=4, row_st=row)
    bench.context(-1, [r.loop_images(), r.loop(ROWS), load, send, r.end(), r.end()])
    for stage, plan in enumerate(plans[:-1]):
        node = b.name(f"layer{stage}")
        for core, copy, ring, geometry in plan:
            acc, y = (
                bench.buffer(core, element=Element.I32),
                bench.buffer(core, slots=int(rng.integers(1, 3))),
            )
            xb = bench.arrays(core, rows=int(rng.integers(1, 16)), columns=int(rng.integers(1, 5)))
            window = bench.builder.add_window(kh=geometry.window, kw=1, c=2, col_step=2)
            read = r.read_xb(At(acc), At(ring), xb, window, 2, 0, 1, node=node)
            function = AluFunction.SOFTMAX if rng.integers(0, 2) else AluFunction.REQUANTISE
            turn = b.add_stride((0, len(plan)))
            bench.context(
                core,
                [
                    r.write_xb(xb, 0, 1, node=node),
                    r.loop_images(),
                    r.recv(ring, geometry.window - geometry.advance, node=node),
                    r.loop(geometry.turns),
                    r.recv(ring, geometry.advance, node=node),
                    r.loop(4),
                    read,
                    r.end(),
                    r.free(ring, geometry.advance, node=node),
                    r.alu(function, At(y, st=turn), At(acc), n=2, m=4, node=node),
                    r.send(At(y, st=turn), routes[stage + 1], n=2, m=4, row=copy, row_st=turn, node=node),
                    r.end(),
                    r.free(ring, geometry.window - geometry.advance, node=node),
                    r.end(),
                ],
            )
    ring = plans[-1][0][2]
    out = r.dma_out(At(ring), outputs, n=2, m=4, row_st=row)
    bench.context(
        -1, [r.loop_images(), r.loop(ROWS), r.recv(ring, 1), out, r.free(ring, 1), r.end(), r.end()]
    )


def _check_sums(timing: Timing) -> None:
    """Energies, cycles and power are the same sums from every side."""
    assert sum(timing.energy_pj.values()) == timing.total_energy_pj
    dynamic = timing.total_energy_pj - timing.energy_pj["static"]
    assert sum(timing.energy_by_node_pj.values()) == pytest.approx(dynamic, rel=1e-12)
    window_ns = timing.window_cycles / timing.clock_ghz
    assert np.sum(timing.power_mw - 100.0) * window_ns == pytest.approx(dynamic, rel=1e-9)
    assert dict(timing.attributed_cycles) == dict(timing.busy_cycles)
    for kind, total in timing.busy_cycles.items():
        assert sum(node.get(kind, 0) for node in timing.busy_by_node.values()) == total


@pytest.mark.parametrize("seed", range(40))
def test_fast_equals_one_instruction_at_a_time(bench: Any, seed: int) -> None:
    """`bench.time` compares the two forms; here on random pipelines, with sums and bounds."""
    _pipeline(bench, seed)
    timing = bench.time(images=3)
    _check_sums(timing)
    assert all(busiest <= timing.cycles for busiest in timing.busiest_cycles.values())
    assert (timing.ring_high_water <= timing.ring_slots).all()
    assert (timing.ring_high_water >= 1).all()
    assert np.all(np.diff(timing.image_end_cycles) > 0)
    assert timing.executed_by_opcode["dma_in"] == timing.executed_by_opcode["dma_out"] == 3 * ROWS
    # an image cannot be faster than the host link both ways, and the run not than its images
    assert timing.latency_cycles >= 2 * (2 + 20)
    assert timing.cycles >= timing.image_end_cycles[-1]
    assert timing.latency_cycles <= timing.image_end_cycles[0] - timing.image_start_cycles[0]


@pytest.mark.parametrize("seed", range(10))
def test_the_same_on_a_bus(bench: Any, seed: int) -> None:
    """The two forms agree on a bus too, whose busy cycles fit into the run."""
    _pipeline(bench, seed)
    timing = bench.time(images=2, network="bus")
    _check_sums(timing)
    assert timing.busy_cycles["network"] <= timing.cycles


def test_two_runs_are_equal(bench: Any, equal: Callable[[Timing, Timing], None]) -> None:
    """Nothing is left over from one run to the next, not even in the kernel's memory."""
    _pipeline(bench, 7)
    equal(bench.time(images=4), bench.time(images=4))


def test_order_of_independent_contexts_does_not_matter(make_bench: Callable[[], Any]) -> None:
    """Contexts that share no unit end at the same time under any numbering."""
    ends: set[tuple[int, ...]] = set()
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)):
        bench = make_bench()
        window = bench.window()
        waits: dict[int, int] = {}
        for core in order:
            x, acc = bench.buffer(core), bench.buffer(core, element=Element.I32)
            xb = bench.arrays(core, rows=2 + core)
            read = r.read_xb(At(acc), At(x), xb, window, 4, 0, 1)
            tail = r.alu(AluFunction.REQUANTISE, At(x), At(acc), n=4 + core)
            waits[core] = bench.context(core, [r.loop(3 + core), read, tail, r.end()])
        timing = bench.time()
        ends.add((timing.cycles, *(int(timing.stall_cycles[waits[core]].sum()) for core in range(4))))
    assert len(ends) == 1


@pytest.mark.parametrize("seed", range(10))
def test_unbounded_rings_take_all_room_stalls_away(make_bench: Callable[[], Any], seed: int) -> None:
    """With a slot for every place of the run no send waits for room; the mark is at most all places."""
    deep = make_bench()
    _pipeline(deep, seed, depth=3 * ROWS + 3)
    timing = deep.time(images=3)
    assert timing.stall_cycles[:, 1].sum() == 0
    shallow = make_bench()
    _pipeline(shallow, seed, depth=1)
    assert (shallow.time(images=3).ring_high_water <= timing.ring_slots).all()


def test_trace_file(bench: Any, tmp_path: Path) -> None:
    """A trace parses as JSON, its slices lie in the run, and array slices add up to the busy cycles."""
    _pipeline(bench, 3)
    timing = bench.time(images=2, trace=True)
    write_trace(timing, tmp_path / "trace.json")
    document = json.loads((tmp_path / "trace.json").read_text())
    threads = {
        (e["pid"], e["tid"]): e["args"]["name"] for e in document["traceEvents"] if e["name"] == "thread_name"
    }
    slices = [e for e in document["traceEvents"] if e["ph"] == "X"]
    assert all(0 <= e["ts"] and e["ts"] + e["dur"] <= timing.cycles for e in slices)
    for kind, thread in (("arrays", "arrays"), ("vector_unit", "vector unit"), ("host_link", "host link")):
        total = sum(e["dur"] for e in slices if threads[e["pid"], e["tid"]].startswith(thread))
        assert total == timing.busy_cycles[kind]
    waits = sum(e["dur"] for e in slices if threads[e["pid"], e["tid"]].startswith("context"))
    assert waits == timing.stall_cycles[:, [0, 4]].sum()
    assert document["otherData"]["slices"] == "complete"
    assert "1 cycle" in document["otherData"]["unit"]


def test_a_trace_must_be_asked_for(bench: Any, tmp_path: Path) -> None:
    """Without slices there is nothing to write."""
    bench.context(0, [])
    with pytest.raises(UsageError, match="trace=True"):
        write_trace(bench.time(), tmp_path / "trace.json")


def test_a_long_trace_says_what_it_dropped(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first slices are kept, and the file says how many are missing."""
    monkeypatch.setattr("cimc.runtime.cycle.engine.TRACE_SLICES", 4)
    x, y = bench.buffer(0), bench.buffer(0)
    copy = r.copy(At(y), At(x), bench.builder.add_copy(1, 0, 0, 8, 1, 1))
    bench.context(0, [r.loop(10), copy, r.end()])
    write_trace(bench.time(trace=True), tmp_path / "trace.json")
    document = json.loads((tmp_path / "trace.json").read_text())
    assert document["otherData"]["slices"] == "the first 4 slices; 6 more were dropped"
