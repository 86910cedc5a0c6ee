"""Lower bounds on a mapped module: what no copies, placement or order of instructions can beat on a machine.

Computed from the module's operators and the machine, never from a schedule: copies and placements are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, prod
from typing import Any

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from cimc.dialects.cim import StageOp
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.mem import InputOp, OutputOp, RelayoutOp
from cimc.dialects.mem_real import IndexMapOp
from cimc.passes.place.source_rows import head_window
from cimc.passes.place.tail_plan import element_of
from cimc.passes.schedule.array_product import coding_of
from cimc.passes.schedule.closed_form.copies import Product, fluid_interval, interval, min_max, used
from cimc.passes.schedule.copies.stage_costs import StageCost, exact, stage_cost, stages_of
from cimc.runtime.program import Element


@dataclass(frozen=True)
class Bounds:
    """Cycles, by resource. Weights are taken to be in the arrays."""

    interval: Mapping[str, Fraction]
    """Between images: ``arrays`` (exact min-max over whole copies), ``host_link``, ``global_buffer``,
    ``digital_units``, and ``weight_writes`` where the chip cannot hold one copy each."""
    critical_path: int
    """From the first input byte to the last output: the last window through the arrays, behind the input's last row."""

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


def bounds(module: ModuleOp, arch: Any, frames: int = 1) -> Bounds:
    """The bounds of a mapped module on a machine; ``frames`` of a call share what is written of the weights."""
    stages = [(stage, cost) for stage in stages_of(module) if (cost := stage_cost(stage, arch)) is not None]
    terms = {"arrays": _arrays([cost for _, cost in stages], arch), **traffic(module, arch)}
    unit = arch.core.digital_unit
    if unit is not None:
        least = min(exact(value) for value in unit.cycles_per_element.values())
        elements = sum(prod(shape_of(stage.result)) for stage in stages_of(module))
        terms["digital_units"] = elements * least / (unit.lanes * arch.chip.cores)
    writes = _writes(stages, arch)
    if writes:
        terms["weight_writes"] = writes / frames
    return Bounds(terms, ceil(_critical_path(module, arch)))


def _writes(stages: list[tuple[StageOp, StageCost]], arch: Any) -> Fraction:
    """Cycles of the global buffer to bring in, for every image, the weights that do not fit: the smallest ones."""
    short = sum(cost.tiles for _, cost in stages) - arch.chip.cores * arch.core.crossbars
    sizes: list[tuple[Fraction, int]] = []
    for stage, cost in stages:
        assert stage.write is not None
        weights = prod(stage.write.arrays.type.shape.data) * coding_of(stage.write.coding).weight_bits
        sizes.append((Fraction(weights, 8 * cost.tiles), cost.tiles))
    written = Fraction(0)
    for size, tiles in sorted(sizes):
        taken = min(tiles, max(0, short))
        written += taken * size
        short -= taken
    return written / exact(arch.chip.global_buffer_bytes_per_cycle)


def traffic(
    module: ModuleOp, arch: Any, kinds: tuple[type[InputOp] | type[OutputOp], ...] = (InputOp, OutputOp)
) -> dict[str, Fraction]:
    """Cycles of host link and global buffer for the inputs and outputs of an image, or one of the ``kinds``.

    Inputs cross the link as the model has them, float32 where the chip makes codes of them. The buffer stores each byte
    and reads it once; the digital unit's own traffic is not counted.
    """
    link = buffer = 0
    for op in module.walk():
        if not isinstance(op, kinds):
            continue
        if isinstance(op, InputOp):
            value, sent = op.result, element_of(op.result.type).size_bytes
            given = Element.F32.size_bytes if quant_of(value) is not None else sent
        else:
            value, given = op.value, element_of(op.value.type).size_bytes
            sent = given
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


def _critical_path(module: ModuleOp, arch: Any) -> Fraction:
    """When the last row of the last output can be there at the earliest.

    The last row of an input enters behind all the others, and a stage whose last window sees the last row of its source
    computes at least that window after it. Where it does not, and where elements move freely, only the chain of single
    windows counts.
    """
    inputs = [op for op in module.walk() if isinstance(op, InputOp)]
    entered = max(traffic(module, arch, (InputOp,)).values()) if len(inputs) == 1 else Fraction(0)
    first: dict[SSAValue, Fraction] = {}
    last: dict[SSAValue, Fraction] = {}
    for op in module.walk():
        parent = op.parent_op()
        if parent is not None and isinstance(parent, StageOp):
            continue
        cost = stage_cost(op, arch) if isinstance(op, StageOp) else None
        window = cost.window_cycles if cost is not None else 0
        begun = max((first.get(value, Fraction(0)) for value in op.operands), default=Fraction(0))
        ended = entered if isinstance(op, InputOp) else begun
        for value in op.operands:
            if not isinstance(op, StageOp) or value is not op.sources[0] or _sees_last_row(op):
                ended = max(ended, last.get(value, Fraction(0)))
        if isinstance(op, RelayoutOp | IndexMapOp):
            ended = begun
        for result in op.results:
            first[result], last[result] = begun + window, ended + window
    return max(last.values(), default=Fraction(0))


def _sees_last_row(stage: StageOp) -> bool:
    """Whether the stage's last window reaches the last row of its first source."""
    window = head_window(stage)
    if window is None:
        return True
    reach = (shape_of(stage.result)[0] - 1) * window.strides[0] - window.pads[0]
    return reach + (window.kernel[0] - 1) * window.dilations[0] >= shape_of(stage.sources[0])[0] - 1
