"""Digital functions executed from a program, against numpy written out here from docs/numerics.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from cimc.diagnostics import UnsupportedError
from cimc.runtime.functional import OverflowingError
from cimc.runtime.program import AluFunction, Element
from cimc.runtime.program.builder import float_bits
from cimc.runtime.program.geometry import ring_geometry
from cimc.runtime.program.rows import At, Row, alu, end, free, halt, loop, loop_images, recv, send

if TYPE_CHECKING:
    from tests.functional.conftest import ConvShape, Micro

NewMicro = Callable[..., "Micro"]
NewShape = Callable[..., "ConvShape"]
Array = npt.NDArray[Any]
F32 = np.float32

ROWS, COLS, CHANNELS = 3, 4, 5


def elementwise(
    m: Micro, inputs: Sequence[Array], rows: Callable[[At, list[At]], list[Row]], element: Element
) -> Array:
    """Run one digital stage over rows of all ``inputs`` (frames, rows, cols, channels); the result alike."""
    frames, high, wide, channels = inputs[0].shape
    out = m.sink("y", high, wide, channels, element)
    rings: list[int] = []
    for i, x in enumerate(inputs):
        kind = Element.of(x.dtype)
        rings.append(m.plain_ring(0, high, wide, channels, kind))
        m.source(f"x{i}", high, wide, channels, [m.route(rings[i], wide, channels)], kind)
    target = At(m.local(0, element, 1, wide * channels))
    inner = rows(target, [At(ring) for ring in rings])
    m.stage("stage", 0, high, inner, rings, target, [m.route(out, wide, channels)], channels, wide)
    result = m.run({f"x{i}": x for i, x in enumerate(inputs)})
    assert result.frames == frames
    return np.moveaxis(result.outputs["y"], 1, -1)


def single(
    m: Micro, func: AluFunction, ints: Sequence[int], floats: npt.ArrayLike
) -> Callable[[At, list[At]], list[Row]]:
    """One function over a whole row."""
    record = m.builder.add_record(ints, floats)
    return lambda dst, a: [alu(func, dst, *a, n=CHANNELS, m=COLS, record=record)]


def codes(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.uint8]:
    """Random uint8 codes (2, ROWS, COLS, CHANNELS) unless a shape is given."""
    return rng.integers(0, 256, shape or (2, ROWS, COLS, CHANNELS), dtype=np.uint8)


def rounded(value: Array, zero: int, lo: int, hi: int) -> Array:
    """clamp(rint(value) + zero, lo, hi)."""
    return np.clip(np.rint(value).astype(np.float64) + zero, lo, hi)


def test_residual_add(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """Rule 10: both sides to real numbers, float32 sum, division, ties to even."""
    m = new_micro()
    a, b = codes(rng), codes(rng)
    sa, sb, sy = F32(0.017), F32(0.031), F32(0.023)
    rows = single(m, AluFunction.ADD_CODES, [12, 130, 7, 3, 250], [sa, sb, sy])
    y = elementwise(m, [a, b], rows, Element.U8)
    value = ((a.astype(F32) - F32(12)) * sa + (b.astype(F32) - F32(130)) * sb) / sy
    np.testing.assert_array_equal(y, rounded(value, 7, 3, 250))


def test_quantise_and_back(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """Rule 1, then rule 2, through a local buffer; infinities saturate."""
    m = new_micro()
    x = rng.normal(0, 3, (2, ROWS, COLS, CHANNELS)).astype(np.float32)
    x[0, 0, 0, :2] = [np.inf, -np.inf]
    scale = F32(0.05)
    quantise = m.builder.add_record([100, 0, 255], [scale])
    dequantise = m.builder.add_record([100], [scale])
    middle = At(m.local(0, Element.U8, 1, COLS * CHANNELS))

    def rows(dst: At, a: list[At]) -> list[Row]:
        return [
            alu(AluFunction.QUANTISE, middle, a[0], n=CHANNELS, m=COLS, record=quantise),
            alu(AluFunction.DEQUANTISE, dst, middle, n=CHANNELS, m=COLS, record=dequantise),
        ]

    y = elementwise(m, [x], rows, Element.F32)
    expected = (rounded(x / scale, 100, 0, 255) - 100).astype(F32) * scale
    np.testing.assert_array_equal(y, expected)


def test_a_nan_is_refused_by_name(new_micro: NewMicro) -> None:
    """Quantising a NaN names the node, the context and the instruction."""
    m = new_micro()
    x = np.full((1, ROWS, COLS, CHANNELS), np.nan, np.float32)
    rows = single(m, AluFunction.QUANTISE, [0, 0, 255], [1.0])
    with pytest.raises(UnsupportedError, match=r"node 'stage', instruction 3 \(alu\).*not a number"):
        elementwise(m, [x], rows, Element.U8)


def test_requantise_codes_and_clamp(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """Codes of one scale in another, then narrowed."""
    m = new_micro()
    a = codes(rng)
    sa, sy = F32(0.02), F32(0.013)
    change = m.builder.add_record([128, 90, 0, 255], [sa, sy])
    clamp = m.builder.add_record([60, 180])

    def rows(dst: At, at: list[At]) -> list[Row]:
        return [
            alu(AluFunction.REQUANTISE_CODES, dst, at[0], n=CHANNELS, m=COLS, record=change),
            alu(AluFunction.CLAMP_CODES, dst, dst, n=CHANNELS, m=COLS, record=clamp),
        ]

    y = elementwise(m, [a], rows, Element.U8)
    value = ((a.astype(F32) - F32(128)) * sa) / sy
    np.testing.assert_array_equal(y, np.clip(rounded(value, 90, 0, 255), 60, 180))


@pytest.mark.parametrize("clip", [(-np.inf, np.inf), (0.0, 6.0), (-np.inf, 1.0)])
def test_float_add_and_clip(new_micro: NewMicro, rng: np.random.Generator, clip: tuple[float, float]) -> None:
    """Float32 sum with bounds, either of them absent; clip alone does the same to one operand."""
    a, b = (rng.normal(0, 4, (2, ROWS, COLS, CHANNELS)).astype(np.float32) for _ in range(2))
    m = new_micro()
    y = elementwise(m, [a, b], single(m, AluFunction.ADD_FLOAT, [], clip), Element.F32)
    np.testing.assert_array_equal(y, np.minimum(np.maximum(a + b, F32(clip[0])), F32(clip[1])))
    m = new_micro()
    y = elementwise(m, [a], single(m, AluFunction.CLIP_FLOAT, [], clip), Element.F32)
    np.testing.assert_array_equal(y, np.minimum(np.maximum(a, F32(clip[0])), F32(clip[1])))


def test_accumulators(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """Integer sums of two rows, then rule 6 with constants and factors of columns q0 onward."""
    m = new_micro()
    a, b = (rng.integers(-(2**29), 2**29, (2, ROWS, COLS, CHANNELS)).astype(np.int32) for _ in range(2))
    const = rng.integers(-(2**33), 2**33, CHANNELS + 2)
    factor = rng.uniform(1e-6, 1e-5, CHANNELS + 2).astype(np.float32)
    record = m.builder.add_record([CHANNELS + 2, *const.tolist()], factor.tolist())
    total = At(m.local(0, Element.I32, 1, COLS * CHANNELS))

    def rows(dst: At, at: list[At]) -> list[Row]:
        return [
            alu(AluFunction.ADD_INT, total, *at, n=CHANNELS, m=COLS),
            alu(AluFunction.ACC_TO_FLOAT, dst, total, At(-1, col=2), n=CHANNELS, m=COLS, record=record),
        ]

    y = elementwise(m, [a, b], rows, Element.F32)
    exact = a.astype(np.int64) + b + const[2:]
    np.testing.assert_array_equal(y, exact.astype(np.float32) * factor[2:])


def test_an_integer_sum_never_wraps(new_micro: NewMicro) -> None:
    """A sum that leaves int32 is an error, not another number."""
    m = new_micro()
    a = np.full((1, ROWS, COLS, CHANNELS), 2**30, np.int32)
    with pytest.raises(OverflowingError, match="2147483648 do not fit int32"):
        elementwise(m, [a, a], single(m, AluFunction.ADD_INT, [], []), Element.I32)


def test_softmax_of_rows(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """Rule 11: float64 inside, one rounding; each position sums to one."""
    m = new_micro()
    a = rng.normal(0, 5, (2, ROWS, COLS, CHANNELS)).astype(np.float32)
    y = elementwise(m, [a], single(m, AluFunction.SOFTMAX, [], []), Element.F32)
    powers = np.exp(a.astype(np.float64))
    np.testing.assert_allclose(y, powers / powers.sum(-1, keepdims=True), rtol=2e-7)


def test_fill(new_micro: NewMicro) -> None:
    """Fill writes an integer, or the float whose bits it is given."""
    m = new_micro()
    x = np.zeros((1, ROWS, COLS, CHANNELS), np.float32)
    record = m.builder.add_record([float_bits(-1.5)])

    def rows(dst: At, _: list[At]) -> list[Row]:
        return [alu(AluFunction.FILL, dst, n=CHANNELS, m=COLS, record=record)]

    assert (elementwise(m, [x], rows, Element.F32) == -1.5).all()


def pool(
    m: Micro, shape: ConvShape, x: Array, pad: int, row: Callable[[int, At, At], Row], element: Element
) -> Array:
    """Run a pool as a stage with a ring of windows: ``row`` makes its alu from (window, dst, source)."""
    b = m.builder
    ring = m.conv_ring(shape, 0, pad, element=Element.of(x.dtype), slots=shape.kh + 1)
    out = m.sink("y", shape.out_rows, shape.out_cols, shape.channels, element)
    kind = Element.of(x.dtype)
    m.source(
        "x",
        shape.rows,
        shape.cols,
        shape.channels,
        [m.route(ring, shape.cols, shape.channels, dst_pos=shape.pw)],
        kind,
    )
    g = ring_geometry(shape.kh, shape.sh, shape.dh, shape.ph, shape.rows, shape.out_rows)
    window = b.add_window(
        kh=shape.kh,
        row_step=shape.dh,
        kw=shape.kw,
        col_step=shape.dw * shape.channels,
        c=shape.channels,
        pos_step=shape.sw * shape.channels,
    )
    dst = At(m.local(0, element, 1, shape.out_cols * shape.channels))

    st = b.add_stride([0, 1])
    body = [
        loop_images(),
        recv(ring, g.window - g.advance),
        loop(g.turns),
        recv(ring, g.advance),
        row(window, dst, At(ring)),
        free(ring, g.advance),
        send(
            dst,
            b.add_route_set([m.route(out, shape.out_cols, shape.channels)]),
            n=shape.channels,
            m=shape.out_cols,
            row_st=st,
        ),
        end(),
        free(ring, g.window - g.advance),
        end(),
        halt(),
    ]
    m.context(0, "pool", body)
    return np.moveaxis(m.run({"x": x}).outputs["y"], 1, -1)


def cells(shape: ConvShape, x: Array, pad: float) -> Array:
    """(frames, out rows, out cols, taps, channels)."""
    windows = shape.windows(x, pad)
    return windows.reshape(*windows.shape[:3], shape.kh * shape.kw, shape.channels)


@pytest.fixture
def pool_shape(new_shape: NewShape) -> ConvShape:
    """Overlapping 3x3 windows, stride 2, padding 1."""
    return new_shape(rows=6, cols=7, channels=3, filters=3, kh=3, kw=3, sh=2, sw=2, ph=1, pw=1)


def test_max_pool_of_codes(new_micro: NewMicro, pool_shape: ConvShape, rng: np.random.Generator) -> None:
    """The greatest code of each window; padding is the least; a fused clip narrows."""
    m = new_micro()
    x = codes(rng, 2, 6, 7, 3)
    n, wide = pool_shape.channels, pool_shape.out_cols

    def row(window: int, dst: At, a: At) -> Row:
        record = m.builder.add_record([window, 20, 240])
        return alu(AluFunction.MAX_POOL, dst, a, n=n, m=wide, record=record)

    y = pool(m, pool_shape, x, 0, row, Element.U8)
    np.testing.assert_array_equal(y, np.clip(cells(pool_shape, x, 0).max(axis=3), 20, 240))


def test_max_pool_of_floats(new_micro: NewMicro, pool_shape: ConvShape, rng: np.random.Generator) -> None:
    """Float rows with a pad of minus infinity."""
    m = new_micro()
    x = rng.normal(-5, 1, (2, 6, 7, 3)).astype(np.float32)

    def row(window: int, dst: At, a: At) -> Row:
        record = m.builder.add_record([window, 0, 0])
        return alu(AluFunction.MAX_POOL, dst, a, n=3, m=pool_shape.out_cols, record=record)

    y = pool(m, pool_shape, x, float_bits(-np.inf), row, Element.F32)
    np.testing.assert_array_equal(y, cells(pool_shape, x, -np.inf).max(axis=3))


def counts(shape: ConvShape) -> tuple[list[int], list[int]]:
    """Cells inside the image per output row and column."""
    rows = [
        sum(0 <= r * shape.sh - shape.ph + i < shape.rows for i in range(shape.kh))
        for r in range(shape.out_rows)
    ]
    cols = [
        sum(0 <= p * shape.sw - shape.pw + j < shape.cols for j in range(shape.kw))
        for p in range(shape.out_cols)
    ]
    return rows, cols


def test_average_pool_of_codes(new_micro: NewMicro, pool_shape: ConvShape, rng: np.random.Generator) -> None:
    """Rule 9 with padding left out of the count, which differs at the borders."""
    m = new_micro()
    x = codes(rng, 2, 6, 7, 3)
    sx, sy = F32(0.04), F32(0.03)
    rows, cols = counts(pool_shape)
    assert len(set(rows)) > 1
    st = m.builder.add_stride([0, 1])

    def row(window: int, dst: At, a: At) -> Row:
        ints = [window, 99, 11, 0, 255, len(rows), len(cols), *rows, *cols]
        record = m.builder.add_record(ints, [sx, sy])
        return alu(AluFunction.AVERAGE_POOL, dst, a, At(-1, st=st), n=3, m=pool_shape.out_cols, record=record)

    y = pool(m, pool_shape, x, 99, row, Element.U8)
    total = (cells(pool_shape, x, 99).astype(np.int64) - 99).sum(axis=3)
    count = np.array(rows)[:, None, None] * np.array(cols)[:, None]
    value = ((total.astype(F32) / count.astype(F32)) * sx) / sy
    np.testing.assert_array_equal(y, rounded(value, 11, 0, 255))


def test_average_pool_of_floats(new_micro: NewMicro, pool_shape: ConvShape, rng: np.random.Generator) -> None:
    """Rule 11: float64 sum of the window, one division, one rounding."""
    m = new_micro()
    x = rng.normal(0, 1, (2, 6, 7, 3)).astype(np.float32)
    rows, cols = counts(pool_shape)
    st = m.builder.add_stride([0, 1])

    def row(window: int, dst: At, a: At) -> Row:
        record = m.builder.add_record([window, len(rows), len(cols), *rows, *cols])
        return alu(
            AluFunction.AVERAGE_POOL_FLOAT, dst, a, At(-1, st=st), n=3, m=pool_shape.out_cols, record=record
        )

    y = pool(m, pool_shape, x, float_bits(0.0), row, Element.F32)
    count = np.array(rows)[:, None, None] * np.array(cols)[:, None]
    total = cells(pool_shape, x, 0).astype(np.float64).sum(axis=3)
    np.testing.assert_allclose(y, total / count, rtol=1e-6)


def test_global_mean(new_micro: NewMicro, rng: np.random.Generator) -> None:
    """Rows are summed as they come into an int64 accumulator that each image starts anew; one row leaves."""

    m = new_micro()
    x = codes(rng)
    sx, sy = F32(0.02), F32(0.011)
    out = m.sink("y", 1, 1, CHANNELS, Element.U8)
    ring = m.plain_ring(0, ROWS, COLS, CHANNELS, Element.U8)
    m.source("x", ROWS, COLS, CHANNELS, [m.route(ring, COLS, CHANNELS)])
    acc = At(m.local(0, Element.I64, 1, CHANNELS))
    dst = At(m.local(0, Element.U8, 1, CHANNELS))
    zero = m.builder.add_record([0])
    offset = m.builder.add_record([50])
    mean = m.builder.add_record([ROWS * COLS, 8, 0, 255], [sx, sy])
    body = [
        loop_images(),
        alu(AluFunction.FILL, acc, n=CHANNELS, record=zero),
        loop(ROWS),
        recv(ring, 1),
        alu(AluFunction.SUM_POSITIONS, acc, At(ring), n=CHANNELS, m=COLS, record=offset),
        free(ring, 1),
        end(),
        alu(AluFunction.MEAN_CODES, dst, acc, n=CHANNELS, record=mean),
        send(dst, m.builder.add_route_set([m.route(out, 1, CHANNELS)]), n=CHANNELS, m=1),
        end(),
        halt(),
    ]
    m.context(0, "mean", body)
    y = m.run({"x": x}).outputs["y"][:, :, 0, 0]
    total = (x.astype(np.int64) - 50).sum(axis=(1, 2))
    np.testing.assert_array_equal(y, rounded(((total.astype(F32) / F32(ROWS * COLS)) * sx) / sy, 8, 0, 255))
