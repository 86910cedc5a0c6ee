"""Put contexts on cores and rings into their memories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from cimc.diagnostics import DoesNotFitError
from cimc.dialects.context import CimContext
from cimc.dialects.graph import main_function
from cimc.dialects.weights import WeightRefAttr
from cimc.passes.place.depths import required_slots
from cimc.passes.place.network import CHIP, ContextSpec, Network, Node, build_network, table_of

SLOTS = "cim.ring_slots"
"""Attribute of ``@main`` that names the table of slots of every ring, in the network's order."""

SLACK = 2
"""Extra advances a ring gets for throughput where memory allows: with two, a chain runs at the interval of
unbounded rings (docs/scheduling.md)."""


@dataclass(frozen=True)
class PlaceContextsPass(ModulePass):
    """First fit in network order: crossbars, contexts and local memory of a core are the resources.

    Ring depths that cannot deadlock are computed first, so that memory needs are exact; what a core has left
    deepens its rings. Neighbours in the network become neighbours on the chip.

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
        network = build_network(list(main.body.block.ops), ctx)
        slots = required_slots(network, ctx)
        _check_crossbars(network, ctx.arch)
        memory = _first_fit(network, slots, ctx.arch)
        slots = _deepen(network, slots, memory)
        for node in network.nodes:
            if node.stage is not None:
                key = ctx.store.fresh(f"{node.label}.place")
                node.stage.placement = WeightRefAttr.of(ctx.store.put(key, table_of(network, node)))
        main.attributes[SLOTS] = WeightRefAttr.of(ctx.store.put(ctx.store.fresh("ring_slots"), slots))


def _check_crossbars(network: Network, arch: Any) -> None:
    need, supply = sum(c.xbars for c in network.contexts), arch.chip.cores * arch.core.crossbars
    if need > supply:
        raise DoesNotFitError(
            f"the model needs {need} crossbars, {arch.name} has {supply} ({arch.chip.cores} cores x "
            f"{arch.core.crossbars}); use fewer copies or a larger machine"
        )


def local_bytes(network: Network, context: ContextSpec) -> int:
    """Bytes of a context's buffers other than rings."""
    tail = network.nodes[context.node].tail
    if tail is None:
        return 0
    channels = context.n1 - context.n0
    if context.role == "partial":
        return next(b for b in tail.buffers if b.name == "acc").bytes(channels)
    return tail.bytes(channels)


def _first_fit(network: Network, slots: npt.NDArray[np.int64], arch: Any) -> npt.NDArray[np.int64]:
    """Assign cores and crossbars; returns the bytes left of each core."""
    cores = arch.chip.cores
    arrays = np.full(cores, arch.core.crossbars)
    contexts = np.full(cores, arch.core.contexts)
    memory = np.full(cores, arch.core.local_buffer_bytes, np.int64)
    for context in network.contexts:
        if network.nodes[context.node].stage is not None:
            need = local_bytes(network, context)
            need += sum(int(slots[r]) * network.rings[r].slot_bytes for r in context.rings.values())
            fits = (arrays >= context.xbars) & (contexts > 0) & (memory >= need)
            if not fits.any():
                raise _no_core(network.nodes[context.node], context, need, arrays, memory, arch)
            core = int(fits.argmax())
            context.core, context.xbar = core, int(arch.core.crossbars - arrays[core])
            arrays[core] -= context.xbars
            contexts[core] -= 1
            memory[core] -= need
    return memory


def _no_core(
    node: Node, context: ContextSpec, need: int, arrays: npt.NDArray[Any], memory: npt.NDArray[Any], arch: Any
) -> DoesNotFitError:
    return DoesNotFitError(
        f"no core of {arch.name} is left for a context of {context.xbars} crossbars and {need} bytes: the freest have "
        f"{arrays.max()} of {arch.core.crossbars} crossbars and {memory.max()} of "
        f"{arch.core.local_buffer_bytes} bytes; use fewer copies or a larger machine",
        where=node.label,
    )


def _deepen(
    network: Network, slots: npt.NDArray[np.int64], memory: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Add up to ``SLACK`` advances to every ring, a round over all rings for each, while memory lasts."""
    deeper = slots.copy()
    for _ in range(SLACK):
        for number, ring in enumerate(network.rings):
            core = network.contexts[ring.context].core
            extra = ring.geometry.advance * ring.slot_bytes
            if core == CHIP:
                deeper[number] += ring.geometry.advance
            elif memory[core] >= extra:
                memory[core] -= extra
                deeper[number] += ring.geometry.advance
    return deeper
