"""Programs of one or two contexts whose cycles are added up by hand: arrays, vector units, ports, host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cimc.runtime.program import AluFunction, Element, HostOperator
from cimc.runtime.program import rows as r
from cimc.runtime.program.rows import At


def test_one_read(bench: Any) -> None:
    """A read takes digits x groups x max(read, conversion), and one conversion more until its result."""
    x, acc = bench.buffer(0), bench.buffer(0, element=Element.I32)
    xb, window = bench.arrays(0), bench.window()
    bench.context(0, [r.read_xb(At(acc), At(x), xb, window, 4, 0, 1)])
    timing = bench.time()
    # 8 digits x ceil(8 rows / 4) = 2 groups x max(3, ceil(4*4 columns / 4 converters) = 4) = 64; + 4
    assert timing.cycles == 68
    assert timing.busy_cycles["arrays"] == 64
    assert timing.busy_cycles["port"] == 1  # 8 bytes of window over 8 B/cycle
    # 16 reads of a group x 1 pJ; 8 digits x 8 rows x 0.5; 16 x 16 columns x 0.25; 8 bytes x 0.5
    energy = timing.energy_pj
    assert (energy["array"], energy["dac"], energy["adc"], energy["local_buffer"]) == (16, 32, 64, 4)
    # 100 mW x 68 cycles x 2 ns
    assert energy["static"] == 13600


def test_reads_back_to_back_wait_for_their_arrays_only(bench: Any) -> None:
    """The set is free again after the occupancy: the last conversion overlaps with the next read."""
    x, acc = bench.buffer(0), bench.buffer(0, element=Element.I32)
    xb, window = bench.arrays(0), bench.window()
    bench.context(0, [r.loop(5), r.read_xb(At(acc), At(x), xb, window, 4, 0, 1), r.end()])
    timing = bench.time()
    assert timing.cycles == 4 * 64 + 68
    assert timing.executed_instructions == timing.executed_reads == 5
    # read k asks at (k-1)*64 + 1 and starts at k*64
    assert timing.stall_cycles.tolist() == [[0, 0, 4 * 63, 0, 0]]


@pytest.mark.parametrize(
    ("first", "count", "groups"), [(0, 8, 2), (2, 4, 2), (4, 4, 1), (5, 1, 1), (8, 8, 0)]
)
def test_read_row_pays_for_the_groups_it_touches(bench: Any, first: int, count: int, groups: int) -> None:
    """Groups are those of the physical array: wordlines 2..5 lie in two of them, 8..15 hold nothing."""
    x, acc = bench.buffer(0), bench.buffer(0, element=Element.I32)
    xb, window = bench.arrays(0), bench.window()
    bench.context(0, [r.read_row(At(acc), At(x), xb, window, 4, first, count)])
    timing = bench.time()
    # without a used wordline nothing is read: the instruction itself takes a cycle
    assert timing.busy_cycles["arrays"] == (32 * groups if groups else 1)
    assert timing.energy_pj["dac"] == 8 * 0.5 * min(count, 8 - min(first, 8))


def test_wordlines_that_follow_a_loop(bench: Any) -> None:
    """Strides of b_row and b_col choose the wordlines of every iteration, and its cost."""
    x, acc = bench.buffer(0), bench.buffer(0, element=Element.I32)
    xb, window = bench.arrays(0, rows=16), bench.window(16)
    # iterations (i, j): wordlines from 8i + 2j, 2 + 2i of them
    stride = bench.builder.add_stride((8, 2), (2, 0))
    read = r.read_row(At(acc), At(x), xb, window, 4, 0, 2)._replace(b_st=stride)
    bench.context(0, [r.loop(2), r.loop(3), read, r.end(), r.end()])
    timing = bench.time()
    # i=0: [0,2) [2,4) [4,6): one group each; i=1: [8,12) 1, [10,14) 2, [12,16) 1: 7 groups of 8 x 4 cycles
    assert timing.busy_cycles["arrays"] == 7 * 32
    # 6 + 12 wordlines x 8 digits x 0.5 pJ
    assert timing.energy_pj["dac"] == 18 * 8 * 0.5
    assert timing.cycles == 7 * 32 + 4


def test_tiles_of_a_set_read_in_parallel(bench: Any) -> None:
    """Two tiles take the time of one and the energy of both; a part of them the energy of that part."""
    x, acc = bench.buffer(0), bench.buffer(0, element=Element.I32)
    xb, window = bench.arrays(0, tiles=2), bench.window(16)
    bench.context(
        0, [r.read_xb(At(acc), At(x), xb, window, 4, 0, 2), r.read_xb(At(acc), At(x), xb, window, 4, 1, 1)]
    )
    timing = bench.time()
    assert timing.cycles == 64 + 68
    assert timing.energy_pj["array"] == 32 + 16
    assert timing.busy_cycles["port"] == 2 + 2  # the window is 16 bytes


def test_shift_and_add_in_the_vector_unit(bench: Any) -> None:
    """A machine without adders in the periphery pays one addition per conversion, behind the read."""
    bench.machine["crossbar"]["shift_add"] = "digital_unit"
    x, acc, y = bench.buffer(0), bench.buffer(0, element=Element.I32), bench.buffer(0)
    xb, window = bench.arrays(0), bench.window()
    read = r.read_xb(At(acc), At(x), xb, window, 4, 0, 1)
    bench.context(0, [r.loop(2), read, r.end(), r.alu(AluFunction.CLAMP_CODES, At(y), At(acc), n=4)])
    timing = bench.time()
    # 8 digits x 2 groups x 16 columns = 256 additions: 2 + 64 = 66 cycles
    # reads [0,64) [64,128), results at 68 and 132; additions [68,134) [134,200); then the alu: 2 + 1
    assert timing.cycles == 203
    assert timing.busy_cycles["vector_unit"] == 2 * 66 + 3
    assert timing.attributed_cycles["vector_unit"] == 2 * 66 + 3
    assert timing.energy_pj["vector_unit"] == 2 * 256 + 4
    assert timing.energy_pj["adc"] == 2 * 64


def test_shift_and_add_of_wordlines_that_follow_a_loop(bench: Any) -> None:
    """Every iteration pays for its own conversions."""
    bench.machine["crossbar"]["shift_add"] = "digital_unit"
    x, acc = bench.buffer(0), bench.buffer(0, element=Element.I32)
    xb, window = bench.arrays(0), bench.window()
    stride = bench.builder.add_stride((0,), (4,))
    read = r.read_row(At(acc), At(x), xb, window, 4, 0, 4)._replace(b_st=stride)
    bench.context(0, [r.loop(2), read, r.end()])
    timing = bench.time()
    # wordlines [0,4) one group: 8 x 16 = 128 additions, 2 + 32; [0,8) two groups: 66
    assert timing.busy_cycles["vector_unit"] == 34 + 66
    assert timing.energy_pj["vector_unit"] == 128 + 256
    # reads [0,32) [32,96); results at 36 and 100; additions [36,70) [100,166)
    assert timing.cycles == 166


def test_vector_unit_and_its_fractions(bench: Any) -> None:
    """startup + ceil(elements x cycles per element / lanes), by function; windowed functions count the window."""
    x, out = bench.buffer(0), bench.buffer(0)
    window = bench.builder.add_window(kh=2, row_step=0, kw=3, col_step=1, c=5, pos_step=1)
    record = bench.builder.add_record([window, 0, 255])
    bench.context(
        0,
        [
            r.alu(AluFunction.SOFTMAX, At(out), At(x), n=10),
            r.alu(AluFunction.MAX_POOL, At(out, col=16), At(x), n=5, m=2, record=record),
        ],
    )
    timing = bench.time()
    # softmax: 2 + ceil(10 * 2.5 / 4) = 9; max pool: 5 * 2 * 2*3 = 60 elements: 2 + 15 = 17, behind it
    assert timing.cycles == 9 + 17
    assert timing.energy_pj["vector_unit"] == 10 * 8.0 + 60


def test_two_contexts_share_a_vector_unit(bench: Any) -> None:
    """Requests of one cycle are served by context number; the second waits for the unit."""
    for _ in range(2):
        x, out = bench.buffer(0), bench.buffer(0)
        bench.context(0, [r.alu(AluFunction.CLAMP_CODES, At(out), At(x), n=8)])
    timing = bench.time()
    assert timing.cycles == 4 + 4  # 2 + 8/4 each
    assert timing.stall_cycles[:, 2].tolist() == [0, 4]


def test_without_contention_shared_units_serve_all_at_once(bench: Any) -> None:
    """Two contexts on one vector unit both start at once; what one context does stays in order, the work the same."""
    for _ in range(2):
        x, out = bench.buffer(0), bench.buffer(0)
        clamp = r.alu(AluFunction.CLAMP_CODES, At(out), At(x), n=8)
        bench.context(0, [clamp, clamp])
    shared, apart = bench.time(), bench.time(contention=False)
    assert shared.cycles == 4 * 4
    assert apart.cycles == 1 + 4  # 4 each, issued in cycles 0 and 1
    assert apart.energy_pj["vector_unit"] == shared.energy_pj["vector_unit"]
    assert apart.busy_cycles == shared.busy_cycles


def test_the_chip_has_a_vector_unit_of_its_own(bench: Any) -> None:
    """Core -1 computes with the chip's digital unit."""
    x, out = bench.buffer(-1), bench.buffer(-1)
    bench.context(-1, [r.alu(AluFunction.CLAMP_CODES, At(out), At(x), n=8)])
    timing = bench.time()
    assert timing.cycles == 3 + 2
    assert timing.energy_pj["vector_unit"] == 12


def test_port_contention_in_the_order_of_requests(bench: Any) -> None:
    """Copies of two contexts take turns at the port of their memory, and a context does not wait for data."""
    pattern = bench.builder.add_copy(1, 0, 0, 16, 1, 1)
    for _ in range(2):
        x, out = bench.buffer(0), bench.buffer(0)
        bench.context(0, [r.copy(At(out), At(x), pattern), r.copy(At(out), At(x), pattern)])
    timing = bench.time()
    # 16 bytes = 2 cycles: A0 [0,2) B0 [2,4); A1 asks at 1, before B1 at 3: A1 [4,6), B1 [6,8)
    assert timing.cycles == 8
    assert timing.stall_cycles[:, 2].tolist() == [3, 5]


def test_read_after_write_and_write_after_read(bench: Any) -> None:
    """An operand must be written before it is read, and no longer be read when it is written."""
    a, b, c = bench.buffer(0), bench.buffer(0), bench.buffer(0)
    pattern = bench.builder.add_copy(1, 0, 0, 32, 1, 1)
    bench.context(
        0,
        [
            r.alu(AluFunction.CLAMP_CODES, At(b), At(a), n=8),  # [0, 4)
            r.copy(At(c), At(b), pattern),  # reads b: [4, 8)
            r.alu(AluFunction.CLAMP_CODES, At(b), At(a), n=4),  # writes b: from 8 on, 2 + 1: done 11
        ],
    )
    timing = bench.time()
    assert timing.cycles == 11
    assert timing.stall_cycles.tolist() == [[0, 0, 0, (4 - 1) + (8 - 5), 0]]


def test_slots_of_a_buffer_are_ready_one_by_one(bench: Any) -> None:
    """With two slots, addressed by the loop, a write does not wait for the read of the other slot."""
    source = bench.buffer(0)
    stride = bench.builder.add_stride((1,))
    pattern = bench.builder.add_copy(1, 0, 0, 64, 1, 1)

    def rows(buffer: int) -> list[r.Row]:
        out = bench.buffer(0)
        return [
            r.loop(2),
            r.alu(AluFunction.CLAMP_CODES, At(buffer, st=stride), At(source), n=8),
            r.copy(At(out), At(buffer, st=stride), pattern),
            r.end(),
        ]

    bench.context(0, rows(bench.buffer(0, slots=1)))
    # alu [0,4), copy 64 bytes [4,12); one slot: alu [12,16), copy [16,24)
    assert bench.time().cycles == 24
    bench = type(bench)()
    source = bench.buffer(0)
    stride = bench.builder.add_stride((1,))
    pattern = bench.builder.add_copy(1, 0, 0, 64, 1, 1)
    bench.context(0, rows(bench.buffer(0, slots=2)))
    # two slots: the second alu asks at 5 and runs [5,9); its copy waits for the port: [12,20)
    assert bench.time().cycles == 20


def test_loop_nests(bench: Any) -> None:
    """Loops take no cycle and may run zero times; rows count once per execution."""
    x, out = bench.buffer(0), bench.buffer(0)
    pattern = bench.builder.add_copy(1, 0, 0, 8, 1, 1)
    copy = r.copy(At(out), At(x), pattern)
    bench.context(0, [r.loop(2), r.loop(3), copy, r.end(), r.loop(0), copy, r.end(), r.end(), copy])
    timing = bench.time()
    assert timing.executed_instructions == 2 * 3 + 1
    assert timing.cycles == 7  # one byte-cycle each, one issue a cycle


def test_write_then_read(bench: Any) -> None:
    """Weights cross the global buffer and the network; the set can be read when its rows are written."""
    x, acc = bench.buffer(1), bench.buffer(1, element=Element.I32)
    xb, window = bench.arrays(1), bench.window()
    bench.context(1, [r.write_xb(xb, 0, 1), r.read_xb(At(acc), At(x), xb, window, 4, 0, 1)])
    timing = bench.time()
    # 8 x 4 weights = 32 bytes: global port [0,2) + 5; one hop: head at 9; 32/4 = 8: there at 17
    # 8 rows x 10 cycles: written at 97; read 68
    assert timing.setup_cycles == 97
    assert timing.cycles == 97 + 68
    assert timing.energy_pj["write"] == 8 * 4 * 4 * 3  # cells x 3 pJ
    assert timing.energy_pj["global_buffer"] == 64
    assert timing.energy_pj["network"] == 8
    resident = bench.time(resident_weights=True)
    assert (resident.cycles, resident.energy_pj["write"]) == (1 + 68, 0)


def test_host_operators_run_one_at_a_time(bench: Any) -> None:
    """Bytes over the host's bandwidth plus operations over its rate, reported as the host's share."""
    for _ in range(2):
        x, out = bench.buffer(-1, 10), bench.buffer(-1, 5)
        shapes = ((1, 10),), ((1, 5),)
        operator = HostOperator("Erf", "erf.onnx", (x,), (out,), ("x",), ("y",), *shapes, flops=25)
        bench.context(-1, [r.host(bench.builder.add_host(operator))])
    timing = bench.time()
    # 15 bytes / 5 + ceil(25 / 10) = 6 cycles each
    assert timing.cycles == timing.host_cycles == 12
    assert timing.host_share == 1.0


def test_signal_and_wait(bench: Any) -> None:
    """A signal counts from the next cycle on; a wait subtracts and costs an issue cycle."""
    event = bench.builder.add_event()
    pattern = bench.builder.add_copy(1, 0, 0, 8, 1, 1)
    for core, rows in ((0, [r.signal(event, 2)]), (1, [r.wait(event), r.wait(event)])):
        x, out = bench.buffer(core), bench.buffer(core)
        copy = r.copy(At(out), At(x), pattern)
        bench.context(core, [copy, *rows] if core == 0 else [*rows, copy])
    timing = bench.time()
    # copy at 0, signal at 1: counts from 2; waits at 2 and 3, copy [4,5)
    assert timing.cycles == 5
    assert timing.stall_cycles[:, 4].tolist() == [0, 2]
    assert timing.executed_instructions == 3  # waits do not count


def test_phases_of_a_stream_follow_one_another(bench: Any) -> None:
    """The context of a later phase starts a cycle after the earlier one halted."""
    pattern = bench.builder.add_copy(1, 0, 0, 8, 1, 1)
    x, out = bench.buffer(0), bench.buffer(0)
    copy = r.copy(At(out), At(x), pattern)
    first = bench.context(0, [copy, copy])
    bench.context(0, [copy], stream=first, phase=1)
    # copies at 0 and 1; halted at 2; the next phase's copy at 3
    assert bench.time().cycles == 4


def test_power_series_and_its_peak(bench: Any) -> None:
    """The series integrates to the energy; the peak is its largest aligned window."""
    x, acc = bench.buffer(0), bench.buffer(0, element=Element.I32)
    xb, window = bench.arrays(0), bench.window()
    bench.context(0, [r.read_xb(At(acc), At(x), xb, window, 4, 0, 1)])
    timing = bench.time(window_cycles=16)
    # 116 pJ over 64 cycles: windows of 16 cycles = 32 ns hold 29 pJ each: 0.90625 mW over the static 100
    assert timing.power_mw.tolist() == pytest.approx([100.90625] * 4 + [100.0], rel=1e-12)
    assert timing.peak_power_mw == pytest.approx(100.90625)
    assert bench.time().window_cycles == 64  # one read


def test_a_run_too_long_for_the_series_doubles_its_window(bench: Any) -> None:
    """Energy is kept when windows are merged."""
    from cimc.runtime.cycle.kernel import run
    from cimc.runtime.cycle.prepare import Options, prepare
    from cimc.runtime.cycle.timing import timing

    x, acc = bench.buffer(0), bench.buffer(0, element=Element.I32)
    xb, window = bench.arrays(0), bench.window()
    bench.context(0, [r.loop(9), r.read_xb(At(acc), At(x), xb, window, 4, 0, 1), r.end()])
    prepared = prepare(bench.program(), Options(1, window=10, bins=8))
    run(prepared.world.memory)
    report = timing(prepared, 0, (0.0, 0.0, 1.0))
    # 580 cycles in at most 8 windows: 10 -> 80
    assert report.window_cycles == 80
    energy = (report.power_mw - 100) * 80 * 2
    assert np.sum(energy) == pytest.approx(9 * 116)
