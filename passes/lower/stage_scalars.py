"""Parameters of a stage's contexts that are numbers: rows, columns and channels of their part of the result."""

from __future__ import annotations

from typing import Any

from cimc.dialects.cim import StageOp
from cimc.dialects.graph_types import shape_of
from cimc.passes.place.network import ContextSpec, Ring
from cimc.passes.place.pieces import splits
from cimc.passes.place.source_rows import ring_columns, source_columns
from cimc.passes.place.tail_plan import piece_name, ring_name


class StageScalars:
    """The numbers of a stage's contexts (``bodies.py`` names them); what all share is read off the stage once."""

    def __init__(self, stage: StageOp, arch: Any):
        self._stage, self._arch = stage, arch
        self._channels = shape_of(stage.result)[2]
        self._split = splits(stage, 0, arch)
        self._sides = [f"first_{ring_name(number)}" for number in range(1, len(stage.sources))]
        self._columns: dict[tuple[int, int, int, int], int] = {}

    def of(self, spec: ContextSpec, source: Ring) -> dict[str, int]:
        """Of a context whose ring of the first source is ``source``; what differs between pieces has their number."""
        n = spec.n1 - spec.n0
        values = {"copy": spec.copy, "n0": spec.n0, "turns": source.geometry.turns, "tiles": spec.xbars}
        for piece, (a, b) in enumerate(spec.pieces):
            own = {"p0": a, "positions": b - a, "at": spec.n0 + a * self._channels}
            own |= dict.fromkeys(self._sides, (a - spec.p0) * n)
            own["first_in0"] = self._first_column(spec, a, b) * source.channels
            values |= own if piece == 0 else {piece_name(name, piece): value for name, value in own.items()}
        return values

    def _first_column(self, spec: ContextSpec, a: int, b: int) -> int:
        """Where the windows of positions [a, b) begin in the ring of the first source: of all pieces, or its own."""
        held = (a, b) if self._split else (spec.p0, spec.p1)
        key = a, b, *held
        if key not in self._columns:
            begun = ring_columns(self._stage, *held, self._arch)[0]
            self._columns[key] = source_columns(self._stage, a, b)[0] - begun
        return self._columns[key]
