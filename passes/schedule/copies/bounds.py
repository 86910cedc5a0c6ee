"""Lower bounds on a mapped module: what no copies, placement or order of instructions can beat on a machine.

Computed from the module's operators and the machine, never from a schedule: copies and placements are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, prod
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from cimc.dialects.cim import ConcatOp, StageOp
from cimc.dialects.cim_rows import uncast
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.mem import InputOp, OutputOp, RelayoutOp
from cimc.dialects.mem_real import IndexMapOp
from cimc.passes.place.source_rows import head_window, is_global_pool
from cimc.passes.place.tail_plan import element_of
from cimc.passes.schedule.array_product import coding_of
from cimc.passes.schedule.closed_form.copies import Product, fluid_interval, min_max_interval
from cimc.passes.schedule.copies.frontier import INPUT, Stage, Taking, frontier_bound
from cimc.passes.schedule.copies.isoperimetry import least_needed, least_rows
from cimc.passes.schedule.copies.latency_bound import SHARES, Link, Work, latency_bound
from cimc.passes.schedule.copies.receptive import Field, least_columns, least_users
from cimc.passes.schedule.copies.stage_costs import StageCost, cut_costs, exact, stages_of
from cimc.runtime.program import Element

Cuts = Mapping[StageOp, list[StageCost]]
"""The costs of every stage's weights in every useful cut of their rows; none for digital stages."""


@dataclass(frozen=True)
class Bounds:
    """Cycles, by resource. Weights are taken to be in the arrays."""

    interval: Mapping[str, Fraction]
    """Between images: ``arrays`` (exact min-max over whole copies), ``host_link``, ``global_buffer``,
    ``digital_units``, and ``weight_writes`` where the chip cannot hold one copy each."""
    critical_path: int
    """From the first input byte to the last output: the last window through the arrays, behind the input's last row."""
    late_work: int
    """The same with all windows that wait for rows of the input, on the chip's crossbars (``latency_bound.py``); no
    less than the next one."""
    frontier: int
    """The same with what every stage stays behind its sources, on the chip's crossbars (``frontier.py``)."""

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
        return max(self.interval_cycles, Fraction(self.late_work))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for ``report.json``."""
        return {
            "interval_cycles": {name: float(value) for name, value in self.interval.items()},
            "interval": float(self.interval_cycles),
            "binding": self.binding,
            "critical_path_cycles": self.critical_path,
            "late_work_cycles": self.late_work,
            "frontier_cycles": self.frontier,
            "latency": float(self.latency_cycles),
        }


def bounds(module: ModuleOp, arch: Any, frames: int = 1) -> Bounds:
    """The bounds of a mapped module on a machine; ``frames`` of a call share what is written of the weights."""
    cuts = {stage: cut_costs(stage, arch) for stage in stages_of(module)}
    terms = {"arrays": arrays_interval([own for own in cuts.values() if own], arch), **traffic(module, arch)}
    unit = arch.core.digital_unit
    if unit is not None:
        least = min(exact(value) for value in unit.cycles_per_element.values())
        elements = sum(prod(shape_of(stage.result)) for stage in stages_of(module))
        terms["digital_units"] = elements * least / (unit.lanes * arch.chip.cores)
    writes = _writes(cuts, arch)
    if writes:
        terms["weight_writes"] = writes / frames
    path = ceil(_critical_path(module, arch, cuts))
    if writes:
        return Bounds(terms, path, path, path)
    frontier = max(path, _frontier(module, arch, cuts))
    return Bounds(terms, path, _late_work(module, arch, cuts, frontier), frontier)


def _writes(cuts: Cuts, arch: Any) -> Fraction:
    """Cycles of the global buffer to bring in, for every image, the weights that do not fit: the smallest ones."""
    held = {stage: min(own, key=lambda cost: cost.tiles) for stage, own in cuts.items() if own}
    short = sum(cost.tiles for cost in held.values()) - arch.chip.cores * arch.core.crossbars
    sizes: list[tuple[Fraction, int]] = []
    for stage, cost in held.items():
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


def arrays_interval(cuts: list[list[StageCost]], arch: Any) -> Fraction:
    """The smallest interval over all copies and cuts; where one copy each does not fit, that of crossbars that never
    idle."""
    if not cuts:
        return Fraction(0)
    supply = arch.chip.cores * arch.core.crossbars
    given = [[Product(c.windows, c.cycles, c.tiles, c.windows) for c in own] for own in cuts]
    if sum(min(p.tiles for p in own) for own in given) > supply:
        return fluid_interval([min(own, key=lambda p: p.cycles * p.tiles) for own in given], supply)
    return min_max_interval(given, supply)


def _critical_path(module: ModuleOp, arch: Any, cuts: Cuts) -> Fraction:
    """When the last row of the last output can be there at the earliest.

    The last row of an input enters behind all the others, and a stage whose last window sees the last row of its source
    computes at least that window after it. Where it does not, and where elements move freely, only the chain of single
    windows counts.
    """
    entered = _entered(module, arch)
    first: dict[SSAValue, Fraction] = {}
    last: dict[SSAValue, Fraction] = {}
    for op in module.walk():
        parent = op.parent_op()
        if parent is not None and isinstance(parent, StageOp):
            continue
        own = cuts[op] if isinstance(op, StageOp) else []
        window = min((cost.window_cycles for cost in own), default=0)
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


def _entered(module: ModuleOp, arch: Any) -> Fraction:
    """Cycles until the whole input is in; 0 where there are several, which may come in any order."""
    inputs = [op for op in module.walk() if isinstance(op, InputOp)]
    return max(traffic(module, arch, (InputOp,)).values()) if len(inputs) == 1 else Fraction(0)


def _late_work(module: ModuleOp, arch: Any, cuts: Cuts, floor: int) -> int:
    """The bound of ``latency_bound.py`` for the stages of a module, all with their weights in the arrays."""
    entered = _entered(module, arch)
    fields: dict[SSAValue, Field | None] = {}
    numbers: dict[SSAValue, int] = {}
    stages: list[Work] = []
    rows = 1
    for op in module.walk():
        if isinstance(op, InputOp) and entered:
            rows = shape_of(op.result)[0]
            fields[op.result] = Field.of_input(rows)
        if isinstance(op, StageOp):
            numbers[op.result] = len(stages)
            source = fields.get(uncast(op.sources[0]))
            made = source.through(head_window(op), shape_of(op.result)[0]) if source is not None else None
            fields[op.result] = made
            cost = tuple((own.tiles, own.window_cycles) for own in cuts[op])
            stages.append(Work(cost, _late(op, made, rows), _links(op, numbers)))
    return latency_bound(stages, arch.chip.cores * arch.core.crossbars, entered / rows, floor)


def _late(stage: StageOp, made: Field | None, rows: int) -> dict[int, int]:
    """Windows of a stage that wait for so many rows of the input; all of them where nothing is known of that."""
    height, positions, _ = shape_of(stage.result)
    if made is None:
        return {0: height * positions}
    behind = {int(share * rows) for share in SHARES} | {rows - 1}
    return {0: height * positions} | {n + 1: made.late(n) * positions for n in sorted(behind)}


def _links(stage: StageOp, numbers: dict[SSAValue, int]) -> tuple[Link, ...]:
    """How a stage's windows hang together with those of the stages it takes rows from."""
    found: list[Link] = []
    height, positions, _ = shape_of(stage.result)
    for i, source in enumerate(map(uncast, stage.sources)):
        if source not in numbers:
            continue
        window = head_window(stage) if i == 0 else None
        rows, columns, _ = shape_of(source)
        side = i > 0 and stage.read is not None
        if window is not None:
            needed = least_columns(window, columns, positions)
            users = least_users(window, (rows, columns), (height, positions))
            found.append(Link(numbers[source], needed, users))
        elif (rows, columns) == (height, positions):
            found.append(Link(numbers[source], 1, 1, side))
    return tuple(found)


def _frontier(module: ModuleOp, arch: Any, cuts: Cuts) -> int:
    """The bound of ``frontier.py`` for the stages of a module, all with their weights in the arrays."""
    entered, rows = _entered(module, arch), 1
    known: dict[SSAValue, _Made] = {}
    stages: list[Stage] = []
    for op in module.walk():
        if isinstance(op, InputOp) and entered:
            rows = shape_of(op.result)[0]
            known[op.result] = _Made((INPUT,))
        if isinstance(op, ConcatOp) and all(uncast(value) in known for value in op.args):
            makers = tuple(number for value in op.args for number in known[uncast(value)].makers)
            known[op.result] = _Made(makers, joint=True)
        if isinstance(op, StageOp):
            takes, joint = _takings(op, known)
            known[op.result] = _Made((len(stages),), joint)
            cost = tuple((own.tiles, own.window_cycles) for own in cuts[op])
            stages.append(Stage(prod(shape_of(op.result)[:2]), cost, tuple(takes)))
    return frontier_bound(stages, arch.chip.cores * arch.core.crossbars, rows, float(entered / rows))


@dataclass(frozen=True)
class _Made:
    """Who makes a value."""

    makers: tuple[int, ...]
    joint: bool = False
    """Whether some of its channels may be there long before what is known of all of them."""


def _takings(stage: StageOp, known: Mapping[SSAValue, _Made]) -> tuple[list[Taking], bool]:
    """What a stage takes of its sources, and whether its result is joint like one of them.

    Windows on arrays that see some channels only can be early where their source is joint: nothing is known of those.
    """
    found: list[Taking] = []
    read, joint = stage.read, False
    height, positions, _ = shape_of(stage.result)
    count = height * positions
    for i, source in enumerate(map(uncast, stage.sources if stage.frame_product is None else ())):
        if source not in known:
            continue
        made, (rows, columns, channels) = known[source], shape_of(source)
        some = read is not None and (i > 0 or read.diagonal.channels < channels)
        if made.joint and some:
            continue
        joint |= made.joint and read is None
        window = head_window(stage) if i == 0 else None
        if window is not None and max(window.dilations) == 1 and made.makers == (INPUT,):
            needed = np.append(0, np.repeat(least_rows(window, rows, height)[1:], positions))
        elif made.makers == (INPUT,):
            continue
        elif window is not None:
            needed = least_needed(window, (rows, columns), (height, positions))
        elif is_global_pool(stage):
            needed = np.append(0, np.full(count, rows * columns))
        elif (rows, columns) == (height, positions):
            needed = np.arange(count + 1)
        else:
            continue
        found.append(Taking(made.makers, needed, side=i > 0 and read is not None))
    return found, joint


def _sees_last_row(stage: StageOp) -> bool:
    """Whether the stage's last window reaches the last row of its first source."""
    window = head_window(stage)
    if window is None:
        return True
    reach = (shape_of(stage.result)[0] - 1) * window.strides[0] - window.pads[0]
    return reach + (window.kernel[0] - 1) * window.dilations[0] >= shape_of(stage.sources[0])[0] - 1
