"""Cut a model that is larger than the chip into phases; weights are rewritten between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from cimc.diagnostics import DoesNotFitError
from cimc.dialects.cim import StageOp
from cimc.dialects.context import CimContext
from cimc.dialects.weights import WeightRefAttr
from cimc.passes.place.cores import Cores
from cimc.passes.place.network import COLUMNS
from cimc.passes.schedule.dealing import dealing_of, possible_copies
from cimc.passes.schedule.partition_stages import context_bytes, partition

SLACK = 2
"""Extra advances of a ring that the estimate of a context's memory holds: room for the growth found later."""

CHUNK, K0, K1, N0, N1, XBARS, PHASE = map(COLUMNS.index, ("chunk", "k0", "k1", "n0", "n1", "xbars", "phase"))


@dataclass(frozen=True)
class SegmentStagesPass(ModulePass):
    """Greedy segments: stages join the current phase while their contexts fit, in topological order.

    An operator larger than the chip is cut itself, by column blocks and, within a block, by row chunks: chunks of
    earlier phases leave their partial sums in the global buffer, and the chunk that ends the block comes last.
    Copies work side by side or not at all: those that do not fit the chip together are dropped. Machines without
    run-time writes have one phase.

    ```mlir
    %y = cim.stage "fc6" (%x) placement <"fc6.partition"> ...  // before: phase column all 0
    %y = cim.stage "fc6" (%x) placement <"fc6.phases"> ...     // after, on a chip that is too small
    ```
    """

    name = "segment-stages"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set phases. Raises ``DoesNotFitError`` when they are needed and the machine cannot rewrite weights."""
        assert isinstance(ctx, CimContext)
        assert ctx.arch is not None
        stages = [s for s in op.walk() if isinstance(s, StageOp)]
        tables = [ctx.store.array(_placement(s)) for s in stages]
        decided = phases(stages, tables, ctx.arch)
        if all(map(np.array_equal, tables, decided)):
            return
        if not ctx.arch.chip.allow_writes:
            need = sum(int(t[:, XBARS].sum()) for t in tables)
            supply = ctx.arch.chip.cores * ctx.arch.core.crossbars
            count = 1 + max(int(t[:, PHASE].max()) for t in decided)
            raise DoesNotFitError(
                f"the model needs {need} crossbars and their cores' memory in {count} phases, {ctx.arch.name} "
                f"has {supply} crossbars ({ctx.arch.chip.cores} cores x {ctx.arch.core.crossbars}) and no run-time "
                "writes (chip.allow_writes: false); use fewer copies, a larger machine or one that can rewrite weights"
            )
        for stage, table in zip(stages, decided, strict=True):
            key = ctx.store.fresh(f"{stage.label.data}.phases")
            stage.placement = WeightRefAttr.of(ctx.store.put(key, table))


def phases(
    stages: Sequence[StageOp], tables: Sequence[npt.NDArray[np.int64]], arch: Any
) -> list[npt.NDArray[np.int64]]:
    """The tables with the phases in which the contexts work; stages with more copies than a chip holds lose some."""
    cut = _Segments(arch, Cores.empty(arch))
    return [cut.stage(stage, table) for stage, table in zip(stages, tables, strict=True)]


def fit_together(tables: Sequence[tuple[StageOp, npt.NDArray[np.int64]]], arch: Any) -> bool:
    """Whether the contexts of all stages fit the chip in one phase, by their crossbars and estimated memory."""
    cut = _Segments(arch, Cores.empty(arch))
    return all(cut.join(stage, table) for stage, table in tables)


def _placement(stage: StageOp) -> str:
    assert stage.placement is not None
    return stage.placement.key.data


@dataclass
class _Segments:
    """The current phase and what its cores have left."""

    arch: Any
    cores: Cores
    phase: int = 0
    sizes: dict[tuple[int, ...], int] = field(default_factory=dict[tuple[int, ...], int])

    def stage(self, stage: StageOp, table: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The stage's table with its phases. Copies that do not fit the chip together are dropped."""
        done = table.copy()
        if not self._all_fit(self._needs(stage, done)):
            self._next()
            while not self._all_fit(self._needs(stage, done)):
                copies = stage.copies.value.data - 1
                if copies == 0:
                    return self._cut(stage, done)
                stage.copies = IntegerAttr(possible_copies(stage, copies), i64)
                done = partition(stage, self.arch)
        done[:, PHASE] = self.phase
        return done

    def join(self, stage: StageOp, table: npt.NDArray[np.int64]) -> bool:
        """Take room for a stage in the current phase, if there is enough."""
        return self._all_fit(self._needs(stage, table))

    def _needs(self, stage: StageOp, table: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        """Crossbars and bytes of every context of a stage."""
        self.sizes.clear()
        chunks = int(table[:, CHUNK].max(initial=0)) + 1
        return [(int(row[XBARS]), self._bytes(stage, row, chunks)) for row in table]

    def _cut(self, stage: StageOp, table: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """One copy larger than the chip: block by block, the chunk that ends a block last."""
        needs = self._needs(stage, table)
        order = np.lexsort((-table[:, CHUNK], table[:, N0]))
        for index in order.tolist():
            if self.cores.take(*needs[index]) is None:
                self._next()
                if self.cores.take(*needs[index]) is None:
                    raise DoesNotFitError(
                        f"a context of {needs[index][0]} crossbars and {needs[index][1]} bytes does not fit an empty "
                        f"core of {self.arch.core.crossbars} crossbars and {self.arch.core.local_buffer_bytes} bytes",
                        where=stage.label.data,
                    )
            table[index, PHASE] = self.phase
        return table

    def _next(self) -> None:
        if self._untouched():
            return
        self.phase += 1
        self.cores = Cores.empty(self.arch)

    def _untouched(self) -> bool:
        return bool((self.cores.contexts == self.arch.core.contexts).all())

    def _all_fit(self, needs: list[tuple[int, int]]) -> bool:
        """Take room for all contexts of a stage, or none."""
        trial = self.cores.copy()
        if all(trial.take(*need) is not None for need in needs):
            self.cores = trial
            return True
        return False

    def _bytes(self, stage: StageOp, row: npt.NDArray[np.int64], chunks: int) -> int:
        """An estimate of a context's local memory, within an empty core's."""
        key = (int(row[K0]), int(row[K1]), int(row[N1] - row[N0]))
        if key not in self.sizes:
            dealing = dealing_of(stage)
            full = [context_bytes(stage, dealing, chunks, *key, slack) for slack in (SLACK, 0)]
            self.sizes[key] = min(full[0], max(full[1], self.arch.core.local_buffer_bytes))
        return self.sizes[key]
