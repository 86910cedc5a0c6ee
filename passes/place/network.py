"""Contexts, rings and targets of a mapped program: who consumes which rows from whom (docs/isa.md, Rings, Routes).

The network does not depend on cores: ring depths are computed on it, then contexts are placed, then both
are written out. ``build_network`` derives it from the mapped module, always in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from xdsl.ir import Operation

from cimc.dialects.cim import StageOp
from cimc.passes.place.tail_plan import TailPlan, plain_name
from cimc.runtime.program import Element
from cimc.runtime.program.geometry import RingGeometry

CHIP = -1
"""The chip itself: global buffer, host link, chip-level digital unit."""

MAIN, PARTIAL = "main", "partial"
"""Roles of a stage's contexts: the one that ends a column block, and those that send it partial sums."""

SPILL, RELOAD = "spill", "reload"
"""Roles of the chip contexts that carry rows from one phase to a later one."""

COLUMNS = ("copy", "chunk", "k0", "k1", "n0", "n1", "p0", "p1", "xbars", "phase", "core", "xbar", "stays")
"""Columns of a stage's placement table; phase is 0, core and xbar are -1 until decided.

``stays``: in a program of several phases, whether the weights stay in the crossbars for all calls.
``copy``: rows copy, copy + copies, ... of the result, positions [p0, p1) of them (``passes/schedule/dealing.py``).
"""


@dataclass
class Ring:
    """One ring: its consumer, its geometry, and the row it holds."""

    context: int
    name: str
    geometry: RingGeometry
    element: Element
    positions: int
    """Positions of a slot, padding columns included."""
    channels: int
    pad: int
    fill: int

    @property
    def source(self) -> str:
        """The name of the ring's source, the same for all pieces of a row."""
        return plain_name(self.name)

    @property
    def pitch(self) -> int:
        """Elements of a slot."""
        return self.positions * self.channels

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot."""
        return self.pitch * self.element.size_bytes


class Target(NamedTuple):
    """One entry of a route set: the rectangle of the sent row that goes to a ring, and where it lands."""

    ring: int
    src_pos: int
    src_chan: int
    positions: int
    channels: int
    dst_pos: int
    dst_chan: int


@dataclass
class ContextSpec:
    """One context: its stage and role, its block of the operator, its rings and its targets per result."""

    node: int
    role: str
    copy: int = 0
    copies: int = 1
    """Contexts to which the rows are dealt in turn."""
    k0: int = 0
    k1: int = 0
    n0: int = 0
    n1: int = 0
    p0: int = 0
    p1: int = 0
    xbars: int = 0
    phase: int = 0
    core: int = CHIP
    xbar: int = 0
    pieces: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Of [p0, p1), in the order in which they are computed and sent: a result each (``pieces.py``)."""
    stays: bool = False
    """Whether its weights stay in its crossbars for all calls where those of several phases are written in each."""
    holds: bool = False
    """Whether the window of the first source overlaps that of the next turn."""
    rings: dict[str, int] = field(default_factory=dict[str, int])
    targets: list[list[Target]] = field(default_factory=list[list[Target]])


@dataclass(frozen=True)
class Spill:
    """Rows that wait in the global buffer for a later phase: ``writer`` and ``readers`` are chip contexts.

    The buffer holds whole frames of ``rows`` x ``positions`` x ``channels``; rows copy, copy + copies, ... are used.
    """

    writer: int
    rows: int
    positions: int
    channels: int
    element: Element
    copy: int
    copies: int
    readers: dict[int, int] = field(default_factory=dict[int, int])
    """Reader context by consuming phase."""

    @property
    def pitch(self) -> int:
        """Elements of a frame."""
        return self.rows * self.positions * self.channels


@dataclass
class Node:
    """What runs in contexts of its own: an operation of the mapped level, or a spill of one's result."""

    op: Operation
    label: str
    contexts: list[int] = field(default_factory=list[int])
    tail: TailPlan | None = None
    spill: Spill | None = None

    @property
    def stage(self) -> StageOp | None:
        """The stage that runs on cores; ``None`` for everything that runs on the chip."""
        return self.op if isinstance(self.op, StageOp) and self.spill is None else None


@dataclass(frozen=True)
class Part:
    """Channels [chan0, chan0 + channels) of positions [pos0, pos0 + positions) of a value's rows come from result
    ``result`` of ``context``, which has some of the rows."""

    context: int
    result: int
    chan0: int
    channels: int
    pos0: int
    positions: int
    src_pos: int = 0
    """Where in the row that the context sends the part begins: position, and channel."""
    src_chan: int = 0
    block: tuple[int, int] | None = None
    """Positions and channels of that row; ``None`` where the part is all of it."""


@dataclass
class Network:
    """All contexts and rings of a program, in order."""

    nodes: list[Node] = field(default_factory=list[Node])
    contexts: list[ContextSpec] = field(default_factory=list[ContextSpec])
    rings: list[Ring] = field(default_factory=list[Ring])

    @property
    def phases(self) -> int:
        """Number of phases."""
        return 1 + max((c.phase for c in self.contexts), default=0)


def table_of(network: Network, node: Node) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The placement table of a stage from its contexts, the inverse of what the builder reads."""
    rows = [
        (c.copy, chunk, c.k0, c.k1, c.n0, c.n1, c.p0, c.p1, c.xbars, c.phase, c.core, c.xbar, c.stays)
        for chunk, c in _chunks(network, node)
    ]
    return np.array(rows, np.int64).reshape(len(rows), len(COLUMNS))


def _chunks(network: Network, node: Node) -> Iterator[tuple[int, ContextSpec]]:
    """The contexts of a node, each with its row chunk: its rank among those of the same copy and blocks."""
    seen: Counter[tuple[int, int, int]] = Counter()
    for number in node.contexts:
        spec = network.contexts[number]
        place = spec.copy, spec.n0, spec.p0
        yield seen[place], spec
        seen[place] += 1
