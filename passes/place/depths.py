"""Ring depths that cannot deadlock, computed on the network before anything is placed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cimc.dialects.context import CimContext
from cimc.passes.lower.link import link
from cimc.passes.place.network import Network
from cimc.runtime.program import BufferKind, Element, Program
from cimc.runtime.verifier import ring_depths


def required_slots(network: Network, ctx: CimContext, frames: int) -> tuple[npt.NDArray[np.int64], int]:
    """Slots of every ring, in the network's order: its window plus the growth that reconvergence needs.

    The program is written with the windows as depths and run on row counts (docs/isa.md, ring depths). The second
    result: bytes of the global buffer the program takes with these slots, for ``frames`` frames a call.
    """
    windows = np.array([ring.geometry.window for ring in network.rings], np.int64)
    linked = link(network, windows, ctx, frames=frames)
    buffers = np.zeros(linked.program.count("buffers"), np.int64)
    buffers[linked.ring_buffers] = windows
    depths = np.asarray(ring_depths(linked.program, buffers), np.int64)
    return depths[linked.ring_buffers], _global_bytes(network, linked.program, depths)


def _global_bytes(network: Network, program: Program, depths: npt.NDArray[np.int64]) -> int:
    """Bytes of chip-level buffers alive together, in the phase with most of them; ``depths`` are slots of rings."""
    columns = program["buffers"]
    sizes = np.array([Element(e).size_bytes for e in columns["element"].tolist()], np.int64)
    slots = np.where(columns["kind"] == BufferKind.RING, depths, columns["slots"])
    on_chip = np.array([network.nodes[c.node].stage is None for c in network.contexts])[columns["context"]]
    taken = np.where(on_chip, slots * columns["pitch"] * sizes, 0)
    alive = [
        (columns["phase_first"] <= phase) & (phase <= columns["phase_last"])
        for phase in range(network.phases)
    ]
    return max(int(taken[mask].sum()) for mask in alive)
