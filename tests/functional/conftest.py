"""Small programs by hand: sources, sinks and convolution stages through the assembler, and plain references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.functional import FunctionalResult, run_program
from cimc.runtime.program import AluFunction, BufferKind, Element, IoTensor, Program
from cimc.runtime.program.builder import ProgramBuilder, Route, Tile
from cimc.runtime.program.geometry import ring_geometry
from cimc.runtime.program.rows import (
    At,
    Row,
    alu,
    dma_in,
    dma_out,
    end,
    free,
    halt,
    loop,
    loop_images,
    read_row,
    read_xb,
    recv,
    send,
    write_xb,
)

MACHINE: dict[str, Any] = {"name": "micro", "crossbar": {"rows": 64, "columns": 128}}


@dataclass(frozen=True)
class ConvShape:
    """A convolution over (rows, cols, channels), padding on all sides alike."""

    rows: int
    cols: int
    channels: int
    filters: int
    kh: int = 1
    kw: int = 1
    sh: int = 1
    sw: int = 1
    dh: int = 1
    dw: int = 1
    ph: int = 0
    pw: int = 0

    @property
    def out_rows(self) -> int:
        """Output rows."""
        return (self.rows + 2 * self.ph - (self.kh - 1) * self.dh - 1) // self.sh + 1

    @property
    def out_cols(self) -> int:
        """Output columns."""
        return (self.cols + 2 * self.pw - (self.kw - 1) * self.dw - 1) // self.sw + 1

    @property
    def taps(self) -> int:
        """Rows of the weight matrix."""
        return self.kh * self.kw * self.channels

    def windows(self, x: npt.NDArray[Any], pad: float) -> npt.NDArray[Any]:
        """(frames, out rows, out cols, taps) of x (frames, rows, cols, channels): loops, no striding tricks."""
        padded = np.pad(x, ((0, 0), (self.ph,) * 2, (self.pw,) * 2, (0, 0)), constant_values=pad)
        out = np.empty((len(x), self.out_rows, self.out_cols, self.taps), x.dtype)
        for r in range(self.out_rows):
            for p in range(self.out_cols):
                cells = [
                    padded[:, r * self.sh + i * self.dh, p * self.sw + j * self.dw]
                    for i in range(self.kh)
                    for j in range(self.kw)
                ]
                out[:, r, p] = np.concatenate(cells, axis=1)
        return out


@dataclass
class Micro:
    """A program in the making, its weights and the coding all its arrays use."""

    builder: ProgramBuilder
    coding: Coding
    weights: dict[str, npt.NDArray[Any]]

    def route(
        self,
        ring: int,
        positions: int,
        channels: int,
        *,
        group: int = 0,
        src_pos: int = 0,
        src_chan: int = 0,
        dst_pos: int = 0,
        dst_chan: int = 0,
    ) -> Route:
        """A route of a whole rectangle."""
        return Route(ring, group, src_pos, src_chan, positions, channels, dst_pos, dst_chan)

    def plain_ring(
        self, core: int, rows: int, positions: int, channels: int, element: Element, *, slots: int = 2
    ) -> int:
        """A ring that takes every row in order, one at a time."""
        geometry = ring_geometry(1, 1, 1, 0, rows, rows)
        return self.builder.add_ring(
            core,
            element,
            slots,
            positions * channels,
            geometry,
            channels=channels,
            fill=positions * channels,
        )

    def conv_ring(
        self,
        shape: ConvShape,
        core: int,
        pad: int,
        *,
        copy: int = 0,
        copies: int = 1,
        slots: int | None = None,
        element: Element = Element.U8,
    ) -> int:
        """The ring of a convolution's input; columns outside the image are part of the pitch."""
        g = ring_geometry(shape.kh, shape.sh, shape.dh, shape.ph, shape.rows, shape.out_rows, copy, copies)
        return self.builder.add_ring(
            core,
            element,
            g.window if slots is None else slots,
            (shape.cols + 2 * shape.pw) * shape.channels,
            g,
            channels=shape.channels,
            fill=shape.cols * shape.channels,
            pad=pad,
        )

    def tensor(
        self, name: str, direction: str, rows: int, positions: int, channels: int, element: Element
    ) -> int:
        """A host tensor (channels, rows, positions); its index."""
        shape = (channels, rows, positions)
        sizes = (rows, positions, channels, positions, 1, rows * positions)
        return self.builder.add_io(IoTensor(name, direction, int(element), shape, *sizes))

    def source(
        self,
        name: str,
        rows: int,
        positions: int,
        channels: int,
        routes: Sequence[Route],
        element: Element = Element.U8,
    ) -> None:
        """A chip-level context that brings the input (channels, rows, positions) in, row by row."""
        b = self.builder
        io = self.tensor(name, "in", rows, positions, channels, element)
        row = b.add_buffer(-1, element, 1, positions * channels)
        st = b.add_stride([0, 1])
        body = [
            loop_images(),
            loop(rows),
            dma_in(At(row), io, n=channels, m=positions, row_st=st),
            send(At(row), b.add_route_set(routes), n=channels, m=positions, row_st=st),
            end(),
            end(),
            halt(),
        ]
        self.context(-1, name, body)

    def sink(self, name: str, rows: int, positions: int, channels: int, element: Element) -> int:
        """A chip-level context that takes rows out to an output; returns its ring."""
        b = self.builder
        io = self.tensor(name, "out", rows, positions, channels, element)
        ring = self.plain_ring(-1, rows, positions, channels, element)
        st = b.add_stride([0, 1])
        body = [
            loop_images(),
            loop(rows),
            recv(ring, 1),
            dma_out(At(ring), io, n=channels, m=positions, row_st=st),
            free(ring, 1),
            end(),
            end(),
            halt(),
        ]
        self.context(-1, name, body)
        return ring

    def context(self, core: int, name: str, rows: Sequence[Row]) -> int:
        """A context of its own body; every row belongs to node ``name``."""
        node = self.builder.name(name)
        body = self.builder.add_body(name, [row._replace(node=node) for row in rows])
        return self.builder.add_context(core, body, node=node)

    def array_set(
        self, core: int, weight: str, block: tuple[int, int, int, int], *, tile_rows: int = 64, xbar: int = 0
    ) -> tuple[int, int]:
        """An array set of ``block`` cut into row tiles, from crossbar ``xbar`` on; (set, tiles)."""
        b = self.builder
        rows, columns = block[1] - block[0], block[3] - block[2]
        tiles = [
            Tile(xbar + i, k, min(k + tile_rows, rows), 0, columns)
            for i, k in enumerate(range(0, rows, tile_rows))
        ]
        coding = b.add_coding(self.coding.to_row().tolist())
        steps = b.add_steps([1] * self.coding.step_count)
        number = b.add_array_set(0, core, coding, b.weight(weight), block, tiles, step_first=steps)
        return number, len(tiles)

    def conv(
        self,
        name: str,
        shape: ConvShape,
        ring: int,
        routes: Sequence[Route],
        *,
        core: int = 0,
        weight: str | None = None,
        copy: int = 0,
        copies: int = 1,
        tile_rows: int = 64,
        xbar: int = 0,
        columns: tuple[int, int] | None = None,
        record: int | None = None,
        wordlines: int | None = None,
        tap: int = -1,
    ) -> None:
        """A convolution's context. Without ``record`` it sends int32 sums, with it requantised uint8 codes."""
        b = self.builder
        n0, n1 = columns or (0, shape.filters)
        width = n1 - n0
        xb, tiles = self.array_set(
            core, weight or name, (0, shape.taps, n0, n1), tile_rows=tile_rows, xbar=xbar
        )
        g = ring_geometry(shape.kh, shape.sh, shape.dh, shape.ph, shape.rows, shape.out_rows, copy, copies)
        acc = b.add_buffer(core, Element.I32, 1, shape.out_cols * width)
        window = b.add_window(
            kh=shape.kh,
            row_step=shape.dh,
            kw=shape.kw,
            col_step=shape.dw * shape.channels,
            c=shape.channels,
        )
        target = At(acc, st=b.add_stride([], [0, 0, width]))
        source = At(ring, st=b.add_stride([], [0, 0, shape.sw * shape.channels]))
        reads = [read_xb(target, source, xb, window, width, 0, tiles)]
        if wordlines is not None:
            spans = range(0, min(tile_rows, shape.taps), wordlines)
            reads = [
                read_row(target, source, xb, window, width, first, wordlines, add=int(first > 0))
                for first in spans
            ]
        out, tail = acc, list[Row]()
        if record is not None:
            out = b.add_buffer(core, Element.U8, 1, shape.out_cols * width)
            tail = [
                alu(
                    AluFunction.REQUANTISE,
                    At(out),
                    At(acc),
                    At(-1, col=n0),
                    n=width,
                    m=shape.out_cols,
                    record=record,
                )
            ]
        body = [
            write_xb(xb, 0, tiles),
            loop_images(),
            recv(ring, g.window - g.advance),
            loop(g.turns),
            recv(ring, g.advance),
            loop(shape.out_cols),
            *reads,
            end(),
            free(ring, g.advance),
            *tail,
            send(
                At(out),
                b.add_route_set(routes),
                n=width,
                m=shape.out_cols,
                row=copy,
                row_st=b.add_stride([0, copies]),
                tap=tap,
                tap_channel=n0,
            ),
            end(),
            free(ring, g.window - g.advance),
            end(),
            halt(),
        ]
        self.context(core, name, body)

    def stage(
        self,
        name: str,
        core: int,
        rows: int,
        inner: Sequence[Row],
        rings: Sequence[int],
        out: At,
        routes: Sequence[Route],
        n: int,
        m: int,
    ) -> None:
        """A digital stage: each turn receives a row of each ring, runs ``inner`` and sends a row."""
        st = self.builder.add_stride([0, 1])
        body = [
            loop_images(),
            loop(rows),
            *(recv(ring, 1) for ring in rings),
            *inner,
            *(free(ring, 1) for ring in rings),
            send(out, self.builder.add_route_set(routes), n=n, m=m, row_st=st),
            end(),
            end(),
            halt(),
        ]
        self.context(core, name, body)

    def local(self, core: int, element: Element, slots: int, pitch: int) -> int:
        """A local buffer."""
        return self.builder.add_buffer(core, element, slots, pitch, kind=BufferKind.LOCAL)

    def build(self) -> Program:
        """The program."""
        return self.builder.build(MACHINE)

    def run(self, inputs: Mapping[str, npt.NDArray[Any]], **options: Any) -> FunctionalResult:
        """Execute it; inputs (frames, rows, positions, channels) are handed over channels first."""
        arrays = {name: np.moveaxis(x, -1, 1) for name, x in inputs.items()}
        return run_program(self.build(), self.weights, arrays, **options)


LOSSLESS = Coding(cell_bits=2, dac_bits=1, parallel_rows=64, converter_hi=255)
"""64 rows of 1 x 2 bits reach 192: every conversion is exact."""


def make_micro(coding: Coding = LOSSLESS) -> Micro:
    """An empty program."""
    return Micro(ProgramBuilder(), coding, {})


@pytest.fixture
def new_micro() -> Callable[..., Micro]:
    """Makes empty programs."""
    return make_micro


@pytest.fixture
def new_shape() -> type[ConvShape]:
    """The shape of a convolution."""
    return ConvShape


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded numbers."""
    return np.random.default_rng(20261121)
