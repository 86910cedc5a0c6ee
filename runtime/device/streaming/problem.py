"""A network as placement sees it, and what a placement costs (docs/streaming.md, placement).

A block is what is programmed, placed and streamed as a whole. The predicted peak of a placement is

    base + sum of what is resident + slots * largest streamed code + largest (live values + workspace)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cimc.runtime.device.streaming.timeline import PassTime, Step, steady_pass


@dataclass(frozen=True)
class BlockCost:
    """What a block needs. Bytes of memory, nanoseconds of one use."""

    name: str
    code_bytes: int
    """Stored and streamed: one byte a weight."""
    resident_bytes: int
    """What stays in memory between uses if the block is resident."""
    resident_work_bytes: int
    """Live values of the network around a use, and workspace of the use, if it is resident."""
    streamed_work_bytes: int
    """The same if it streams: cells are made anew for each use."""
    resident_ns: float
    streamed_ns: float
    hold_ns: float = 0.0
    """The first part of ``streamed_ns``, until its codes are no longer read and the slot is free."""


@dataclass(frozen=True)
class Problem:
    """A network as placement sees it."""

    blocks: tuple[BlockCost, ...]
    order: tuple[int, ...]
    """Indices into ``blocks`` in order of use in one pass."""
    base_bytes: int
    """Always there: digital parameters and buffers."""
    other_work_bytes: int
    """Largest live values while no block is in use."""
    link_bytes_per_s: float

    def uses(self) -> list[int]:
        """How often each block is used in one pass."""
        counts = [0] * len(self.blocks)
        for index in self.order:
            counts[index] += 1
        return counts


@dataclass(frozen=True)
class Placement:
    """The answer: which blocks stream, through how many slots, and what that costs."""

    streamed: frozenset[int] = field(repr=False)
    slots: int
    peak_bytes: int
    streamed_bytes: int
    """Per pass."""
    time: PassTime
    exact: bool
    """Whether bytes and, among placements of as few bytes, time are proven least; else the best found."""

    @property
    def depth(self) -> int:
        """Transfers that may be ahead of the block in use."""
        return max(0, self.slots - 1)


def peak_bytes(problem: Problem, streamed: frozenset[int], slots: int) -> int:
    """The predicted peak of a placement, in bytes: the formula at the head of this module."""
    blocks = problem.blocks
    work = [problem.other_work_bytes]
    work += [b.streamed_work_bytes if i in streamed else b.resident_work_bytes for i, b in enumerate(blocks)]
    resident = sum(b.resident_bytes for i, b in enumerate(blocks) if i not in streamed)
    pool = slots * max((blocks[i].code_bytes for i in streamed), default=0)
    return problem.base_bytes + resident + pool + max(work)


def pass_time(problem: Problem, streamed: frozenset[int], slots: int) -> PassTime:
    """The predicted time of a steady pass."""
    per_byte = 1e9 / problem.link_bytes_per_s
    steps: list[Step] = []
    for index in problem.order:
        block = problem.blocks[index]
        if index in streamed:
            steps.append(Step(block.streamed_ns, block.code_bytes * per_byte, block.hold_ns))
        else:
            steps.append(Step(block.resident_ns))
    return steady_pass(steps, slots)


def made(problem: Problem, streamed: frozenset[int], slots: int, exact: bool) -> Placement:
    """The placement with its peak, bytes and time worked out."""
    slots = slots if streamed else 0
    uses = problem.uses()
    return Placement(
        streamed,
        slots,
        peak_bytes(problem, streamed, slots),
        sum(uses[i] * problem.blocks[i].code_bytes for i in streamed),
        pass_time(problem, streamed, slots),
        exact,
    )
