"""What the searches for ways and pieces ask of the estimate of a phase."""

from __future__ import annotations

from typing import Protocol

from cimc.passes.schedule.copies.ways import Way, Ways


class Estimator(Protocol):
    """A phase in closed form, changed a stage at a time."""

    def latency(self, ways: Ways) -> int:
        """Cycles of an image with ``ways`` of some stages, the others as they are, in whole rows."""
        ...

    def interval(self, stage: int, way: Way) -> int:
        """Cycles between images that the stage's contexts allow."""
        ...

    def useful(self, stage: int, way: Way | None, most: int, slowest: float) -> int:
        """Pieces of a row, up to ``most``, that cost little and no more than ``slowest`` cycles an image."""
        ...

    def put(self, stage: int, way: Way | None, pieces: int | None) -> int:
        """Give a stage a way and up to so many pieces of a row, ``None`` for what is not open; how many it has."""
        ...

    def span(self) -> int:
        """Cycles of an image with what is put."""
        ...

    def slowest(self) -> int:
        """Cycles between images with what is put."""
        ...

    @property
    def size(self) -> int:
        """Pieces of all rows: what :meth:`span` takes grows with it."""
        ...

    def keep(self) -> None:
        """Hold what is put now."""
        ...

    def back(self) -> None:
        """What was held last, in place of what was put since."""
        ...
