"""What a backend is: four members, each saying what the compiler hands in and expects back.

A backend describes one machine. Most need nothing but their YAML file: ``BaseBackend(yaml)`` serves
them, and a machine with rules or passes of its own derives from it and overrides a method.
``docs/backends.md`` walks through one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, get_args

from xdsl.ir import Operation
from xdsl.passes import ModulePass

from cimc.backends.schema import Architecture
from cimc.configuration.located import load_located
from cimc.dialects.graph import HostOp, ProductOperation

Stage = Literal["graph", "quantise", "schedule", "place", "lower"]
"""The stages of the pipeline, in order; ``cimc/pipeline.py`` lists the passes of each."""

STAGES: tuple[Stage, ...] = get_args(Stage)


class Backend(Protocol):
    """The interface the pipeline calls. All members are cheap and give the same answer every time."""

    @property
    def name(self) -> str:
        """The name users write after ``--arch``; equal to the name of the entry point."""
        ...

    def architecture(self) -> Architecture:
        """The machine, validated and resolved. Raises :class:`CimError` (exit 2) if its file is wrong."""
        ...

    def legal_on_arrays(self, op: Operation) -> str | None:
        """Whether the crossbars can compute ``op``: ``None``, or the reason why not.

        In: an operation of the ``graph`` dialect, with float types (level 1) or quantised ones (level 2).
        Out: a reason names the constraint and the number, as in "kernel of 11 rows, the window counter
        has at most 7"; the operator then runs on a digital unit or the host, and ``cimc check`` prints it.
        """
        ...

    def extra_passes(self) -> tuple[tuple[Stage, ModulePass], ...]:
        """The machine's own passes, each with the stage it is appended to, in order.

        In: a module as that stage leaves it, and a ``cimc.dialects.context.CimContext`` with weights and
        architecture. Out: a module that is legal for that level still; the pipeline verifies it, and
        ``cimc verify`` compares its results with the level before.
        """
        ...


@dataclass(frozen=True)
class BaseBackend:
    """A backend that is its YAML file: every rule follows from the numbers in it."""

    yaml: Path
    """the architecture file"""

    @property
    def name(self) -> str:
        """The ``name`` in the architecture file."""
        return self.architecture().name

    @cached_property
    def _architecture(self) -> Architecture:
        return load_located(self.yaml, Architecture)

    def architecture(self) -> Architecture:
        """The machine; the file is read once."""
        return self._architecture

    def legal_on_arrays(self, op: Operation) -> str | None:
        """Products with stored weights are legal whose weights fit side by side into a row of cells.

        Tall weight matrices are cut into row tiles and wide ones into column tiles, so that no other
        size is illegal; whether all tiles fit the chip is decided for the whole model.
        """
        if isinstance(op, HostOp):
            return f"{op.op_type.data} runs on the host: it is not an operator of the graph dialect"
        if not isinstance(op, ProductOperation):
            return f"{op.name} multiplies by no stored weights, which is all that crossbars do"
        if op.weight_bits is None:
            return None  # level 1: widths are not chosen yet
        bits = op.weight_bits.value.data
        crossbar = self.architecture().crossbar
        cells = crossbar.cells_per_weight(bits)
        if not crossbar.weight_columns(bits):
            return f"a weight of {bits} bits takes {cells} cells of one row, which has {crossbar.columns}"
        return None

    def extra_passes(self) -> tuple[tuple[Stage, ModulePass], ...]:
        """None."""
        return ()
