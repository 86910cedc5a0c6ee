"""What a row of an input takes on its way through the chip, and how many rows are under way at a time."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.mem import InputOp
from cimc.passes.place.tail_plan import element_of
from cimc.passes.schedule.estimate.units import Units
from cimc.runtime.program import Element

LEAST_STEPS = 3
"""Host link, digital unit, send: rows that are under way at a time at least."""


@dataclass(frozen=True)
class InputRow:
    """Cycles of a row of an input."""

    rows: int
    """Of the input."""
    head: int
    """From the host to the row's codes in the global buffer."""
    out: int
    """To send them."""
    between: int
    """From a row to the next at the unit that all share."""
    buffer: int
    """Of the global buffer's port."""

    @staticmethod
    def of(op: InputOp, units: Units) -> InputRow:
        """The rows of an input: float32 where the chip makes codes of them."""
        rows, width, depth = shape_of(op.result)
        size, codes = element_of(op.result.type).size_bytes, quant_of(op.result) is not None
        given = (Element.F32.size_bytes if codes else size) * width * depth
        link, store, out = units.host(given), units.buffer(given), units.buffer(size * width * depth)
        quantise = units.vector("quantise", width * depth, chip=True) if codes else 0
        head = link + units.host_latency + store + units.buffer_latency + quantise
        return InputRow(rows, head, out, max(link, store + out, quantise), store + out)

    @property
    def steps(self) -> int:
        """Contexts that take rows in turn: as many as keep the unit that all share busy behind the link's latency."""
        return min(self.rows, max(LEAST_STEPS, ceil((self.head + self.out) / self.between)))
