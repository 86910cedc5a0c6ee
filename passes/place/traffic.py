"""Bytes that contexts send each other for one image: what a floor plan has to carry (docs/isa.md, Rings, Routes)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt

from cimc.dialects.graph_types import shape_of
from cimc.passes.place.network import ContextSpec, Network

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Flow:
    """Multicasts from one context to others, of one image; a context is named once for each of its rings."""

    source: int
    targets: tuple[int, ...]
    sends: tuple[tuple[int, int], ...]
    """Bytes of a part of a row, and how many of that size are sent."""
    phase: int

    @property
    def size_bytes(self) -> int:
        """Bytes of all of them, which arrive at each of :attr:`targets`."""
        return sum(size * count for size, count in self.sends)


def flows(network: Network) -> list[Flow]:
    """All multicasts of a network, rows with the same targets taken together."""
    rings = network.rings
    geometry = np.array(
        [(g.first, g.last, g.period, g.advance) for g in (ring.geometry for ring in rings)], np.int64
    ).reshape(-1, 4)
    found: dict[tuple[int, tuple[int, ...]], Counter[int]] = {}
    patterns: dict[tuple[int, ...], list[tuple[tuple[int, ...], int]]] = {}
    for number, spec in enumerate(network.contexts):
        for result, targets in enumerate(spec.targets):
            groups: dict[tuple[int, int, int, int], list[int]] = {}
            for target in targets:
                rectangle = (target.src_pos, target.src_chan, target.positions, target.channels)
                groups.setdefault(rectangle, []).append(target.ring)
            rows = sent_rows(network, spec, result)
            for (_, _, positions, channels), group in groups.items():
                key = (rows.start, rows.stop, rows.step, *group)
                if key not in patterns:
                    consumers = [rings[ring].context for ring in group]
                    patterns[key] = _wanted(rows, geometry[group], consumers)
                size = positions * channels * rings[group[0]].element.size_bytes
                for contexts, count in patterns[key]:
                    found.setdefault((number, contexts), Counter())[size] += count
    contexts = network.contexts
    return [
        Flow(source, to, tuple(sends.items()), contexts[source].phase)
        for (source, to), sends in found.items()
    ]


def sent_rows(network: Network, spec: ContextSpec, result: int) -> range:
    """The rows of an image that a context sends, whole or a piece of each: those dealt to its copy."""
    node = network.nodes[spec.node]
    if node.spill is not None:
        return range(spec.copy, node.spill.rows, spec.copies)
    value = node.op.results[0 if node.stage is not None else result]
    return range(spec.copy, shape_of(value)[0], spec.copies)


def _wanted(rows: range, geometry: Ints, consumers: list[int]) -> list[tuple[tuple[int, ...], int]]:
    """The consumers of the rows, and how many rows go to exactly these.

    ``geometry``: first, last, period and advance of each consumer's ring, which takes a row as
    :meth:`~cimc.runtime.program.geometry.RingGeometry.place` says.
    """
    first, last, period, advance = geometry.T
    numbers = np.array(rows, np.int64)[:, None]
    wanted = (numbers >= first) & (numbers <= last) & ((numbers - first) % period < advance)
    counts = Counter(line.tobytes() for line in wanted)
    masks = [(np.frombuffer(line, np.bool_), count) for line, count in counts.items()]
    return [(tuple(compress(consumers, mask)), count) for mask, count in masks if mask.any()]
