"""A bench for programs by hand on a machine whose numbers are easy to add up (``machine.json``).

Clock 0.5 GHz. Core: port 8 B/cycle, vector unit 2 + elements/4. Chip: port 16 B/cycle + 5, vector unit
3 + elements/4. Mesh 4 x 4: 4 B/cycle a link, 2 cycles a hop; the global buffer at node 0. Host link 4 B/cycle
+ 20. Read 5 ns = 3 cycles, 4 wordlines at once, 4 converters of 1 cycle. Write 19 ns = 10 cycles a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.cycle import Timing, simulate
from cimc.runtime.program import Element, Program
from cimc.runtime.program.builder import ProgramBuilder, Route, Tile
from cimc.runtime.program.geometry import ring_geometry
from cimc.runtime.program.rows import Row, halt


class Bench:
    """A program builder with shorthands; contexts are numbered in the order of :meth:`context`."""

    def __init__(self) -> None:
        self.builder = ProgramBuilder()
        self.machine: dict[str, Any] = json.loads(Path(__file__).with_name("machine.json").read_text())
        self.coding = self.builder.add_coding(Coding(parallel_rows=4).to_row().tolist())
        """8-bit inputs by 1 bit: 8 digits; 8-bit weights in 2-bit cells: 4 cells."""

    def context(self, core: int, rows: Sequence[Row], *, stream: int = -1, phase: int = 0) -> int:
        """A context with a body of its own."""
        body = self.builder.add_body(f"body{core}", [*rows, halt()])
        return self.builder.add_context(core, body, stream=stream, phase=phase)

    def buffer(self, core: int, pitch: int = 64, slots: int = 1, element: Element = Element.U8) -> int:
        """A local buffer."""
        return self.builder.add_buffer(core, element, slots, pitch)

    def ring(self, core: int, rows: int, slots: int, fill: int, element: Element = Element.U8) -> int:
        """A ring whose consumer takes one row a turn."""
        geometry = ring_geometry(1, 1, 1, 0, rows, rows)
        return self.builder.add_ring(core, element, slots, fill, geometry, channels=fill, fill=fill)

    def routes(self, *targets: tuple[int, int, int]) -> int:
        """A route set of (ring, group, elements)."""
        return self.builder.add_route_set([Route(r, g, 0, 0, 1, n, 0, 0) for r, g, n in targets])

    def arrays(self, core: int, rows: int = 8, columns: int = 4, tiles: int = 1) -> int:
        """An array set of ``tiles`` tiles; ``context`` of a set does not matter for time."""
        b = self.builder
        blocks = [Tile(t, t * rows, (t + 1) * rows, 0, columns) for t in range(tiles)]
        return b.add_array_set(0, core, self.coding, b.weight("w"), (0, tiles * rows, 0, columns), blocks)

    def window(self, c: int = 8) -> int:
        """A window of one row and ``c`` channels."""
        return self.builder.add_window(c=c)

    def program(self) -> Program:
        """What was built so far."""
        return self.builder.build(self.machine)

    def time(self, images: int = 1, **options: Any) -> Timing:
        """Time the program, one instruction at a time too: both must agree in everything."""
        program = self.program()
        fast = simulate(program, images=images, **options)
        assert_equal(fast, simulate(program, images=images, plain=True, **options))
        return fast


def assert_equal(one: Timing, other: Timing) -> None:
    """Everything a run reports is equal, seconds apart."""
    left, right = deepcopy(one.to_dict()), deepcopy(other.to_dict())
    for name in ("jit_seconds", "prepare_seconds", "run_seconds", "instructions_per_second"):
        del left[name], right[name]
    assert left == right
    assert np.array_equal(one.stall_cycles, other.stall_cycles)
    assert np.array_equal(one.power_mw, other.power_mw)


@pytest.fixture
def bench() -> Bench:
    """An empty bench."""
    return Bench()


@pytest.fixture
def make_bench() -> Callable[[], Bench]:
    """Benches for tests that compare several programs."""
    return Bench


@pytest.fixture
def equal() -> Callable[[Timing, Timing], None]:
    """:func:`assert_equal`."""
    return assert_equal
