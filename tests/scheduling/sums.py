"""An estimate that searches can be judged by: a latency that is the largest of some sums over stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cimc.passes.schedule.copies.ways import Options, Way, Ways


class Sums:
    """The largest sum of the stages' intervals, each as often as ``weights`` say, and ``rest``; no row has pieces."""

    def __init__(
        self, stages: Mapping[int, Options], weights: Sequence[Sequence[int]] | None = None, rest: int = 0
    ):
        """Without ``weights``: each stage once."""
        self.stages, self.rest = stages, rest
        self.weights = weights or [[1] * len(stages)]
        self._put: dict[int, Way] = {}
        self._kept: dict[int, Way] = {}

    def latency(self, ways: Ways) -> int:
        """Stages without a way have one copy."""
        cycles = [ways.get(i, own.one).cycles for i, own in self.stages.items()]
        return self.rest + max(sum(w * c for w, c in zip(row, cycles, strict=True)) for row in self.weights)

    def interval(self, stage: int, way: Way) -> int:
        """Nothing but the arrays takes time."""
        assert stage in self.stages
        return way.cycles

    def useful(self, stage: int, way: Way | None, most: int, slowest: float) -> int:
        """None but the whole row."""
        return 1

    def put(self, stage: int, way: Way | None, pieces: int | None) -> int:
        """A row is one piece."""
        if way is not None:
            self._put[stage] = way
        return 1

    def span(self) -> int:
        """The latency of what is put."""
        return self.latency(self._put)

    def slowest(self) -> int:
        """The interval of what is put."""
        return max(self._put.get(i, own.one).cycles for i, own in self.stages.items())

    @property
    def size(self) -> int:
        """As many steps as the search likes."""
        return 1

    def keep(self) -> None:
        """Hold what is put now."""
        self._kept = dict(self._put)

    def back(self) -> None:
        """What was held last."""
        self._put = dict(self._kept)
