"""The contexts of stages on the cores of one phase: what fits, and how an operator larger than the chip is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import DoesNotFitError
from cimc.dialects.cim import StageOp
from cimc.passes.place.cores import Cores
from cimc.passes.place.network import COLUMNS
from cimc.passes.schedule.dealing import dealing_of
from cimc.passes.schedule.partition_stages import Footprint

SLACK = 2
"""Extra advances of a ring that the estimate of a context's memory holds: room for the growth found later."""

Need = tuple[int, int]
"""Crossbars and bytes of a context."""

Table = npt.NDArray[np.int64]
_CHUNK, _K0, _K1, _N0, _N1, _XBARS = map(COLUMNS.index, ("chunk", "k0", "k1", "n0", "n1", "xbars"))


def needs_of(stage: StageOp, table: Table, arch: Any) -> list[Need]:
    """Crossbars and bytes of every context of a stage; an estimate of its memory, within an empty core's."""
    chunks = int(table[:, _CHUNK].max(initial=0)) + 1
    footprint = Footprint(stage, dealing_of(stage, arch), chunks, arch)
    sizes: dict[tuple[int, int, int], int] = {}
    needs: list[Need] = []
    for k0, k1, n0, n1, xbars in table[:, (_K0, _K1, _N0, _N1, _XBARS)].tolist():
        key = k0, k1, n1 - n0
        if key not in sizes:
            full, least = (footprint.bytes(*key, slack) for slack in (SLACK, 0))
            sizes[key] = min(full, max(least, arch.core.local_buffer_bytes))
        needs.append((xbars, sizes[key]))
    return needs


def order_of_cut(table: Table, arch: Any) -> list[int]:
    """Contexts of one copy in the order in which a cut operator works: block by block, the chunk that ends it last.

    Chunks smaller than the others go before, those of as many blocks as the chip holds together.
    """
    chunks, blocks = table[:, _CHUNK], np.unique(table[:, _N0], return_inverse=True)[1]
    last = chunks == chunks.max()
    rest = int(table[last, _XBARS].max())
    if rest == int(table[~last, _XBARS].max(initial=rest)):
        return np.lexsort((-chunks, blocks)).tolist()
    together = arch.chip.cores * min(arch.core.crossbars // rest, arch.core.contexts)
    return np.lexsort((-chunks, blocks, ~last, blocks // together)).tolist()


@dataclass(frozen=True)
class Room:
    """What the cores of a phase have left; never changed in place."""

    arch: Any
    cores: Cores
    whole: Cores
    """What a phase begins with."""

    @staticmethod
    def empty(arch: Any) -> Room:
        """The whole chip."""
        cores = Cores.empty(arch)
        return Room(arch, cores, cores)

    @staticmethod
    def beside(arch: Any, staying: Sequence[Need]) -> Room | None:
        """What contexts whose weights stay leave in every phase, memory and contexts of all of them counted in each;
        ``None`` where one finds no core."""
        room = Room.empty(arch).put(staying)
        return room and Room(arch, room.cores, room.cores)

    @property
    def untouched(self) -> bool:
        """Whether no context has a place yet."""
        return bool((self.cores.contexts == self.whole.contexts).all())

    @property
    def crossbars(self) -> int:
        """Crossbars left."""
        return int(self.cores.crossbars.sum())

    def put(self, needs: Sequence[Need]) -> Room | None:
        """The room behind first fit of all contexts; ``None`` where one finds no core."""
        cores = self.cores.copy()
        for need, same in groupby(needs):
            count = sum(1 for _ in same)
            if cores.take_many(*need, count) < count:
                return None
        return Room(self.arch, cores, self.whole)

    def cut(self, needs: Sequence[Need], label: str) -> tuple[list[int], Room]:
        """Contexts in their order over this phase and as many more as it takes: the phase of each, counted from this
        one, and what the last phase has left. Raises ``DoesNotFitError`` for a context that no empty core holds."""
        cores = self.cores.copy()
        phase = 0
        found: list[int] = []
        for need, same in groupby(needs):
            left = sum(1 for _ in same)
            while left:
                taken = cores.take_many(*need, left)
                found += [phase] * taken
                left -= taken
                if not left:
                    break
                if not self.whole.copy().take_many(*need, 1):
                    raise DoesNotFitError(
                        f"a context of {need[0]} crossbars and {need[1]} bytes does not fit an empty core of "
                        f"{self.arch.core.crossbars} crossbars and {self.arch.core.local_buffer_bytes} bytes",
                        where=label,
                    )
                phase, cores = phase + 1, self.whole.copy()
        return found, Room(self.arch, cores, self.whole)
