"""First fit: contexts on cores, where crossbars, contexts and local memory are left."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import DoesNotFitError
from cimc.passes.place.cores import Cores, Which
from cimc.passes.place.deepen import SLACK
from cimc.passes.place.network import PARTIAL, ContextSpec, Network
from cimc.passes.place.tail_plan import ACC

Ints = npt.NDArray[np.int64]


def context_bytes(network: Network, slots: Ints) -> Ints:
    """Local memory of every context: its rings with ``slots``, and its other buffers."""
    rows = np.array([_row_bytes(network, context) for context in network.contexts], np.int64)
    return rows + _ring_bytes(network, slots)


def _ring_bytes(network: Network, slots: Ints) -> Ints:
    """Bytes of ``slots`` of every ring, summed over those of every context."""
    sizes = np.zeros(len(network.contexts), np.int64)
    owners = np.array([ring.context for ring in network.rings], np.int64)
    np.add.at(sizes, owners, slots * np.array([ring.slot_bytes for ring in network.rings], np.int64))
    return sizes


def _row_bytes(network: Network, context: ContextSpec) -> int:
    """Bytes of a context's buffers other than rings."""
    tail = network.nodes[context.node].tail
    if tail is None:
        return 0
    block = context.n1 - context.n0, max(last - first for first, last in context.pieces)
    if context.role == PARTIAL:
        return next(b for b in tail.buffers if b.name == ACC).bytes(*block)
    return tail.bytes(*block)


def roomy_fit(network: Network, least: Ints, deeper: Ints, arch: Any) -> tuple[dict[int, Cores], Ints]:
    """First fit with as few contexts a core as it can be, and with room for the deepest rings that all can have.

    Contexts of a core share its memory's port and its digital unit. ``least``: bytes of every context. ``deeper``:
    slots by which every ring should grow; of that and of slack all, half, a quarter, nothing, as far as an empty core
    has the memory. What the cores have left, by phase, and the bytes that every context takes of their memory.

    Raises ``DoesNotFitError`` with resource, need and supply.
    """
    own = [c for c in network.contexts if network.nodes[c.node].stage is not None]
    crowded = max((n for _, n in Counter(c.phase for c in own).most_common(1)), default=1)
    sparse = ceil(crowded / arch.chip.cores)
    advances = np.array([ring.geometry.advance for ring in network.rings], np.int64)
    for share in (1, 2, 4):
        roomy = least + _ring_bytes(network, (deeper + SLACK * advances) // share)
        needs = np.maximum(least, np.minimum(arch.core.local_buffer_bytes, roomy))
        for most in (sparse, 2 * sparse, 4 * sparse, arch.core.contexts):
            try:
                return _first_fit(network, needs, arch, most), needs
            except DoesNotFitError:
                continue
    return _first_fit(network, least, arch, arch.core.contexts), least


def _first_fit(network: Network, needs: Ints, arch: Any, most: int) -> dict[int, Cores]:
    """Assign cores and crossbars, up to ``most`` contexts a core, to contexts that take ``needs`` bytes of its memory;
    what the cores have left, by phase.

    Crossbars whose weights stay are taken first, from all phases; beside them, every other phase begins at the other
    end of chip and cores.
    """
    # The largest first in a program of one phase: small ones fill what those leave. Phases were cut in order.
    single = network.phases == 1
    numbers = [n for n, c in enumerate(network.contexts) if network.nodes[c.node].stage is not None]
    if single:
        numbers.sort(key=lambda n: -network.contexts[n].xbars)
    own = [(network.contexts[n], int(needs[n])) for n in numbers]
    staying = [(context, need) for context, need in own if context.stays]
    left = {context.phase: Cores.empty(arch, most) for context, _ in own}
    if staying:
        crossbars = np.full(arch.chip.cores, arch.core.crossbars, np.int64)
        left = {phase: replace(cores, crossbars=crossbars) for phase, cores in left.items()}

    def put(context: ContextSpec, need: int, which: Which) -> int:
        """The context's core; its crossbars that were free."""
        cores = left[context.phase]
        core = cores.take(context.xbars, need, which)
        if core is None:
            raise _no_core(network, context, need, cores, arch)
        context.core = core
        return int(cores.crossbars[core]) + context.xbars

    for context, need in staying:
        context.xbar = arch.core.crossbars - put(context, need, "first")
    if staying:
        kept = left[staying[0][0].phase].crossbars
        left = {phase: replace(cores, crossbars=kept.copy()) for phase, cores in left.items()}
    else:
        kept = np.full(arch.chip.cores, arch.core.crossbars, np.int64)
    for context, need in own:
        if context.stays:
            continue
        turned = bool(staying) and context.phase % 2 == 1
        # Digital contexts come last in one phase: each goes where the fewest share its digital unit.
        alone = single and not context.xbars
        free = put(context, need, "last" if turned else "emptiest" if alone else "first")
        first = arch.core.crossbars - free
        if turned:
            first = arch.core.crossbars - int(kept[context.core]) + free - context.xbars
        context.xbar = first
    return left


def _no_core(network: Network, context: ContextSpec, need: int, cores: Cores, arch: Any) -> DoesNotFitError:
    same = [c for c in network.contexts if c.phase == context.phase]
    total, supply = sum(c.xbars for c in same), arch.chip.cores * arch.core.crossbars
    return DoesNotFitError(
        f"no core of {arch.name} is left for a context of {context.xbars} crossbars and {need} bytes: the freest have "
        f"{cores.crossbars.max()} of {arch.core.crossbars} crossbars, {cores.contexts.max()} of {arch.core.contexts} "
        f"contexts and {cores.memory.max()} of {arch.core.local_buffer_bytes} bytes; in all {total} of {supply} "
        "crossbars are needed; use fewer copies or a larger machine",
        where=network.nodes[context.node].label,
    )
