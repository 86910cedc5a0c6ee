"""Depths of rings: enough for every order of execution, and no more than growth asks for.

Programs here are digital stages on row counts: windows, strides, copies, Add, Concat. They are run by a
simulator of its own that follows ``docs/isa.md`` literally, row by row, picking contexts at random.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pytest

from cimc.diagnostics import CimError
from cimc.runtime.program import BufferKind, Element, Opcode, Program
from cimc.runtime.program.builder import ProgramBuilder, Route
from cimc.runtime.program.geometry import RingGeometry, ring_geometry
from cimc.runtime.program.rows import At, end, free, halt, loop, loop_images, recv, send
from cimc.runtime.program.tables import NONE
from cimc.runtime.verifier import Finding, ring_depths
from cimc.runtime.verifier.code import decode
from cimc.runtime.verifier.flow_check import check_flow
from cimc.runtime.verifier.operands import Tables


@dataclass
class Stage:
    """One stage of a network: a window over rows of each of its inputs, ``copies`` contexts."""

    inputs: Sequence[int]
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    copies: int = 1
    concat: bool = False
    """Inputs are parts of one ring row instead of rings of their own."""


@dataclass
class Net:
    """Stages in order; stage 0 is the source of ``rows`` rows. The last stage's rows go nowhere."""

    rows: int
    stages: list[Stage]
    heights: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.heights = [self.rows]
        for stage in self.stages[1:]:
            height = self.heights[stage.inputs[0]]
            self.heights.append((height + 2 * stage.padding - stage.kernel) // stage.stride + 1)

    def program(self) -> tuple[Program, npt.NDArray[np.int64]]:
        """The program with no final slots, and the window of each ring."""
        b = ProgramBuilder()
        rings: list[list[list[tuple[int, RingGeometry]]]] = [[]]
        targets: list[list[list[Route]]] = [[] for _ in self.stages]
        windows: list[int] = []
        for number, stage in enumerate(self.stages[1:], 1):
            per_copy: list[list[tuple[int, RingGeometry]]] = []
            for c in range(stage.copies):
                height = self.heights[stage.inputs[0]]
                g = ring_geometry(
                    stage.kernel,
                    stage.stride,
                    1,
                    stage.padding,
                    height,
                    self.heights[number],
                    c,
                    stage.copies,
                )
                parts = len(stage.inputs) if stage.concat else 1
                mine: list[tuple[int, RingGeometry]] = []
                for position, source in enumerate(stage.inputs):
                    if position == 0 or not stage.concat:
                        ring = b.add_ring(NONE, Element.U8, 1, parts, g, channels=parts, fill=parts)
                        windows.append(g.window)
                        mine.append((ring, g))
                    route = Route(mine[-1][0], 0, 0, 0, 1, 1, 0, position if stage.concat else 0)
                    targets[source].append([route])
                per_copy.append(mine)
            rings.append(per_copy)
        scratch = b.add_buffer(NONE, Element.U8, 1, 1)
        windows.append(1)
        route_sets = [b.add_route_set([r for group in groups for r in group]) for groups in targets]
        step = b.add_stride([0, 1])
        body = [loop_images(), loop(self.rows), send(At(scratch), route_sets[0], n=1, m=1, row_st=step)]
        b.add_context(NONE, b.add_body("source", [*body, end(), end(), halt()]))
        for number, stage in enumerate(self.stages[1:], 1):
            for c, mine in enumerate(rings[number]):
                g = mine[0][1]
                turn = b.add_stride([0, stage.copies])
                rows = [
                    loop_images(),
                    *(recv(ring, g.window - g.advance) for ring, g in mine),
                    loop(g.turns),
                    *(recv(ring, g.advance) for ring, g in mine),
                    *(free(ring, g.advance) for ring, g in mine),
                    send(At(scratch), route_sets[number], n=1, m=1, row=c, row_st=turn),
                    end(),
                    *(free(ring, g.window - g.advance) for ring, g in mine),
                    end(),
                    halt(),
                ]
                b.add_context(NONE, b.add_body(f"stage{number}.{c}", rows))
        program = b.build({})
        return program, np.array(windows)


class Simulator:
    """Executes contexts literally, one instruction at a time, chosen at random among those that can go on.

    ``slots`` None: unbounded. ``most`` is the largest number of places in use of each ring.
    """

    def __init__(self, program: Program, slots: Sequence[int] | None, images: int, seed: int):
        self.rings = {name: column.tolist() for name, column in program["buffers"].items()}
        count = program.count("buffers")
        self.slots = slots
        self.images = images
        self.random = random.Random(seed)
        self.arrived: list[dict[int, int]] = [{} for _ in range(count)]
        self.received = [0] * count
        self.freed = [0] * count
        self.most = [0] * count
        self.code = list(zip(*(c.tolist() for c in program["instructions"].values()), strict=True))
        self.names = list(program["instructions"])
        self.strides = program["strides"]["row"].tolist()
        self.routes = list(zip(*(c.tolist() for c in program["routes"].values()), strict=True))
        self.route_sets = list(zip(*(c.tolist() for c in program["route_sets"].values()), strict=True))
        firsts = program["bodies"]["first"].tolist()
        self.pcs: list[int] = [firsts[body] for body in program["contexts"]["body"].tolist()]
        self.loops: list[list[list[int]]] = [[] for _ in self.pcs]
        """Per context, open loops: row, iteration, trips."""

    def run(self) -> bool:
        """Whether all contexts halt."""
        alive = list(range(len(self.pcs)))
        while alive:
            self.random.shuffle(alive)
            moved = False
            for context in list(alive):
                for _ in range(self.random.randint(1, 6)):
                    outcome = self.step(context)
                    moved |= outcome != "blocked"
                    if outcome == "halted":
                        alive.remove(context)
                    if outcome != "moved":
                        break
            if not moved:
                return False
        return True

    def step(self, context: int) -> str:
        pc, loops = self.pcs[context], self.loops[context]
        row = dict(zip(self.names, self.code[pc], strict=True))
        if row["opcode"] == Opcode.HALT:
            return "halted"
        if row["opcode"] == Opcode.LOOP:
            loops.append([pc, 0, self.images if row["func"] == 1 else row["n"]])
        elif row["opcode"] == Opcode.END:
            loops[-1][1] += 1
            if loops[-1][1] < loops[-1][2]:
                self.pcs[context] = loops[-1][0] + 1
                return "moved"
            loops.pop()
        elif row["opcode"] == Opcode.RECV:
            if not self.receive(row["a"], row["n"]):
                return "blocked"
        elif row["opcode"] == Opcode.FREE:
            self.freed[row["a"]] += row["n"]
        elif row["opcode"] == Opcode.SEND and not self.send(row, [entry[1] for entry in loops]):
            return "blocked"
        self.pcs[context] += 1
        return "moved"

    def receive(self, ring: int, n: int) -> bool:
        length = self.rings["places"][ring]
        for place in range(self.received[ring], self.received[ring] + n):
            local = place % length
            data = self.rings["top"][ring] <= local < length - self.rings["bottom"][ring]
            if data and self.arrived[ring].get(place, 0) != self.rings["fill"][ring]:
                return False
        self.received[ring] += n
        self.most[ring] = max(self.most[ring], self.received[ring] - self.freed[ring])
        return True

    def send(self, row: dict[str, int], counters: list[int]) -> bool:
        number = row["b_row"] + sum(s * c for s, c in zip(self.strides[row["b_st"]], counters, strict=False))
        first, count = self.route_sets[row["imm"]]
        wanted: list[tuple[int, int, int]] = []
        for route in self.routes[first : first + count]:
            ring = route[0]
            turn, offset = divmod(number - self.rings["first"][ring], self.rings["period"][ring])
            inside = self.rings["first"][ring] <= number <= self.rings["last"][ring]
            if not inside or offset >= self.rings["advance"][ring]:
                continue
            place = counters[0] * self.rings["places"][ring] + turn * self.rings["advance"][ring] + offset
            wanted.append((ring, place, route[4] * route[5]))
        if self.slots is not None:
            if any(place >= self.freed[ring] + self.slots[ring] for ring, place, _ in wanted):
                return False
        for ring, place, elements in wanted:
            self.arrived[ring][place] = self.arrived[ring].get(place, 0) + elements
            self.most[ring] = max(self.most[ring], place + 1 - self.freed[ring])
        return True


def diamond(length: int, kernel: int = 3) -> Net:
    """x -> ``length`` convolutions -> Add with x."""
    stages = [Stage([])]
    for number in range(length):
        stages.append(Stage([number], kernel, 1, kernel // 2))
    return Net(12, [*stages, Stage([length, 0])])


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_residual_diamond_grows_as_little_as_exhaustive_search(length: int) -> None:
    """The Add's short ring must hold what the long path keeps back: no smaller sum of depths runs through,
    tried one by one with the simulator."""
    net = diamond(length)
    program, window = net.program()
    depths = ring_depths(program, window)
    assert Simulator(program, depths.tolist(), 2, 0).run()
    growth = int((depths - window).sum())
    assert growth > 0
    for smaller in range(growth):
        for extra in _spreads(smaller, len(window) - 1):
            slots = [int(w) + e for w, e in zip(window, [*extra, 0], strict=True)]
            assert not Simulator(program, slots, 2, 0).run()


def _spreads(total: int, places: int) -> list[list[int]]:
    if places == 1:
        return [[total]]
    return [[n, *rest] for n in range(total + 1) for rest in _spreads(total - n, places - 1)]


def flow_findings(program: Program, slots: npt.NDArray[np.int64]) -> list[Finding]:
    """What the verifier's abstract run reports at given depths."""
    buffers = {**program["buffers"], "slots": slots.astype(np.int32)}
    decoded = decode(replace(program, tables={**program.tables, "buffers": buffers}), 2)
    check_flow(decoded, Tables.of(decoded.program))
    return decoded.findings


def test_without_growth_the_diamond_stops() -> None:
    """At the windows alone the network deadlocks, and the verifier names the sender without room, the row
    and the ring; at the depths it is satisfied."""
    program, window = diamond(2).program()
    assert not Simulator(program, window.tolist(), 2, 0).run()
    findings = flow_findings(program, window)
    assert {f.rule for f in findings} == {"P080"}
    assert findings[0].node == "source"
    assert "row 1 of image 0 finds no room in ring 3 (1 slots)" in findings[0].message
    assert flow_findings(program, ring_depths(program, window)) == []


def test_a_chain_needs_no_growth() -> None:
    """Strides and copies without re-convergence run at their windows."""
    stages = [
        Stage([]),
        Stage([0], 3, 1, 1, 3),
        Stage([1], 3, 2, 1, 2),
        Stage([2], 1),
        Stage([3], 5, 1, 2, 2),
    ]
    program, window = Net(17, stages).program()
    np.testing.assert_array_equal(ring_depths(program, window), window)
    assert Simulator(program, window.tolist(), 2, 1).run()


def random_net(rng: random.Random) -> Net:
    """Up to nine stages: windows, strides, copies, and joins of stages of one height."""
    net = Net(rng.randint(6, 14), [Stage([])])
    for _ in range(rng.randint(3, 9)):
        number = len(net.stages)
        source = rng.randrange(max(0, number - 3), number)
        equals = [s for s in range(number) if s != source and net.heights[s] == net.heights[source]]
        if equals and rng.random() < 0.5:
            inputs = [source, *rng.sample(equals, min(len(equals), rng.randint(1, 2)))]
            stage = Stage(inputs, concat=rng.random() < 0.4, copies=rng.randint(1, 2))
        else:
            kernel = rng.choice([1, 2, 3, 3, 5])
            stride = rng.choice([1, 1, 1, 2, 3])
            stage = Stage([source], kernel, stride, rng.randint(0, kernel // 2), rng.randint(1, 3))
        height = (net.heights[stage.inputs[0]] + 2 * stage.padding - stage.kernel) // stage.stride + 1
        if height < 1:
            continue
        stage.copies = min(stage.copies, height)
        net = Net(net.rows, [*net.stages, stage])
    return net


@pytest.mark.parametrize("seed", range(60))
def test_random_networks_run_through_in_any_order(seed: int) -> None:
    """At the returned depths and at larger ones, whatever context moves next; three images, though two were
    given. Every place is received and freed."""
    rng = random.Random(seed)
    program, window = random_net(rng).program()
    depths = ring_depths(program, window)
    rings = np.flatnonzero(program["buffers"]["kind"] == BufferKind.RING)
    assert (depths[rings] >= window[rings]).all()
    for order in range(4):
        slots = depths + np.random.default_rng(order).integers(0, 3, len(depths)) * (order > 1)
        simulator = Simulator(program, slots.tolist(), 3, order)
        assert simulator.run()
        wanted = program["buffers"]["places"][rings] * 3
        assert [simulator.received[r] for r in rings] == wanted.tolist()
        assert simulator.freed == simulator.received
        assert all(simulator.most[r] <= slots[r] for r in rings)


def test_random_networks_do_need_growth() -> None:
    """The test above is not about chains: many of its networks stop at their windows."""
    stopped = 0
    for seed in range(60):
        program, window = random_net(random.Random(seed)).program()
        stopped += not Simulator(program, window.tolist(), 2, 0).run()
        grown = (ring_depths(program, window) > window).any()
        assert Simulator(program, window.tolist(), 2, 0).run() == (not grown)
    assert stopped >= 10


def test_rows_that_are_missing_are_an_error() -> None:
    """A source that sends too few rows: no depth helps, and the consumer is named."""
    program, window = diamond(1).program()
    n = np.array(program["instructions"]["n"])
    n[1] = 11
    tables = {**program.tables, "instructions": {**program["instructions"], "n": n}}
    broken = Program(tables, program.names, (), (), (), {})
    with pytest.raises(CimError, match=r"stage1\.0.*never becomes full, 0 of 1 elements arrived"):
        ring_depths(broken, window)


def test_rows_that_arrive_twice_are_an_error() -> None:
    """A source that sends row 0 again and again."""
    program, window = diamond(1).program()
    stride = np.array(program["instructions"]["b_st"])
    stride[2] = 0
    tables = {**program.tables, "instructions": {**program["instructions"], "b_st": stride}}
    broken = Program(tables, program.names, (), (), (), {})
    with pytest.raises(CimError, match=r"source.*for a place that is full or was received already"):
        ring_depths(broken, window)
