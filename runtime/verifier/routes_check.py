"""What arrives where: rectangles of routes, parts of each ring row, rows of outputs (P070 to P075, P052).

The rows each context sends in one image are enumerated as arrays, so that "parts are disjoint and
complete" is checked for every place of every ring, not sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from cimc.runtime.program.opcodes import BufferKind, Element, Opcode
from cimc.runtime.verifier.arrivals import unclear_rings
from cimc.runtime.verifier.code import Decoded, Step
from cimc.runtime.verifier.operands import Tables
from cimc.runtime.verifier.sends import Ints, Part, Rectangle, Sends, image_rows


def check_routes(decoded: Decoded, tables: Tables) -> None:
    """Report wrong rectangles, overlapping or missing parts, output rows not written once."""
    sends = Sends.of(decoded, tables)
    _check_groups(decoded, sends)
    sound = _check_each(decoded, tables, sends)
    # Stable: parts of a ring stay in the order of their sends.
    routes = sound[np.argsort(sends.routes["ring"][sound], kind="stable")]
    rings = sends.routes["ring"][routes]
    for ring in sorted(unclear_rings(tables, sends, routes)):
        own = routes[np.searchsorted(rings, ring) : np.searchsorted(rings, ring, side="right")]
        check_ring(decoded, tables, ring, sends.parts(tables, own))
    _check_outputs(decoded, tables)


def _check_groups(decoded: Decoded, sends: Sends) -> None:
    """All routes of one multicast of a send carry the same part of its row."""
    routes = sends.routes
    order = np.lexsort((routes["group"], sends.sender))
    sender, group = sends.sender[order], routes["group"][order]
    begins = np.concatenate([[True], (np.diff(sender) != 0) | (np.diff(group) != 0)])[: len(order)]
    first = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    names = ("src_pos", "src_chan", "positions", "channels")
    differs = np.any([routes[name][first] != routes[name][order] for name in names], axis=0)
    for one, other in zip(first[differs].tolist(), order[differs].tolist(), strict=True):
        carried, given = (tuple(int(routes[name][route]) for name in names) for route in (one, other))
        decoded.report(
            "P075",
            f"multicast {routes['group'][one]} carries {carried} and {given}; give the second a group of its own",
            sends.steps[int(sends.sender[one])],
        )


def _check_each(decoded: Decoded, tables: Tables, sends: Sends) -> Ints:
    """Report what is wrong with single routes; the routes whose parts lie in both rows."""
    routes, ring = sends.routes, sends.routes["ring"]
    columns = {
        name: np.array(tables.buffers[name], np.int64) for name in ("kind", "channels", "pitch", "element")
    }

    def of_send(field: str) -> Ints:
        return np.array([getattr(step.row, field) for step in sends.steps], np.int64)[sends.sender]

    m, n, source = of_send("m"), of_send("n"), of_send("a")
    positions, channels = routes["positions"], routes["channels"]
    no_ring = columns["kind"][ring] != BufferKind.RING
    none = np.minimum(positions, channels) < 1
    leaves = none | (routes["src_pos"] + positions > m) | (routes["src_chan"] + channels > n)
    leaves |= np.minimum(routes["src_pos"], routes["src_chan"]) < 0
    end = (routes["dst_pos"] + positions - 1) * columns["channels"][ring] + routes["dst_chan"] + channels
    misses = (np.minimum(routes["dst_pos"], routes["dst_chan"]) < 0) | (end > columns["pitch"][ring])
    misses |= routes["dst_chan"] + channels > columns["channels"][ring]
    given, wanted = columns["element"][source], columns["element"][ring]
    for number in np.flatnonzero(no_ring | leaves | misses | (given != wanted)).tolist():
        step = sends.steps[int(sends.sender[number])]
        route = {name: int(column[number]) for name, column in routes.items()}
        to = route["ring"]
        if no_ring[number]:
            decoded.report("P007", f"a route leads to buffer {to}, which is no ring", step)
            continue
        if leaves[number]:
            decoded.report(
                "P070",
                f"takes positions {route['src_pos']} + {route['positions']} x channels {route['src_chan']} +"
                f" {route['channels']} of a row of {m[number]} x {n[number]}",
                step,
            )
        if misses[number]:
            decoded.report(
                "P071",
                f"puts {route['positions']} x {route['channels']} at position {route['dst_pos']}, channel"
                f" {route['dst_chan']} of ring {to}, whose slots have {columns['pitch'][to]} elements of"
                f" {columns['channels'][to]} channels",
                step,
            )
        if given[number] != wanted[number]:
            names = Element(int(given[number])).name, Element(int(wanted[number])).name
            decoded.report("P074", f"sends {names[0]} to ring {to} of {names[1]}", step)
    return np.flatnonzero(~(no_ring | leaves | misses))


def check_ring(decoded: Decoded, tables: Tables, ring: int, parts: Sequence[Part]) -> None:
    """Report parts that overlap and places that are not filled, of one ring and the parts it gets."""
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
