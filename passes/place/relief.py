"""Contexts change places until no memory port and no link is much busier than others: a stream waits for the busiest.

The floor plan makes ways short; it does not know that a port serves one part of a row a cycle, however small, and a
link as many. A core that holds several contexts of a stage takes every part of a row for each of them at once, which
delays a row's end, and over an image its port may be busier than any array.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.dialects.graph_types import shape_of
from cimc.passes.place.cores import Cores
from cimc.passes.place.floor_plan import Mesh
from cimc.passes.place.multicasts import Multicasts
from cimc.passes.place.network import CHIP, ContextSpec, Network
from cimc.passes.place.relief_search import Contexts, relieve
from cimc.passes.place.tail_plan import element_of
from cimc.passes.place.traffic import Flow
from cimc.passes.schedule.estimate.units import Units

Ints = npt.NDArray[np.int64]

WORK, WORK_EACH = 10_000_000, 5_000
"""Targets of multicasts that the search looks at, at most (0.3 to 1 s), and for each that there is."""


def relief(
    network: Network,
    carried: Sequence[Flow],
    needs: Ints,
    pace: float,
    mesh: Mesh,
    arch: Any,
    *,
    work: int = WORK,
) -> Cores:
    """Move contexts of a program of one phase; what the cores have left.

    ``needs``: bytes of every context. ``pace``: cycles of an image at the slowest stage. Price of a port or a link with
    a load of x paces: x^6 + 0.03 x, so that what is busy counts and ways of the others stay short; and of the contexts
    of a stage on one core x^2, since they want its port at the same time.
    """
    numbers = [n for n, context in enumerate(network.contexts) if context.core != CHIP]
    if not numbers:
        return Cores.empty(arch)
    casts, port_cycles = _loads(network, carried, numbers, arch)
    specs = [network.contexts[n] for n in numbers]
    own = Contexts(
        np.array([*(c.core for c in specs), mesh.chip], np.int64),
        np.array([c.xbar for c in specs], np.int64),
        np.array([c.xbars for c in specs], np.int64),
        needs[numbers],
        port_cycles,
        np.array([c.node for c in specs], np.int64),
    )
    left = arch.core.local_buffer_bytes - _summed(own.place[:-1], own.size_bytes, arch)
    relieve(casts, own, left, mesh.columns, pace, min(work, WORK_EACH * len(casts.target)))
    for context, core, xbar in zip(specs, own.place.tolist(), own.slot.tolist(), strict=False):
        context.core, context.xbar = core, xbar
    place = own.place[:-1]
    return Cores(
        arch.core.crossbars - _summed(place, own.xbars, arch),
        arch.core.contexts - _summed(place, np.ones_like(place), arch),
        left,
    )


def _summed(place: Ints, values: Ints, arch: Any) -> Ints:
    return np.bincount(place, values, arch.chip.cores).astype(np.int64)


def _loads(
    network: Network, carried: Sequence[Flow], numbers: Sequence[int], arch: Any
) -> tuple[Multicasts, Ints]:
    """Multicasts between the contexts ``numbers``, any other of the chip, with the cycles of an image that each keeps a
    link busy; and those that each of these contexts keeps a port busy."""
    index = {number: i for i, number in enumerate(numbers)}
    chip = len(index)
    units = Units(arch)
    port = np.array([*(_read_cycles(network, network.contexts[n], units) for n in numbers), 0], np.int64)
    ways: list[tuple[int, list[int]]] = []
    cycles: list[int] = []
    for flow in carried:
        sender = index.get(flow.source, chip)
        takers = [index.get(t, chip) for t in flow.targets]
        stored = sum(units.port(size) * count for size, count in flow.sends)
        port[sender] += stored
        np.add.at(port, takers, stored)
        others = sorted(set(takers) - {sender})
        if others:
            ways.append((sender, others))
            cycles.append(sum(units.link(size) * count for size, count in flow.sends))
    return Multicasts.of(ways, cycles, chip + 1), port[:-1]


def _read_cycles(network: Network, context: ContextSpec, units: Units) -> int:
    """Cycles of an image in which the arrays of a context take windows from the core's memory."""
    stage = network.nodes[context.node].stage
    if stage is None or stage.read is None:
        return 0
    rows = ceil(shape_of(stage.result)[0] / context.copies)
    window = (context.k1 - context.k0) * element_of(stage.sources[0].type).size_bytes
    return rows * (context.p1 - context.p0) * units.port(window)
