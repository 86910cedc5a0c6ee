"""The cycle engine: walks a program's rows in time (``docs/cycle-engine.md``)."""

from cimc.runtime.cycle.engine import simulate
from cimc.runtime.cycle.timing import Timing
from cimc.runtime.cycle.trace import write_trace

__all__ = ["Timing", "simulate", "write_trace"]
