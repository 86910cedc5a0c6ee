"""Put contexts on cores and rings into their memories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass

from cimc.diagnostics import DoesNotFitError
from cimc.dialects.cim_real import takes_whole_rows
from cimc.dialects.context import CimContext
from cimc.dialects.graph import main_function
from cimc.dialects.weights import WeightRefAttr
from cimc.passes.place.build_network import build_network
from cimc.passes.place.cores import Cores, Which
from cimc.passes.place.deepen import SLACK, deepen
from cimc.passes.place.depths import required_slots
from cimc.passes.place.floor_plan import Mesh, plan
from cimc.passes.place.network import CHIP, COLUMNS, ContextSpec, Network, Node, table_of
from cimc.passes.place.pace import paced_slots, slowest_cycles
from cimc.passes.place.relief import relief
from cimc.passes.place.traffic import Flow, flows

Ints = npt.NDArray[np.int64]

SLOTS = "cim.ring_slots"
"""Attribute of ``@main`` that names the table of slots of every ring, in the network's order."""

BATCH = "cim.batch"
"""Attribute of ``@main`` with the frames of one call of the model; spills between phases hold as many."""


@dataclass(frozen=True)
class PlaceContextsPass(ModulePass):
    """First fit in network order, then a floor plan: crossbars, contexts and local memory of a core are the resources.

    Ring depths that cannot deadlock are computed first, so that memory needs are exact; what a core has left
    deepens its rings. On a mesh the contents of cores change places so that few bytes cross few links; then
    contexts do, so that no memory port and no link is much busier than the others.

    ```mlir
    %y = cim.stage "conv1" (%x) placement <"conv1.partition"> ...  // before
    %y = cim.stage "conv1" (%x) placement <"conv1.place"> ...      // after: cores and crossbars filled in
    ```
    """

    name = "place-contexts"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Fill in cores. Raises ``DoesNotFitError`` with resource, need and supply."""
        assert isinstance(ctx, CimContext)
        main = main_function(op)
        network, slots, taken = _sized(list(main.body.block.ops), ctx, frames_of(op))
        spare = _spare_global_bytes(taken, ctx.arch)
        paced = np.maximum(slots, paced_slots(network, ctx.arch))
        left, needs = _roomy_fit(network, slots, paced, ctx.arch)
        left = _arranged(network, left, needs, ctx.arch)
        for context, need in zip(network.contexts, needs.tolist(), strict=True):
            if context.core != CHIP:
                left[context.phase].memory[context.core] += need - context_bytes(network, context, slots)
        if not _staying(network):
            left = _opposite(network, left, ctx.arch)
        slots = deepen(network, slots, paced, left, spare)
        for node in network.nodes:
            if node.stage is not None:
                key = ctx.store.fresh(f"{node.label}.place")
                node.stage.placement = WeightRefAttr.of(ctx.store.put(key, table_of(network, node)))
        main.attributes[SLOTS] = WeightRefAttr.of(ctx.store.put(ctx.store.fresh("ring_slots"), slots))


def frames_of(module: ModuleOp) -> int:
    """Frames of one call of the model."""
    batch = main_function(module).attributes.get(BATCH)
    return max(1, batch.value.data) if isinstance(batch, IntegerAttr) else 1


def _sized(ops: list[Operation], ctx: CimContext, frames: int) -> tuple[Network, Ints, int]:
    """The network, slots of its rings and bytes of the global buffer, with digital stages cut until they fit.

    How many rows wait in a ring is known only now; a digital stage whose rings outgrow a core gets half as many
    channels a context.
    """
    assert ctx.arch is not None
    while True:
        network = build_network(ops, ctx)
        slots, taken = required_slots(network, ctx, frames)
        narrower = False
        for node in network.nodes:
            needs = [context_bytes(network, network.contexts[i], slots) for i in node.contexts]
            if node.stage is None or max(needs) <= ctx.arch.core.local_buffer_bytes:
                continue
            table = halved(network, node)
            if table is not None:
                key = ctx.store.put(ctx.store.fresh(f"{node.label}.narrow"), table)
                node.stage.placement = WeightRefAttr.of(key)
                narrower = True
        if not narrower:
            return network, slots, taken


def halved(network: Network, node: Node) -> Ints | None:
    """The table of a digital stage with twice as many blocks of channels; ``None`` where that cannot be."""
    stage = node.stage
    if stage is None or stage.read is not None or takes_whole_rows(stage):
        return None
    table = table_of(network, node)
    n0, n1 = COLUMNS.index("n0"), COLUMNS.index("n1")
    if int((table[:, n1] - table[:, n0]).max()) < 2:
        return None
    middle = (table[:, n0] + table[:, n1] + 1) // 2
    lower, upper = table.copy(), table.copy()
    lower[:, n1] = upper[:, n0] = middle
    both = np.stack([lower, upper], 1).reshape(-1, table.shape[1])
    return both[both[:, n0] < both[:, n1]]


def context_bytes(network: Network, context: ContextSpec, slots: Ints) -> int:
    """Local memory of a context: its rings with ``slots``, and its other buffers."""
    rings = sum(int(slots[r]) * network.rings[r].slot_bytes for r in context.rings.values())
    return local_bytes(network, context) + rings


def _spare_global_bytes(taken: int, arch: Any) -> int:
    """What chip-level buffers leave of the global buffer."""
    size = arch.chip.global_buffer_bytes
    if taken > size:
        raise DoesNotFitError(
            f"rows of inputs and outputs, whole frames and spills need {taken} bytes of the global buffer, {arch.name} "
            f"has {size} (chip.global_buffer_bytes); use a larger machine, or fewer phases or frames"
        )
    return size - taken


def local_bytes(network: Network, context: ContextSpec) -> int:
    """Bytes of a context's buffers other than rings."""
    tail = network.nodes[context.node].tail
    if tail is None:
        return 0
    block = context.n1 - context.n0, max(last - first for first, last in context.pieces)
    if context.role == "partial":
        return next(b for b in tail.buffers if b.name == "acc").bytes(*block)
    return tail.bytes(*block)


def _roomy_fit(network: Network, slots: Ints, paced: Ints, arch: Any) -> tuple[dict[int, Cores], Ints]:
    """First fit with as few contexts a core as it can be, and with room for the deepest rings that all can have.

    Contexts of a core share its memory's port and its digital unit. Of every ring's way from ``slots`` to ``paced`` and
    slack: all, half, a quarter, nothing.
    """
    own = [c for c in network.contexts if network.nodes[c.node].stage is not None]
    crowded = max((n for _, n in Counter(c.phase for c in own).most_common(1)), default=1)
    sparse = ceil(crowded / arch.chip.cores)
    advances = np.array([ring.geometry.advance for ring in network.rings], np.int64)
    for share in (1, 2, 4):
        wanted = slots + (paced + SLACK * advances - slots) // share
        for most in (sparse, 2 * sparse, 4 * sparse, arch.core.contexts):
            try:
                return _first_fit(network, slots, wanted, arch, most)
            except DoesNotFitError:
                continue
    return _first_fit(network, slots, slots, arch, arch.core.contexts)


def _first_fit(
    network: Network, slots: Ints, wanted: Ints, arch: Any, most: int
) -> tuple[dict[int, Cores], Ints]:
    """Assign cores and crossbars, up to ``most`` contexts a core; what the cores have left, by phase, and what every
    context takes of their memory.

    A context goes where there is memory for rings of ``wanted`` slots, as far as an empty core has it. Crossbars whose
    weights stay are taken first, from all phases; beside them, every other phase begins at the other end of chip and
    cores (:func:`_opposite`).
    """
    least, roomy = (
        np.array([context_bytes(network, c, own) for c in network.contexts], np.int64)
        for own in (slots, wanted)
    )
    needs = np.maximum(least, np.minimum(arch.core.local_buffer_bytes, roomy))
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
        free = cores.crossbars.copy()
        core = cores.take(context.xbars, need, which)
        if core is None:
            raise _no_core(network, context, need, cores, arch)
        context.core = core
        return int(free[core])

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
    return left, needs


def _staying(network: Network) -> list[ContextSpec]:
    """The contexts whose weights stay in their crossbars for all calls."""
    return [context for context in network.contexts if context.stays]


def _arranged(network: Network, left: dict[int, Cores], needs: Ints, arch: Any) -> dict[int, Cores]:
    """Contexts and cores in the places that the floor plan gives them, in streams then those of ``relief.py``; what the
    cores have left."""
    mesh = Mesh.of(arch)
    if mesh is None:
        return left
    carried = flows(network)
    left = _exchanged(network, left, carried, mesh)
    if network.phases == 1:
        left = {0: relief(network, carried, needs, slowest_cycles(network, arch), mesh, arch)}
    return left


def _exchanged(
    network: Network, left: dict[int, Cores], carried: Sequence[Flow], mesh: Mesh
) -> dict[int, Cores]:
    """Exchange the contents of cores by the floor plan, phase by phase, or in all phases together where weights stay in
    their crossbars; what the cores have left, moved with them."""
    moved = dict(left)
    together = [list(left)] if _staying(network) else [[phase] for phase in left]
    for phases in together:
        own = {
            number: context
            for number, context in enumerate(network.contexts)
            if context.phase in phases and context.core != CHIP
        }
        where = plan([f for f in carried if f.phase in phases], {n: c.core for n, c in own.items()}, mesh)
        for context in own.values():
            context.core = where[context.core]
        moved |= {phase: left[phase].moved(where) for phase in phases}
    return moved


def _opposite(network: Network, left: dict[int, Cores], arch: Any) -> dict[int, Cores]:
    """Every other phase from the other end of chip and cores, so that crossbars one leaves free are the next one's
    first: these are written early (``passes/lower/write_order.py``). Distances between cores stay as they are."""
    turned = {phase for phase, cores in left.items() if phase % 2 and cores.crossbars.any()}
    end = arch.chip.cores - 1
    for context in network.contexts:
        if context.phase in turned and context.core != CHIP:
            context.core = end - context.core
            context.xbar = arch.core.crossbars - context.xbar - context.xbars if context.xbars else 0
    around = {core: end - core for core in range(arch.chip.cores)}
    return {phase: cores.moved(around) if phase in turned else cores for phase, cores in left.items()}


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
