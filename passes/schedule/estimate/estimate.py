"""The closed-form estimate of a mapped module: latency of one image, interval of many (docs/scheduling.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cimc.dialects.cim import StageOp
from cimc.passes.place.network import COLUMNS
from cimc.passes.place.source_rows import kernel_rows
from cimc.passes.schedule.estimate.nodes import Timing, arriving, sending
from cimc.passes.schedule.estimate.pipeline import latency

_CORE, _K0, _K1 = map(COLUMNS.index, ("core", "k0", "k1"))


@dataclass(frozen=True)
class Estimate:
    """Cycles. ``interval``: of every kind of resource; weights that phases write count in both."""

    latency_cycles: int
    interval: Mapping[str, int]

    @property
    def interval_cycles(self) -> int:
        """Between images."""
        return max(self.interval.values(), default=0)

    @property
    def binding(self) -> str:
        """The resource that decides the interval."""
        return max(self.interval, key=lambda name: self.interval[name], default="none")


def estimate(nodes: Sequence[Timing], table: Callable[[StageOp], Any], cores: int) -> Estimate:
    """The estimate of ``nodes`` whose contexts lie where ``table`` says; cores of -1 are not decided yet.

    A program of several phases runs one image after the other.
    """
    alone = latency(nodes)
    if any(node.phase for node in nodes):
        return Estimate(alone, {"phases": alone})
    terms = {"stages": 0, "chip": 0, "arrivals": 0}
    vector, port = np.zeros(cores, np.int64), np.zeros(cores, np.int64)
    sends, shared = sending(nodes, range(len(nodes))), 0
    for number, node in enumerate(nodes):
        kind = "stages" if isinstance(node.op, StageOp) else "chip"
        terms[kind] = max(terms[kind], node.interval(sends[number]))
        if not isinstance(node.op, StageOp):
            # Rows of stages arrive at the global buffer; those of the chip's operations are in it.
            given = [(edge.rows, nodes[edge.source]) for edge in node.edges]
            shared += node.buffer + sum(rows * n.parts for rows, n in given if isinstance(n.op, StageOp))
            continue
        terms["arrivals"] = max(terms["arrivals"], arriving(node, nodes)[0])
        placed = table(node.op)
        placed = placed[placed[:, _CORE] >= 0]
        lying, turns = placed[:, _CORE], -(-node.rows // node.copies)
        np.add.at(vector, lying, turns * node.vector)
        chunks, chunk = np.unique(placed[:, (_K0, _K1)], axis=0, return_inverse=True)
        taken = [last - first for first, last in (kernel_rows(node.op, *k) for k in chunks.tolist())]
        entering = np.array([arriving(node, nodes, rows)[1] for rows in taken], np.int64)
        np.add.at(port, lying, turns * node.port + entering[chunk])
    paced = max(terms["stages"], terms["chip"])
    terms |= {"digital_units": int(vector.max(initial=0)), "memories": int(port.max(initial=0))}
    # What several contexts share is not in the recurrence: an image passes the busiest core no quicker than that works,
    # and is not done before the global buffer is.
    alone = max(alone + max(0, max(terms.values()) - paced), shared)
    return Estimate(alone, terms | {"global_buffer": shared})
