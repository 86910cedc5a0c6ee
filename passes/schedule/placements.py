"""Placement tables of stages and what their contexts need, for every number of copies and cut that a search tries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cimc.dialects.cim import StageOp
from cimc.passes.schedule.packing import Need, Table, needs_of
from cimc.passes.schedule.partition_stages import partition
from cimc.passes.schedule.segment_stages import have_room

_Key = tuple[StageOp, int, int]


class Placements:
    """What a stage would place, read off it once for the copies and the cut it has at the time; never changed."""

    def __init__(self, arch: Any):
        self._arch = arch
        self._tables: dict[_Key, Table] = {}
        self._needs: dict[_Key, list[Need]] = {}

    def table(self, stage: StageOp) -> Table:
        """A line a context (pass ``partition-stages``). Raises as ``partition`` does."""
        key = _key(stage)
        if key not in self._tables:
            self._tables[key] = partition(stage, self._arch)
        return self._tables[key]

    def fit_together(self, stages: Sequence[StageOp]) -> bool:
        """Whether the contexts of ``stages`` as they are fit the chip in one phase."""
        return have_room([need for stage in stages for need in self._needs_of(stage)], self._arch)

    def _needs_of(self, stage: StageOp) -> list[Need]:
        key = _key(stage)
        if key not in self._needs:
            self._needs[key] = needs_of(stage, self.table(stage), self._arch)
        return self._needs[key]


def _key(stage: StageOp) -> _Key:
    write = stage.write
    return stage, stage.copies.value.data, write.grid.data[0] if write is not None else 0
