"""Phases: a stream's later context starts when the earlier has halted; crossbars and memory are used again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.functional import run_program
from cimc.runtime.program import AGAIN, Element, IoTensor, Opcode, Program
from cimc.runtime.program.builder import ProgramBuilder, Route, Tile
from cimc.runtime.program.geometry import ring_geometry
from cimc.runtime.program.rows import (
    At,
    dma_in,
    dma_out,
    end,
    free,
    halt,
    loop,
    loop_images,
    read_xb,
    recv,
    send,
    write_xb,
)
from cimc.runtime.verifier import verify_program

MACHINE = {
    "chip": {"cores": 1, "global_buffer_bytes": 1024},
    "core": {"crossbars": 1, "contexts": 1, "local_buffer_bytes": 64},
    "crossbar": {"rows": 8, "columns": 32},
}
ROWS, K, N = 5, 6, 4


@pytest.fixture(scope="module")
def two_phases() -> Program:
    """Two products of rows of 6 by 4 weights, one after the other on the same crossbar and the same bytes."""
    b = ProgramBuilder()
    coding = b.add_coding(Coding(parallel_rows=8).to_row().tolist())
    steps = b.add_steps([1] * 32)
    by_row = b.add_stride((0, 1))
    g = ring_geometry(1, 1, 1, 0, ROWS, ROWS)
    window = b.add_window(c=K)
    stream = -1
    for phase in range(2):
        x = b.add_io(IoTensor(f"x{phase}", "in", Element.U8, (ROWS, K), ROWS, 1, K, K, K, 1))
        y = b.add_io(IoTensor(f"y{phase}", "out", Element.I32, (ROWS, N), ROWS, 1, N, N, N, 1))
        node = b.name(f"product{phase}")
        buffers = {"row": 3 * phase + 0}
        source = b.add_context(-1, 3 * phase, node=b.name(f"x{phase}"))
        context = b.add_context(0, 3 * phase + 1, node=node, phase=phase, stream=stream if phase else -1)
        stream = stream if phase else context
        sink = b.add_context(-1, 3 * phase + 2, node=b.name(f"y{phase}"))
        buffers["row"] = b.add_buffer(-1, Element.U8, 1, K, context=source)
        ring = b.add_ring(
            0, Element.U8, 2, K, g, channels=K, fill=K, context=context, base=0, phases=(phase, phase)
        )
        acc = b.add_buffer(0, Element.I32, 1, N, context=context, base=12, phases=(phase, phase))
        out = b.add_ring(-1, Element.I32, 2, N, g, channels=N, fill=N, context=sink)
        xb = b.add_array_set(
            context, 0, coding, b.weight(f"w{phase}"), (0, K, 0, N), [Tile(0, 0, K, 0, N)],
            step_first=steps, phase=phase,
        )  # fmt: skip
        to_ring = b.add_route_set([Route(ring, 0, 0, 0, 1, K, 0, 0)])
        to_out = b.add_route_set([Route(out, 0, 0, 0, 1, N, 0, 0)])
        row = At(buffers["row"])
        b.add_body(
            f"x{phase}",
            [
                loop_images(),
                loop(ROWS),
                dma_in(row, x, n=K, m=1, row_st=by_row),
                send(row, to_ring, n=K, m=1, row_st=by_row),
                end(),
                end(),
                halt(),
            ],
        )
        b.add_body(
            f"product{phase}",
            [
                write_xb(xb, 0, 1, again=AGAIN),
                loop_images(),
                loop(ROWS),
                recv(ring, 1),
                read_xb(At(acc), At(ring), xb, window, N, 0, 1),
                free(ring, 1),
                send(At(acc), to_out, n=N, m=1, row_st=by_row),
                end(),
                end(),
                halt(),
            ],
        )
        b.add_body(
            f"y{phase}",
            [
                loop_images(),
                loop(ROWS),
                recv(out, 1),
                dma_out(At(out), y, n=N, m=1, row_st=by_row),
                free(out, 1),
                end(),
                end(),
                halt(),
            ],
        )
    return b.build(MACHINE)


def test_two_phases_share_a_crossbar_and_memory(two_phases: Program) -> None:
    """Clean on a machine with one crossbar and one context, though the buffers of both phases overlap; and it
    runs."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.integers(-128, 128, (K, N)).astype(np.int8) for i in range(2)}
    assert verify_program(two_phases, weights=weights) == []
    inputs = {f"x{i}": rng.integers(0, 256, (2, ROWS, K)).astype(np.uint8) for i in range(2)}
    outputs = run_program(replace(two_phases, frames=2), weights, inputs).outputs
    for i in range(2):
        np.testing.assert_array_equal(outputs[f"y{i}"], inputs[f"x{i}"].astype(int) @ weights[f"w{i}"])


def test_weights_that_stay_where_another_set_is_written(
    two_phases: Program, change: Callable[[Program, str, str, int, int], Program]
) -> None:
    """A write that is done once for all calls, on a crossbar that the other phase takes, is found at either."""
    rows = np.flatnonzero(two_phases["instructions"]["opcode"] == Opcode.WRITE_XB).tolist()
    assert len(rows) == 2
    for row in rows:
        broken = change(two_phases, "instructions", "func", row, 0)
        assert {finding.rule for finding in verify_program(broken)} == {"P086"}
    assert {f.rule for f in verify_program(change(two_phases, "instructions", "func", rows[0], 2))} == {
        "P006"
    }


@pytest.mark.parametrize(
    ("rule", "table", "column", "row", "value"),
    [
        ("P022", "contexts", "phase", 4, 0),
        ("P061", "array_sets", "phase", 1, 0),
        ("P025", "array_sets", "phase", 1, 2),
        ("P031", "buffers", "phase_first", 5, 0),
        ("P024", "buffers", "phase_last", 5, 3),
    ],
)
def test_phases_that_clash(
    two_phases: Program,
    change: Callable[[Program, str, str, int, int], Program],
    rule: str,
    table: str,
    column: str,
    row: int,
    value: int,
) -> None:
    """One number of the later phase changed: two contexts of a stream at once, a crossbar or bytes held
    twice, a set used outside its phase."""
    program = change(two_phases, table, column, row, value)
    if rule == "P024":
        program = change(program, table, "phase_first", row, 2)
    findings = verify_program(program)
    assert (rule, "product1") in {(f.rule, f.node) for f in findings}, findings
