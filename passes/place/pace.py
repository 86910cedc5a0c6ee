"""Ring depths at which nothing waits for room: row times of a schedule that runs at the slowest stage's pace.

Rows enter at the pace of the slowest stage; every stage starts a turn when its rows are there and its copy is
free. That is a schedule with the best interval there is; a ring that holds the most places it has in use at once never
makes a sender wait in it, and contexts that run as early as they can are no slower (marked graphs, Baccelli et al.,
"Synchronization and Linearity", 1992, section 2.5). So the short path of a residual gets as many places as the long one
takes rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.graph_types import shape_of
from cimc.passes.place.network import MAIN, RELOAD, SPILL, ContextSpec, Network, Node, Ring
from cimc.passes.place.tail_plan import ring_name
from cimc.passes.schedule.array_frames import frame_window_cycles
from cimc.passes.schedule.copies.stage_costs import exact, stage_cost
from cimc.runtime.program.geometry import RingGeometry

IMAGES = 3
"""Images of the schedule. Behind the first a stage's rows lag by the same time in each."""

ISSUES = 6
"""Cycles in which a turn issues its ``recv``, ``free``, first read, function and ``send``."""

FRAME_ISSUES = 3
"""Cycles in which a row of a product's frame issues its ``recv``, ``copy`` and ``free``."""

Times = npt.NDArray[np.floating[Any]]

Key = tuple[int, str, int]
"""Node, group of contexts and phase: contexts that make rows of one stream."""


@dataclass
class _Stream:
    """Contexts that take rows in step and make the rows of one tensor."""

    rows: int
    """Rows they make of an image."""
    copies: int
    work: float
    """Cycles from a turn's rows being there to the rows being freed."""
    tail: float
    """Cycles from there to the send."""
    on_chip: bool
    """Whether it is a chip operation: rows are freed as they come, results follow the last of an image."""
    takes: dict[int, list[tuple[int, list[Key]]]] = field(
        default_factory=dict[int, list[tuple[int, list[Key]]]]
    )
    """By copy: its rings, and the streams that send to each."""

    @property
    def turn(self) -> float:
        """Cycles of a context from one row to the next."""
        return self.work + self.tail


class Paced(NamedTuple):
    """A schedule in which every phase runs at the pace of its slowest stage."""

    slots: npt.NDArray[np.int64]
    """Slots of every ring with which no stage waits for room."""
    image_cycles: float
    """Of an image at the slowest stage of all, at least 1."""


def paced(network: Network, arch: Any) -> Paced:
    """Slots of every ring that let all stages of a phase run at the pace of the slowest, and that pace.

    Rings of partial sums keep their windows: sums are taken in step with those they are added to.
    """
    slots = np.array([ring.geometry.window for ring in network.rings], np.int64)
    streams = _streams(network, arch)
    pace: dict[int, float] = {}
    for (_, _, phase), s in streams.items():
        pace[phase] = max(pace.get(phase, 1.0), s.turn * ceil(s.rows / s.copies))
    sent: dict[Key, Times] = {
        key: np.arange(1, IMAGES * stream.rows + 1) * (pace[key[2]] / stream.rows)
        for key, stream in streams.items()
        if not stream.takes
    }
    for key, stream in streams.items():
        if not stream.takes:
            continue
        if stream.on_chip:
            sent[key] = _collected(network, stream, sent, pace[key[2]])
        else:
            sent[key] = _turns(network, stream, sent, slots, arch)
    return Paced(slots, max(pace.values(), default=1.0))


def _turns(
    network: Network, stream: _Stream, sent: dict[Key, Times], slots: npt.NDArray[np.int64], arch: Any
) -> Times:
    """When the rows of a stage on cores are sent; raises ``slots`` of its rings to the most places in use."""
    made: list[Times] = []
    for copy in range(stream.copies):
        rings = stream.takes[copy]
        turns = next(g.turns for g in _windows(network, rings))
        ready, side = np.zeros(IMAGES * turns), np.zeros(IMAGES * turns)
        frames = [(ring, sources) for ring, sources in rings if _holds_frame(network, ring)]
        # Rings of other channels and columns take the same rows at the same time, but for what is longer under way.
        alike: dict[tuple[RingGeometry, bool, Key], tuple[list[int], float]] = {}
        for ring, sources in (taken for taken in rings if taken not in frames):
            own, way = network.rings[ring], _way_cycles(network.rings[ring], arch)
            for source in sources:
                key = own.geometry, own.source == ring_name(0), source
                same, longest = alike.get(key, ([], 0.0))
                same.append(ring)
                alike[key] = same, max(longest, way)
        for (geometry, head, source), (_, way) in alike.items():
            times = ready if head else side
            np.maximum(times, _there(geometry, sent[source]) + way, out=times)
        for ring, sources in frames:
            _collect_frame(network.rings[ring], ring, sources, sent, slots, ready, stream.turn, arch)
        ramp = np.arange(len(ready)) * stream.turn
        ends = np.maximum(ready + stream.turn, side + stream.tail)
        ends = np.maximum.accumulate(ends - ramp) + ramp
        freed = np.maximum(ready, np.concatenate([[0.0], ends[:-1]])) + stream.work
        for (geometry, head, source), (same, _) in alike.items():
            slots[same] = np.maximum(
                slots[same], places_in_use(geometry, freed if head else ends, sent[source])
            )
        made.append(ends.reshape(IMAGES, -1))
    if made[0].shape[1] * stream.copies > stream.rows and stream.rows == 1:
        return made[0][:, -1]  # a pool over the image takes its rows in turn and makes one
    times = np.empty((IMAGES, stream.rows))
    for copy, ends in enumerate(made):
        times[:, copy :: stream.copies] = ends
    return times.reshape(-1)


def _holds_frame(network: Network, ring: int) -> bool:
    """Whether the ring brings the frame of a product, row by row, into its context's buffer."""
    stage = network.nodes[network.contexts[network.rings[ring].context].node].stage
    return stage is not None and stage.frame_product is not None and network.rings[ring].name == ring_name(1)


def _collect_frame(
    ring: Ring,
    number: int,
    sources: list[Key],
    sent: dict[Key, Times],
    slots: npt.NDArray[np.int64],
    ready: Times,
    turn: float,
    arch: Any,
) -> None:
    """Rows of a product wait in ``ready`` for its frame, which is collected behind the rows of the image before;
    raises ``slots`` of the frame's ring to the most places in use meanwhile."""
    rows, begun = ring.geometry.turns, 0.0
    step = FRAME_ISSUES + 2 * ceil(
        ring.fill * ring.element.size_bytes / arch.core.local_buffer_bytes_per_cycle
    )
    there = np.max([_there(ring.geometry, sent[source]) for source in sources], axis=0).reshape(IMAGES, -1)
    turns = ready.reshape(IMAGES, -1)
    ramp = np.arange(rows) * step
    freed = np.empty((IMAGES, rows))
    for image in range(IMAGES):
        arrived = np.maximum(there[image] + _way_cycles(ring, arch), begun)
        freed[image] = np.maximum.accumulate(arrived - ramp) + ramp + step
        np.maximum(turns[image], freed[image, -1], out=turns[image])
        rests = np.arange(turns.shape[1])[::-1] * turn
        begun = float((turns[image] + rests).max()) + turn
    for source in sources:
        slots[number] = max(slots[number], places_in_use(ring.geometry, freed.reshape(-1), sent[source]))


def _way_cycles(ring: Ring, arch: Any) -> float:
    """Cycles from a send to the row in a ring: ports, a third of the mesh's rows and columns, and a turn's own issues.

    Two cores of a mesh are a third of its extent apart on average; which ones they are is decided later.
    """
    row = ring.fill * ring.element.size_bytes
    ports = 2 * ceil(row / arch.core.local_buffer_bytes_per_cycle)
    net = arch.network
    if net.kind == "bus":
        return ISSUES + ports + ceil(row / arch.chip.global_buffer_bytes_per_cycle)
    hops = (net.columns + net.rows) / 3 * net.hop_cycles
    return ISSUES + ports + hops + ceil(row / net.link_bytes_per_cycle)


def _collected(network: Network, stream: _Stream, sent: dict[Key, Times], pace: float) -> Times:
    """When a chip operation sends its rows: at the pace, from the last row of an image on."""
    last = np.zeros(IMAGES)
    for _, sources in stream.takes[0]:
        for source in sources:
            np.maximum(last, sent[source].reshape(IMAGES, -1).max(axis=1), out=last)
    return (last[:, None] + np.arange(1, stream.rows + 1) * (pace / stream.rows)).reshape(-1)


def _there(geometry: RingGeometry, sent: Times) -> Times:
    """When the last row of every turn's window is there, and all before it."""
    rows = len(sent) // IMAGES
    last = geometry.first + np.arange(geometry.turns) * geometry.period + geometry.window - 1
    image = np.arange(IMAGES)[:, None] * rows
    return np.maximum.accumulate(sent)[(image + np.clip(last, 0, rows - 1)).reshape(-1)]


def places_in_use(geometry: RingGeometry, freed: Times, sent: Times) -> int:
    """The most places in use at once when a row takes its place as it is sent and turns free theirs at ``freed``."""
    g, rows = geometry, len(sent) // IMAGES
    local = np.arange(g.places)
    turn = np.minimum(local // g.advance, g.turns - 1)
    row = g.first + turn * g.period + local - turn * g.advance
    inside = (row >= 0) & (row < rows)
    image = np.arange(IMAGES)[:, None]
    frees = freed[(image * g.turns + turn).reshape(-1)]
    place = (image * g.places + local)[:, inside].reshape(-1)
    at = sent[(image * rows + row[inside]).reshape(-1)]
    gone = np.searchsorted(frees, at, side="right")
    return int((place + 1 - gone).max(initial=1))


def _windows(network: Network, rings: list[tuple[int, list[Key]]]) -> list[RingGeometry]:
    """Geometries of the rings of first sources."""
    return [network.rings[ring].geometry for ring, _ in rings if network.rings[ring].source == ring_name(0)]


def _streams(network: Network, arch: Any) -> dict[Key, _Stream]:
    """Streams in the order of the network: those of a phase that take from others stand behind them."""
    streams: dict[Key, _Stream] = {}
    senders: dict[int, dict[Key, None]] = {}
    for context in network.contexts:
        key = _key(context)
        for targets in context.targets:
            for target in targets:
                senders.setdefault(target.ring, {})[key] = None
        if key not in streams:
            streams[key] = _stream(network, context, arch)
    for number, ring in enumerate(network.rings):
        if ring.name.startswith("psum"):
            continue
        context = network.contexts[ring.context]
        taken = streams[_key(context)].takes.setdefault(context.copy, [])
        taken.append((number, list(senders.get(number, {}))))
    return streams


def _key(context: ContextSpec) -> Key:
    return context.node, context.role if context.role in (SPILL, RELOAD) else MAIN, context.phase


def _stream(network: Network, context: ContextSpec, arch: Any) -> _Stream:
    node = network.nodes[context.node]
    if node.spill is not None:
        return _Stream(node.spill.rows, 1, 0.0, 0.0, on_chip=True)
    value = node.op.results[0] if node.op.results else node.op.operands[0]
    rows = shape_of(value)[0]
    stage = node.stage
    if stage is None:
        return _Stream(rows, 1, 0.0, 0.0, on_chip=True)
    cost = stage_cost(stage, arch)
    same = [network.contexts[i] for i in node.contexts]
    widest = max(c.p1 - c.p0 for c in same)
    work = float(widest * cost.window_cycles) if cost is not None else 0.0
    tail = _tail_cycles(node, widest, max(c.n1 - c.n0 for c in same), arch)
    return _Stream(rows, context.copies, work, tail, on_chip=False)


def _tail_cycles(node: Node, positions: int, channels: int, arch: Any) -> float:
    """Cycles of the vector unit on a block of a row, all functions at the unit's default rate."""
    unit = arch.core.digital_unit
    if node.tail is None or unit is None:
        return 0.0
    total = 0
    for step in node.tail.steps:
        window = getattr(step.op, "window", None)
        cells = int(np.prod(window.kernel)) if window is not None else 1
        if isinstance(step.op, FrameProductOp):
            if step.op.coding is not None:
                total += frame_window_cycles(step.op, arch)
                continue
            cells *= step.op.depth
        elements = exact(unit.cycles_per_element["default"]) * cells * positions * channels
        total += unit.startup_cycles + ceil(elements / unit.lanes)
    return float(total)
