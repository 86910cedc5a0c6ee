"""Every rule the engine checks while it runs: the broken program is named with node, context, instruction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cimc.diagnostics import CimError, ErrorList, UsageError
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.functional import (
    BoundsError,
    DeadlockError,
    ExecutionError,
    OverflowingError,
    OverlapError,
    RingError,
    UnwrittenError,
    run_program,
)
from cimc.runtime.program import AluFunction, Element, parameter
from cimc.runtime.program.builder import Route
from cimc.runtime.program.rows import (
    At,
    Row,
    alu,
    copy,
    end,
    free,
    halt,
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

if TYPE_CHECKING:
    from tests.functional.conftest import ConvShape, Micro

NewMicro = Callable[..., "Micro"]
NewShape = Callable[..., "ConvShape"]
X = np.zeros((1, 4, 3, 2), np.uint8)


def consumer(m: Micro, inner: Sequence[Row], ring: int, *, receive: int = 1, release: int = 1) -> None:
    """A context of core 0 that takes four rows and does ``inner`` with each."""
    body = [loop_images(), loop(4), recv(ring, receive), *inner, free(ring, release), end(), end(), halt()]
    m.context(0, "taker", body)


def fed_ring(m: Micro, *, slots: int = 2, routes: Callable[[int], list[Route]] | None = None) -> int:
    """A ring in core 0 fed with four rows of 3 x 2."""
    ring = m.plain_ring(0, 4, 3, 2, Element.U8, slots=slots)
    m.source("x", 4, 3, 2, routes(ring) if routes else [m.route(ring, 3, 2)])
    return ring


def test_deadlock_names_contexts_and_rings(new_micro: NewMicro) -> None:
    """Nobody frees: the sender waits for room, and the report says who waits for which place of which ring."""
    m = new_micro()
    ring = fed_ring(m)
    never = m.builder.add_event()
    consumer(m, [wait(never, 3)], ring)
    with pytest.raises(DeadlockError) as caught:
        m.run({"x": X})
    message = str(caught.value)
    assert "2 of 2 contexts are left" in message
    assert (
        "context 0 of 'x' on core -1, node 'x', instruction 3 (send) waits for room for place 2 in ring"
        in message
    )
    assert (
        "'taker' on core 0, node 'taker', instruction 3 (wait) waits for event 0 to count 3, it counts 0"
        in message
    )


def test_missing_rows_are_a_deadlock(new_micro: NewMicro) -> None:
    """A receiver of rows that nobody sends is reported with the place and how full it is."""
    m = new_micro()
    ring = fed_ring(m, routes=lambda ring: [m.route(ring, 2, 2)])
    consumer(m, [], ring)
    with pytest.raises(DeadlockError, match=r"\(recv\) waits for place 0 of ring \d+ .*: 4 of 6 elements"):
        m.run({"x": X})


def test_read_of_a_place_not_received(new_micro: NewMicro) -> None:
    """Row 1 of a ring that holds one place may not be read even if it has arrived already."""
    m = new_micro()
    ring = fed_ring(m, slots=4)
    dst = At(m.local(0, Element.U8, 1, 6))
    clamp = m.builder.add_record([0, 255])
    consumer(m, [alu(AluFunction.CLAMP_CODES, dst, At(ring, row=1), n=2, m=3, record=clamp)], ring)
    with pytest.raises(
        RingError, match=r"'taker'.*instruction 3 \(alu\): row 1 of ring .* places 0 … 0 are held"
    ):
        m.run({"x": X})


def test_free_of_places_not_held(new_micro: NewMicro) -> None:
    """More places cannot be freed than were received."""
    m = new_micro()
    consumer(m, [], fed_ring(m), release=2)
    with pytest.raises(RingError, match=r"2 places of ring .* are freed, 1 are held"):
        m.run({"x": X})


def test_receiving_over_places_not_freed(new_micro: NewMicro, new_shape: NewShape) -> None:
    """Holding more places than there are slots would overwrite the oldest."""
    m = new_micro()
    consumer(m, [], fed_ring(m), release=0)
    with pytest.raises(RingError, match="would overwrite a place that is not freed"):
        m.run({"x": X})


def test_overlapping_parts(new_micro: NewMicro) -> None:
    """Two parts of a row that share a column make more elements than the row has."""
    m = new_micro()

    def routes(ring: int) -> list[Route]:
        return [m.route(ring, 2, 2), m.route(ring, 2, 2, src_pos=1, dst_pos=1)]

    consumer(m, [], fed_ring(m, routes=routes))
    with pytest.raises(OverlapError, match=r"8 elements arrive for place 0 .* which 6 make full"):
        m.run({"x": X})


def test_row_sent_after_it_was_received(new_micro: NewMicro) -> None:
    """A row that was received already may not be sent again, however long ago that was."""
    m = new_micro()
    ring = fed_ring(m)
    go, zero = m.builder.add_event(), m.builder.add_record([0])
    consumer(m, [signal(go)], ring)
    row = m.local(0, Element.U8, 1, 6)
    again = send(At(row), m.builder.add_route_set([m.route(ring, 3, 2)]), n=2, m=3)
    m.context(0, "again", [wait(go, 4), alu(AluFunction.FILL, At(row), n=6, record=zero), again, halt()])
    with pytest.raises(OverlapError, match=r"'again'.*\(send\): place 0 of ring .* arrives again"):
        m.run({"x": X})


def array_program(
    m: Micro, rows: Callable[[int, At, At, int], list[Row]], *, dst: Element = Element.I32
) -> None:
    """One read of a 1 x 1 window of 2 channels; ``rows`` makes the body from (set, dst, source, window)."""
    m.weights["w"] = np.full((2, 3), 5, np.int8)
    ring = fed_ring(m)
    xb, _ = m.array_set(0, "w", (0, 2, 0, 3), tile_rows=1)
    acc = At(m.local(0, dst, 1, 9))
    consumer(m, rows(xb, acc, At(ring), m.builder.add_window(c=2)), ring)


def test_read_of_cells_not_written(new_micro: NewMicro) -> None:
    """Cells that no write_* has programmed cannot be read: none of a crossbar, or one wordline of it."""
    m = new_micro()
    array_program(m, lambda xb, dst, a, w: [read_xb(dst, a, xb, w, 3, 0, 2)])
    with pytest.raises(
        UnwrittenError, match=r"\(read_xb\): crossbar 0 of core 0 is read but was never written"
    ):
        m.run({"x": X})
    m = new_micro()
    array_program(m, lambda xb, dst, a, w: [write_xb(xb, 0, 1), read_xb(dst, a, xb, w, 3, 0, 2)])
    with pytest.raises(UnwrittenError, match="crossbar 1 of core 0"):
        m.run({"x": X})


@pytest.mark.parametrize("walk", [False, True])
def test_writes_of_wordlines(new_micro: NewMicro, walk: bool) -> None:
    """Programming all wordlines in pieces equals programming the tiles; a missing one is an error."""
    m = new_micro()
    m.weights["w"] = np.arange(-9, 9, dtype=np.int8).reshape(6, 3)
    ring = fed_ring(m)
    xb, _ = m.array_set(0, "w", (0, 6, 0, 3), tile_rows=6)
    acc = At(m.local(0, Element.I32, 1, 3))
    out = m.sink("y", 4, 1, 3, Element.I32)
    window = m.builder.add_window(kw=3, col_step=2, c=2)
    st = m.builder.add_stride([0, 1])
    rows = [
        write_row(xb, 0, 2),
        write_row(xb, 2, 4),
        read_row(acc, At(ring), xb, window, 3, 3, 3),
        read_row(acc, At(ring), xb, window, 3, 0, 3, add=1),
        send(acc, m.builder.add_route_set([m.route(out, 1, 3)]), n=3, m=1, row_st=st),
    ]
    consumer(m, rows, ring)
    x = np.arange(24, dtype=np.uint8).reshape(1, 4, 3, 2)
    expected = x.reshape(4, 6).astype(np.int64) @ m.weights["w"].astype(np.int64)
    np.testing.assert_array_equal(m.run({"x": x}, walk=walk).outputs["y"][0, :, :, 0].T, expected)
    partial = new_micro()
    array_program(partial, lambda xb, dst, a, w: [write_row(xb, 1, 1), read_xb(dst, a, xb, w, 3, 0, 2)])
    with pytest.raises(BoundsError, match="wordlines 1 … 1 of array set 0"):
        partial.run({"x": X})


def test_read_of_a_local_buffer_never_written(new_micro: NewMicro) -> None:
    """Local buffers start undefined: adding to an accumulator that was not set is found."""
    m = new_micro()
    array_program(m, lambda xb, dst, a, w: [write_xb(xb, 0, 2), read_xb(dst, a, xb, w, 3, 0, 2, add=1)])
    with pytest.raises(UnwrittenError, match=r"elements 0 … 2 of slot 0 of buffer .* nothing was written"):
        m.run({"x": X})


def bad_rows(m: Micro, kind: str, ring: int) -> list[Row]:
    """One row that leaves something."""
    b = m.builder
    local = m.local(0, Element.U8, 1, 6)
    clamp = b.add_record([0, 255])
    table: dict[str, Callable[[], Row]] = {
        "beyond a slot": lambda: alu(
            AluFunction.CLAMP_CODES, At(local, col=1), At(ring), n=2, m=3, record=clamp
        ),
        "beyond a ring's slot": lambda: alu(
            AluFunction.CLAMP_CODES, At(local), At(ring, col=2), n=2, m=3, record=clamp
        ),
        "no such buffer": lambda: alu(AluFunction.CLAMP_CODES, At(99), At(ring), n=2, m=3, record=clamp),
        "no such record": lambda: alu(AluFunction.CLAMP_CODES, At(local), At(ring), n=2, m=3, record=99),
        "codes too wide": lambda: alu(
            AluFunction.CLAMP_CODES, At(local), At(ring), n=2, m=3, record=b.add_record([-1, 9])
        ),
        "not a ring": lambda: recv(local, 1),
        "copy beyond a slot": lambda: copy(At(local), At(ring), b.add_copy(4, 2, 2, 2, 1, 1)),
        "route beyond a ring": lambda: send(
            At(ring), b.add_route_set([m.route(ring, 3, 2, dst_pos=1)]), n=2, m=3, row=3
        ),
        "no such event": lambda: signal(5),
        "route to nowhere": lambda: send(At(ring), b.add_route_set([m.route(-1, 3, 2)]), n=2, m=3, row=3),
        "no such window": lambda: read_xb(
            At(local), At(ring), m.array_set(0, "w", (0, 2, 0, 3))[0], 7, 3, 0, 1
        ),
        "no such array set": lambda: write_xb(4, 0, 1),
    }
    return [table[kind]()]


@pytest.mark.parametrize(
    "kind",
    [
        "beyond a slot",
        "beyond a ring's slot",
        "no such buffer",
        "no such record",
        "codes too wide",
        "not a ring",
        "copy beyond a slot",
        "route beyond a ring",
        "no such event",
        "route to nowhere",
        "no such window",
        "no such array set",
    ],
)
def test_bounds(new_micro: NewMicro, kind: str) -> None:
    """Operands, records, routes and events outside what the program has; the message names node and row."""
    m = new_micro()
    m.weights["w"] = np.zeros((2, 3), np.int8)
    ring = fed_ring(m)
    consumer(m, bad_rows(m, kind, ring), ring)
    with pytest.raises(BoundsError, match=r"'taker'.*instruction 3 \("):
        m.run({"x": X})


def test_window_and_set_must_fit(new_micro: NewMicro) -> None:
    """A window of another length than the set's rows, and a narrow accumulator type, are refused."""
    m = new_micro()
    array_program(m, lambda xb, dst, a, w: [read_xb(dst, a, xb, m.builder.add_window(c=1), 3, 0, 2)])
    with pytest.raises(BoundsError, match="has 1 elements, array set 0 takes 2"):
        m.run({"x": X})
    m = new_micro()
    array_program(m, lambda xb, dst, a, w: [read_xb(dst, a, xb, w, 3, 0, 2)], dst=Element.I16)
    with pytest.raises(BoundsError, match="a read writes int32 or int64"):
        m.run({"x": X})


@pytest.mark.parametrize("walk", [False, True])
def test_accumulator_overflow(new_micro: NewMicro, walk: bool) -> None:
    """An int32 accumulator that the sums leave is an error."""
    m = new_micro()
    big = m.builder.add_record([2**31 - 1])

    def rows(xb: int, dst: At, a: At, window: int) -> list[Row]:
        fill = alu(AluFunction.FILL, dst, n=3, record=big)
        return [write_xb(xb, 0, 2), fill, read_xb(dst, a, xb, window, 3, 0, 2, add=1)]

    array_program(m, rows)
    with pytest.raises(OverflowingError, match=r"\(read_xb\): .* not fit int32"):
        m.run({"x": X + 1}, walk=walk)


@pytest.mark.parametrize("walk", [False, True])
def test_codes_that_the_coding_excludes(new_micro: NewMicro, walk: bool) -> None:
    """A code wider than the digits would lose bits, so it is an error in both engines."""
    m = new_micro(Coding(input_bits=4, parallel_rows=64))
    array_program(m, lambda xb, dst, a, w: [write_xb(xb, 0, 2), read_xb(dst, a, xb, w, 3, 0, 2)])
    with pytest.raises(ExecutionError, match=r"input codes must be in 0 … 15"):
        m.run({"x": X + 16}, walk=walk)


def test_output_must_be_complete(new_micro: NewMicro) -> None:
    """An output element that nobody delivers is not quietly zero."""
    m = new_micro()
    m.tensor("y", "out", 4, 3, 2, Element.U8)
    consumer(m, [], fed_ring(m))
    with pytest.raises(UnwrittenError, match="24 of 24 elements of 'y' were never written"):
        m.run({"x": X})


def test_parameters_that_do_not_exist(new_micro: NewMicro) -> None:
    """A field that names a parameter beyond the context's is refused with the context."""
    m = new_micro()
    m.context(0, "lost", [loop(parameter(0)), end(), halt()])
    with pytest.raises(ExecutionError, match=r"context 0 of 'lost' on core 0: field n names parameter 0"):
        m.run({})


def test_image_index_needs_the_image_loop(new_micro: NewMicro) -> None:
    """A send under a loop that counts something else has no image to belong to."""
    m = new_micro()
    ring = fed_ring(m)
    row = At(m.local(0, Element.U8, 1, 6))
    routes = m.builder.add_route_set([m.route(ring, 3, 2)])
    m.context(0, "loose", [loop(2), send(row, routes, n=2, m=3), end(), halt()])
    with pytest.raises(ExecutionError, match=r"'loose'.*instruction 1 \(send\): .* counts no images"):
        m.run({"x": X})


def inputs_of(m: Micro) -> None:
    consumer(m, [], fed_ring(m))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'x': is missing"),
        ({"x": X, "z": X}, "input 'z': the program has no such input; it takes 'x'"),
        ({"x": X[..., :1]}, r"must have shape \(frames, 2, 4, 3\)"),
        ({"x": X[:0]}, "must have shape"),
        ({"x": X.astype(np.float32)}, "must hold uint8, given float32"),
        ({"x": X.astype(np.int64) - 1}, "holds values outside uint8"),
    ],
)
def test_wrong_inputs(new_micro: NewMicro, inputs: dict[str, Any], message: str) -> None:
    """Names, shapes and types of inputs are checked before anything runs."""
    m = new_micro()
    inputs_of(m)
    with pytest.raises(UsageError if len(inputs) < 2 else CimError, match=message):
        m.run(inputs)


def test_wrong_inputs_are_reported_together(new_micro: NewMicro) -> None:
    """Several problems are one error; unknown taps and missing weights are errors too."""
    m = new_micro()
    inputs_of(m)
    with pytest.raises(ErrorList) as caught:
        m.run({"y": X})
    assert len(caught.value.errors) == 2
    with pytest.raises(UsageError, match="no tap nowhere"):
        m.run({"x": X}, taps=["nowhere"])
    m.builder.weight("absent")
    with pytest.raises(UsageError, match="the weight image lacks absent"):
        run_program(m.build(), {}, {"x": np.moveaxis(X, -1, 1)})


def test_clipped_conversions_are_counted(new_micro: NewMicro, new_shape: NewShape) -> None:
    """Eight rows of the largest weight and input: every bit of the input clips the two full digit columns.

    Weight 127 with offset 128 is 255: four cells of 3. A digit cycle of ones sums 24, a converter of four bits
    ends at 15; code 0 is not limited.
    """
    shape = new_shape(rows=2, cols=1, channels=8, filters=1)
    m = new_micro(Coding(parallel_rows=64, converter_hi=15))
    m.weights["conv"] = np.full((8, 1), 127, np.int8)
    ring = m.conv_ring(shape, 0, pad=0)
    out = m.sink("y", 2, 1, 1, Element.I32)
    m.source("x", 2, 1, 8, [m.route(ring, 1, 8)])
    m.conv("conv", shape, ring, [m.route(out, 1, 1)])
    x = np.zeros((1, 2, 1, 8), np.uint8)
    x[0, 0] = 7
    result = m.run({"x": x}, count_converters=True)
    count = result.converters["conv"]
    assert (count.conversions, count.clipped) == (2 * 8 * 4, 3 * 4)
    assert count.clipped_share == 12 / 64
    limited = (
        15 * 7 * 85 - 128 * 56
    )  # three digit cycles of 15 over cells worth 1, 4, 16, 64; less the offset
    assert result.outputs["y"].ravel().tolist() == [limited, 0]
    assert not m.run({"x": x}).converters
