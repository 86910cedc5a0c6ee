"""One program timed again and again with other counts of an event: its tables are made once."""

from __future__ import annotations

import numpy as np

from cimc.runtime.cycle import layout as y
from cimc.runtime.cycle.engine import run_prepared, warm_up
from cimc.runtime.cycle.prepare import Options, prepare
from cimc.runtime.program import AGAIN, Program
from cimc.runtime.program.opcodes import IMAGE_WRITES


def weights_stay(program: Program) -> bool:
    """Whether no weight is written again in every call."""
    rows = program["instructions"]
    return not (np.isin(rows["opcode"], sorted(IMAGE_WRITES)) & (rows["func"] == AGAIN)).any()


class RepeatedRun:
    """Runs of a program that differ in what ``event`` starts with; weights that stay are in the arrays.

    The power series has windows of ``window_cycles``, and bins for runs of about ``expected_cycles``.
    """

    def __init__(
        self, program: Program, event: int, *, images: int, window_cycles: int, expected_cycles: int
    ) -> None:
        warm_up()
        bins = 2 << int(expected_cycles // window_cycles + 1).bit_length()
        options = Options(images, window_cycles, resident_weights=True, bins=bins)
        self._prepared = prepare(program, options)
        self._fresh = self._prepared.world.memory.copy()
        self._event = event
        self._window_cycles = window_cycles

    def array_cycles(self) -> y.Int:
        """Cycles of the last run in which the arrays of each context were busy: of its array sets, the busiest."""
        sets = self._prepared.program["array_sets"]["context"]
        cycles = np.zeros(self._prepared.program.count("contexts"), np.int64)
        np.maximum.at(cycles, sets, self._prepared.world.table("sets")[:, y.BUSY])
        return cycles

    def run(self, count: int) -> tuple[int, float]:
        """Cycles, and the highest mean mW of a window without static power, when the event starts with ``count``.

        A run more than twice as long as expected has its windows merged, so that no peak is known: infinity.
        """
        world = self._prepared.world
        world.memory[:] = self._fresh
        world.table("events")[self._event, y.V_SIGNALS] = count
        run_prepared(self._prepared)
        cycles, window = int(world.memory[y.O_END]), int(world.memory[y.O_WINDOW])
        if window != self._window_cycles:
            return cycles, float("inf")
        highest = int(world.table("bins")[: -(-cycles // window), 0].max(initial=0))
        return cycles, highest / 1e6 * self._prepared.machine.clock_ghz / window
