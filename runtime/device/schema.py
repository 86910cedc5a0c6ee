"""The device file: what a cell, its array's wires and its converters do that ideal ones do not.

Units are in the names. The sentence below each key is also what error messages and the JSON Schema say; examples
stand in docs/device-file.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field

from cimc.configuration.located import BrokenRule, Section
from cimc.runtime.device.adc import Adc
from cimc.runtime.device.choice import Amount, Positive
from cimc.runtime.device.dac import Dac
from cimc.runtime.device.drift import Drift
from cimc.runtime.device.faults import Faults
from cimc.runtime.device.ir_drop import Wires
from cimc.runtime.device.nonlinearity import Current
from cimc.runtime.device.programming import Programming
from cimc.runtime.device.read_noise import ReadNoise, ReadScope

Baseline = Literal["ideal", "column", "none"]


class Cell(Section):
    """Range and states of one cell."""

    g_off_us: Amount
    """conductance of level 0, in uS"""
    g_on_us: Positive
    """conductance of the top level, in uS"""
    levels: Annotated[int, Field(ge=2, le=1 << 16)] | None = None
    """states that can be told apart, evenly spaced; a digit is held by the nearest. Left out: any state"""
    level_conductances_us: tuple[Amount, ...] | None = None
    """conductance of every state, ascending, where they are not evenly spaced"""
    v_max: Positive = 1.5
    """a cell reads as at most this many times the top level; more is clipped, and the share reported"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """The top level conducts more than level 0, and a list of states is ascending and complete."""
        if self.g_on_us <= self.g_off_us:
            message = (
                f"must be above g_off_us {self.g_off_us:g}, given {self.g_on_us:g}; are the two swapped?"
            )
            yield BrokenRule(("g_on_us",), message)
        states = self.level_conductances_us
        if states is None:
            return
        if len(states) < 2 or any(b <= a for a, b in pairwise(states)):
            yield BrokenRule(
                ("level_conductances_us",), "must hold two or more ascending conductances; sort them"
            )
        elif (states[0], states[-1]) != (self.g_off_us, self.g_on_us):
            ends = f"{states[0]:g} … {states[-1]:g}"
            message = f"must go from g_off_us to g_on_us, given {ends}; make the ends agree"
            yield BrokenRule(("level_conductances_us",), message)
        if self.levels is not None and self.levels != len(states):
            message = f"says {self.levels}, but level_conductances_us lists {len(states)}; take levels away"
            yield BrokenRule(("levels",), message)

    @property
    def state_count(self) -> int | None:
        """Number of states, None when any conductance of the range can be held."""
        return self.levels if self.level_conductances_us is None else len(self.level_conductances_us)


class DeviceFile(Section):
    """One device: the cell, what happens to it, and what is around it. A section left out is ideal."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=64)]
    """what users write after --device-model; letters, digits, dot, dash, underscore"""
    description: str
    """one sentence for lists"""
    provenance: str = ""
    """where the numbers come from, as a whole"""
    cell: Cell
    """range and states of a cell"""
    programming: Programming | None = None
    """error of programming, drawn once per cell and chip"""
    drift: Drift | None = None
    """change of a cell with time"""
    drift_compensation: Literal["none", "global"] = "none"
    """global: one factor on every read undoes the mean drift"""
    faults: Faults | None = None
    """cells that are stuck"""
    read_noise: ReadNoise | None = None
    """noise of a read"""
    read_scope: ReadScope = "read"
    """how long a draw of read noise lives: read (vector and input digit), vector, call or frozen"""
    wires: Wires | None = None
    """resistance of the array's wires"""
    current: Current | None = None
    """current of a cell over voltage; left out, proportional"""
    dac: Dac | None = None
    """noise of the row drivers"""
    adc: Adc | None = None
    """another converter than the machine's"""
    baseline: Baseline = "ideal"
    """how the current of g_off_us is taken away: ideal, by a column of cells at g_off_us, or none"""

    def broken_rules(self) -> Iterator[BrokenRule]:
        """Effective conductances exist for cells with proportional current only."""
        if self.wires is not None and self.current is not None:
            message = "with wires needs an iterative solution of every read, which is not built; keep one of the two"
            yield BrokenRule(("current",), message)
        if self.drift_compensation == "global" and self.drift is None:
            yield BrokenRule(
                ("drift_compensation",), "'global' has no drift to undo; add a drift or take it away"
            )


def json_schema() -> dict[str, Any]:
    """JSON Schema of the device file, for editors."""
    return DeviceFile.model_json_schema()
