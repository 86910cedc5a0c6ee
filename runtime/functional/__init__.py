"""The functional engine: executes the instruction stream of a program on real input (``docs/functional-engine.md``)."""

from cimc.runtime.functional.engine import FunctionalResult, run_program
from cimc.runtime.functional.problems import (
    BoundsError,
    DeadlockError,
    ExecutionError,
    OverflowingError,
    OverlapError,
    RingError,
    UnwrittenError,
)

__all__ = [
    "BoundsError",
    "DeadlockError",
    "ExecutionError",
    "FunctionalResult",
    "OverflowingError",
    "OverlapError",
    "RingError",
    "UnwrittenError",
    "run_program",
]
