"""Rows between contexts, added up by hand: rings, links, multicast trees, the bus, DMA."""

from __future__ import annotations

from typing import Any

import pytest

from cimc.diagnostics import UnsupportedError, UsageError
from cimc.runtime.cycle import engine
from cimc.runtime.program import AluFunction, Element, IoTensor
from cimc.runtime.program import rows as r
from cimc.runtime.program.geometry import ring_geometry
from cimc.runtime.program.rows import At


def _alu(dst: int, a: int) -> r.Row:
    """8 elements: 2 + 8/4 = 4 cycles on a core."""
    return r.alu(AluFunction.CLAMP_CODES, At(dst), At(a), n=8)


def _send(a: int, routes: int, n: int = 8, **row: int) -> r.Row:
    return r.send(At(a), routes, n=n, m=1, **row)


def _io(name: str, direction: str) -> IoTensor:
    return IoTensor(name, direction, int(Element.U8), (8, 2, 1), 2, 1, 8, 1, 1, 2)


def test_a_row_over_two_hops(bench: Any) -> None:
    """Port, head over the hops, tail behind it, then the target's port: recv stalls until that."""
    x, y, out = bench.buffer(0), bench.buffer(0), bench.buffer(2)
    ring = bench.ring(2, rows=1, slots=1, fill=8)
    bench.context(0, [_alu(y, x), _send(y, bench.routes((ring, 0, 8)))])
    bench.context(2, [r.recv(ring, 1), _alu(out, ring), r.free(ring, 1)])
    timing = bench.time()
    # alu [0,4); port [4,5); links of 8/4 = 2 cycles from 5 and 7; head at 9, tail at 11; port [11,12)
    # recv at 12, alu [13,17)
    assert timing.stall_cycles.tolist() == [[0, 0, 0, 3, 0], [12, 0, 0, 0, 0]]
    assert timing.cycles == 17
    assert timing.busy_cycles["network"] == 4
    assert timing.energy_pj["network"] == 8 * 2 * 0.25
    assert timing.energy_pj["local_buffer"] == (8 + 8) * 0.5


def test_a_row_within_a_core_uses_the_port_only(bench: Any) -> None:
    """The one port reservation of the send carries the row; no link, no second reservation."""
    y = bench.buffer(3)
    ring = bench.ring(3, rows=1, slots=1, fill=8)
    bench.context(3, [_send(y, bench.routes((ring, 0, 8)))])
    bench.context(3, [r.recv(ring, 1), r.free(ring, 1)])
    timing = bench.time()
    # port [0,1); recv at 1; free at 2, in effect at 3
    assert timing.cycles == 3
    assert timing.busy_cycles["port"] == 1
    assert timing.busy_cycles["network"] == 0


@pytest.mark.parametrize(("slots", "cycles"), [(1, 37), (2, 26), (3, 25)])
def test_depth_of_a_ring(bench: Any, slots: int, cycles: int) -> None:
    """A send waits until the place `slots` before its own is freed; deeper rings let the sender run ahead."""
    x, y, out = bench.buffer(0), bench.buffer(0), bench.buffer(1)
    ring = bench.ring(1, rows=3, slots=slots, fill=8)
    row = bench.builder.add_stride((0, 1))
    send = _send(y, bench.routes((ring, 0, 8)), row_st=row)
    bench.context(0, [r.loop_images(), r.loop(3), _alu(y, x), send, r.end(), r.end()])
    bench.context(1, [r.loop(3), r.recv(ring, 1), _alu(out, ring), r.free(ring, 1), r.end()])
    timing = bench.time()
    # One row: alu 4, port 1, hop 2, tail 2, port 1: full 10 after the sender's alu began.
    # 1 slot: full at 10, alu [11,15), freed at 15 = next send; full at 15 + 6 = 21, 32; alu [33,37).
    # 2 slots: sends at 4, 9 and, when the first is freed, 15: full at 10, 15, 21; alu [22,26).
    # 3 slots: third alu [10,14), send at 14: full at 20; alu [21,25).
    assert timing.cycles == cycles
    assert timing.ring_high_water.tolist() == [slots]
    # room: send asks at 6 and is let go at 15, then at 17 and 26; or, with two slots, at 11 until 15
    assert timing.stall_cycles[0, 1] == {1: 9 + 9, 2: 4, 3: 0}[slots]


def test_places_outside_the_image_need_no_sender(bench: Any) -> None:
    """recv fills rows above and below the image itself; it only waits for a free slot."""
    ring_rows = ring_geometry(kh=3, sh=1, dh=1, ph=1, rows_in=2, turns_out=2)
    assert (ring_rows.places, ring_rows.top, ring_rows.bottom) == (4, 1, 1)
    ring = bench.builder.add_ring(1, Element.U8, 3, 8, ring_rows, channels=8, fill=8)
    y, out = bench.buffer(0), bench.buffer(1)
    row = bench.builder.add_stride((0, 1))
    send = _send(y, bench.routes((ring, 0, 8)), row_st=row)
    bench.context(0, [r.loop_images(), r.loop(2), send, r.end(), r.end()])
    turn = [r.recv(ring, 1), _alu(out, ring), r.free(ring, 1)]
    bench.context(1, [r.loop_images(), r.recv(ring, 2), r.loop(2), *turn, r.end(), r.free(ring, 2), r.end()])
    timing = bench.time(images=2)
    assert timing.executed_by_opcode["send"] == 4
    assert timing.ring_high_water.tolist() == [3]
    # first row: port [0,1), hop to 3, tail 5, port [5,6): recv 2 at 6; second row sent at 1: full at 7
    # (link [3,5), tail at 7, port [7,8)): recv at 8, alu [9,13), free at 10 -> 13;
    # padding place 3 goes to slot 0, freed at 13: recv at 13, alu [14,18), free at 15 -> 18,
    # then free 2 at 16 -> 18. Second image: place 4 (padding) in slot 1 at 18; its rows 5, 6 went off at 18.
    # rows at 18 and 19: full at 24, 26: recv 2 at 24, recv at 26, alu [27,31), 31, alu [32,36)
    assert timing.cycles == 36


def test_a_multicast_takes_a_shared_link_once(bench: Any) -> None:
    """Targets of one group share the tree; as groups of their own each pays for every link."""
    rings = [bench.ring(core, rows=1, slots=1, fill=8) for core in (1, 2, 6)]
    y = bench.buffer(0)
    bench.context(0, [_send(y, bench.routes(*((ring, 0, 8) for ring in rings)))])
    for core, ring in zip((1, 2, 6), rings, strict=True):
        bench.context(core, [r.recv(ring, 1)])
    timing = bench.time()
    # port [0,1); heads: core 1 at 3, core 2 at 5, core 6 (east, east, south) at 7; tail 2, port 1: 6, 8, 10
    assert timing.stall_cycles[:, 0].tolist() == [0, 6, 8, 10]
    assert timing.busy_cycles["network"] == 3 * 2
    assert timing.energy_pj["network"] == 3 * 8 * 0.25


def test_three_groups_pay_for_their_links_each(bench: Any) -> None:
    """Other payloads are other multicasts: the port serves them in turn, links are reserved in that order."""
    rings = [bench.ring(core, rows=1, slots=1, fill=8) for core in (1, 2, 6)]
    y = bench.buffer(0)
    bench.context(0, [_send(y, bench.routes(*((ring, group, 8) for group, ring in enumerate(rings))))])
    for core, ring in zip((1, 2, 6), rings, strict=True):
        bench.context(core, [r.recv(ring, 1)])
    timing = bench.time()
    # ports [0,1) [1,2) [2,3); link 0->1: [1,3) [3,5) [5,7); link 1->2: [5,7) [7,9); link 2->6: [9,11)
    # tails at 5, 9, 13, ports 1
    assert timing.stall_cycles[:, 0].tolist() == [0, 6, 10, 14]
    assert timing.busy_cycles["network"] == (1 + 2 + 3) * 2


def test_memory_for_parts_under_way_grows(bench: Any, equal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four parts of one multicast on their way at once: a run that begins with room for one finds the same."""
    y = bench.buffer(0)
    rings = [bench.ring(core, rows=1, slots=1, fill=8) for core in (1, 2, 3, 7)]
    bench.context(0, [_send(y, bench.routes(*((ring, 0, 8) for ring in rings)))])
    for core, ring in zip((1, 2, 3, 7), rings, strict=True):
        bench.context(core, [r.recv(ring, 1), r.free(ring, 1)])
    roomy = bench.time()
    monkeypatch.setattr(engine, "FIRST_ARRIVALS", 1)
    equal(bench.time(), roomy)


@pytest.mark.parametrize("swapped", [False, True])
def test_two_senders_on_one_link(bench: Any, swapped: bool) -> None:
    """A link is reserved in the order in which sends issue, ties by context number."""
    rings = [bench.ring(2, rows=1, slots=1, fill=8) for _ in range(2)]
    for core in (1, 0) if swapped else (0, 1):
        y = bench.buffer(core)
        bench.context(core, [_send(y, bench.routes((rings[core], 0, 8)))])
    for ring in rings:
        bench.context(2, [r.recv(ring, 1)])
    timing = bench.time()
    # from core 0: link 0->1 [1,3), link 1->2 [3,5): tail 7, port [7,8)
    # from core 1 behind it: link 1->2 [5,7), head 7, tail 9, port [9,10)
    # issued first instead: link 1->2 [1,3), tail 5, port [5,6); the other still finds it free at 3
    assert timing.stall_cycles[2:, 0].tolist() == [8, 6 if swapped else 10]


def test_a_bus_is_one_medium(bench: Any) -> None:
    """Pairs that share no link of the mesh still share the bus, which is as wide as the global buffer."""
    for source, target in ((0, 1), (2, 3)):
        ring = bench.ring(target, rows=1, slots=1, fill=32)
        y = bench.buffer(source)
        bench.context(source, [_send(y, bench.routes((ring, 0, 32)), n=32)])
        bench.context(target, [r.recv(ring, 1)])
    # mesh: port [0,4), head at 6, tail 8: 14, port [14,18)
    assert bench.time().stall_cycles[:, 0].tolist() == [0, 18, 0, 18]
    # bus: [4,6) head 6, tail 2: 8, port [8,12); the other [6,8), 10, [10,14)
    assert bench.time(network="bus").stall_cycles[:, 0].tolist() == [0, 12, 0, 14]


def test_partial_sums_of_two_cores(bench: Any) -> None:
    """A row tile in another core: its sums travel as int32 and are added by the accumulating core."""
    ring = bench.ring(0, rows=1, slots=1, fill=4, element=Element.I32)
    acc = [bench.buffer(core, element=Element.I32) for core in (0, 1)]
    x = [bench.buffer(core) for core in (0, 1)]
    sets, window = [bench.arrays(core) for core in (0, 1)], bench.window()
    reads = [r.read_xb(At(acc[core]), At(x[core]), sets[core], window, 4, 0, 1) for core in (0, 1)]
    add = r.alu(AluFunction.ADD_INT, At(acc[0]), At(acc[0]), At(ring), n=4)
    bench.context(0, [reads[0], r.recv(ring, 1), add, r.free(ring, 1)])
    bench.context(1, [reads[1], _send(acc[1], bench.routes((ring, 0, 4)), n=4)])
    timing = bench.time()
    # reads done at 68; 16 bytes: port [68,70), head 72, tail 4: 76, port [76,78); recv at 78;
    # add [79, 79 + 2 + 1); free at 80 in effect when the add is done: 82
    assert timing.cycles == 82


def test_from_the_host_and_back(bench: Any) -> None:
    """Host link, its latency, global buffer, network, core, and the same way back: the latency of an image."""
    b = bench.builder
    inputs, outputs = b.add_io(_io("x", "in")), b.add_io(_io("y", "out"))
    g, y = bench.buffer(-1), bench.buffer(0)
    there, back = bench.ring(0, rows=1, slots=1, fill=8), bench.ring(-1, rows=1, slots=1, fill=8)
    bench.context(
        -1,
        [r.loop_images(), r.dma_in(At(g), inputs, n=8, m=1), _send(g, bench.routes((there, 0, 8))), r.end()],
    )
    core = [r.recv(there, 1), _alu(y, there), r.free(there, 1), _send(y, bench.routes((back, 0, 8)))]
    bench.context(0, [r.loop_images(), *core, r.end()])
    out = [r.recv(back, 1), r.dma_out(At(back), outputs, n=8, m=1), r.free(back, 1)]
    bench.context(-1, [r.loop_images(), *out, r.end()])
    timing = bench.time()
    # in: link [0,2) + 20 = 22; global port [22,23) + 5: 28
    # send: port [28,29) + 5 = 34; core 0 hangs on the same node: no hop, tail 2: 36; port [36,37)
    # core: recv 37, alu [38,42); send: port [42,43), tail 45, global port [45,46) + 5 = 51
    # out: recv 51, port [52,53) + 5 = 58, link [58,60) + 20 = 80
    assert timing.latency_cycles == timing.cycles == 80
    assert timing.latency_ns == 160.0
    assert timing.energy_pj["host_link"] == 2 * 8 * 10
    # written by the DMA, read by the send, written by the way back, read by the DMA: 8 bytes at 2 pJ each
    assert timing.energy_pj["global_buffer"] == 4 * 8 * 2
    many = bench.time(images=4)
    assert many.image_start_cycles[0] == 0
    # rows of later images share the host link with the first image's way out; the latency is that of one alone
    assert many.image_end_cycles[0] > many.latency_cycles == 80
    assert many.interval_cycles == many.image_end_cycles[3] - many.image_end_cycles[2]


def test_rows_that_nobody_wants_cost_an_issue_cycle(bench: Any) -> None:
    """A send outside first .. last of every target moves nothing."""
    ring = bench.ring(1, rows=1, slots=1, fill=8)
    y = bench.buffer(0)
    bench.context(0, [_send(y, bench.routes((ring, 0, 8)), row=1)])
    timing = bench.time()
    assert timing.cycles == 1
    assert timing.total_energy_pj == timing.energy_pj["static"]


def test_parts_of_a_row_fill_a_place_together(bench: Any) -> None:
    """A place is full at its last part, whoever sends it."""
    ring = bench.ring(5, rows=1, slots=1, fill=24)
    for core, elements in ((4, 8), (6, 16)):
        y = bench.buffer(core)
        bench.context(core, [_send(y, bench.routes((ring, 0, elements)), n=elements)])
    bench.context(5, [r.recv(ring, 1)])
    timing = bench.time()
    # 8 bytes: port 1, head 3, tail 5, port [5,6); 16 bytes: port [0,2), head 4, tail 8, port [8,10)
    assert timing.stall_cycles[2, 0] == 10


def test_a_program_that_cannot_finish_names_who_waits(bench: Any) -> None:
    """A recv without a sender ends in an error with context, cause and layer, not in a hang."""
    ring = bench.ring(1, rows=1, slots=1, fill=8)
    node = bench.builder.name("conv1")
    bench.context(1, [r.recv(ring, 1, node=node)])
    with pytest.raises(UnsupportedError, match=r"context 0 waits for a row of a ring .*layer conv1"):
        bench.time()


def test_a_place_that_gets_too_much_is_an_error(bench: Any) -> None:
    """Two full rows for one place are a wrong program."""
    ring = bench.ring(1, rows=1, slots=1, fill=8)
    y = bench.buffer(0)
    bench.context(0, [_send(y, bench.routes((ring, 0, 8))), _send(y, bench.routes((ring, 0, 8)))])
    bench.context(1, [r.recv(ring, 1)])
    with pytest.raises(UnsupportedError, match="ring 0 gets more elements than its fill"):
        bench.time()


def test_bad_arguments_are_refused(bench: Any) -> None:
    """Images, windows and networks have a range; the message says which."""
    for options, words in (
        ({"images": 0}, "at least 1 image, given 0"),
        ({"window_cycles": 0}, "window_cycles must be at least 1, given 0"),
        ({"network": "ring"}, "network must be mesh or bus on this machine, given ring"),
    ):
        with pytest.raises(UsageError, match=words):
            bench.time(**options)


@pytest.mark.parametrize("unit", ["local", "hop"])
def test_figures_beyond_64_bits_are_refused(bench: Any, unit: str) -> None:
    """A machine whose energies cannot be added in attojoules is an error of the machine, not of the engine."""
    if unit == "hop":
        bench.machine["network"]["energy_pj_per_byte_hop"] = 1e300
    else:
        bench.machine["core"]["local_buffer_energy_pj_per_byte"] = 1e300
    bench.context(0, [])
    with pytest.raises(UsageError, match="beyond 64 bits"):
        bench.time()


@pytest.mark.parametrize("hop_cycles", [10**11, 10**15, 10**18])
def test_a_row_that_arrives_behind_all_time_ends_the_run(bench: Any, hop_cycles: int) -> None:
    """Keys of the event heap hold 38 bits of time; a later arrival is an error, not an address."""
    x, y, out = bench.buffer(0), bench.buffer(0), bench.buffer(2)
    ring = bench.ring(2, rows=1, slots=1, fill=8)
    bench.context(0, [_alu(y, x), _send(y, bench.routes((ring, 0, 8)))])
    bench.context(2, [r.recv(ring, 1), _alu(out, ring), r.free(ring, 1)])
    bench.machine["network"]["hop_cycles"] = hop_cycles * 3
    with pytest.raises((UnsupportedError, UsageError), match=r"longer than|beyond 64 bits"):
        bench.time()


def test_a_machine_with_words_for_numbers_is_refused(bench: Any) -> None:
    """A figure of a program's machine that is no number is named as such."""
    bench.context(0, [r.halt()])
    bench.machine["clock_ghz"] = True
    with pytest.raises(UsageError, match="value of the wrong kind"):
        bench.time()
