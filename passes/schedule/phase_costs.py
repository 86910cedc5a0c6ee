"""What a search for phases decides on, and the estimate of one phase with the copies that pay in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import DoesNotFitError
from cimc.dialects.cim import StageOp
from cimc.passes.place.network import COLUMNS
from cimc.passes.schedule.estimate.flow import Flow, Handoff
from cimc.passes.schedule.estimate.nodes import Timing
from cimc.passes.schedule.estimate.pipeline import fetched, last_uses, left
from cimc.passes.schedule.packing import Need, Room, Table, needs_of

STAYS = COLUMNS.index("stays")


@dataclass(frozen=True)
class Choices:
    """Useful numbers of copies of an array stage, ascending, with the cycles of an image, descending."""

    copies: npt.NDArray[np.int64]
    cycles: npt.NDArray[np.int64]
    crossbars: float
    """Of a copy."""
    contexts: int
    """Of a copy."""


@dataclass(frozen=True)
class Work:
    """What the search decides on."""

    stages: Sequence[StageOp]
    tables: Sequence[Table]
    nodes: Sequence[Timing]
    """Of the model in one phase, chip operations included."""
    arch: Any
    frames: int = 1
    """Of a call: they share what is written."""
    choices: Mapping[int, Choices] = field(default_factory=dict[int, Choices])
    """Of the stages that spare crossbars may be given to, by number; none where copies are decided."""
    added_contexts: int = 0
    """Contexts that copies may add in a phase."""

    @cached_property
    def numbers(self) -> list[int]:
        """The node of every stage."""
        of = {node.op: number for number, node in enumerate(self.nodes)}
        return [of[stage] for stage in self.stages]

    @cached_property
    def stage_of(self) -> dict[int, int]:
        """The stage of a node."""
        return {node: stage for stage, node in enumerate(self.numbers)}

    @cached_property
    def behind(self) -> list[tuple[int, ...]]:
        """Operations of the chip between a stage and the next, for -1 those before the first, as the last entry."""
        found: list[list[int]] = [[] for _ in range(len(self.stages) + 1)]
        stage = -1
        for number in range(len(self.nodes)):
            if number in self.stage_of:
                stage = self.stage_of[number]
            else:
                found[stage].append(number)
        return [tuple(numbers) for numbers in found]

    @cached_property
    def last_use(self) -> list[int]:
        """The last node that takes rows of a node; itself without any."""
        return last_uses(self.nodes)

    @cached_property
    def staying(self) -> int:
        """Crossbars of all contexts whose weights stay."""
        return sum(node.staying for node in self.nodes)

    @cached_property
    def waiting(self) -> list[int]:
        """Bytes that wait in the global buffer when a phase begins with a stage, by the stage's number."""
        width = float(self.arch.chip.global_buffer_bytes_per_cycle)
        found: list[int] = []
        for first in self.numbers:
            alive = (n for n in range(first) if self.last_use[n] >= first)
            found.append(
                int(sum(self.nodes[n].rows * self.nodes[n].row * width for n in alive)) * self.frames
            )
        return found

    @cached_property
    def needs(self) -> list[list[Need]]:
        """Crossbars and bytes of the contexts of every stage."""
        return [needs_of(s, t, self.arch) for s, t in zip(self.stages, self.tables, strict=True)]

    @cached_property
    def rewritten(self) -> list[list[Need]]:
        """Those of the contexts whose weights do not stay."""
        return [
            [need for need, stays in zip(needs, table[:, STAYS].tolist(), strict=True) if not stays]
            for needs, table in zip(self.needs, self.tables, strict=True)
        ]

    @cached_property
    def room(self) -> Room:
        """What a phase begins with: all that contexts whose weights stay leave of the chip.

        Raises ``DoesNotFitError`` where these do not find a core each.
        """
        staying = [
            need
            for needs, table in zip(self.needs, self.tables, strict=True)
            for need, stays in zip(needs, table[:, STAYS].tolist(), strict=True)
            if stays
        ]
        room = Room.beside(self.arch, staying)
        if room is None:
            raise DoesNotFitError(f"weights of {len(staying)} contexts cannot all stay on {self.arch.name}")
        return room


@dataclass(frozen=True)
class Member:
    """A node of a phase; ``load``: cycles in which its weights leave the global buffer, those of its part there."""

    node: int
    load: int


def phase_cycles(work: Work, members: Sequence[Member], given: Handoff | None) -> tuple[int, Handoff]:
    """The estimate of a phase: its weights are written, beside the phase before as far as that is ``given``, and its
    frames follow each other. The second result: what it leaves.

    Not below what the global buffer's port carries: weights, rows of earlier phases, rows for later ones.
    """
    nodes = list(work.nodes)
    here = [member.node for member in members]
    partial = False
    for member in members:
        node = nodes[member.node]
        if member.load != node.load and node.arrays is not None:
            partial = True
            share = member.load / node.load
            arrays = node.arrays.share(share)
            staying = round(node.staying * share)
            nodes[member.node] = replace(node, load=member.load, staying=staying, arrays=arrays)
    if not partial:
        for number, copies in copies_that_pay(work, here).items():
            if copies > 1:
                nodes[number] = nodes[number].dealt(copies)
    kept = [n for n in here if work.last_use[n] > max(here)]
    moved = work.frames * (fetched(nodes, here) + left(nodes, kept))
    alone, lead, leaves = Flow(nodes, here).behind(given, moved, work.staying)
    slowest = max((nodes[n].interval() for n in here), default=0)
    loads = sum(nodes[n].load for n in here)
    return max(alone + (work.frames - 1) * slowest, loads - lead + moved), leaves


def copies_that_pay(work: Work, members: Sequence[int], crossbars: int | None = None) -> dict[int, int]:
    """Copies by node for which the slowest stage's cycles and the writes of all copies add up to least.

    ``crossbars``: of all copies; absent, those of the chip.
    """
    given = [(n, work.choices[work.stage_of[n]]) for n in members if work.stage_of.get(n) in work.choices]
    if not given:
        return {}
    values = np.unique(np.concatenate([choices.cycles for _, choices in given]))
    values = values[values >= max(int(choices.cycles[-1]) for _, choices in given)]
    taken, contexts, writes, slowest = np.zeros((4, len(values)))
    taken -= sum(work.nodes[node].staying for node, _ in given)
    each = sum(len(work.tables[work.stage_of[n]]) for n in members if n in work.stage_of)
    copies: list[Table] = []
    for node, choices in given:
        at = len(choices.cycles) - np.searchsorted(choices.cycles[::-1], values, side="right")
        copies.append(choices.copies[at])
        slowest = np.maximum(slowest, choices.cycles[at])
        taken += copies[-1] * choices.crossbars
        contexts += (copies[-1] - 1) * choices.contexts
        writes += (
            copies[-1] * (work.nodes[node].load + work.nodes[node].kept_load) - work.nodes[node].kept_load
        )
    supply = crossbars if crossbars is not None else work.room.crossbars
    cost = slowest * work.frames + writes
    most = min(work.added_contexts, work.arch.chip.cores * work.arch.core.contexts - each)
    cost[(taken > supply) | (contexts > most)] = np.inf
    at = int(cost.argmin())
    if not np.isfinite(cost[at]):
        return {}
    return {node: int(n[at]) for (node, _), n in zip(given, copies, strict=True)}
