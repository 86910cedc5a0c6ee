"""One deliberate fault at a time: each is reported with its rule, at its node, and a valid program is clean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cimc.diagnostics import CimError
from cimc.runtime.program import Opcode, Program
from cimc.runtime.program.tables import parameter
from cimc.runtime.verifier import RULES, check_program, verify_program

Change = Callable[[Program, str, str, int, int], Program]
Shapes = dict[str, tuple[int, int]]


def row_of(program: Program, node: str, opcode: Opcode, nth: int = 0) -> int:
    """The nth instruction of a kind and node (of the body's name where the row has no node)."""
    ins = program["instructions"]
    bodies = program["bodies"]
    rows: list[int] = []
    for first, count, name in zip(bodies["first"], bodies["count"], bodies["name"], strict=True):
        for row in range(first, first + count):
            if not program.names[name].startswith(node) or ins["opcode"][row] != opcode:
                continue
            rows.append(row)
    return rows[nth]


def context_of(program: Program, node: str, nth: int = 0) -> int:
    """The nth context of a node."""
    names = [program.name_of(node) for node in program["contexts"]["node"]]
    return [i for i, name in enumerate(names) if name == node][nth]


def param_of(program: Program, node: str, number: int, nth: int = 0) -> int:
    """The row of ``params`` of a context."""
    return int(program["contexts"]["param_first"][context_of(program, node, nth)]) + number


def buffer_of(program: Program, node: str, number: int, nth: int = 0) -> int:
    """The buffer a context's parameter names."""
    return int(program["params"]["value"][param_of(program, node, number, nth)])


def test_the_valid_program_is_clean(residual_program: Program, shapes: Shapes) -> None:
    """No finding, with and without weights; ``check_program`` raises nothing."""
    rng = np.random.default_rng(0)
    weights = {name: rng.integers(-128, 128, shape).astype(np.int8) for name, shape in shapes.items()}
    assert verify_program(residual_program) == []
    assert verify_program(residual_program, weights=weights, images=3) == []
    check_program(residual_program, weights_shapes=shapes)


def test_the_order_of_columns_does_not_matter(residual_program: Program, change: Change) -> None:
    """A foreign writer's mapping may list tables and columns in any order; findings stay the same."""

    def shuffled(program: Program) -> Program:
        tables = {
            table: dict(reversed(list(program[table].items()))) for table in reversed(list(program.tables))
        }
        return Program(tables, program.names, program.io, program.hosts, program.weights, program.machine)

    assert verify_program(shuffled(residual_program)) == []
    broken = change(residual_program, "routes", "dst_pos", 0, 3)
    assert verify_program(shuffled(broken)) == verify_program(broken) != []


_INSTRUCTION_FAULTS = [
    # rule, node, opcode, nth, column, value
    ("P006", "add", Opcode.ALU, 0, "func", 99),
    ("P006", "conv1", Opcode.READ_XB, 0, "func", 2),
    ("P006", "conv1", Opcode.FREE, 0, "opcode", 40),
    ("P003", "conv1", Opcode.END, 0, "opcode", int(Opcode.SIGNAL)),
    ("P003", "conv1", Opcode.LOOP, 0, "opcode", int(Opcode.HALT)),
    ("P003", "add", Opcode.HALT, 0, "opcode", int(Opcode.SIGNAL)),
    ("P003", "add", Opcode.LOOP, 1, "func", 1),
    ("P005", "conv1", Opcode.RECV, 0, "a", parameter(6)),
    ("P005", "conv1", Opcode.SEND, 0, "b_st", parameter(0)),
    ("P007", "add", Opcode.ALU, 0, "dst", 999),
    ("P007", "add", Opcode.ALU, 0, "dst", parameter(0)),
    ("P007", "conv1", Opcode.RECV, 0, "a", parameter(4)),
    ("P008", "conv1", Opcode.READ_XB, 0, "a_st", 77),
    ("P008", "conv1", Opcode.ALU, 0, "b_st", 77),
    ("P009", "conv1", Opcode.READ_XB, 0, "imm", 9),
    ("P009", "conv1", Opcode.READ_XB, 0, "xb", 9),
    ("P009", "add", Opcode.SEND, 0, "imm", 9),
    ("P009", "add", Opcode.SEND, 0, "dst", 0),
    ("P009", "add", Opcode.ALU, 0, "imm", 9),
    ("P009", "x", Opcode.WAIT, 0, "imm", 9),
    ("P009", "x", Opcode.DMA_IN, 0, "imm", 1),
    ("P009", "tail", Opcode.DMA_OUT, 0, "imm", 5),
    ("P009", "tail", Opcode.HOST, 0, "imm", 3),
    ("P009", "tail", Opcode.COPY, 0, "imm", 3),
    ("P010", "add", Opcode.ALU, 0, "imm", 0),
    ("P011", "conv1", Opcode.READ_XB, 0, "dst", parameter(5)),
    ("P011", "conv1", Opcode.READ_XB, 0, "a", parameter(4)),
    ("P011", "conv1", Opcode.ALU, 0, "a", parameter(5)),
    ("P011", "conv2.1", Opcode.ALU, 0, "dst", parameter(3)),
    ("P012", "conv1", Opcode.LOOP, 1, "n", -1),
    ("P012", "conv1", Opcode.ALU, 0, "m", 0),
    ("P012", "x", Opcode.WAIT, 0, "n", -1),
    ("P012", "x", Opcode.LOOP, 0, "func", 0),
    ("P014", "conv1", Opcode.READ_XB, 0, "n", 3),
    ("P014", "conv1", Opcode.READ_XB, 0, "imm", 1),
    ("P023", "add", Opcode.ALU, 0, "dst", 3),
    ("P024", "add", Opcode.ALU, 0, "dst", 0),
    ("P040", "conv1", Opcode.READ_XB, 0, "a_col", 1),
    ("P040", "conv1", Opcode.READ_XB, 0, "dst_col", 1),
    ("P040", "conv1", Opcode.ALU, 0, "m", 6),
    ("P040", "tail", Opcode.COPY, 0, "dst_col", 1),
    ("P041", "conv1", Opcode.READ_XB, 0, "a_row", 1),
    ("P041", "conv1", Opcode.READ_XB, 0, "a_row", -1),
    ("P041", "conv1", Opcode.RECV, 1, "n", 1),
    ("P042", "conv1", Opcode.RECV, 0, "n", 2),
    ("P042", "conv1", Opcode.FREE, 0, "n", 1),
    ("P042", "conv1", Opcode.FREE, 0, "n", 4),
    ("P043", "conv1", Opcode.READ_XB, 0, "b_col", 3),
    ("P043", "conv1", Opcode.WRITE_XB, 0, "b_row", 1),
    ("P043", "conv2.0", Opcode.READ_ROW, 1, "b_row", 2),
    ("P043", "conv2.0", Opcode.READ_ROW, 1, "b_col", 16),
    ("P044", "x", Opcode.DMA_IN, 0, "b_row", 1),
    ("P044", "x", Opcode.DMA_IN, 0, "n", 2),
    ("P045", "conv1", Opcode.ALU, 0, "b_col", 1),
    ("P050", "conv1", Opcode.READ_XB, 0, "func", 1),
    ("P050", "conv1", Opcode.LOOP, 2, "n", 4),
    ("P051", "conv1", Opcode.WRITE_XB, 0, "b_col", 1),
    ("P051", "conv2.0", Opcode.WRITE_ROW, 0, "b_col", 1),
    ("P052", "tail", Opcode.LOOP, 2, "n", 5),
    ("P052", "tail", Opcode.DMA_OUT, 0, "b_st", 0),
    ("P070", "conv1", Opcode.SEND, 0, "n", 3),
    ("P070", "conv1", Opcode.SEND, 0, "m", 4),
    ("P072", "add", Opcode.SEND, 0, "b_st", 0),
    ("P072", "conv1", Opcode.SEND, 0, "b_row", 0),
    ("P073", "conv1", Opcode.SEND, 0, "b_row", 0),
    ("P073", "x", Opcode.LOOP, 1, "n", 5),
    ("P074", "conv2.1", Opcode.SEND, 0, "a", parameter(1)),
    ("P080", "x", Opcode.WAIT, 0, "n", 5),
    ("P080", "conv1", Opcode.SIGNAL, 0, "n", 0),
    ("P084", "x", Opcode.WAIT, 0, "n", 3),
    ("P084", "x", Opcode.WAIT, 0, "n", 2),
    ("P083", "tail", Opcode.LOOP, 1, "n", 5),
]


@pytest.mark.parametrize(("rule", "node", "opcode", "nth", "column", "value"), _INSTRUCTION_FAULTS)
def test_a_wrong_field_is_reported(
    residual_program: Program,
    change: Change,
    shapes: Shapes,
    rule: str,
    node: str,
    opcode: Opcode,
    nth: int,
    column: str,
    value: int,
) -> None:
    """One field of one instruction: the rule, the node, and where the rule is about the row, the row."""
    row = row_of(residual_program, node, opcode, nth)
    findings = verify_program(
        change(residual_program, "instructions", column, row, value), weights_shapes=shapes
    )
    matching = [f for f in findings if f.rule == rule and f.node == node.partition(".")[0]]
    assert matching, "\n".join(map(str, findings)) or "clean"
    assert all(f.rule in RULES for f in findings)


def test_exact_rows_are_named(residual_program: Program, change: Change) -> None:
    """A fault in a row is reported at this row of the first context that runs it, and counted for the others."""
    row = row_of(residual_program, "conv1", Opcode.READ_XB)
    (finding,) = verify_program(change(residual_program, "instructions", "a_col", row, 1))
    assert (finding.rule, finding.row, finding.context) == (
        "P040",
        row,
        context_of(residual_program, "conv1"),
    )
    assert finding.message.startswith("operand a touches elements 1 … 21 of a slot of buffer")
    assert finding.message.endswith("(and 1 more like it)")


def test_the_image_loop_is_the_outermost_around_sends(residual_program: Program, change: Change) -> None:
    """A plain loop in its place leaves sends without an image number."""
    row = row_of(residual_program, "x", Opcode.LOOP)
    plain = change(change(residual_program, "instructions", "func", row, 0), "instructions", "n", row, 2)
    assert {(f.rule, f.node) for f in verify_program(plain)} == {("P013", "x")}


def test_seven_loops_are_too_many(residual_program: Program, change: Change) -> None:
    """The rows from the wait to the send become loops: the seventh is refused."""
    program = residual_program
    first = row_of(program, "conv1", Opcode.WRITE_XB)
    for row in range(first, first + 8):
        for column, value in (("opcode", Opcode.LOOP), ("func", 0), ("n", 1)):
            program = change(program, "instructions", column, row, value)
    assert ("P004", "conv1") in {(f.rule, f.node) for f in verify_program(program)}


_TABLE_FAULTS = [
    # rule, node, table, column, row (or what finds it), value
    ("P002", "conv1", "bodies", "count", 1, 500),
    ("P002", "conv1", "contexts", "body", 1, 50),
    ("P002", "conv1", "contexts", "param_count", 1, 99),
    ("P002", "conv1", "contexts", "stream", 1, -2),
    ("P002", "conv1", "buffers", "element", 1, 9),
    ("P002", "conv1", "buffers", "kind", 1, 4),
    ("P002", "-", "buffers", "context", 1, 77),
    ("P002", "-", "routes", "ring", 0, 77),
    ("P002", "-", "route_sets", "count", 0, 77),
    ("P002", "conv1", "array_sets", "tensor", 0, 7),
    ("P002", "conv1", "array_sets", "tile_count", 0, 0),
    ("P002", "-", "tiles", "set", 0, 7),
    ("P002", "-", "records", "i_count", 0, 999),
    ("P002", "-", "strides", "row", 0, 1),
    ("P020", "conv1", "contexts", "core", 1, 6),
    ("P020", "conv1", "contexts", "core", 1, -1),
    ("P020", "conv1", "buffers", "core", 1, 5),
    ("P020", "conv1", "buffers", "core", 1, 600),
    ("P022", "conv1", "contexts", "stream", 2, 1),
    ("P024", "conv1", "contexts", "core", 1, 2),
    ("P024", "conv1", "contexts", "phase", 1, 1),
    ("P032", "conv1", "buffers", "phase_first", 1, 1),
    ("P025", "conv1", "array_sets", "context", 0, 2),
    ("P025", "conv1", "array_sets", "phase", 0, 1),
    ("P030", "conv1", "buffers", "base", 1, 1000),
    ("P031", "conv1", "buffers", "base", 2, 0),
    ("P032", "conv1", "buffers", "slots", 1, 0),
    ("P032", "conv1", "buffers", "pitch", 1, 0),
    ("P032", "conv1", "buffers", "base", 1, -8),
    ("P032", "conv1", "buffers", "phase_last", 1, -1),
    ("P032", "conv1", "buffers", "advance", 1, 0),
    ("P032", "conv1", "buffers", "places", 1, 8),
    ("P032", "conv1", "buffers", "top", 1, 9),
    ("P032", "conv1", "buffers", "fill", 1, 22),
    ("P032", "conv1", "buffers", "pad", 1, 256),
    ("P032", "conv1", "buffers", "channels", 1, 4),
    ("P032", "conv1", "buffers", "channels", 1, 0),
    ("P032", "conv1", "buffers", "pad", 1, -1),
    ("P042", "conv1", "buffers", "slots", 1, 2),
    ("P060", "conv1", "tiles", "xbar", 0, 4),
    ("P061", "conv1", "tiles", "xbar", 0, 1),
    ("P062", "conv1", "tiles", "k1", 0, 17),
    ("P063", "conv1", "tiles", "k1", 0, 15),
    ("P063", "conv1", "tiles", "set", 0, 1),
    ("P063", "conv1", "tiles", "n1", 0, 3),
    ("P014", "conv1", "array_sets", "k0", 0, 1),
    ("P014", "conv2", "array_sets", "k1", 3, 2),
    ("P064", "conv2", "array_sets", "tensor", 2, 0),
    ("P066", "-", "codings", "fields", 0, 40),
    ("P066", "conv1", "steps", "h", 0, 0),
    ("P066", "conv1", "steps", "h", 0, 65536),
    ("P066", "conv1", "array_sets", "step_first", 0, 2),
    ("P070", "x", "routes", "src_pos", 0, 1),
    ("P070", "x", "routes", "channels", 0, 4),
    ("P071", "x", "routes", "dst_pos", 0, 3),
    ("P071", "x", "routes", "dst_chan", 0, 1),
    ("P072", "x", "routes", "ring", 1, 1),
    ("P073", "conv1", "routes", "ring", 1, 1),
    ("P073", "x", "routes", "positions", 0, 4),
    ("P073", "x", "buffers", "top", 1, 0),
    ("P073", "x", "buffers", "fill", 1, 14),
    ("P075", "x", "routes", "channels", 0, 2),
    ("P007", "x", "routes", "ring", 0, 2),
    ("P080", "x", "events", "initial", 0, -1),
]


@pytest.mark.parametrize(("rule", "node", "table", "column", "row", "value"), _TABLE_FAULTS)
def test_a_wrong_table_entry_is_reported(
    residual_program: Program,
    change: Change,
    shapes: Shapes,
    rule: str,
    node: str,
    table: str,
    column: str,
    row: int,
    value: int,
) -> None:
    """One number of a table that is not code: the rule and the node it touches."""
    findings = verify_program(change(residual_program, table, column, row, value), weights_shapes=shapes)
    assert (rule, node) in {(f.rule, f.node) for f in findings}, "\n".join(map(str, findings)) or "clean"


_PARAMETER_FAULTS = [
    # rule, node, context of the node, parameter, value: conv1 has (ring, turns, set, first row, acc, out)
    ("P007", "conv1", 1, 0, 900),
    ("P005", "conv1", 1, 1, 2**40),
    ("P012", "conv1", 1, 1, -4),
    ("P023", "conv1", 1, 0, 1),
    ("P025", "conv1", 1, 2, 0),
    ("P072", "conv1", 1, 3, 0),
    ("P080", "conv1", 1, 1, 4),
    ("P011", "conv1", 1, 4, 6),
]


@pytest.mark.parametrize(("rule", "node", "nth", "number", "value"), _PARAMETER_FAULTS)
def test_a_wrong_parameter_is_reported_for_its_context(
    residual_program: Program, change: Change, rule: str, node: str, nth: int, number: int, value: int
) -> None:
    """One parameter of one copy: the finding names this copy's context, not the other's."""
    row = param_of(residual_program, node, number, nth)
    findings = verify_program(change(residual_program, "params", "value", row, value))
    matching = [f for f in findings if f.rule == rule and f.node == node]
    assert matching, "\n".join(map(str, findings)) or "clean"
    wrong = context_of(residual_program, node, nth)
    assert any(f.context in (wrong, -1) for f in matching)


def test_a_copy_that_sends_other_rows(residual_program: Program, change: Change) -> None:
    """Its rows are missing in the ring they should go to; the message counts the places."""
    row = param_of(residual_program, "conv1", 3, 1)
    (finding,) = verify_program(change(residual_program, "params", "value", row, 3))
    assert (finding.rule, finding.node) == ("P073", "conv1")
    assert "0 of 20 elements arrive for place 1 of an image" in finding.message
    assert finding.message.endswith("(1 of 6 places)")


def test_a_whole_buffer_written_in_part(residual_program: Program, change: Change) -> None:
    """The copies of rows into the host operator's tensor leave elements at its end out."""
    (finding,) = verify_program(change(residual_program, "copies", "n1", 0, 3))
    assert (finding.rule, finding.node) == ("P050", "tail")
    assert finding.row == row_of(residual_program, "tail", Opcode.HOST)


def test_missing_machine_sizes_and_tables(residual_program: Program) -> None:
    """Without the sizes nothing can be checked: they are named; so are missing tables."""
    p = residual_program
    bare = Program(p.tables, p.names, p.io, p.hosts, p.weights, {"chip": {"cores": 6}})
    findings = verify_program(bare)
    assert {f.rule for f in findings} == {"P001"}
    assert any("core.crossbars is None" in f.message for f in findings)
    cut = {table: columns for table, columns in p.tables.items() if table != "routes"}
    broken = Program(cut, p.names, p.io, p.hosts, p.weights, p.machine)
    assert [f.message for f in verify_program(broken)] == ["table 'routes' is missing"]


def test_too_many_contexts_on_a_core(residual_program: Program) -> None:
    """One context a core, two placed: the machine's number is in the message."""
    p = residual_program
    machine = {**p.machine, "core": {**p.machine["core"], "contexts": 1}}
    assert verify_program(Program(p.tables, p.names, p.io, p.hosts, p.weights, machine)) == []
    contexts = {**p["contexts"], "core": np.where(p["contexts"]["core"] == 4, 3, p["contexts"]["core"])}
    moved = Program({**p.tables, "contexts": contexts}, p.names, p.io, p.hosts, p.weights, machine)
    messages = [f.message for f in verify_program(moved) if f.rule == "P021"]
    assert messages == ["core 3 runs more than its 1 contexts in phase 0; place the stage elsewhere"]


def test_all_findings_are_raised_together(residual_program: Program, change: Change) -> None:
    """``check_program`` raises every finding, each with place, rule and sentence; exit code 1."""
    broken = change(residual_program, "buffers", "base", 1, 1000)
    broken = change(broken, "tiles", "xbar", 0, 4)
    with pytest.raises(CimError) as caught:
        check_program(broken)
    assert caught.value.exit_code == 1
    assert "conv1: buffer 1 takes bytes 1000 … 1062" in str(caught.value)
    assert "[P060: crossbar numbers lie inside the core]" in str(caught.value)
