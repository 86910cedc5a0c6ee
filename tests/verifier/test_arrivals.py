"""What arrives in rings, seen at once for all of them, against each element painted by itself."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from cimc.runtime.program import SCHEMAS, BufferKind, Opcode, Program
from cimc.runtime.verifier.arrivals import unclear_rings
from cimc.runtime.verifier.code import Decoded, decode
from cimc.runtime.verifier.fields_check import check_fields
from cimc.runtime.verifier.operands import Tables
from cimc.runtime.verifier.routes_check import check_ring
from cimc.runtime.verifier.sends import Sends, image_rows
from cimc.runtime.verifier.tables_check import check_tables

Change = Callable[[Program, str, str, int, int], Program]

_RING_FIELDS = ("first", "last", "period", "advance", "places", "top", "bottom", "fill")


def changed(program: Program, change: Change, rng: random.Random) -> Program:
    """One number changed that says which rows go where."""
    sends = np.flatnonzero(program["instructions"]["opcode"] == Opcode.SEND).tolist()
    table = rng.choice(["instructions", "routes", "routes", "route_sets", "buffers"])
    column = rng.choice(
        {"instructions": ("b_row", "b_st", "imm"), "buffers": _RING_FIELDS}.get(table, list(SCHEMAS[table]))
    )
    row = rng.choice(sends) if table == "instructions" else rng.randrange(program.count(table))
    old = int(program[table][column][row])
    return change(program, table, column, row, max(0, old + rng.choice([-2, -1, 1, 2, 3])))


def inside(tables: Tables, route: dict[str, int], width: int, channels: int) -> bool:
    """Whether a route's part lies in the row sent and in the ring's."""
    ring = route["ring"]
    if tables.buffers["kind"][ring] != BufferKind.RING or min(route["positions"], route["channels"]) < 1:
        return False
    given = (
        route["src_pos"] + route["positions"] <= width and route["src_chan"] + route["channels"] <= channels
    )
    lanes, pitch = tables.buffers["channels"][ring], tables.buffers["pitch"][ring]
    end = (route["dst_pos"] + route["positions"] - 1) * lanes + route["dst_chan"] + route["channels"]
    return given and route["dst_chan"] + route["channels"] <= lanes and end <= pitch


def painted(decoded: Decoded, tables: Tables) -> set[int]:
    """Rings of which some place has an element twice, or more or fewer elements than it is to get: one at a time."""
    program, columns = decoded.program, tables.buffers
    rings = [ring for ring, kind in enumerate(columns["kind"]) if kind == BufferKind.RING]
    counts = {ring: np.zeros((columns["places"][ring], columns["pitch"][ring]), int) for ring in rings}
    for step in decoded.all():
        if step.row.opcode != Opcode.SEND:
            continue
        rows = image_rows(step, tables.row_address(step, "b"))
        assert rows is not None
        first, count = (int(program["route_sets"][name][step.row.imm]) for name in ("first", "count"))
        for number in range(first, first + count):
            route = {name: int(column[number]) for name, column in program["routes"].items()}
            if not inside(tables, route, step.row.m, step.row.n):
                continue
            ring = route["ring"]
            taken = [
                row
                for row in range(columns["first"][ring], columns["last"][ring] + 1)
                if (row - columns["first"][ring]) % columns["period"][ring] < columns["advance"][ring]
            ]
            for row in rows.tolist():
                if row not in taken:
                    continue
                for position in range(route["dst_pos"], route["dst_pos"] + route["positions"]):
                    at = position * columns["channels"][ring] + route["dst_chan"]
                    counts[ring][taken.index(row), at : at + route["channels"]] += 1
    wrong: set[int] = set()
    for ring, own in counts.items():
        due = np.full(len(own), columns["fill"][ring])
        due[: columns["top"][ring]] = 0
        due[len(own) - columns["bottom"][ring] :] = 0
        if own.max(initial=0) > 1 or (own.sum(axis=1) != due).any():
            wrong.add(ring)
    return wrong


def test_rings_are_judged_as_if_every_element_was_painted(residual_program: Program, change: Change) -> None:
    """No ring that gets something wrong is taken for a good one, and each such ring has a finding, of 250 programs."""
    rng = random.Random(11)
    good = bad = 0
    for _ in range(250):
        program = residual_program
        for _ in range(rng.randint(1, 2)):
            program = changed(program, change, rng)
        if check_tables(program):
            continue
        decoded, tables = decode(program, 2), Tables.of(program)
        check_fields(decoded, tables)
        if decoded.findings:
            continue
        sends = Sends.of(decoded, tables)
        columns = sends.routes
        sound = np.array(
            [
                inside(tables, {name: int(column[i]) for name, column in columns.items()}, row.m, row.n)
                for i, row in enumerate(sends.steps[int(sender)].row for sender in sends.sender)
            ]
        )
        routes = np.flatnonzero(sound)[np.argsort(columns["ring"][sound], kind="stable")]
        unclear, wrong = unclear_rings(tables, sends, routes), painted(decoded, tables)
        assert wrong <= unclear
        for ring in unclear:
            decoded.findings.clear()
            check_ring(decoded, tables, ring, sends.parts(tables, routes[columns["ring"][routes] == ring]))
            assert bool(decoded.findings) == (ring in wrong), ring
        bad += bool(wrong)
        good += not wrong
    assert bad > 60, bad
    assert good > 12, good
