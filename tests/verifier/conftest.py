"""Valid programs by hand for the verifier's tests, and a way to break one of their numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.program import AluFunction, BufferKind, Element, HostOperator, IoTensor, Program, parameter
from cimc.runtime.program.builder import ProgramBuilder, Route, Tile
from cimc.runtime.program.geometry import ring_geometry
from cimc.runtime.program.rows import (
    At,
    alu,
    copy,
    dma_in,
    dma_out,
    end,
    free,
    halt,
    host,
    loop,
    loop_images,
    read_row,
    read_xb,
    recv,
    send,
    signal,
    wait,
    write_row,
    write_xb,
)

MACHINE: dict[str, Any] = {
    "chip": {"cores": 6, "global_buffer_bytes": 4096},
    "core": {"crossbars": 4, "contexts": 2, "local_buffer_bytes": 1024},
    "crossbar": {"rows": 16, "columns": 32},
}

H, W, C, N = 6, 5, 3, 4
"""Rows, columns, channels of the input; channels of everything behind."""

SHAPES = {"w1": (27, N), "w2": (C, N)}


def rows_ring(
    b: ProgramBuilder,
    core: int,
    context: int,
    channels: int,
    element: Element = Element.U8,
    slots: int = 2,
    rows: int = H,
) -> int:
    """A ring that takes every row of W positions, one a turn."""
    g = ring_geometry(1, 1, 1, 0, rows, rows)
    fill = W * channels
    return b.add_ring(core, element, slots, fill, g, channels=channels, fill=fill, context=context)


def io(name: str, direction: str, element: Element, channels: int) -> IoTensor:
    """A host tensor (channels, H, W)."""
    return IoTensor(name, direction, int(element), (channels, H, W), H, W, channels, W, 1, H * W)


def residual() -> Program:
    """x -> conv1 (3x3, two copies on cores 0 and 1, two row tiles each) and conv2 (1x1, its rows in two cores,
    3 and 4, read by wordlines) -> add (core 2) -> a host operator -> y. Events start the input when the
    weights are written."""
    b = ProgramBuilder()
    p = parameter
    nodes = {name: b.name(name) for name in ("x", "conv1", "conv2", "add", "tail")}
    coding = b.add_coding(Coding(cell_bits=2, parallel_rows=16).to_row().tolist())
    steps = b.add_steps([1] * 32)
    ready = b.add_event()
    by_row = b.add_stride((0, 1))

    # Rows of x go to both copies of conv1 and to both parts of conv2.
    geometries = [ring_geometry(3, 1, 1, 1, H, H, c, 2) for c in range(2)]
    source_body = b.add_body(
        "x",
        [
            wait(ready, 4, nodes["x"]),
            loop_images(),
            loop(H),
            dma_in(At(0), b.add_io(io("x", "in", Element.U8, C)), n=C, m=W, row_st=by_row, node=nodes["x"]),
            send(At(0), 0, n=C, m=W, row_st=by_row, node=nodes["x"]),
            end(),
            end(),
            halt(),
        ],
    )
    window = b.add_window(kh=3, row_step=1, kw=3, col_step=C, c=C)
    record = b.add_record([0, 0, 255, N, 1, 2, 3, 4], [0.1] * N)
    by_column = b.add_stride((), (0, 0, N))
    conv1_body = b.add_body(
        "conv1",
        [
            write_xb(p(2), 0, 2, nodes["conv1"]),
            signal(ready, 1, nodes["conv1"]),
            loop_images(),
            recv(p(0), 1, nodes["conv1"]),
            loop(p(1)),
            recv(p(0), 2, nodes["conv1"]),
            loop(W),
            read_xb(
                At(p(4), st=by_column),
                At(p(0), st=b.add_stride((), (0, 0, C))),
                p(2),
                window,
                N,
                0,
                2,
                node=nodes["conv1"],
            ),
            end(),
            free(p(0), 2, nodes["conv1"]),
            alu(AluFunction.REQUANTISE, At(p(5)), At(p(4)), n=N, m=W, record=record, node=nodes["conv1"]),
            send(At(p(5)), 1, n=N, m=W, row=p(3), row_st=b.add_stride((0, 2)), node=nodes["conv1"]),
            end(),
            free(p(0), 1, nodes["conv1"]),
            end(),
            halt(),
        ],
    )
    halves = [b.add_window(c=C, lo=0, hi=2), b.add_window(c=C, lo=2, hi=3)]
    lanes = b.add_stride((), (0, 0, C))
    conv2_bodies: list[int] = []
    for part, height in enumerate((2, 1)):
        reads = [
            read_row(
                At(p(1), st=by_column), At(p(0), st=lanes), p(2), halves[part], N, k, 1, add=int(k > 0),
                node=nodes["conv2"],
            )
            for k in range(height)
        ]  # fmt: skip
        tail = [send(At(p(1)), 2, n=N, m=W, row_st=by_row, node=nodes["conv2"])]
        if part:
            tail = [
                recv(p(4), 1, nodes["conv2"]),
                alu(AluFunction.ADD_INT, At(p(1)), At(p(1)), At(p(4)), n=N, m=W, node=nodes["conv2"]),
                free(p(4), 1, nodes["conv2"]),
                alu(AluFunction.REQUANTISE, At(p(3)), At(p(1)), n=N, m=W, record=record, node=nodes["conv2"]),
                send(At(p(3)), 3, n=N, m=W, row_st=by_row, node=nodes["conv2"]),
            ]
        conv2_bodies.append(
            b.add_body(
                f"conv2.{part}",
                [
                    write_row(p(2), 0, height, nodes["conv2"]),
                    signal(ready, 1, nodes["conv2"]),
                    loop_images(),
                    loop(H),
                    recv(p(0), 1, nodes["conv2"]),
                    loop(W),
                    *reads,
                    end(),
                    free(p(0), 1, nodes["conv2"]),
                    *tail,
                    end(),
                    end(),
                    halt(),
                ],
            )
        )
    add_record = b.add_record([0, 0, 0, 0, 255], [0.1, 0.1, 0.2])
    add_body = b.add_body(
        "add",
        [
            loop_images(),
            loop(H),
            recv(p(0), 1, nodes["add"]),
            recv(p(1), 1, nodes["add"]),
            alu(
                AluFunction.ADD_CODES, At(p(2)), At(p(0)), At(p(1)), n=N, m=W, record=add_record,
                node=nodes["add"],
            ),
            free(p(0), 1, nodes["add"]),
            free(p(1), 1, nodes["add"]),
            send(At(p(2)), 4, n=N, m=W, row_st=by_row, node=nodes["add"]),
            end(),
            end(),
            halt(),
        ],
    )  # fmt: skip
    tail_body = b.add_body(
        "tail",
        [
            loop_images(),
            loop(H),
            recv(p(0), 1, nodes["tail"]),
            copy(
                At(p(1), st=b.add_stride((), (0, W * N))),
                At(p(0)),
                b.add_copy(W, N, N, N, 1, 1),
                nodes["tail"],
            ),
            free(p(0), 1, nodes["tail"]),
            end(),
            host(0, nodes["tail"]),
            loop(H),
            dma_out(
                At(p(2), st=b.add_stride((), (0, W * N))),
                b.add_io(io("y", "out", Element.U8, N)),
                n=N,
                m=W,
                row_st=by_row,
                node=nodes["tail"],
            ),
            end(),
            end(),
            halt(),
        ],
    )

    source = b.add_context(-1, source_body, node=nodes["x"])
    copies = [b.add_context(c, conv1_body, node=nodes["conv1"]) for c in range(2)]
    parts = [b.add_context(3 + i, conv2_bodies[i], node=nodes["conv2"]) for i in range(2)]
    adder = b.add_context(2, add_body, node=nodes["add"])
    tail = b.add_context(-1, tail_body, node=nodes["tail"])

    b.add_buffer(-1, Element.U8, 1, W * C, context=source)
    x_rings: list[int] = []
    for c, context in enumerate(copies):
        x_rings.append(
            b.add_ring(
                c, Element.U8, 3, (W + 2) * C, geometries[c], channels=C, fill=W * C, pad=7,
                context=context,
            )
        )  # fmt: skip
        acc = b.add_buffer(c, Element.I32, 1, W * N, context=context)
        out = b.add_buffer(c, Element.U8, 1, W * N, context=context)
        tiles = [Tile(0, 0, 16, 0, N), Tile(1, 16, 27, 0, N)]
        xb = b.add_array_set(context, c, coding, b.weight("w1"), (0, 27, 0, N), tiles, step_first=steps)
        b.set_params(context, (x_rings[c], geometries[c].turns, xb, c, acc, out))
    skip_rings = [rows_ring(b, 3 + i, parts[i], C) for i in range(2)]
    psums = rows_ring(b, 4, parts[1], N, Element.I32)
    for i, (k0, k1) in enumerate(((0, 2), (2, 3))):
        acc = b.add_buffer(3 + i, Element.I32, 1, W * N, context=parts[i])
        out = b.add_buffer(3 + i, Element.U8, 1, W * N, context=parts[i])
        tiles = [Tile(3, 0, k1 - k0, 0, N)]
        xb = b.add_array_set(parts[i], 3 + i, coding, b.weight("w2"), (k0, k1, 0, N), tiles, step_first=steps)
        b.set_params(parts[i], (skip_rings[i], acc, xb, out, psums))
    long = rows_ring(b, 2, adder, N)
    short = rows_ring(b, 2, adder, N)
    total = b.add_buffer(2, Element.U8, 1, W * N, context=adder)
    b.set_params(adder, (long, short, total))
    results = rows_ring(b, -1, tail, N)
    whole = [b.add_buffer(-1, Element.U8, 1, H * W * N, kind=BufferKind.WHOLE) for _ in range(2)]
    b.set_params(tail, (results, *whole))
    shape = (1, H, W, N)
    b.add_host(HostOperator("Abs", "a.onnx", (whole[0],), (whole[1],), ("a",), ("b",), (shape,), (shape,), 1))

    b.add_route_set(
        [
            *(Route(ring, 0, 0, 0, W, C, 1, 0) for ring in x_rings),
            *(Route(ring, 0, 0, 0, W, C, 0, 0) for ring in skip_rings),
        ]
    )
    for ring in (long, psums, short, results):
        b.add_route_set([Route(ring, 0, 0, 0, W, N, 0, 0)])
    return b.build(MACHINE, total_macs=H * W * (27 + C) * N)


def changed(program: Program, table: str, column: str, row: int, value: int) -> Program:
    """``program`` with one number of one table replaced."""
    column_values = np.array(program[table][column])
    if column_values.ndim == 2:
        column_values[row, 0] = value
    else:
        column_values[row] = value
    tables = {**program.tables, table: {**program[table], column: column_values}}
    return Program(
        tables,
        program.names,
        program.io,
        program.hosts,
        program.weights,
        program.machine,
        program.frames,
        program.total_macs,
        program.taps,
    )


@pytest.fixture(scope="session")
def residual_program() -> Program:
    """The valid program of :func:`residual`."""
    return residual()


@pytest.fixture(scope="session")
def change() -> Callable[[Program, str, str, int, int], Program]:
    """Replaces one number of a program."""
    return changed


@pytest.fixture(scope="session")
def shapes() -> dict[str, tuple[int, int]]:
    """Shapes of the weight image of :func:`residual`."""
    return SHAPES
