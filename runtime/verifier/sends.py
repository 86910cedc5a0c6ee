"""All sends of a program as flat columns: which rows each sends in one image, and by which routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cimc.runtime.program.opcodes import Opcode
from cimc.runtime.verifier.code import Decoded, Step
from cimc.runtime.verifier.operands import Affine, Tables

Ints = npt.NDArray[np.int64]

Rectangle = tuple[int, int, int, int]
"""dst_pos, dst_chan, positions, channels."""

RECTANGLE = ("dst_pos", "dst_chan", "positions", "channels")

_LIMIT = 1 << 22
"""Rows of one send in one image beyond which a program is refused rather than enumerated."""


class Part(NamedTuple):
    """What one send puts into one ring in one image."""

    step: Step
    rectangle: Rectangle
    places: Ints


class Sends(NamedTuple):
    """All sends of a program and the routes each of them takes, as flat columns."""

    steps: Sequence[Step]
    rows: Sequence[Ints]
    """Row numbers of each send in one image."""
    sender: Ints
    """Of every route that a send takes: the number of the send."""
    routes: dict[str, Ints]
    """Columns of ``routes`` for the same."""

    @staticmethod
    def of(decoded: Decoded, tables: Tables) -> Sends:
        """From a decoded program; reports sends of more rows than can be listed."""
        program = decoded.program
        steps: list[Step] = []
        rows: list[Ints] = []
        for step in decoded.all():
            if step.row.opcode != Opcode.SEND:
                continue
            own = image_rows(step, tables.row_address(step, "b"))
            if own is None:
                decoded.report("P012", "sends more rows an image than can be enumerated", step)
                continue
            steps.append(step)
            rows.append(own)
        sets = np.array([step.row.imm for step in steps], np.int64)
        first, count = (program["route_sets"][name].astype(np.int64)[sets] for name in ("first", "count"))
        sender = np.repeat(np.arange(len(steps)), count)
        route = np.repeat(first, count) + within(count)
        columns = {name: column.astype(np.int64)[route] for name, column in program["routes"].items()}
        return Sends(steps, rows, sender, columns)

    def rectangle(self, route: int) -> Rectangle:
        """Where a route's part lies in its ring's row."""
        dst_pos, dst_chan, positions, channels = (int(self.routes[name][route]) for name in RECTANGLE)
        return dst_pos, dst_chan, positions, channels

    def parts(self, tables: Tables, routes: Ints) -> list[Part]:
        """The parts that the given routes, all to one ring, put there."""
        return [
            Part(
                self.steps[int(self.sender[route])],
                self.rectangle(route),
                places_of(tables, int(self.routes["ring"][route]), self.rows[int(self.sender[route])]),
            )
            for route in map(int, routes)
        ]


def within(counts: Ints) -> Ints:
    """0, 1, ... of each of ``counts`` items that stand one behind the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def image_rows(step: Step, address: Affine) -> npt.NDArray[np.int64] | None:
    """Row numbers of a send or DMA in one image, in order; None if there are too many to list."""
    rows = np.array([address.base], np.int64)
    for level, (increment, trips) in enumerate(zip(address.steps, step.trips, strict=True)):
        if level == 0 and step.images:
            continue
        if len(rows) * trips > _LIMIT:
            return None
        rows = (rows[:, None] + increment * np.arange(trips)).reshape(-1)
    return rows


def places_of(tables: Tables, ring: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Places of the rows the ring wants, in one image (``docs/isa.md``, Rings)."""
    columns = tables.buffers
    first, last = columns["first"][ring], columns["last"][ring]
    turn, offset = np.divmod(rows - first, columns["period"][ring])
    wanted = (rows >= first) & (rows <= last) & (offset < columns["advance"][ring])
    return (turn * columns["advance"][ring] + offset)[wanted]
