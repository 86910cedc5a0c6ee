"""What can go wrong while a program runs: each class is one broken rule of ``docs/isa.md``.

Raised where the rule is checked, without a place; the scheduler adds node, context and instruction.
"""

from __future__ import annotations

from cimc.diagnostics import CimError


class ExecutionError(CimError):
    """The program breaks a rule of the instruction set at run time (exit 1)."""

    def at(self, where: str) -> ExecutionError:
        """The same problem with its place: node, context, instruction."""
        return type(self)(self.message, where=where)


class BoundsError(ExecutionError):
    """An operand leaves its buffer, its slot, its tensor or its array."""


class UnwrittenError(ExecutionError):
    """Something is read that nobody wrote: cells, a local buffer's content, part of an output."""


class RingError(ExecutionError):
    """A ring's place is used that is not held: not received yet, freed already, or beyond the slots."""


class OverlapError(ExecutionError):
    """A row's parts overlap: more elements arrive for a place than fill it."""


class OverflowingError(ExecutionError):
    """A sum does not fit the element type of its buffer."""


class DeadlockError(ExecutionError):
    """Contexts are left and none of them can go on."""
