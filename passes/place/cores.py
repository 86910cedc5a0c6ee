"""What the cores of a chip have left, and first fit into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Which = Literal["first", "last", "emptiest"]


@dataclass
class Cores:
    """Crossbars, contexts and bytes of local memory that every core has left in one phase."""

    crossbars: Ints
    contexts: Ints
    memory: Ints

    @staticmethod
    def empty(arch: Any, most: int | None = None) -> Cores:
        """All cores of a machine, unused; ``most`` contexts each, where they could hold more."""
        count = arch.chip.cores
        return Cores(
            np.full(count, arch.core.crossbars, np.int64),
            np.full(count, arch.core.contexts if most is None else min(most, arch.core.contexts), np.int64),
            np.full(count, arch.core.local_buffer_bytes, np.int64),
        )

    def copy(self) -> Cores:
        """An independent copy, to try something out."""
        return Cores(self.crossbars.copy(), self.contexts.copy(), self.memory.copy())

    def moved(self, where: Mapping[int, int]) -> Cores:
        """The same with the contents of core ``c`` on core ``where[c]``; the others fill the cores that are left."""
        count = len(self.crossbars)
        others = (core for core in range(count) if core not in where)
        taken = set(where.values())
        target = np.empty(count, np.int64)
        target[list(where)] = list(where.values())
        target[list(others)] = [core for core in range(count) if core not in taken]
        back = np.argsort(target)
        return Cores(self.crossbars[back], self.contexts[back], self.memory[back])

    def take(self, crossbars: int, size: int, which: Which = "first") -> int | None:
        """The first core with room for a context of ``crossbars`` and ``size`` bytes, the last, or the one with the
        fewest contexts, taken; ``None`` without one."""
        fits = (self.crossbars >= crossbars) & (self.contexts > 0) & (self.memory >= size)
        match which:
            case "first":
                core = int(fits.argmax())
            case "last":
                core = len(fits) - 1 - int(fits[::-1].argmax())
            case "emptiest":
                core = int((fits * self.contexts).argmax())
        if not fits[core]:
            return None
        self.crossbars[core] -= crossbars
        self.contexts[core] -= 1
        self.memory[core] -= size
        return core

    def take_many(self, crossbars: int, size: int, count: int) -> int:
        """``take`` for ``count`` like contexts, one after the other; how many of them found a core."""
        each = self.contexts
        if size:
            each = np.minimum(each, self.memory // size)
        if crossbars:
            each = np.minimum(each, self.crossbars // crossbars)
        given = np.diff(np.minimum(np.cumsum(each), count), prepend=0)
        self.crossbars -= given * crossbars
        self.contexts -= given
        self.memory -= given * size
        return int(given.sum())
