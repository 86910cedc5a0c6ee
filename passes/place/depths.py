"""Ring depths that cannot deadlock, computed on the network before anything is placed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cimc.dialects.context import CimContext
from cimc.passes.lower.link import link
from cimc.passes.place.network import Network
from cimc.runtime.verifier import ring_depths


def required_slots(network: Network, ctx: CimContext) -> npt.NDArray[np.int64]:
    """Slots of every ring, in the network's order: its window plus the growth that reconvergence needs.

    The program is written with the windows as depths and run on row counts (docs/isa.md, ring depths).
    """
    windows = np.array([ring.geometry.window for ring in network.rings], np.int64)
    linked = link(network, windows, ctx)
    buffers = np.zeros(linked.program.count("buffers"), np.int64)
    buffers[linked.ring_buffers] = windows
    return np.asarray(ring_depths(linked.program, buffers), np.int64)[linked.ring_buffers]
