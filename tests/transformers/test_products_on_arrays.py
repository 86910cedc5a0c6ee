"""Products of two activations on arrays that are written for every image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import cimc
from cimc.backends.protocol import BaseBackend
from cimc.backends.registry import resolve_backend
from cimc.backends.schema import Architecture
from cimc.checking import check_model
from cimc.dialects.cim import StageOp
from cimc.dialects.graph import MatmulOp, QuantizeOp
from cimc.dialects.graph_types import quant_of
from cimc.mapping_options import MappingOptions
from cimc.passes.schedule.copies.stage_costs import stages_of
from cimc.runtime.cycle import simulate
from cimc.runtime.program import Opcode, Program
from cimc.runtime.program.assembler import assemble
from cimc.runtime.program.text import disassemble
from cimc.runtime.verifier import verify_program
from cimc.verification import verify

Array = npt.NDArray[Any]

HEADS, WIDTH = 2, 16


def attention(tokens: int, width: int = WIDTH) -> ModelProto:
    """Self-attention of ``tokens`` rows, two heads of ``width``, with projections on both sides."""
    rng, size, node = np.random.default_rng(0), HEADS * width, helper.make_node
    stored = {
        f"w{name}": (rng.standard_normal((size, size)) / np.sqrt(size)).astype(np.float32) for name in "qkvo"
    }
    stored["heads"] = np.array([1, tokens, HEADS, width])
    stored["rows"] = np.array([1, tokens, size])
    stored["scale"] = np.array([width**-0.5], np.float32)
    nodes: list[Any] = []
    for name in "qkv":
        order = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [
            node("MatMul", ["x", f"w{name}"], [f"{name}0"], name=f"{name}_projection"),
            node("Reshape", [f"{name}0", "heads"], [f"{name}1"]),
            node("Transpose", [f"{name}1"], [name], perm=order),
        ]
    nodes += [
        node("MatMul", ["q", "k"], ["s"], name="scores"),
        node("Mul", ["s", "scale"], ["t"]),
        node("Softmax", ["t"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["o"], name="values"),
        node("Transpose", ["o"], ["o1"], perm=[0, 2, 1, 3]),
        node("Reshape", ["o1", "rows"], ["o2"]),
        node("MatMul", ["o2", "wo"], ["y"], name="out"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, tokens, size]) for n in "xy"]
    weights = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "attention", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def changed(machine: str, **keys: Any) -> Architecture:
    """A machine with other numbers, by section and key."""
    fields = resolve_backend(machine).architecture().model_dump(mode="json")
    for path, value in keys.items():
        section, key = path.split("__")
        fields[section][key] = value
    return Architecture.model_validate(fields)


TILES = changed("jain", crossbar__rows=16, crossbar__parallel_rows=8)
"""Two row tiles for 24 tokens, the last of them half full."""


def inputs(tokens: int, frames: int = 1, width: int = WIDTH) -> dict[str, Array]:
    """Seeded normal rows."""
    shape = (frames, tokens, HEADS * width)
    return {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


@lru_cache(maxsize=8)
def compiled(machine: str, products: str, tokens: int = 24, width: int = WIDTH) -> Any:
    """The attention block on a machine, calibrated on the inputs of the tests."""
    mapping = MappingOptions.model_validate({"products": products})
    arch = TILES if machine == "tiles" else machine
    return cimc.compile(attention(tokens, width), arch, mapping=mapping, calibration=inputs(tokens, 2, width))


def writes(program: Program) -> Array:
    """Rows of the instruction table that write activations."""
    return np.flatnonzero(program["instructions"]["opcode"] == Opcode.WRITE_LOCAL)


def on_arrays(artifact: Any) -> list[MatmulOp]:
    """Products of level 2 that arrays compute."""
    module, _ = artifact.level("quantised")
    return [op for op in module.walk() if isinstance(op, MatmulOp) and op.on_arrays is not None]


@pytest.mark.parametrize("machine", ["jain", "isaac", "jia", "tiles"])
def test_all_levels_give_the_same(machine: str) -> None:
    """Wordline mode on SRAM and ReRAM, core mode, and a matrix of several tiles: level 2, level 3 and the stream."""
    artifact = compiled(machine, "arrays")
    assert len(on_arrays(artifact)) == 1
    x = inputs(24, 3)
    runs = [artifact.run(x, engine=e).outputs["y"] for e in ("quantised", "mapped", "program")]
    np.testing.assert_array_equal(runs[1], runs[0])
    np.testing.assert_array_equal(runs[2], runs[0])
    program = artifact.program
    assert len(writes(program))
    (product,) = (
        s for s in stages_of(artifact.level("mapped")[0]) if s.frame_product and s.frame_product.coding
    )
    assert (program["array_sets"]["tensor"] == -1).sum() == HEADS * product.copies.value.data
    assert verify_program(program, weights=artifact.weights) == []
    again = assemble(disassemble(program))
    assert all(
        np.array_equal(program[table][name], again[table][name])
        for table in program.tables
        for name in program[table]
    )


@pytest.mark.slow
def test_columns_of_a_head_lie_on_several_cores() -> None:
    """Heads of 48 columns where a core has one array of 32: two contexts a head, of 32 and of 16 columns."""
    artifact, x = compiled("jia", "arrays", 8, 48), inputs(8, 1, 48)
    sets = artifact.program["array_sets"]
    live = sets["tensor"] == -1
    assert (sets["n1"] - sets["n0"])[live].tolist() == [32, 16] * HEADS
    assert len(set(sets["core"][live].tolist())) == 2 * HEADS
    runs = [artifact.run(x, engine=e).outputs["y"] for e in ("quantised", "mapped", "program")]
    np.testing.assert_array_equal(runs[1], runs[0])
    np.testing.assert_array_equal(runs[2], runs[0])
    assert verify_program(artifact.program, weights=artifact.weights) == []


@pytest.mark.slow
def test_verify_finds_every_level_the_same() -> None:
    """`cimc verify` on three frames: every pass keeps its promise, and the program, whose phases hold one frame, is run
    in as many calls."""
    mapping = MappingOptions.model_validate({"products": "arrays"})
    report = verify(attention(8), "jain", inputs=inputs(8, 3), mapping=mapping)
    assert report.ok, report.text()
    assert report.array_macs == report.total_macs


def test_the_step_by_step_engine_agrees() -> None:
    """Element by element, tile by tile, digit by digit."""
    artifact, x = compiled("jain", "arrays", 8), inputs(8)
    np.testing.assert_array_equal(artifact.run(x, walk=True).outputs["y"], artifact.run(x).outputs["y"])


def test_the_product_is_onnxruntimes() -> None:
    """MatMulInteger on our codes of both operands, times both scales, as codes of the next product: to the last bit
    what the arrays gave."""
    artifact, x = compiled("jain", "arrays"), inputs(24)
    (op,) = on_arrays(artifact)
    taps = ["p", "v", "o"]
    found = artifact.run(x, taps=taps, engine="quantised").taps
    left, right = quant_of(op.lhs), quant_of(op.rhs)
    assert left is not None
    assert right is not None
    assert (left.zero_point, right.zero_point, found["p"].dtype, found["v"].dtype) == (
        0,
        0,
        np.uint8,
        np.int8,
    )
    codes = next(u.operation for u in op.result.uses if isinstance(u.operation, QuantizeOp)).result
    wanted = quant_of(codes)
    assert wanted is not None
    constants = {
        "scale": np.asarray(left.scale * right.scale),
        "step": np.asarray(wanted.scale),
        "zero": np.array(wanted.zero_point, wanted.dtype),
    }
    nodes = [
        helper.make_node("MatMulInteger", ["p", "v"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["sums"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sums", "scale"], ["reals"]),
        helper.make_node("QuantizeLinear", ["reals", "step", "zero"], ["o"]),
    ]
    ends = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(found[name].dtype), found[name].shape
        )
        for name in taps
    ]
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "integers", ends[:2], ends[2:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    (theirs,) = session.run(None, {name: found[name] for name in "pv"})
    np.testing.assert_array_equal(found["o"], theirs)
    np.testing.assert_array_equal(artifact.run(x, taps=["o"]).taps["o"], theirs)


def test_writes_are_charged_row_by_row() -> None:
    """Cycles of the arrays and energy of the cells are those of the architecture file, and a slower cell costs as many
    cycles more, though the weights are taken to be in the arrays."""
    rows = HEADS * 24
    program = compiled("isaac", "arrays").program
    machine = resolve_backend("isaac").architecture()
    timing = simulate(program, images=1, resident_weights=True)
    assert timing.executed_by_opcode["write_local"] == rows
    cells = rows * WIDTH * machine.crossbar.cells_per_weight(8)
    assert timing.energy_pj["write"] == pytest.approx(cells * machine.crossbar.write_energy_pj_per_cell)
    quick, slow = (
        simulate(with_latency(program, cycles / machine.clock_ghz), images=1, resident_weights=True)
        for cycles in (1, 1000)
    )
    assert slow.busy_cycles["arrays"] - quick.busy_cycles["arrays"] == rows * 999
    assert slow.cycles >= 24 * 1000


def with_latency(program: Program, nanoseconds: float) -> Program:
    """The program on a machine with another time to write a row."""
    machine = {
        **program.machine,
        "crossbar": {**program.machine["crossbar"], "write_latency_ns": nanoseconds},
    }
    return replace(program, machine=machine)


@pytest.mark.parametrize(("tokens", "width", "arrays_win"), [(64, 32, True), (8, 16, False)])
def test_the_side_chosen_is_the_faster_one(tokens: int, width: int, arrays_win: bool) -> None:
    """On SRAM: both sides compiled, and `auto` is the one that the cycle engine finds faster."""
    cycles = {
        side: simulate(compiled("jain", side, tokens, width).program, images=1).cycles
        for side in ("digital", "arrays", "auto")
    }
    assert (cycles["arrays"] < cycles["digital"]) == arrays_win
    assert cycles["auto"] == min(cycles["digital"], cycles["arrays"])


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ("puma", "arrays are not written at run time"),
        (changed("puma", chip__allow_writes=True), "flipped columns need all rows at once"),
        (changed("jain", crossbar__adc_bits=4), "converters lose information"),
        (
            changed("jain", core__crossbars=1, crossbar__rows=16, crossbar__parallel_rows=8),
            "a column of a matrix takes 2 crossbars, a core has 1",
        ),
    ],
    ids=["static", "flips", "lossy", "wide"],
)
def test_what_keeps_a_product_off_the_arrays(machine: str | Architecture, said: str) -> None:
    """`cimc check` names it, and an override by `products: arrays` does not help."""
    arch = machine if isinstance(machine, Architecture) else resolve_backend(machine).architecture()
    backend = OtherMachine(Path("unused.yaml"), arch)
    rows = check_model(attention(24), backend, mapping=MappingOptions(products="arrays")).rows
    (row,) = [row for row in rows if row.node == "values"]
    assert row.where == "digital"
    assert said in row.reason
    (row,) = [row for row in rows if row.node == "scores"]
    assert row.where == "digital"


@dataclass(frozen=True)
class OtherMachine(BaseBackend):
    """A backend with another architecture than that of its file."""

    other: Architecture | None = None

    def architecture(self) -> Architecture:
        """The other one."""
        return self.other or super().architecture()


def test_check_prints_all_sides_and_who_won() -> None:
    """The row of a product on arrays has its crossbars, cycles of all sides, and the option that decided."""
    rows = check_model(attention(64, 32), resolve_backend("jain")).rows
    (values,) = [row for row in rows if row.node == "values"]
    assert (values.where, values.crossbars) == ("array", 8)
    assert "on digital units of cores" in values.reason
    assert (
        "on rewritten arrays (192 of them writing): arrays are quicker; on arrays, products: auto"
        in values.reason
    )
    (scores,) = [row for row in rows if row.node == "scores"]
    assert "off arrays: its first operand may be negative" in scores.reason


def test_stages_hold_crossbars_of_their_own() -> None:
    """A head takes the crossbars of its matrix in the placement table."""
    module, ctx = compiled("jain", "arrays").level("mapped")
    (stage,) = [
        s
        for s in module.walk()
        if isinstance(s, StageOp) and s.frame_product is not None and s.frame_product.coding
    ]
    assert stage.placement is not None
    assert ctx.store.array(stage.placement.key.data)[:, 8].tolist() == [2, 2]


def mutated(program: Program, table: str, column: str, row: int, value: int) -> Program:
    """A copy of the program with one number changed."""
    tables = {name: dict(columns) for name, columns in program.tables.items()}
    changed_column = np.array(tables[table][column])
    changed_column[row] = value
    tables[table][column] = changed_column
    return replace(program, tables=tables)


def test_faults_of_run_time_writes_are_found() -> None:
    """A row too few, the same row again, rows beyond the set, another set, writes behind the reads, weights of the
    model over activations and activations over weights: each breaks a rule."""
    program = compiled("isaac", "arrays").program
    at = int(writes(program)[0])
    instructions, sets = program["instructions"], program["array_sets"]
    own = int(np.flatnonzero(sets["tensor"] == -1)[0])
    other = int(np.flatnonzero(sets["tensor"] >= 0)[0])
    faults = {
        "P051": mutated(program, "instructions", "n", at - 2, 23),  # the loop of the writes
        "P043": mutated(program, "instructions", "b_row", at, 1),
        "P012": mutated(program, "instructions", "n", at, 0),
        "P069": mutated(program, "array_sets", "tensor", own, 0),
        "P025": mutated(program, "instructions", "xb", at, own),
    }
    for rule, broken in faults.items():
        assert rule in {finding.rule for finding in verify_program(broken)}, rule
    still = mutated(program, "instructions", "b_st", at, 0)
    assert {f.rule for f in verify_program(still)} == {"P051"}
    static = mutated(program, "array_sets", "tensor", other, -1)
    assert "P069" in {finding.rule for finding in verify_program(static)}
    assert int(instructions["opcode"][at - 2]) == Opcode.LOOP
