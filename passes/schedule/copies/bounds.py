"""Lower bounds on a mapped module: what no copies, placement or order of instructions can beat on a machine.

Computed from the module's operators and the machine, never from a schedule: copies and placements are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from cimc.dialects.cim import StageOp
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.mem import InputOp, OutputOp
from cimc.passes.place.tail_plan import element_of
from cimc.passes.schedule.closed_form.copies import Product, fluid_interval, interval, min_max, used
from cimc.passes.schedule.copies.stage_costs import StageCost, exact, stage_cost, stages_of
from cimc.runtime.program import Element


@dataclass(frozen=True)
class Bounds:
    """Cycles, by resource. Weights are taken to be in the arrays."""

    interval: Mapping[str, Fraction]
    """Between images: ``arrays`` (exact min-max over whole copies), ``host_link``, ``global_buffer``,
    ``digital_units``."""
    critical_path: int
    """Of one window through the arrays, from input to output."""

    @property
    def interval_cycles(self) -> Fraction:
        """No steady state has a shorter distance between images."""
        return max(self.interval.values(), default=Fraction(0))

    @property
    def binding(self) -> str:
        """The resource that decides :attr:`interval_cycles`."""
        return max(self.interval, key=lambda name: self.interval[name], default="none")

    @property
    def latency_cycles(self) -> Fraction:
        """No image takes less: all its work is done within its latency, and its last window comes through."""
        return max(self.interval_cycles, Fraction(self.critical_path))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for ``report.json``."""
        return {
            "interval_cycles": {name: float(value) for name, value in self.interval.items()},
            "interval": float(self.interval_cycles),
            "binding": self.binding,
            "critical_path_cycles": self.critical_path,
            "latency": float(self.latency_cycles),
        }


def bounds(module: ModuleOp, arch: Any) -> Bounds:
    """The bounds of a mapped module on a machine."""
    costs = [cost for stage in stages_of(module) if (cost := stage_cost(stage, arch)) is not None]
    terms = {"arrays": _arrays(costs, arch), **traffic(module, arch)}
    unit = arch.core.digital_unit
    if unit is not None:
        least = min(exact(value) for value in unit.cycles_per_element.values())
        elements = sum(prod(shape_of(stage.result)) for stage in stages_of(module))
        terms["digital_units"] = elements * least / (unit.lanes * arch.chip.cores)
    return Bounds(terms, _critical_path(module, arch))


def traffic(module: ModuleOp, arch: Any) -> dict[str, Fraction]:
    """Cycles of host link and global buffer for the inputs and outputs of an image.

    Inputs cross the link as the model has them, float32 where the chip makes codes of them. The buffer stores each byte
    and reads it once; the digital unit's own traffic is not counted.
    """
    link = buffer = 0
    for op in module.walk():
        if isinstance(op, InputOp):
            value, sent = op.result, element_of(op.result.type).size_bytes
            given = Element.F32.size_bytes if quant_of(value) is not None else sent
        elif isinstance(op, OutputOp):
            value, given = op.value, element_of(op.value.type).size_bytes
            sent = given
        else:
            continue
        link += prod(shape_of(value)) * given
        buffer += prod(shape_of(value)) * (given + sent)
    terms = {"global_buffer": Fraction(buffer) / exact(arch.chip.global_buffer_bytes_per_cycle)}
    if arch.chip.host_link is not None:
        terms["host_link"] = Fraction(link) / exact(arch.chip.host_link.bytes_per_cycle)
    return terms


def _arrays(costs: list[StageCost], arch: Any) -> Fraction:
    """The smallest interval over all copies; where one copy each does not fit, that of crossbars that never idle."""
    if not costs:
        return Fraction(0)
    supply = arch.chip.cores * arch.core.crossbars
    given = [Product(c.windows, c.cycles, c.tiles, c.windows) for c in costs]
    if used(given, (1,) * len(given)) > supply:
        return fluid_interval(given, supply)
    return interval(given, min_max(given, supply))


def _critical_path(module: ModuleOp, arch: Any) -> int:
    """The longest chain of windows, each of which needs one of the stage before it."""
    longest: dict[SSAValue, int] = {}
    for op in module.walk():
        parent = op.parent_op()
        if parent is not None and isinstance(parent, StageOp):
            continue
        before = max((longest.get(value, 0) for value in op.operands), default=0)
        cost = stage_cost(op, arch) if isinstance(op, StageOp) else None
        for result in op.results:
            longest[result] = before + (cost.window_cycles if cost is not None else 0)
    return max(longest.values(), default=0)
