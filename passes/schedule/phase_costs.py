"""What a search for phases decides on, and the estimate of one phase with the copies that pay in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.dialects.cim import StageOp
from cimc.passes.schedule.estimate.nodes import Timing
from cimc.passes.schedule.estimate.pipeline import Handoff, phase_span
from cimc.passes.schedule.packing import Need, Table, needs_of


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
        found = list(range(len(self.nodes)))
        for number, node in enumerate(self.nodes):
            for edge in node.edges:
                found[edge.source] = max(found[edge.source], number)
        return found

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
            tiles = max(1, round(node.arrays.tiles * member.load / node.load))
            nodes[member.node] = replace(node, load=member.load, arrays=replace(node.arrays, tiles=tiles))
    if not partial:
        for number, copies in copies_that_pay(work, here).items():
            if copies > 1:
                nodes[number] = nodes[number].dealt(copies)
    alone, lead, leaves = phase_span(nodes, here, given)
    between = max((nodes[n].between * nodes[n].rows for n in here), default=0)
    slowest = max((-(-nodes[n].rows // nodes[n].copies) * nodes[n].turn for n in here), default=0)
    inside = set(here)
    sources = {edge.source for n in here for edge in nodes[n].edges} - inside
    kept = [n for n in here if work.last_use[n] not in inside and work.last_use[n] > max(here)]
    moved = sum(nodes[n].rows * nodes[n].row for n in (*sources, *kept))
    loads = sum(nodes[n].load for n in here)
    return max(alone + (work.frames - 1) * max(between, slowest), loads - lead + work.frames * moved), leaves


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
    each = sum(len(work.tables[work.stage_of[n]]) for n in members if n in work.stage_of)
    copies: list[Table] = []
    for node, choices in given:
        at = len(choices.cycles) - np.searchsorted(choices.cycles[::-1], values, side="right")
        copies.append(choices.copies[at])
        slowest = np.maximum(slowest, choices.cycles[at])
        taken += copies[-1] * choices.crossbars
        contexts += (copies[-1] - 1) * choices.contexts
        writes += copies[-1] * work.nodes[node].load
    supply = crossbars if crossbars is not None else work.arch.chip.cores * work.arch.core.crossbars
    cost = slowest * work.frames + writes
    most = min(work.added_contexts, work.arch.chip.cores * work.arch.core.contexts - each)
    cost[(taken > supply) | (contexts > most)] = np.inf
    at = int(cost.argmin())
    if not np.isfinite(cost[at]):
        return {}
    return {node: int(n[at]) for (node, _), n in zip(given, copies, strict=True)}
