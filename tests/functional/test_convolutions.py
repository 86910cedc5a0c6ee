"""Convolution programs through rings, copies and tiles, against windows taken by plain loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.functional import run_program
from cimc.runtime.program import AluFunction, Element, IoTensor
from cimc.runtime.program.rows import (
    At,
    alu,
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

if TYPE_CHECKING:
    from tests.functional.conftest import ConvShape, Micro

NewMicro = Callable[..., "Micro"]
NewShape = Callable[..., "ConvShape"]


def codes(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.uint8]:
    """Random uint8 codes."""
    return rng.integers(0, 256, shape, dtype=np.uint8)


def weights(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.int8]:
    """Random int8 weights."""
    return rng.integers(-128, 128, shape, dtype=np.int8)


def sums(shape: ConvShape, x: npt.NDArray[Any], w: npt.NDArray[Any], zero: int) -> npt.NDArray[np.int64]:
    """(frames, filters, out rows, out cols) exact products of the codes, padding ``zero``."""
    return np.moveaxis(shape.windows(x, zero).astype(np.int64) @ w.astype(np.int64), -1, 1)


@pytest.mark.parametrize("walk", [False, True])
def test_one_context_with_ring_and_padding(
    new_micro: NewMicro, new_shape: NewShape, rng: np.random.Generator, walk: bool
) -> None:
    """A padded 3x3 convolution over two images equals the plain one, fast and walking, and is counted."""
    shape = new_shape(rows=6, cols=5, channels=3, filters=4, kh=3, kw=3, ph=1, pw=1)
    m = new_micro()
    m.weights["conv"] = weights(rng, shape.taps, shape.filters)
    ring = m.conv_ring(shape, 0, pad=77)
    out = m.sink("y", shape.out_rows, shape.out_cols, shape.filters, Element.I32)
    m.source("x", shape.rows, shape.cols, shape.channels, [m.route(ring, shape.cols, 3, dst_pos=1)])
    m.conv("conv", shape, ring, [m.route(out, shape.out_cols, shape.filters)])
    x = codes(rng, 2, shape.rows, shape.cols, shape.channels)
    result = m.run({"x": x}, walk=walk)

    np.testing.assert_array_equal(result.outputs["y"], sums(shape, x, m.weights["conv"], 77))
    windows = 2 * shape.out_rows * shape.out_cols
    assert result.array_macs == windows * shape.taps * shape.filters
    # per turn: recv, reads, free, send; per image two more; one write. Input 2 and output 3 rows a row.
    conv = 1 + 2 * (2 + shape.out_rows * 3) + windows
    assert result.nodes["conv"].instructions == conv
    assert result.executed_instructions == conv + 2 * 6 * 2 + 2 * 6 * 3


@pytest.mark.parametrize("copies", [2, 3])
def test_copies_share_the_rows(
    new_micro: NewMicro, new_shape: NewShape, rng: np.random.Generator, copies: int
) -> None:
    """Rows dealt to copies, stride 2 and padding, batch of 3: halos go to several rings."""
    shape = new_shape(rows=11, cols=7, channels=2, filters=3, kh=3, kw=3, sh=2, sw=2, ph=1, pw=1)
    m = new_micro()
    m.weights["w"] = weights(rng, shape.taps, shape.filters)
    rings = [m.conv_ring(shape, c, pad=9, copy=c, copies=copies) for c in range(copies)]
    out = m.sink("y", shape.out_rows, shape.out_cols, shape.filters, Element.I32)
    m.source("x", 11, 7, 2, [m.route(ring, 7, 2, dst_pos=1, group=c) for c, ring in enumerate(rings)])
    for c, ring in enumerate(rings):
        routes = [m.route(out, shape.out_cols, shape.filters)]
        m.conv(f"conv{c}", shape, ring, routes, core=c, weight="w", copy=c, copies=copies)
    x = codes(rng, 3, 11, 7, 2)
    np.testing.assert_array_equal(m.run({"x": x}).outputs["y"], sums(shape, x, m.weights["w"], 9))


def test_column_tiles_arrive_as_parts(
    new_micro: NewMicro, new_shape: NewShape, rng: np.random.Generator
) -> None:
    """Two contexts each make half of the filters; their sends are parts of one row; a tap sees the whole."""
    shape = new_shape(rows=4, cols=4, channels=5, filters=7, kh=2, kw=2)
    m = new_micro()
    m.weights["w"] = weights(rng, shape.taps, shape.filters)
    rings = [m.conv_ring(shape, c, pad=0) for c in range(2)]
    out = m.sink("y", shape.out_rows, shape.out_cols, shape.filters, Element.U8)
    m.source("x", 4, 4, 5, [m.route(ring, 4, 5, group=c) for c, ring in enumerate(rings)])
    const = rng.integers(-9000, 9000, 7)
    factor = rng.uniform(1e-3, 2e-3, 7).astype(np.float32)
    record = m.builder.add_record([30, 20, 200, 7, *const.tolist()], factor.tolist())
    tap = m.builder.add_tap(IoTensor("t", "tap", Element.U8, (7, 3, 3), 3, 3, 7, 3, 1, 9))
    for c, (n0, n1) in enumerate([(0, 4), (4, 7)]):
        routes = [m.route(out, shape.out_cols, n1 - n0, dst_chan=n0)]
        m.conv(
            f"conv{c}", shape, rings[c], routes, core=c, weight="w", columns=(n0, n1), record=record, tap=tap
        )
    x = codes(rng, 2, 4, 4, 5)
    result = m.run({"x": x}, taps=["t"])
    acc = np.moveaxis(sums(shape, x, m.weights["w"], 0), 1, -1) + const
    expected = np.clip(np.rint(acc.astype(np.float32) * factor) + 30, 20, 200).astype(np.uint8)
    np.testing.assert_array_equal(result.outputs["y"], np.moveaxis(expected, -1, 1))
    np.testing.assert_array_equal(result.taps["t"], np.moveaxis(expected, -1, 1))
    assert len(np.unique(expected)) > 20


def test_one_body_serves_copies_by_parameters(
    new_micro: NewMicro, new_shape: NewShape, rng: np.random.Generator
) -> None:
    """What differs between copies may stand in parameters: same rows, other buffers and counts."""
    shape = new_shape(rows=5, cols=3, channels=2, filters=2, kh=2, kw=1)
    m = new_micro()
    m.weights["w"] = weights(rng, shape.taps, shape.filters)
    rings = [m.conv_ring(shape, 0, pad=0, copy=c, copies=2) for c in range(2)]
    out = m.sink("y", shape.out_rows, shape.out_cols, shape.filters, Element.I32)
    m.source("x", 5, 3, 2, [m.route(ring, 3, 2) for ring in rings])
    for c, ring in enumerate(rings):
        m.conv("conv", shape, ring, [m.route(out, 3, 2)], weight="w", copy=c, copies=2, xbar=c)
    plain = m.build()
    body = dict(plain["instructions"])
    first = [int(plain["bodies"]["first"][i]) for i in (2, 3)]
    count = int(plain["bodies"]["count"][2])
    spans = [slice(f, f + count) for f in first]
    params: list[list[int]] = [[], []]
    merged = {name: column.copy() for name, column in body.items()}
    for name, column in body.items():
        if name in ("opcode", "func", "node", "dst_st", "a_st", "b_st"):
            continue
        for i in range(count):
            if column[spans[0]][i] != column[spans[1]][i]:
                merged[name][spans[0].start + i] = -2 - len(params[0])
                params[0].append(int(column[spans[0]][i]))
                params[1].append(int(column[spans[1]][i]))
    assert len(params[0]) > 5
    tables = {**plain.tables, "instructions": merged}
    contexts = {name: column.copy() for name, column in plain["contexts"].items()}
    contexts["body"][3] = 2
    contexts["param_first"][2:4] = [0, len(params[0])]
    contexts["param_count"][2:4] = len(params[0])
    tables["contexts"] = contexts
    tables["params"] = {"value": np.array(params[0] + params[1], np.int64)}
    x = codes(rng, 1, 5, 3, 2)
    result = run_program(replace(plain, tables=tables), m.weights, {"x": np.moveaxis(x, -1, 1)})
    np.testing.assert_array_equal(result.outputs["y"], sums(shape, x, m.weights["w"], 0))


_CODINGS = st.sampled_from(
    [
        Coding(parallel_rows=64),
        Coding(parallel_rows=20, column_flip=True),
        Coding(parallel_rows=64, weight_encoding="twos_complement", cell_bits=3, converter_hi=511),
        Coding(parallel_rows=64, weight_encoding="differential", converter_lo=-256, cell_bits=1),
        Coding(parallel_rows=64, dac_bits=2, converter_hi=1023),
    ]
)
"""All lossless with the micro machine's 64 rows."""


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 7),
    cols=st.integers(1, 6),
    channels=st.integers(1, 4),
    filters=st.integers(1, 4),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    frames=st.integers(1, 3),
    copies=st.integers(1, 3),
    tile_rows=st.integers(5, 64),
    wordlines=st.none() | st.integers(3, 64),
    coding=_CODINGS,
    narrow=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_random_convolutions(
    new_micro: NewMicro,
    new_shape: NewShape,
    rows: int,
    cols: int,
    channels: int,
    filters: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    frames: int,
    copies: int,
    tile_rows: int,
    wordlines: int | None,
    coding: Coding,
    narrow: bool,
    seed: int,
) -> None:
    """Any convolution: fast and walking engines agree bit for bit, and equal the plain sums if lossless.

    ``narrow`` takes three bits from the converter, which then clips: the engines must still agree.
    """
    kh, kw = (
        min(k, (n + 2 * p - 1) // d + 1)
        for k, n, p, d in zip(kernel, (rows, cols), padding, dilation, strict=True)
    )
    shape = new_shape(rows, cols, channels, filters, kh, kw, *stride, *dilation, *padding)
    copies = min(copies, shape.out_rows)
    if narrow:
        lo, hi = coding.converter_lo // 8, (coding.converter_hi + 1) // 8 - 1
        coding = replace(coding, converter_lo=lo, converter_hi=hi)
    m = new_micro(coding)
    rng = np.random.default_rng(seed)
    m.weights["w"] = weights(rng, shape.taps, filters)
    zero = int(rng.integers(0, 256))
    rings = [m.conv_ring(shape, c, pad=zero, copy=c, copies=copies) for c in range(copies)]
    out = m.sink("y", shape.out_rows, shape.out_cols, filters, Element.I32)
    m.source("x", rows, cols, channels, [m.route(r, cols, channels, dst_pos=shape.pw) for r in rings])
    for c, ring in enumerate(rings):
        routes = [m.route(out, shape.out_cols, filters)]
        m.conv(
            f"c{c}",
            shape,
            ring,
            routes,
            core=c,
            weight="w",
            copy=c,
            copies=copies,
            tile_rows=tile_rows,
            wordlines=wordlines,
        )
    x = codes(rng, frames, rows, cols, channels)

    fast = m.run({"x": x}, count_converters=True)
    walking = m.run({"x": x}, walk=True)
    np.testing.assert_array_equal(fast.outputs["y"], walking.outputs["y"])
    assert fast.executed_instructions == walking.executed_instructions
    assert (
        fast.array_macs
        == walking.array_macs
        == frames * shape.taps * filters * shape.out_rows * shape.out_cols
    )
    clipped = sum(count.clipped for count in fast.converters.values())
    if not clipped:
        np.testing.assert_array_equal(fast.outputs["y"], sums(shape, x, m.weights["w"], zero))
    if not narrow:
        assert not clipped


@pytest.mark.parametrize("walk", [False, True])
def test_loops_whose_windows_meet(
    new_micro: NewMicro, new_shape: NewShape, rng: np.random.Generator, walk: bool
) -> None:
    """Windows that add to one place, or whose source rows move, are read one after the other as written."""
    m = new_micro()
    b = m.builder
    shape = new_shape(rows=4, cols=3, channels=2, filters=3, kh=2)
    m.weights["w"] = weights(rng, 2, 3)
    xb, tiles = m.array_set(0, "w", (0, 2, 0, 3))
    ring = m.conv_ring(shape, 0, pad=0)
    out = m.sink("y", 3, 1, 3, Element.I32)
    m.source("x", 4, 3, 2, [m.route(ring, 3, 2)])
    acc = At(m.local(0, Element.I32, 1, 3))
    zero = b.add_record([0])
    across, down = b.add_stride([], [0, 0, 2]), b.add_stride([0, 0, 1])
    window = b.add_window(c=2)
    body = [
        write_xb(xb, 0, tiles),
        loop_images(),
        recv(ring, 1),
        loop(3),
        recv(ring, 1),
        alu(AluFunction.FILL, acc, n=3, record=zero),
        loop(3),
        read_xb(acc, At(ring, st=across), xb, window, 3, 0, tiles, add=1),
        end(),
        loop(2),
        read_xb(acc, At(ring, col=4, st=down), xb, window, 3, 0, tiles, add=1),
        end(),
        free(ring, 1),
        send(acc, b.add_route_set([m.route(out, 1, 3)]), n=3, m=1, row_st=b.add_stride([0, 1])),
        end(),
        free(ring, 1),
        end(),
        halt(),
    ]
    m.context(0, "sums", body)
    x = codes(rng, 2, 4, 3, 2)
    wide = x.astype(np.int64)
    seen = wide[:, :3].sum(axis=2) + wide[:, :3, 2] + wide[:, 1:, 2]
    result = m.run({"x": x}, walk=walk)
    expected = seen @ m.weights["w"].astype(np.int64)
    np.testing.assert_array_equal(result.outputs["y"][..., 0], np.moveaxis(expected, -1, 1))
    assert result.array_macs == 2 * 3 * 5 * 2 * 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(3, 7), st.integers(2, 5)),
    channels=st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(1, 3)),
    first=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), st.integers(1, 3)),
    second=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), st.integers(1, 3)),
    cut=st.booleans(),
    coding=_CODINGS,
    seed=st.integers(0, 2**16),
)
def test_random_chains(
    new_micro: NewMicro,
    new_shape: NewShape,
    size: tuple[int, int],
    channels: tuple[int, int, int],
    first: tuple[int, int, int, int],
    second: tuple[int, int, int, int],
    cut: bool,
    coding: Coding,
    seed: int,
) -> None:
    """Two convolutions with different copies, the first in column tiles, requantised between: three frames."""
    rng = np.random.default_rng(seed)
    m = new_micro(coding)
    shapes: list[ConvShape] = []
    rows, cols = size
    for i, (kernel, stride, pad, _) in enumerate((first, second)):
        kh, kw = min(kernel, rows + 2 * pad), min(kernel, cols + 2 * pad)
        shape = new_shape(rows, cols, *channels[i : i + 2], kh, kw, stride, stride, 1, 1, pad, pad)
        shapes.append(shape)
        rows, cols = shape.out_rows, shape.out_cols
    copies = [min(first[3], shapes[0].out_rows), min(second[3], shapes[1].out_rows)]
    zero = [int(z) for z in rng.integers(0, 256, 2)]
    m.weights.update({str(i): weights(rng, s.taps, s.filters) for i, s in enumerate(shapes)})
    factor = rng.uniform(1e-3, 4e-3, shapes[0].filters).astype(np.float32)
    record = m.builder.add_record([zero[1], 0, 255, len(factor), *[0] * len(factor)], factor.tolist())
    columns = [(0, 1), (1, channels[1])] if cut else [(0, channels[1])]
    rings = [
        [
            [m.conv_ring(shapes[i], i, zero[i], copy=c, copies=copies[i]) for c in range(copies[i])]
            for _ in (columns if i == 0 else [None])
        ]
        for i in range(2)
    ]
    out = m.sink("y", rows, cols, channels[2], Element.I32)
    m.source(
        "x",
        *size,
        channels[0],
        [m.route(r, size[1], channels[0], dst_pos=first[2]) for g in rings[0] for r in g],
    )
    xbar = 0
    for n, part in enumerate(columns):
        wide = part[1] - part[0]
        for c in range(copies[0]):
            routes = [
                m.route(r, shapes[1].cols, wide, dst_pos=second[2], dst_chan=part[0]) for r in rings[1][0]
            ]
            m.conv(
                f"a{n}{c}",
                shapes[0],
                rings[0][n][c],
                routes,
                weight="0",
                copy=c,
                copies=copies[0],
                columns=part,
                record=record,
                xbar=xbar,
            )
            xbar += 1
    for c in range(copies[1]):
        routes = [m.route(out, cols, channels[2])]
        m.conv(
            f"b{c}", shapes[1], rings[1][0][c], routes, core=1, weight="1", copy=c, copies=copies[1], xbar=c
        )
    x = codes(rng, 3, *size, channels[0])
    acc = np.moveaxis(sums(shapes[0], x, m.weights["0"], zero[0]), 1, -1)
    middle = np.clip(np.rint(acc.astype(np.float32) * factor) + zero[1], 0, 255).astype(np.uint8)
    expected = sums(shapes[1], middle, m.weights["1"], zero[1])
    np.testing.assert_array_equal(m.run({"x": x}).outputs["y"], expected)
    np.testing.assert_array_equal(m.run({"x": x}, walk=True).outputs["y"], expected)
