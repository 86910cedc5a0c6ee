"""Crossbars that two phases use: the order of writes and reads is proven, and every broken order is found (P085)."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cimc.compiler import CompileOptions, build
from cimc.mapping_options import MappingOptions
from cimc.runtime.program import Program
from cimc.runtime.program.opcodes import WRITES, Opcode
from cimc.runtime.verifier import verify_program
from tests.mapping.small_machine import small_machine

LAYERS = 8


def network() -> ModelProto:
    """1 x 1 convolutions of 2 to 8 channels over 4 x 4 pixels."""
    rng = np.random.default_rng(3)
    widths = [4, *(int(n) for n in rng.integers(2, 9, LAYERS))]
    weights = [
        numpy_helper.from_array(rng.normal(size=(after, before, 1, 1)).astype(np.float32), f"w{i}")
        for i, (before, after) in enumerate(pairwise(widths))
    ]
    nodes = [helper.make_node("Conv", [f"v{i}", f"w{i}"], [f"v{i + 1}"], f"conv{i}") for i in range(LAYERS)]
    x = helper.make_tensor_value_info("v0", TensorProto.FLOAT, [1, 4, 4, 4])
    y = helper.make_tensor_value_info(f"v{LAYERS}", TensorProto.FLOAT, [1, widths[-1], 4, 4])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


@pytest.fixture(scope="module")
def program() -> Program:
    """The network on two cores of three crossbars: several phases, some of which leave crossbars free."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ranges from random numbers serve here
        arch = small_machine(cores=2, crossbars=3, contexts=3, allow_writes=True)
        compiled = build(network(), arch, None, CompileOptions(mapping=MappingOptions(scheduler="none")))
    assert compiled.linked is not None
    return compiled.linked.program


def swapped(program: Program, row: int) -> Program:
    """Two rows of the instruction table change places."""
    columns = {name: column.copy() for name, column in program["instructions"].items()}
    for column in columns.values():
        column[[row, row + 1]] = column[[row + 1, row]]
    return replace(program, tables={**program.tables, "instructions": columns})


def without_wait(program: Program, row: int) -> Program:
    """A wait that waits for nothing."""
    columns = {name: column.copy() for name, column in program["instructions"].items()}
    columns["n"][row] = 0
    return replace(program, tables={**program.tables, "instructions": columns})


def rows_of(program: Program, first: int, second: frozenset[Opcode]) -> list[int]:
    """Rows of operation ``first`` right before one of ``second``."""
    codes = program["instructions"]["opcode"].tolist()
    return [i for i in range(len(codes) - 1) if codes[i] == first and codes[i + 1] in second]


def rules(program: Program) -> Counter[str]:
    """Findings by rule."""
    return Counter(finding.rule for finding in verify_program(program))


def test_writes_are_early_where_crossbars_are_free_and_the_order_is_proven(program: Program) -> None:
    """Some bodies write before they wait for their phase, some behind; the program has no finding."""
    assert int(program["contexts"]["phase"].max()) >= 2
    codes = program["instructions"]["opcode"].tolist()
    early = [i for i, code in enumerate(codes) if code in WRITES and Opcode.WAIT in codes[i + 1 : i + 3]]
    assert early
    assert rows_of(program, Opcode.WAIT, WRITES)
    streams = Counter(program["contexts"]["stream"].tolist())
    assert max(streams.values()) > 1, "control streams are continued"
    assert rules(program) == Counter()


def test_a_write_before_the_wait_that_orders_it_is_found(program: Program) -> None:
    """Every body whose write stands behind a wait: with the two swapped, or the wait for nothing, P085 names it, unless
    program order keeps the write in its place; a turn among early writes orders no cells."""
    found = 0
    for row in rows_of(program, Opcode.WAIT, WRITES):
        for wrong in (swapped(program, row), without_wait(program, row)):
            found += "P085" in rules(wrong)
    assert found >= 2


def test_a_later_phase_on_the_same_crossbars_without_its_stream_is_found(program: Program) -> None:
    """A context taken out of its control stream starts at once: its early write meets cells that may still be read."""
    streams = program["contexts"]["stream"].tolist()
    cores = program["contexts"]["core"].tolist()
    taken = [c for c, stream in enumerate(streams) if stream != c and cores[c] >= 0]
    found = 0
    for context in taken:
        columns = {name: column.copy() for name, column in program["contexts"].items()}
        if context in streams:
            continue
        columns["stream"][context] = context
        wrong = replace(program, tables={**program.tables, "contexts": columns})
        found += "P085" in rules(wrong)
    assert found >= 1
