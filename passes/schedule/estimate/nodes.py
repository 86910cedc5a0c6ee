"""The network as the estimate sees it: nodes with the cycles of a row, and the edges that rows travel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

from xdsl.ir import Operation

from cimc.passes.schedule.dealing import Dealing, deal
from cimc.passes.schedule.estimate.units import Units

ISSUE = 1
"""Cycles of an instruction that only keeps the order: ``recv``, ``free``."""


@dataclass(frozen=True)
class Edge:
    """Rows of ``source`` (a node's number) that a node takes."""

    source: int
    rows: int
    """Rows of the source."""
    kernel: int = 1
    """Rows of a window, dilation included."""
    stride: int = 1
    pad: int = 0
    gather: int | None = None
    """Cycles to collect a row when the node starts with all of them; ``None``: it starts with its window."""
    side: bool = False
    """Whether the row enters behind the products of its turn."""
    delay: int = 0
    """From the source's send to the row in this node's ring."""


@dataclass(frozen=True)
class Arrays:
    """An array stage as a function of how its windows are dealt to copies."""

    units: Units
    rows: int
    positions: int
    """Windows of a row that can be dealt; 1 where rows stay whole."""
    width: int
    """Windows of a row."""
    window: int
    """Cycles of a window on the slowest context of a copy."""
    behind: int
    """Cycles of the last conversion."""
    tiles: int
    """Crossbars of a copy."""
    functions: tuple[tuple[str, int], ...]
    """Digital functions of a row, with their elements a window."""
    fixed: int
    """Cycles of a row that the block's width does not change."""
    read_port: int
    """Cycles of a core's memory for a window."""
    moved: int
    """Bytes that enter and leave a context with a row of the result."""
    sharing: int
    """Contexts of the stage that a core holds."""
    finest: int | None = None
    """Blocks of a row at most, if that can be (``dealing.finest_blocks``)."""

    def turn(self, dealing: Dealing) -> Turn:
        """Cycles of a block of a row."""
        windows = ceil(self.width / dealing.columns)
        vector = sum(self.units.vector(name, elements * windows) for name, elements in self.functions)
        port = windows * self.read_port + self.units.port(self.moved // dealing.columns)
        # Contexts of a core take turns at its memory; where that takes longer than the products, it sets the pace.
        head = ISSUE + max(windows * self.window, min(self.sharing, dealing.copies) * port) + self.behind
        return Turn(head, vector + self.fixed, vector, port)


class Turn(NamedTuple):
    """Cycles of a row on one context: its products, what is behind them, and of that on digital unit and memory."""

    head: int
    tail: int
    vector: int
    port: int


@dataclass(frozen=True)
class Timing:
    """A node of the network. Cycles of one row on one context."""

    label: str
    op: Operation
    rows: int
    head: int
    """From the rows being there to the end of the products."""
    tail: int
    """Behind that, to the send."""
    between: int = 0
    """Least cycles between two rows of the node, whatever its copies: a unit that they share."""
    copies: int = 1
    """Contexts to which rows are dealt in turn."""
    columns: int = 1
    """Blocks of a row, each on copies of its own."""
    vector: int = 0
    """Cycles of the core's digital unit for a row of a context."""
    port: int = 0
    """Cycles of the core's memory for the products of a row of a context."""
    arrays: Arrays | None = None
    """What copies change; ``None`` for what has none."""
    wait: int = 0
    """Cycles of work between the last row gathered and the first row made."""
    edges: tuple[Edge, ...] = ()
    phase: int = 0
    load: int = 0
    """Cycles in which the weights of all copies leave the global buffer, where phases write them."""
    write: int = 0
    """Cycles of a context's wordlines, one by one, behind that."""
    row: int = 0
    """Cycles of the global buffer for a row of the result that waits for a later phase."""

    @property
    def turn(self) -> int:
        """Cycles from a row of a context to its next."""
        return self.head + self.tail + ISSUE

    def dealt(self, copies: int) -> Timing:
        """The node with so many copies. Raises ``ValueError`` for one without arrays, or for copies that would idle."""
        own = self.arrays
        dealing = deal(own.rows, own.positions, copies, own.finest) if own is not None else None
        if own is None or dealing is None:
            raise ValueError(f"{self.label} cannot have {copies} copies")
        turn = own.turn(dealing)
        load = self.load * copies // (self.copies * self.columns)
        return replace(self, **turn._asdict(), copies=dealing.rows, columns=dealing.columns, load=load)
