"""Checks of tables by themselves: form, references between tables, ring records, machine sizes (P001, P002, P032)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.runtime.program.files import table_problems
from cimc.runtime.program.opcodes import BufferKind, Element
from cimc.runtime.program.tables import NONE, Program
from cimc.runtime.verifier.findings import Finding

_SIZES = (
    ("chip", "cores"),
    ("chip", "global_buffer_bytes"),
    ("core", "crossbars"),
    ("core", "contexts"),
    ("core", "local_buffer_bytes"),
    ("crossbar", "rows"),
    ("crossbar", "columns"),
)


_PADS = {
    element: (-(2**31), 2**32 - 1)
    if element == Element.F32
    else (int(np.iinfo(element.dtype.name).min), int(np.iinfo(element.dtype.name).max))
    for element in Element
}
"""What ``pad`` may be; of float32 it is the bit pattern."""


@dataclass(frozen=True)
class Machine:
    """The sizes of ``program.machine`` that programs are checked against."""

    cores: int
    global_buffer_bytes: int
    crossbars: int
    contexts: int
    local_buffer_bytes: int
    rows: int
    columns: int
    logical_cells: bool = False
    """Whether ``columns`` counts weights instead of cells."""

    @staticmethod
    def of(machine: Mapping[str, Any]) -> Machine:
        """From a resolved architecture that :func:`check_tables` found complete."""
        sizes = (int(machine[section][key]) for section, key in _SIZES)
        return Machine(*sizes, logical_cells=bool(machine["crossbar"].get("logical_cells", False)))


def check_tables(program: Program) -> list[Finding]:
    """Findings of P001, P002 and P032; an empty list means that every reference can be followed."""
    problems = [Finding("P001", "-", NONE, NONE, text) for text in table_problems(program.tables)]
    for section, key in _SIZES:
        value = program.machine.get(section, {}).get(key)
        if not isinstance(value, int) or value < 1:
            text = f"the machine's {section}.{key} is {value}; give a resolved architecture"
            problems.append(Finding("P001", "-", NONE, NONE, text))
    if problems:
        return problems
    return _references(program) or _buffers(program)


def _references(program: Program) -> list[Finding]:
    count = program.count
    found: list[Finding] = []

    def need(table: str, column: str, limit: int, *, none: bool = False, kind: str) -> None:
        values = program[table][column]
        bad = (values < (NONE if none else 0)) | (values >= limit)
        for row in np.flatnonzero(bad)[:5]:
            text = f"{table} {row}: {column} is {values[row]}, there are {limit} {kind}"
            found.append(Finding("P002", _node(program, table, int(row)), NONE, NONE, text))

    def spans(table: str, first: str, length: str, limit: int, kind: str, least: int = 0) -> None:
        starts, counts = program[table][first].astype(np.int64), program[table][length].astype(np.int64)
        bad = (starts < 0) | (counts < least) | (starts + counts > limit)
        for row in np.flatnonzero(bad)[:5]:
            text = f"{table} {row}: {kind} {starts[row]} … {starts[row] + counts[row]} of {limit}"
            found.append(Finding("P002", _node(program, table, int(row)), NONE, NONE, text))

    need("bodies", "name", len(program.names), none=True, kind="names")
    spans("bodies", "first", "count", count("instructions"), "instructions", least=1)
    need("contexts", "body", count("bodies"), kind="bodies")
    need("contexts", "stream", count("contexts"), kind="contexts")
    need("contexts", "node", len(program.names), none=True, kind="names")
    need("instructions", "node", len(program.names), none=True, kind="names")
    spans("contexts", "param_first", "param_count", count("params"), "parameters")
    need("buffers", "context", count("contexts"), none=True, kind="contexts")
    need("buffers", "kind", len(BufferKind), kind="kinds")
    need("buffers", "element", len(Element), kind="element types")
    spans("route_sets", "first", "count", count("routes"), "routes")
    need("routes", "ring", count("buffers"), kind="buffers")
    need("array_sets", "context", count("contexts"), kind="contexts")
    need("array_sets", "coding", count("codings"), kind="codings")
    need("array_sets", "tensor", len(program.weights), none=True, kind="tensors of weights")
    spans("array_sets", "tile_first", "tile_count", count("tiles"), "tiles", least=1)
    need("array_sets", "step_first", count("steps") + 1, kind="steps")
    need("tiles", "set", count("array_sets"), kind="array sets")
    spans("records", "i_first", "i_count", count("const_i"), "integers")
    spans("records", "f_first", "f_count", count("const_f"), "floats")
    for number, host in enumerate(program.hosts):
        for buffer in (*host.inputs, *host.outputs):
            if not 0 <= buffer < count("buffers"):
                text = f"host operator {number} names buffer {buffer}, there are {count('buffers')} buffers"
                found.append(Finding("P002", "-", NONE, NONE, text))
    strides = program["strides"]
    if not count("strides") or strides["row"][0].any() or strides["col"][0].any():
        found.append(Finding("P002", "-", NONE, NONE, "strides 0 is not all zero; it stands for no stride"))
    return found


def _node(program: Program, table: str, row: int) -> str:
    """The layer an entry belongs to, where one can be told."""
    columns = program[table]
    node = NONE
    if table == "instructions" or table == "contexts":
        node = int(columns["node"][row])
    elif table == "bodies":
        node = int(columns["name"][row])
    elif "context" in columns:
        owner = int(columns["context"][row])
        if 0 <= owner < program.count("contexts"):
            node = int(program["contexts"]["node"][owner])
    return program.names[node] if 0 <= node < len(program.names) else "-"


def _buffers(program: Program) -> list[Finding]:
    columns = program["buffers"]
    found: list[Finding] = []
    wide = {name: column.astype(np.int64) for name, column in columns.items()}
    ring = wide["kind"] == BufferKind.RING

    def report(bad: npt.NDArray[np.bool_], text: Callable[[int], str]) -> None:
        for row in np.flatnonzero(bad)[:5]:
            message = f"buffers {row}: {text(int(row))}"
            found.append(Finding("P032", _node(program, "buffers", int(row)), NONE, NONE, message))

    empty = (wide["slots"] < 1) | (wide["pitch"] < 1) | (wide["base"] < 0)
    report(empty, lambda r: f"{wide['slots'][r]} slots x {wide['pitch'][r]} elements from {wide['base'][r]}")
    report(
        wide["phase_first"] > wide["phase_last"],
        lambda r: f"live from phase {wide['phase_first'][r]} to {wide['phase_last'][r]}",
    )
    report(
        ring & ((wide["advance"] < 1) | (wide["period"] < wide["advance"]) | (wide["channels"] < 1)),
        lambda r: (
            f"advance {wide['advance'][r]}, period {wide['period'][r]}, channels {wide['channels'][r]};"
            " 1 <= advance <= period and channels >= 1 must hold"
        ),
    )
    report(
        ring & (wide["pitch"] % np.maximum(wide["channels"], 1) != 0),
        lambda r: (
            f"slots of {wide['pitch'][r]} elements are no whole positions of {wide['channels'][r]} channels"
        ),
    )
    rows = wide["last"] - wide["first"] + 1
    period = np.maximum(wide["period"], 1)
    wanted = rows // period * wide["advance"] + np.minimum(rows % period, wide["advance"])
    report(
        ring & ((rows < 1) | (wide["places"] != wanted)),
        lambda r: f"{wide['places'][r]} places, rows {wide['first'][r]} … {wide['last'][r]} make {wanted[r]}",
    )
    outside = (wide["top"] < 0) | (wide["bottom"] < 0) | (wide["top"] + wide["bottom"] > wide["places"])
    report(
        ring & outside,
        lambda r: f"{wide['top'][r]} + {wide['bottom'][r]} padding places of {wide['places'][r]}",
    )
    data = wide["places"] > wide["top"] + wide["bottom"]
    report(
        ring & ((wide["fill"] > wide["pitch"]) | (data & (wide["fill"] < 1))),
        lambda r: f"{wide['fill'][r]} elements make a place of {wide['pitch'][r]} full",
    )
    lows = np.array([_PADS[element][0] for element in Element], np.int64)[wide["element"]]
    highs = np.array([_PADS[element][1] for element in Element], np.int64)[wide["element"]]
    report(
        ring & ((wide["pad"] < lows) | (wide["pad"] > highs)),
        lambda r: f"pads with {wide['pad'][r]}, outside {Element(int(wide['element'][r])).name}",
    )
    return found
