"""What contexts that share a core cost each other at its memory, before cores are decided.

Contexts of equal crossbars fill cores together and change places until no port is much busier than others
(``place/relief.py``): a core holds as many of a stage as it has of all such contexts.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BUSY = 0.65
"""Share of a stage's time in which its contexts of a core can have the port without waiting for each other. Fitted to
programs of ResNet-18 with 8-bit inputs on ``isaac``: contexts with the last two row tiles of 18 had it for 4,176 of
7,476 cycles where their products take 5,964; with 0.75 the program that is found is 5 % slower."""


class Crowding:
    """Contexts of stages by their crossbars, one line a stage."""

    def __init__(self, stages: int, core_crossbars: int):
        self._core = core_crossbars
        self._counts = np.zeros((stages, core_crossbars + 1), np.int64)
        self._kept = self._counts

    def put(self, stage: int, counts: Ints) -> None:
        """Change the contexts of a stage."""
        self._counts[stage] = 0
        self._counts[stage, : len(counts)] = counts

    def keep(self) -> None:
        """Hold what is put now."""
        self._kept = self._counts.copy()

    def back(self) -> None:
        """What was held last."""
        np.copyto(self._counts, self._kept)

    def judge(self, ports: Ints, intervals: Ints) -> tuple[int, Floats]:
        """Cycles between images that the memory of a core allows, and cycles of an image in which contexts of each
        stage wait for others of their stage.

        ``ports``: cycles of an image in which a context of each stage has the port. ``intervals``: of the stages by
        themselves.
        """
        return _judge(self._counts, self._core, ports, intervals, BUSY)


@numba.njit(cache=True)
def _judge(counts: Ints, core: int, ports: Ints, intervals: Ints, busy: float) -> tuple[int, Floats]:
    stages, most = len(counts), np.zeros(len(counts))
    slowest = 0.0
    for size in range(1, core + 1):
        alike = counts[:, size].sum()
        if alike == 0:
            continue
        share = min(core // size, alike) / alike
        together = 0.0
        for i in range(stages):
            own = share * counts[i, size] * ports[i]
            together += own
            most[i] = max(most[i], own)
        slowest = max(slowest, together)
    return int(slowest), np.maximum(0.0, most / busy - intervals)
