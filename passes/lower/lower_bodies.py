"""The last step out of the mapped level: bodies in the IR, everything else in the program's tables."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp

from cimc.diagnostics import DoesNotFitError
from cimc.dialects.context import CimContext
from cimc.dialects.graph import main_function
from cimc.dialects.weights import WeightRefAttr
from cimc.passes.lower.link import Linked, link
from cimc.passes.place.build_network import build_network
from cimc.passes.place.place_contexts import SLOTS


@dataclass(frozen=True)
class LowerBodies:
    """Mapped level to instruction level: one ``isa.body`` a stage and role, and the program.

    Not a module pass, since its result is more than IR: contexts, rings and routes leave xDSL here.

    ```mlir
    %y = cim.stage "conv1" (%x) placement <"conv1.place"> ...   // before
    isa.body "conv1.main.16" node "conv1" params ["arrays", "in0", ...] { ... }   // after
    ```
    """

    name = "lower-bodies"

    def apply(self, ctx: CimContext, module: ModuleOp, *, frames: int, total_macs: int) -> Linked:
        """Bodies and program of a placed module. ``frames``: frames of one call of the model;
        ``total_macs``: products per frame the model asks for. Raises ``DoesNotFitError`` where buffers of different
        phases leave gaps in the global buffer that none of them fits into, which placing cannot foresee.
        """
        assert ctx.arch is not None
        main = main_function(module)
        slots = main.attributes[SLOTS]
        assert isinstance(slots, WeightRefAttr)
        network = build_network(list(main.body.block.ops), ctx)
        linked = link(network, ctx.store.array(slots.key.data), ctx, frames=frames, total_macs=total_macs)
        taken, size = linked.global_bytes, ctx.arch.chip.global_buffer_bytes
        if taken > size:
            raise DoesNotFitError(
                f"rows, whole frames and spills of {network.phases} phases take {taken} bytes of the global buffer, "
                f"gaps between them included, {ctx.arch.name} has {size} (chip.global_buffer_bytes); use a larger "
                "machine, or fewer phases or frames"
            )
        return linked
