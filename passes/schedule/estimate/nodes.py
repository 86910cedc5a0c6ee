"""The network as the estimate sees it: nodes with the cycles of a row, and the edges that rows travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import NamedTuple, TypedDict

from xdsl.ir import Operation

from cimc.passes.place.pieces import cut
from cimc.passes.schedule.dealing import Dealing, dealt
from cimc.passes.schedule.estimate.across import Across, last_pieces, parts_seen, rectangles
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
    """From the source's send to the row in this node's ring; the blocks in which it comes share it."""
    arrival: int | None = None
    """From the send of a piece to its being in the rings; ``None`` as long as cores are not decided."""
    across: Across | None = None
    """Columns of a window; ``None`` where every position takes whole rows."""
    lanes: int = 1
    """Blocks of a part's channels that go to contexts of their own."""
    size: int = 0
    """Bytes of a row."""
    part: int = 0
    """Those that one of its senders sends."""
    senders: int = 1
    """Contexts that send the channels of a block of the row to a context."""

    def after(self, source: Timing) -> int:
        """Cycles from the source's send of a piece to its being in the rings."""
        if self.arrival is not None:
            return self.arrival
        return self.delay // (source.columns * len(source.steps))

    def parts(self, source: Timing, node: Timing) -> int:
        """Multicasts in which the source sends a piece of a row to the contexts of ``node``."""
        taken = node.columns * len(node.steps)
        if self.across is None or self.gather is not None or taken == 1:
            return self.lanes
        return self.lanes * rectangles(self.across, source.columns * len(source.steps), taken)

    def pieces(self, source: Timing, node: Timing) -> tuple[int, ...]:
        """The piece of the source that each piece of ``node`` waits for, and all before it."""
        if len(source.steps) == 1:
            return (0,) * len(node.steps)
        if self.across is None:
            return (len(source.steps) - 1,) * len(node.steps)
        given, taken = (source.columns, len(source.steps)), (node.columns, len(node.steps))
        return last_pieces(self.across, given, taken)


def sending(nodes: Sequence[Timing], members: Sequence[int]) -> dict[int, int]:
    """Of every stage of a phase the cycles of :func:`extra_sends`."""
    parts: dict[int, list[tuple[Edge, int]]] = {number: [] for number in members}
    for number in members:
        for edge in nodes[number].edges:
            if edge.source in parts:
                parts[edge.source].append((edge, edge.parts(nodes[edge.source], nodes[number])))
    return {number: extra_sends(nodes[number], own) for number, own in parts.items()}


def extra_sends(node: Timing, leaving: Sequence[tuple[Edge, int]]) -> int:
    """Cycles beyond the first in which a stage hands the multicasts of a piece to its core's port; ``leaving``: edges
    that take its rows, in so many parts.

    Consumers that take all channels of a piece share their multicasts.
    """
    if node.arrays is None and node.digital is None:
        return 0
    shared = max((parts for edge, parts in leaving if edge.lanes == 1), default=0)
    apart = sum(parts for edge, parts in leaving if edge.lanes > 1)
    return max(1, shared + apart) - 1


def arriving(node: Timing, nodes: Sequence[Timing], kernel_rows: int | None = None) -> tuple[int, int]:
    """Cycles of an image in which parts of rows enter a context of a node (:func:`arriving_over` all its edges)."""
    own = [arriving_over(edge, nodes[edge.source], node, kernel_rows) for edge in node.edges]
    return sum(link for link, _ in own), sum(port for _, port in own)


def arriving_over(
    edge: Edge, source: Timing, node: Timing, kernel_rows: int | None = None
) -> tuple[int, int]:
    """Cycles of an image in which parts of rows of ``source`` enter a context of ``node``: over its core's link, where
    most do, and at its memory's port in the mean, since a core has contexts of many blocks.

    Every block of a row of the source is a part of its own; a context takes those under the windows of its block.
    ``kernel_rows``: of its weights, where it has a chunk of their rows only.
    """
    own = node.arrays or node.digital
    if own is None:
        return 0, 0
    rows = edge.rows
    if edge.gather is None:  # else a context takes all of them
        kernel = edge.kernel if kernel_rows is None else min(edge.kernel, kernel_rows)
        turns = -(-node.rows // node.copies)
        rows = min(rows, (turns - 1) * min(kernel, edge.stride * node.copies) + kernel)
    blocks = source.columns * len(source.steps)
    most, mean = blocks, float(blocks)
    if edge.across is not None:
        rings = len(node.steps) if len(source.steps) > 1 else 1
        most, mean = parts_seen(edge.across, blocks, node.columns * rings)
        most, mean = most * rings, mean * rings
    size = ceil(edge.size / (blocks * edge.senders * edge.lanes))
    link = rows * most * edge.senders * own.units.link(size)
    return link, round(rows * mean * edge.senders) * own.units.port(size)


@dataclass(frozen=True)
class _Stage:
    """A stage as a function of how its rows are dealt to copies."""

    units: Units
    rows: int
    positions: int
    """Windows of a row that can be dealt; 1 where rows stay whole."""
    finest: int | None
    """Blocks of a row at most, if that can be (``dealing.finest_blocks``)."""
    width: int
    """Windows of a row."""

    def dealing(self, copies: int) -> Dealing:
        """Raises ``ValueError`` where some copies would have no window."""
        return dealt(self.rows, self.positions, copies, self.finest)


@dataclass(frozen=True)
class Arrays(_Stage):
    """An array stage."""

    window: int
    """Cycles of a window on the slowest context of a copy."""
    behind: int
    """Cycles of the last conversion."""
    tiles: int
    """Crossbars of a copy."""
    contexts: int
    """That share them."""
    functions: tuple[tuple[str, int], ...]
    """Digital functions of a row, with their elements a window."""
    fixed: int
    """Cycles of a row that the block's width does not change."""
    read_port: int
    """Cycles of a core's memory for a window."""
    moved: int
    """Bytes that enter and leave a context with a row of the result."""
    sharing: int
    """Contexts of the stage that a core holds; as many as have crossbars there, where their cores are not known yet."""

    def share(self, of: float) -> Arrays:
        """A part of the contexts, those of a phase."""
        return replace(self, tiles=max(1, round(self.tiles * of)), contexts=max(1, round(self.contexts * of)))

    def turn(self, dealing: Dealing, pieces: int = 1) -> list[Turn]:
        """Cycles of the pieces of a block of a row."""
        widths = [last - first for first, last in cut(0, ceil(self.width / dealing.columns), pieces)]
        return [self._piece(dealing, windows) for windows in widths]

    def _piece(self, dealing: Dealing, windows: int) -> Turn:
        vector = sum(self.units.vector(name, elements * windows) for name, elements in self.functions)
        port = windows * self.read_port + self.units.port(self.moved * windows // self.width)
        # Contexts of a core take turns at its memory; where that takes longer than the products, it sets the pace.
        head = ISSUE + max(windows * self.window, min(self.sharing, dealing.copies) * port) + self.behind
        return Turn(head, vector + self.fixed, vector, port)


@dataclass(frozen=True)
class Digital(_Stage):
    """A digital stage."""

    functions: tuple[tuple[str, int], ...]
    """Functions of a row, with their elements a position."""
    fixed: int
    """Cycles of a piece that its width does not change."""
    arrays: int = 0
    """Cycles of a piece in arrays of the context's own, which hold a frame: no other context waits for them."""

    def turn(self, dealing: Dealing, pieces: int = 1) -> list[Turn]:
        """Cycles of the pieces of a block of a row."""
        found: list[Turn] = []
        for first, last in cut(0, ceil(self.width / dealing.columns), pieces):
            works = (self.units.vector(name, elements * (last - first)) for name, elements in self.functions)
            cycles = sum(works) + self.fixed
            found.append(Turn(ISSUE, self.arrays + cycles, cycles, 0))
        return found


class Turn(NamedTuple):
    """Cycles of a piece of a row on one context: its products, what is behind them, and of that on digital unit and
    memory."""

    head: int
    tail: int
    vector: int
    port: int


class Step(NamedTuple):
    """Cycles of a piece of a row on one context."""

    head: int
    """From its rows being there to the end of the products."""
    tail: int
    """Behind that, to the send."""

    @property
    def turn(self) -> int:
        """From a piece of a context to its next."""
        return self.head + self.tail + ISSUE


class Busy(TypedDict):
    """What the pieces of a row take of a context and its core."""

    steps: tuple[Step, ...]
    vector: int
    port: int


def busy(turns: Sequence[Turn]) -> Busy:
    """Fields of a node whose rows take ``turns``."""
    steps = tuple(Step(turn.head, turn.tail) for turn in turns)
    return {"steps": steps, "vector": sum(t.vector for t in turns), "port": sum(t.port for t in turns)}


@dataclass(frozen=True)
class Timing:
    """A node of the network."""

    label: str
    op: Operation
    rows: int
    steps: tuple[Step, ...]
    """Of the pieces of a row, in turn."""
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
    digital: Digital | None = None
    """What pieces change of a digital stage."""
    wait: int = 0
    """Cycles of work between the last row gathered and the first row made."""
    edges: tuple[Edge, ...] = ()
    phase: int = 0
    load: int = 0
    """Cycles in which the weights of all copies leave the global buffer, where phases write them, but for those that
    stay in their crossbars."""
    kept_load: int = 0
    """Cycles it would take those."""
    staying: int = 0
    """Their crossbars."""
    write: int = 0
    """Cycles of a context's wordlines, one by one, behind that."""
    row: int = 0
    """Cycles of the global buffer for a row of the result that waits for a later phase."""
    parts: int = 0
    """The same of its port alone, the row in the blocks in which contexts send it."""
    buffer: int = 0
    """Cycles of that port for what an operation of the chip moves in an image."""

    @cached_property
    def turn(self) -> int:
        """Cycles from a row of a context to its next."""
        return sum(step.turn for step in self.steps)

    @cached_property
    def figures(self) -> tuple[int, ...]:
        """Columns of the compiled recurrence (``recurrence.py``); one object for nodes that are equal but for their
        phase."""
        rewritten, contexts = 0, 0
        if self.arrays is not None:
            rewritten = max(0, self.arrays.tiles * self.copies * self.columns - self.staying)
            contexts = round(rewritten * self.arrays.contexts / max(1, self.arrays.tiles))
        rows = self.rows, len(self.steps), self.copies, self.between, self.wait
        return (*rows, self.load, self.write, rewritten, contexts, self.turn)

    def interval(self, sent: int = 0) -> int:
        """Cycles between images that the node's contexts allow; ``sent``: of a piece's send beyond the first."""
        return max(
            -(-self.rows // self.copies) * (self.turn + sent * len(self.steps)), self.between * self.rows
        )

    def in_phase(self, phase: int) -> Timing:
        """The same node in another phase."""
        if phase == self.phase:
            return self
        # A model has up to a thousand of these: a tenth of what ``replace`` takes, and they share ``figures``.
        found = object.__new__(Timing)
        found.__dict__.update(self.__dict__, figures=self.figures, phase=phase)
        return found

    def dealt(self, copies: int, pieces: int = 1) -> Timing:
        """The node with so many copies that cut their rows into so many pieces.

        Raises ``ValueError`` for an operation of the chip, or for copies that would idle.
        """
        own = self.arrays or self.digital
        if own is None:
            raise ValueError(f"{self.label} cannot have copies")
        dealing = own.dealing(copies)
        whole = (self.load + self.kept_load) * copies // (self.copies * self.columns)
        load = max(0, whole - self.kept_load)
        turns = own.turn(dealing, pieces)
        return replace(self, **busy(turns), copies=dealing.rows, columns=dealing.columns, load=load)
