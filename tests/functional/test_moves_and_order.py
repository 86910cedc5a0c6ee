"""Partial sums between cores, residual rings, relayout, host operators, events and phases."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import erf
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from cimc.diagnostics import UsageError
from cimc.runtime.functional import ExecutionError, run_program
from cimc.runtime.program import AGAIN, AluFunction, BufferKind, Element, HostOperator, Opcode
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
    read_xb,
    recv,
    send,
    signal,
    wait,
    write_xb,
)

if TYPE_CHECKING:
    from tests.functional.conftest import ConvShape, Micro

NewMicro = Callable[..., "Micro"]
NewShape = Callable[..., "ConvShape"]


def codes(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.uint8]:
    """Random uint8 codes."""
    return rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("walk", [False, True])
def test_row_tiles_in_two_cores(
    new_micro: NewMicro, new_shape: NewShape, rng: np.random.Generator, walk: bool
) -> None:
    """Kernel rows 0 and 1 in core 0, row 2 in core 1 with a ring of its own; the sums meet in core 1."""
    shape = new_shape(rows=6, cols=5, channels=3, filters=4, kh=3, kw=3, ph=1, pw=1)
    m = new_micro()
    b = m.builder
    m.weights["w"] = rng.integers(-128, 128, (shape.taps, 4), dtype=np.int8)
    cut = 2 * 3 * 3
    pitch = (shape.cols + 2) * 3
    spans = [(0, 2, 0, cut), (2, 3, cut, shape.taps)]
    geometry = [ring_geometry(last - first, 1, 1, 1 - first, 6, 6) for first, last, _, _ in spans]
    rings = [b.add_ring(c, Element.U8, 4, pitch, geometry[c], channels=3, fill=15, pad=40) for c in range(2)]
    psum = m.plain_ring(1, 6, 5, 4, Element.I32)
    out = m.sink("y", 6, 5, 4, Element.I32)
    m.source("x", 6, 5, 3, [m.route(r, 5, 3, dst_pos=1, group=r) for r in rings])
    st = b.add_stride([0, 1])
    for c, (first, last, k0, k1) in enumerate(spans):
        xb, tiles = m.array_set(c, "w", (k0, k1, 0, 4))
        acc = m.local(c, Element.I32, 1, 20)
        window = b.add_window(kh=last - first, kw=3, col_step=3, c=3)
        dst, src = At(acc, st=b.add_stride([], [0, 0, 4])), At(rings[c], st=b.add_stride([], [0, 0, 3]))
        add = [recv(psum, 1), alu(AluFunction.ADD_INT, At(acc), At(acc), At(psum), n=4, m=5), free(psum, 1)]
        target = psum if c == 0 else out
        g = geometry[c]
        body = [
            write_xb(xb, 0, tiles),
            loop_images(),
            recv(rings[c], g.window - g.advance),
            loop(6),
            recv(rings[c], g.advance),
            loop(5),
            read_xb(dst, src, xb, window, 4, 0, tiles),
            end(),
            free(rings[c], g.advance),
            *(add if c else []),
            send(At(acc), b.add_route_set([m.route(target, 5, 4)]), n=4, m=5, row_st=st),
            end(),
            free(rings[c], g.window - g.advance),
            end(),
            halt(),
        ]
        m.context(c, f"tile{c}", body)
    x = codes(rng, 3, 6, 5, 3)
    expected = shape.windows(x, 40).astype(np.int64) @ m.weights["w"].astype(np.int64)
    result = m.run({"x": x}, walk=walk)
    np.testing.assert_array_equal(result.outputs["y"], np.moveaxis(expected, -1, 1))
    assert result.nodes["tile0"].macs == 3 * 30 * cut * 4


def test_residual_ring_holds_what_the_long_path_needs(
    new_micro: NewMicro, new_shape: NewShape, rng: np.random.Generator
) -> None:
    """A convolution and its input meet again: the short path's ring is deep enough for the window's delay."""
    shape = new_shape(rows=7, cols=4, channels=3, filters=3, kh=3, kw=3, ph=1, pw=1)
    m = new_micro()
    m.weights["conv"] = rng.integers(-128, 128, (shape.taps, 3), dtype=np.int8)
    ring = m.conv_ring(shape, 0, pad=0)
    short = m.plain_ring(1, 7, 4, 3, Element.U8, slots=3)
    long = m.plain_ring(1, 7, 4, 3, Element.U8)
    out = m.sink("y", 7, 4, 3, Element.U8)
    m.source("x", 7, 4, 3, [m.route(ring, 4, 3, dst_pos=1), m.route(short, 4, 3)])
    factor = m.builder.add_record([10, 0, 255, 3, 0, 0, 0], [1e-3] * 3)
    m.conv("conv", shape, ring, [m.route(long, 4, 3)], record=factor)
    record = m.builder.add_record([10, 0, 5, 0, 255], [0.5, 0.25, 0.375])
    dst = At(m.local(1, Element.U8, 1, 12))
    add = alu(AluFunction.ADD_CODES, dst, At(long), At(short), n=3, m=4, record=record)
    m.stage("add", 1, 7, [add], [long, short], dst, [m.route(out, 4, 3)], 3, 4)
    x = codes(rng, 3, 7, 4, 3)
    result = m.run({"x": x})
    acc = shape.windows(x, 0).astype(np.int64) @ m.weights["conv"].astype(np.int64)
    conv = np.clip(np.rint(acc.astype(np.float32) * np.float32(1e-3)) + 10, 0, 255).astype(np.float32)
    value = ((conv - np.float32(10)) * np.float32(0.5) + x * np.float32(0.25)) / np.float32(0.375)
    np.testing.assert_array_equal(
        result.outputs["y"], np.moveaxis(np.clip(np.rint(value) + 5, 0, 255), -1, 1)
    )
    assert result.most_held[ring] == 3


def test_copy_between_layouts(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """Channel-last rows become one channel-first vector in a whole buffer, as Flatten needs it."""
    m = new_micro()
    b = m.builder
    ring = m.plain_ring(-1, 3, 4, 5, Element.U8)
    out = m.sink("y", 1, 1, 60, Element.U8)
    m.source("x", 3, 4, 5, [m.route(ring, 4, 5)])
    whole = b.add_buffer(-1, Element.U8, 1, 60, kind=BufferKind.WHOLE)
    pattern = b.add_copy(4, 5, 1, 5, 1, 12)  # positions, then channels
    body = [
        loop_images(),
        loop(3),
        recv(ring, 1),
        copy(At(whole, st=b.add_stride([], [0, 4])), At(ring), pattern),
        free(ring, 1),
        end(),
        send(At(whole), b.add_route_set([m.route(out, 1, 60)]), n=60, m=1),
        end(),
        halt(),
    ]
    m.context(-1, "flatten", body)
    x = codes(rng, 2, 3, 4, 5)
    y = m.run({"x": x}).outputs["y"]
    np.testing.assert_array_equal(y[:, :, 0, 0], np.moveaxis(x, -1, 1).reshape(2, 60))


@pytest.mark.parametrize("consumer_first", [False, True])
def test_events_order_contexts(new_micro: NewMicro, rng: np.random.Generator, consumer_first: bool) -> None:
    """A context that waits sees what was written before the signal, whichever context is tried first."""
    m = new_micro()
    b = m.builder
    ring = m.plain_ring(-1, 3, 2, 2, Element.U8)
    out = m.sink("y", 3, 2, 2, Element.U8)
    whole = b.add_buffer(-1, Element.U8, 3, 4, kind=BufferKind.WHOLE)
    full, empty = b.add_event(), b.add_event(initial=1)
    row = At(whole, st=b.add_stride([0, 1]))
    pattern = b.add_copy(1, 0, 0, 4, 1, 1)
    fill = [
        loop_images(),
        wait(empty),
        loop(3),
        recv(ring, 1),
        copy(row, At(ring), pattern),
        free(ring, 1),
        end(),
    ]
    st = b.add_stride([0, -1])  # the reader sends the rows from the last to the first
    back = At(whole, row=2, st=st)
    drain = [
        loop_images(),
        wait(full, 2),
        loop(3),
        send(back, b.add_route_set([m.route(out, 2, 2)]), n=2, m=2, row_st=b.add_stride([0, 1])),
        end(),
        signal(empty),
        end(),
        halt(),
    ]
    contexts = [("fill", [*fill, signal(full, 2), end(), halt()]), ("drain", drain)]
    for name, body in reversed(contexts) if consumer_first else contexts:
        m.context(-1, name, body)
    m.source("x", 3, 2, 2, [m.route(ring, 2, 2)])
    x = codes(rng, 3, 3, 2, 2)
    result = m.run({"x": x})
    np.testing.assert_array_equal(result.outputs["y"], np.moveaxis(x[:, ::-1], -1, 1))
    assert result.nodes["drain"].instructions == 3 * (3 + 1)  # waits are not counted


def test_phases_rewrite_the_arrays(
    new_micro: NewMicro, new_shape: NewShape, rng: np.random.Generator
) -> None:
    """A stream's second phase starts after the first has halted, and reads what it has written itself."""
    m = new_micro()
    shape = new_shape(rows=2, cols=3, channels=4, filters=2)
    m.weights.update({name: rng.integers(-128, 128, (4, 2), dtype=np.int8) for name in ("first", "second")})
    rings = [m.conv_ring(shape, 0, pad=0, slots=6) for _ in range(2)]
    outs = [m.sink(name, 2, 3, 2, Element.I32) for name in ("y0", "y1")]
    m.source("x", 2, 3, 4, [m.route(ring, 3, 4) for ring in rings])
    for weight, ring, out in zip(("first", "second"), rings, outs, strict=True):
        m.conv(weight, shape, ring, [m.route(out, 3, 2)])
    program = m.build()
    contexts = {name: column.copy() for name, column in program["contexts"].items()}
    contexts["stream"][4], contexts["phase"][4] = 3, 1
    x = codes(rng, 3, 2, 3, 4)
    rows = {name: column.copy() for name, column in program["instructions"].items()}
    tables = {**program.tables, "contexts": contexts, "instructions": rows}
    changed = replace(program, tables=tables, frames=3)
    with pytest.raises(ExecutionError, match="keeps the weights of array set 0 in all calls"):
        run_program(changed, m.weights, {"x": np.moveaxis(x, -1, 1)})
    rows["func"][rows["opcode"] == Opcode.WRITE_XB] = AGAIN
    result = run_program(changed, m.weights, {"x": np.moveaxis(x, -1, 1)})
    for name, weight in (("y0", "first"), ("y1", "second")):
        expected = x.astype(np.int64) @ m.weights[weight].astype(np.int64)
        np.testing.assert_array_equal(result.outputs[name], np.moveaxis(expected, -1, 1))


def host_program(m: Micro) -> None:
    """x (3 channels, 2 x 2) to a whole buffer in ONNX order, a host operator, and out again."""
    b = m.builder
    ring = m.plain_ring(-1, 2, 2, 3, Element.F32)
    out = m.sink("y", 1, 1, 12, Element.F32)
    m.source("x", 2, 2, 3, [m.route(ring, 2, 3)], Element.F32)
    before = b.add_buffer(-1, Element.F32, 1, 12, kind=BufferKind.WHOLE)
    after = b.add_buffer(-1, Element.F32, 1, 12, kind=BufferKind.WHOLE)
    shape = (1, 3, 2, 2)
    operator = b.add_host(
        HostOperator("Erf", "erf.onnx", (before,), (after,), ("a",), ("b",), (shape,), (shape,), 12)
    )
    pattern = b.add_copy(2, 3, 1, 3, 1, 4)
    body = [
        loop_images(),
        loop(2),
        recv(ring, 1),
        copy(At(before, st=b.add_stride([], [0, 2])), At(ring), pattern),
        free(ring, 1),
        end(),
        host(operator),
        send(At(after), b.add_route_set([m.route(out, 1, 12)]), n=12, m=1),
        end(),
        halt(),
    ]
    m.context(-1, "host", body)


def erf_model(name: str) -> bytes:
    """A one-node ONNX model."""
    from onnx import TensorProto, helper

    assert name == "erf.onnx"
    values = [helper.make_tensor_value_info(v, TensorProto.FLOAT, (1, 3, 2, 2)) for v in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Erf", ["a"], ["b"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_host_operator(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """A host operator sees its whole buffer in ONNX layout and its result goes on as a row."""
    m = new_micro()
    host_program(m)
    x = rng.normal(0, 1, (2, 2, 2, 3)).astype(np.float32)
    y = m.run({"x": x}, hosts=erf_model).outputs["y"][:, :, 0, 0]
    expected = np.vectorize(erf)(np.moveaxis(x, -1, 1).reshape(2, 12))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_host_operator_without_its_model(new_micro: NewMicro) -> None:
    """A program with a host operator says what it lacks when the run has no loader."""
    m = new_micro()
    host_program(m)
    with pytest.raises(UsageError, match="host operator Erf"):
        m.run({"x": np.zeros((1, 2, 2, 3), np.float32)})


def test_engine_needs_no_model_library() -> None:
    """Importing the engine loads neither onnx nor onnxruntime nor torch."""
    code = (
        "import sys, cimc.runtime.functional\n"
        "print([m for m in ('onnx', 'onnxruntime', 'torch', 'xdsl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rows_of_a_frame_straight_from_the_host(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """dma_in and dma_out move by the strides of the I/O table, row by row, to and from the right frame."""
    m = new_micro()
    b = m.builder
    come, leave = (m.tensor(name, name, 2, 3, 2, Element.U8) for name in ("in", "out"))
    buffer = m.local(-1, Element.U8, 1, 6)
    st, up = b.add_stride([0, 1]), b.add_stride([0, -1])
    move = [
        dma_in(At(buffer), come, n=2, m=3, row_st=st),
        dma_out(At(buffer), leave, n=2, m=3, row=1, row_st=up),
    ]
    m.context(-1, "turn", [loop_images(), loop(2), *move, end(), end(), halt()])
    x = codes(rng, 2, 2, 3, 2)
    np.testing.assert_array_equal(m.run({"in": x}).outputs["out"], np.moveaxis(x[:, ::-1], -1, 1))
