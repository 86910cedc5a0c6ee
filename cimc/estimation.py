"""The closed-form estimate of an artifact, beside which the cycle engine's result stands (docs/scheduling.md)."""

from __future__ import annotations

from dataclasses import dataclass
from time import process_time
from typing import TYPE_CHECKING, Any

from cimc.achieved import steady_interval
from cimc.dialects.cim import StageOp
from cimc.dialects.graph import main_function
from cimc.passes.schedule.estimate.distances import placed
from cimc.passes.schedule.estimate.estimate import Estimate, estimate
from cimc.passes.schedule.estimate.flow import warm_up
from cimc.passes.schedule.estimate.timings import timings

if TYPE_CHECKING:
    from cimc.api import Artifact
    from cimc.runtime.cycle.timing import Timing


@dataclass(frozen=True)
class Estimated:
    """An estimate and what it took, in seconds of this process."""

    estimate: Estimate
    read_seconds: float
    """To read costs and distances off the module and its placement, as the engine's ``prepare_seconds`` are
    to read the program."""
    seconds: float
    """To evaluate the closed form; without loading compiled code, as ``run_seconds``."""

    def disagreement(self, timing: Timing) -> dict[str, float]:
        """Estimate over the engine's result, less one: of the latency and of the steady interval."""
        return {
            "latency": self.estimate.latency_cycles / timing.latency_cycles - 1,
            "interval": self.estimate.interval_cycles / steady_interval(timing) - 1,
        }


def estimate_artifact(artifact: Artifact) -> Estimated:
    """The estimate of a compiled model as it is placed. Raises ``UsageError`` when the mapped level was not kept."""
    module, ctx = artifact.level("mapped")
    arch = ctx.arch
    assert arch is not None

    def table(stage: StageOp) -> Any:
        assert stage.placement is not None
        return ctx.store.array(stage.placement.key.data)

    warm_up()
    began = process_time()
    nodes = placed(timings(list(main_function(module).body.block.ops), arch, table, ctx.store), table, arch)
    read = process_time()
    found = estimate(nodes, table, arch.chip.cores)
    return Estimated(found, read - began, process_time() - read)
