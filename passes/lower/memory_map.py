"""Addresses: buffers of one memory that live in a common phase do not overlap."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field


@dataclass
class MemoryMap:
    """What is taken, per memory and phase, as disjoint intervals in order. A buffer lies at the lowest base that is
    free in all its phases (first fit), so that a buffer whose phases are over leaves room for later ones."""

    intervals: dict[tuple[int, int], list[tuple[int, int]]] = field(
        default_factory=dict[tuple[int, int], list[tuple[int, int]]]
    )

    def take(self, core: int, size: int, phases: tuple[int, int]) -> int:
        """Reserve ``size`` bytes of ``core`` (-1: the global buffer) from first to last phase; returns the base."""
        keys = [(core, phase) for phase in range(phases[0], phases[1] + 1)]
        taken = [self.intervals.setdefault(key, []) for key in keys]
        base = 0
        for start, end in taken[0] if len(taken) == 1 else sorted(i for row in taken for i in row):
            if base + size <= start:
                break
            base = max(base, end)
        for row in taken if size else ():
            _insert(row, base, base + size)
        return base

    def end(self, core: int) -> int:
        """Bytes of a memory up to the end of its last buffer, over all phases."""
        ends = [row[-1][1] for (where, _), row in self.intervals.items() if where == core and row]
        return max(ends, default=0)


def _insert(row: list[tuple[int, int]], start: int, end: int) -> None:
    """Add an interval, one with the neighbours it touches: a memory filled from below stays one interval."""
    before = next((i for i in reversed(row) if i[1] == start), None)
    behind = next((i for i in row if i[0] == end), None)
    for neighbour in (before, behind):
        if neighbour is not None:
            row.remove(neighbour)
    insort(row, (before[0] if before else start, behind[1] if behind else end))
