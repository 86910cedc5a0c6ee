"""Addresses: buffers of one memory that live in a common phase do not overlap."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class MemoryMap:
    """The end of what is taken, per memory and phase. A buffer of several phases lies above all of them."""

    ends: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])

    def take(self, core: int, size: int, phases: tuple[int, int]) -> int:
        """Reserve ``size`` bytes of ``core`` (-1: the global buffer) from first to last phase; returns the base."""
        keys = [(core, phase) for phase in range(phases[0], phases[1] + 1)]
        base = max(self.ends.get(key, 0) for key in keys)
        for key in keys:
            self.ends[key] = base + size
        return base
