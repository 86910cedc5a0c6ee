"""Put contexts on cores and rings into their memories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from cimc.passes.place.cores import Cores
from cimc.passes.place.deepen import deepen
from cimc.passes.place.depths import required_slots
from cimc.passes.place.first_fit import context_bytes, roomy_fit
from cimc.passes.place.floor_plan import Mesh, plan
from cimc.passes.place.network import CHIP, COLUMNS, Network, Node, table_of
from cimc.passes.place.pace import paced
from cimc.passes.place.relief import relief
from cimc.passes.place.traffic import Flow, flows

Ints = npt.NDArray[np.int64]

SLOTS = "cim.ring_slots"
"""Attribute of ``@main`` that names the table of slots of every ring, in the network's order."""

BATCH = "cim.batch"
"""Attribute of ``@main`` with the frames of one call of the model; spills between phases hold as many."""


@dataclass(frozen=True)
class PlaceContextsPass(ModulePass):
    """First fit, then a floor plan: crossbars, contexts and local memory of a core are the resources.

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
        pace = paced(network, ctx.arch)
        wanted, least = np.maximum(slots, pace.slots), context_bytes(network, slots)
        left, needs = roomy_fit(network, least, wanted - slots, ctx.arch)
        left = _arranged(network, left, needs, pace.image_cycles, ctx.arch)
        for context, room in zip(network.contexts, (needs - least).tolist(), strict=True):
            if context.core != CHIP:
                left[context.phase].memory[context.core] += room
        if not _any_stays(network):
            left = _opposite(network, left, ctx.arch)
        slots = deepen(network, slots, wanted, left, spare)
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
        needs, narrower = context_bytes(network, slots), False
        for node in network.nodes:
            if node.stage is None or needs[node.contexts].max() <= ctx.arch.core.local_buffer_bytes:
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


def _spare_global_bytes(taken: int, arch: Any) -> int:
    """What chip-level buffers leave of the global buffer."""
    size = arch.chip.global_buffer_bytes
    if taken > size:
        raise DoesNotFitError(
            f"rows of inputs and outputs, whole frames and spills need {taken} bytes of the global buffer, {arch.name} "
            f"has {size} (chip.global_buffer_bytes); use a larger machine, or fewer phases or frames"
        )
    return size - taken


def _any_stays(network: Network) -> bool:
    """Whether the weights of some contexts stay in their crossbars for all calls."""
    return any(context.stays for context in network.contexts)


def _arranged(
    network: Network, left: dict[int, Cores], needs: Ints, image_cycles: float, arch: Any
) -> dict[int, Cores]:
    """Contexts and cores in the places that the floor plan gives them, in streams then those of ``relief.py``; what the
    cores have left. ``needs``: bytes of every context. ``image_cycles``: of the slowest stage."""
    mesh = Mesh.of(arch)
    if mesh is None:
        return left
    carried = flows(network)
    left = _exchanged(network, left, carried, mesh)
    if network.phases == 1:
        left = {0: relief(network, carried, needs, image_cycles, mesh, arch)}
    return left


def _exchanged(
    network: Network, left: dict[int, Cores], carried: Sequence[Flow], mesh: Mesh
) -> dict[int, Cores]:
    """Exchange the contents of cores by the floor plan, phase by phase, or in all phases together where weights stay in
    their crossbars; what the cores have left, moved with them."""
    moved = dict(left)
    together = [list(left)] if _any_stays(network) else [[phase] for phase in left]
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
