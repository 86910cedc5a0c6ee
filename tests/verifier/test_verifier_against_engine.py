"""The verifier against the engine that runs on data: what the one lets pass, the other executes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from cimc.diagnostics import CimError
from cimc.runtime.functional import run_program
from cimc.runtime.program import SCHEMAS, Program
from cimc.runtime.verifier import verify_program

Change = Callable[[Program, str, str, int, int], Program]

_MUTATIONS = 150


def identity_model() -> bytes:
    """A one-node model for the host operator: uint8 (1, 6, 5, 4) to the same."""
    from onnx import TensorProto, helper

    shape = (1, 6, 5, 4)
    inputs = [helper.make_tensor_value_info("a", TensorProto.UINT8, shape)]
    outputs = [helper.make_tensor_value_info("b", TensorProto.UINT8, shape)]
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model.SerializeToString()


def mutate(program: Program, change: Change, rng: random.Random) -> Program:
    """One number of one table changed, to a neighbour, a small number or the end of its type."""
    tables = [table for table in SCHEMAS if program.count(table) and table != "const_f"]
    table = rng.choice([*["instructions"] * 6, *tables])
    column = rng.choice(list(SCHEMAS[table]))
    row = rng.randrange(program.count(table))
    values = program[table][column]
    limits = np.iinfo(values.dtype)
    old = int(values.reshape(len(values), -1)[row, 0])
    small = rng.choice([0, 1, -1, 2, rng.randint(-12, 40)])
    value = rng.choice([old + 1, old - 1, small, small, small, limits.max, limits.min])
    return change(program, table, column, row, min(max(value, limits.min), limits.max))


def test_the_verifier_survives_any_table(residual_program: Program, change: Change) -> None:
    """Several changes at once, meaningless numbers included: findings, never an exception of its own."""
    rng = random.Random(7)
    found: Counter[str] = Counter()
    for _ in range(600):
        program = residual_program
        for _ in range(rng.randint(1, 4)):
            program = mutate(program, change, rng)
        found.update({finding.rule for finding in verify_program(program)})
    assert len(found) > 30, sorted(found)


@pytest.mark.parametrize("seed", range(4))
def test_what_the_verifier_passes_the_engine_executes(
    residual_program: Program, change: Change, shapes: dict[str, tuple[int, int]], seed: int
) -> None:
    """Random single changes of a valid program: the verifier never fails itself, and a program without
    findings runs to its end on random data without breaking a rule. Both kinds of change occur."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    weights = {name: numbers.integers(-128, 128, shape).astype(np.int8) for name, shape in shapes.items()}
    x = numbers.integers(0, 256, (3, 3, 6, 5)).astype(np.uint8)
    model = identity_model()
    outcomes: Counter[str] = Counter()
    for _ in range(_MUTATIONS):
        program = mutate(residual_program, change, rng)
        if verify_program(program, weights=weights):
            outcomes["refused"] += 1
            continue
        outcomes["passed"] += 1
        try:
            run_program(program, weights, {"x": x}, hosts=lambda _: model)
        except CimError as error:
            pytest.fail(f"the verifier passed a program that fails: {error}")
    assert min(outcomes["refused"], outcomes["passed"]) > _MUTATIONS // 10
