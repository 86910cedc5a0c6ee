"""One screen shows the compiler: every pass, in order, grouped by stage.

    model.onnx -> graph -> quantised graph -> mapped (cim, mem) -> bodies (isa) -> Program

A stage takes the module from one level to the next; ``dialects/levels.py`` says what each level may hold and
the driver checks it at each border. A backend's own passes are appended to the stage it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.passes import ModulePass

from cimc.backends.protocol import STAGES, Stage
from cimc.mapping_options import MappingOptions
from cimc.passes.graph.canonicalise import Canonicalise
from cimc.passes.graph.choose_products import ChooseProducts
from cimc.passes.graph.compose_moves import ComposeMoves
from cimc.passes.graph.fold_batch_norm import FoldBatchNorm
from cimc.passes.graph.hoist_pointwise import HoistPointwise
from cimc.passes.graph.keep_off_arrays import KeepOffArrays
from cimc.passes.place.place_contexts import PlaceContextsPass
from cimc.passes.quantise.options import QuantOptions
from cimc.passes.quantise.overrides import QuantOverride
from cimc.passes.schedule.assign_copies import AssignCopiesPass
from cimc.passes.schedule.calibrate_converters import CalibrateConvertersPass
from cimc.passes.schedule.copy_digital import CopyDigitalPass
from cimc.passes.schedule.map_stages import MapStagesPass
from cimc.passes.schedule.partition_stages import PartitionStagesPass
from cimc.passes.schedule.segment_stages import SegmentStagesPass
from cimc.passes.schedule.spread_rows import SpreadRowsPass

LEVEL_AFTER: dict[Stage, str] = {
    "graph": "graph",
    "quantise": "quantised",
    "schedule": "mapped",
    "place": "mapped",
}
"""The level a module is at when a stage is done; the stage ``lower`` ends in the program."""


@dataclass(frozen=True)
class PipelineStep:
    """A pass and the stage it belongs to."""

    stage: Stage
    run: ModulePass


def pipeline(
    mapping: MappingOptions, extra: Sequence[tuple[Stage, ModulePass]] = ()
) -> tuple[PipelineStep, ...]:
    """The passes from an imported module to a placed one. ``extra``: the backend's own."""
    passes: dict[Stage, list[ModulePass]] = {
        "graph": [
            HoistPointwise(),
            FoldBatchNorm(),
            Canonicalise(),
            ComposeMoves(),
            KeepOffArrays(),
            ChooseProducts(),
        ],
        "quantise": [*quantise_passes(mapping)],
        "schedule": [
            MapStagesPass(),
            CalibrateConvertersPass(),
            SpreadRowsPass(),
            AssignCopiesPass(),
            CopyDigitalPass(),
            PartitionStagesPass(),
            SegmentStagesPass(),
        ],
        "place": [PlaceContextsPass()],
        "lower": [],
    }
    for stage, one in extra:
        passes[stage].append(one)
    return tuple(PipelineStep(stage, one) for stage in STAGES for one in passes[stage])


def quantise_passes(mapping: MappingOptions) -> tuple[ModulePass, ...]:
    """The passes of the stage ``quantise`` for the user's mapping options."""
    overrides = tuple(
        QuantOverride(o.match, o.weight_bits, o.activation_bits, symmetric=o.symmetric)
        for o in mapping.overrides
        if (o.weight_bits, o.activation_bits, o.symmetric) != (None, None, None)
    )
    return QuantOptions(
        activations=mapping.activations,
        activation_bits=mapping.activation_bits,
        symmetric=mapping.symmetric,
        weight_bits=mapping.weight_bits,
        overrides=overrides,
    ).passes()
