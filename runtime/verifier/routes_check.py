"""What arrives where: rectangles of routes, parts of each ring row, rows of outputs (P070 to P075, P052).

The rows each context sends in one image are enumerated as arrays, so that "parts are disjoint and
complete" is checked for every place of every ring, not sampled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cimc.runtime.program.opcodes import BufferKind, Element, Opcode
from cimc.runtime.verifier.code import Decoded, Step
from cimc.runtime.verifier.operands import Affine, Tables

Rectangle = tuple[int, int, int, int]
"""dst_pos, dst_chan, positions, channels."""

_LIMIT = 1 << 26
"""Rows of one send in one image beyond which a program is refused rather than enumerated."""


class _Part(NamedTuple):
    """What one send puts into one ring in one image."""

    step: Step
    rectangle: Rectangle
    places: npt.NDArray[np.int64]


def check_routes(decoded: Decoded, tables: Tables) -> None:
    """Report wrong rectangles, overlapping or missing parts, output rows not written once."""
    parts: dict[int, list[_Part]] = defaultdict(list)
    program = decoded.program
    sets = list(
        zip(program["route_sets"]["first"].tolist(), program["route_sets"]["count"].tolist(), strict=True)
    )
    routes = [
        dict(zip(program["routes"], values, strict=True))
        for values in zip(*(c.tolist() for c in program["routes"].values()), strict=True)
    ]
    for step in decoded.all():
        if step.row.opcode != Opcode.SEND:
            continue
        rows = image_rows(step, tables.row_address(step, "b"))
        if rows is None:
            decoded.report("P012", "sends more rows an image than can be enumerated", step)
            continue
        first, count = sets[step.row.imm]
        _check_groups(decoded, step, routes[first : first + count])
        for route in routes[first : first + count]:
            if not _check_route(decoded, tables, step, route):
                continue
            rectangle = (route["dst_pos"], route["dst_chan"], route["positions"], route["channels"])
            places = _places(tables, route["ring"], rows)
            parts[route["ring"]].append(_Part(step, rectangle, places))
    for ring, kind in enumerate(tables.buffers["kind"]):
        if kind == BufferKind.RING:
            _check_ring(decoded, tables, ring, parts[ring])
    _check_outputs(decoded, tables)


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


def _places(tables: Tables, ring: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Places of the rows the ring wants, in one image (``docs/isa.md``, Rings)."""
    columns = tables.buffers
    first, last = columns["first"][ring], columns["last"][ring]
    turn, offset = np.divmod(rows - first, columns["period"][ring])
    wanted = (rows >= first) & (rows <= last) & (offset < columns["advance"][ring])
    return (turn * columns["advance"][ring] + offset)[wanted]


def _check_groups(decoded: Decoded, step: Step, routes: Iterable[dict[str, int]]) -> None:
    carried: dict[int, tuple[int, ...]] = {}
    for route in routes:
        rectangle = tuple(route[name] for name in ("src_pos", "src_chan", "positions", "channels"))
        if carried.setdefault(route["group"], rectangle) != rectangle:
            decoded.report(
                "P075",
                f"multicast {route['group']} carries {carried[route['group']]} and {rectangle}; give the second"
                " a group of its own",
                step,
            )


def _check_route(decoded: Decoded, tables: Tables, step: Step, route: dict[str, int]) -> bool:
    row, ring = step.row, route["ring"]
    columns = tables.buffers
    if columns["kind"][ring] != BufferKind.RING:
        decoded.report("P007", f"a route leads to buffer {ring}, which is no ring", step)
        return False
    positions, channels = route["positions"], route["channels"]
    sound = True
    if (
        min(positions, channels) < 1
        or min(route["src_pos"], route["src_chan"]) < 0
        or route["src_pos"] + positions > row.m
        or route["src_chan"] + channels > row.n
    ):
        sound = False
        decoded.report(
            "P070",
            f"takes positions {route['src_pos']} + {positions} x channels {route['src_chan']} + {channels} of a"
            f" row of {row.m} x {row.n}",
            step,
        )
    end = (route["dst_pos"] + positions - 1) * columns["channels"][ring] + route["dst_chan"] + channels
    if (
        min(route["dst_pos"], route["dst_chan"]) < 0
        or route["dst_chan"] + channels > columns["channels"][ring]
        or end > columns["pitch"][ring]
    ):
        sound = False
        decoded.report(
            "P071",
            f"puts {positions} x {channels} at position {route['dst_pos']}, channel {route['dst_chan']} of ring"
            f" {ring}, whose slots have {columns['pitch'][ring]} elements of {columns['channels'][ring]} channels",
            step,
        )
    given, wanted = Element(columns["element"][row.a]), Element(columns["element"][ring])
    if given != wanted:
        decoded.report("P074", f"sends {given.name} to ring {ring} of {wanted.name}", step)
    return sound


def _check_ring(decoded: Decoded, tables: Tables, ring: int, parts: list[_Part]) -> None:
    columns = tables.buffers
    length, fill = columns["places"][ring], columns["fill"][ring]
    data = slice(columns["top"][ring], length - columns["bottom"][ring])
    node = decoded.buffer_node(ring)
    by_rectangle: dict[Rectangle, npt.NDArray[np.int64]] = {}
    for part in parts:
        counts = by_rectangle.setdefault(part.rectangle, np.zeros(length, np.int64))
        before = counts.copy()
        np.add.at(counts, part.places, 1)
        twice = np.flatnonzero((counts > 1) & (counts > before))
        if len(twice):
            decoded.report(
                "P072",
                f"place {twice[0]} of an image in ring {ring} gets the same part {counts[twice[0]]} times"
                f" ({len(twice)} places)",
                part.step,
            )
    step_of = {part.rectangle: part.step for part in parts}
    for one, other in combinations(by_rectangle, 2):
        if not _overlap(one, other):
            continue
        both = np.flatnonzero((by_rectangle[one] > 0) & (by_rectangle[other] > 0))
        if len(both):
            decoded.report(
                "P072",
                f"parts {one} and {other} (position, channel, positions, channels) of place {both[0]} in ring"
                f" {ring} overlap",
                step_of[other],
            )
    arrived = np.zeros(length, np.int64)
    for rectangle, counts in by_rectangle.items():
        arrived += np.minimum(counts, 1) * rectangle[2] * rectangle[3]
    wrong = np.flatnonzero(arrived[data] != fill)
    if len(wrong):
        place = int(wrong[0]) + columns["top"][ring]
        message = (
            f"{arrived[place]} of {fill} elements arrive for place {place} of an image in ring {ring}"
            f" ({len(wrong)} of {len(arrived[data])} places)"
        )
        decoded.report("P073", message, parts[0].step if parts else None, node=node)
    padding = arrived.copy()
    padding[data] = 0
    if padding.any():
        place = int(np.flatnonzero(padding)[0])
        message = f"a row is sent to place {place} of ring {ring}, which is outside the image"
        decoded.report("P073", message, parts[0].step)


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return (
        one[0] < other[0] + other[2]
        and other[0] < one[0] + one[2]
        and one[1] < other[1] + other[3]
        and other[1] < one[1] + one[3]
    )


def _check_outputs(decoded: Decoded, tables: Tables) -> None:
    """Every row of every output once an image. An input may be left alone: a model may not use it."""
    written = {
        number: np.zeros(tensor.rows, np.int64)
        for number, tensor in enumerate(decoded.program.io)
        if tensor.direction == "out"
    }
    writer: dict[int, Step] = {}
    for step in decoded.all():
        if step.row.opcode != Opcode.DMA_OUT:
            continue
        writer.setdefault(step.row.imm, step)
        rows = image_rows(step, tables.row_address(step, "b"))
        if rows is None:
            decoded.report("P012", "writes more rows an image than can be enumerated", step)
            continue
        counts = written[step.row.imm]
        np.add.at(counts, rows[(rows >= 0) & (rows < len(counts))], 1)
        if counts.max(initial=0) > 1:
            decoded.report("P052", f"row {int(counts.argmax())} of an output is written again", step)
            np.minimum(counts, 1, out=counts)
    for number, counts in written.items():
        missing = np.flatnonzero(counts == 0)
        if len(missing):
            tensor = decoded.program.io[number]
            text = f"{len(missing)} of {tensor.rows} rows of '{tensor.name}' are never written, first {missing[0]}"
            decoded.report("P052", text, writer.get(number))
