"""Deeper rings than those that cannot deadlock, where memory is left."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cimc.passes.place.cores import Cores
from cimc.passes.place.network import CHIP, Network

SLACK = 2
"""Extra advances a ring gets beyond its depth at the pace of the slowest stage: with two, a chain runs at the interval
of unbounded rings (docs/scheduling.md)."""

Slots = npt.NDArray[np.int64]


def deepen(network: Network, slots: Slots, paced: Slots, left: dict[int, Cores], spare: int) -> Slots:
    """``slots`` raised to ``paced``, then by up to ``SLACK`` advances, in rounds over all rings while memory lasts.

    ``left``: what the cores have, by phase; ``spare``: bytes left of the global buffer.
    """
    memory = {phase: cores.memory.copy() for phase, cores in left.items()}
    advances = np.array([ring.geometry.advance for ring in network.rings], np.int64)
    deeper, wanted = slots.copy(), np.maximum(slots, paced)
    rounds = int(np.ceil((wanted - slots) / advances).max(initial=0))
    for number in range(1, rounds + 1):
        spare = _raise(network, deeper, np.minimum(wanted, slots + number * advances), memory, spare)
    for _ in range(SLACK):
        spare = _raise(network, deeper, deeper + advances, memory, spare)
    return deeper


def _raise(
    network: Network, slots: Slots, target: Slots, memory: dict[int, npt.NDArray[np.int64]], spare: int
) -> int:
    """Raise ``slots`` to ``target`` in place where there is memory, which is taken; the global buffer's rest."""
    for number in np.flatnonzero(target > slots).tolist():
        ring = network.rings[number]
        context = network.contexts[ring.context]
        extra = int(target[number] - slots[number]) * ring.slot_bytes
        if context.core == CHIP:
            if spare < extra:
                continue
            spare -= extra
        elif memory[context.phase][context.core] < extra:
            continue
        else:
            memory[context.phase][context.core] -= extra
        slots[number] = target[number]
    return spare
