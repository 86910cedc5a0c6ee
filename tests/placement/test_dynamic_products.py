"""Products of two activations: both sides in cycles, against the cycle engine and by hand."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

import cimc
from cimc.backends.registry import resolve_backend
from cimc.backends.schema import Architecture
from cimc.checking import check_model
from cimc.passes.schedule.dynamic_products import DynamicProduct, dynamic_cost
from cimc.runtime.cycle import simulate

BITS = {"weight_bits": 8, "input_bits": 8}


def product_model(batch: int, rows: int, depth: int, columns: int) -> onnx.ModelProto:
    """One MatMul of two inputs."""
    given = [
        helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, batch, rows, depth]),
        helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, batch, depth, columns]),
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, batch, rows, columns])
    node = helper.make_node("MatMul", ["a", "b"], ["y"], name="scores")
    graph = helper.make_graph([node], "products", given, [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def changed(**keys: Any) -> Architecture:
    """``isaac`` with other numbers, by section and key."""
    fields = resolve_backend("isaac").architecture().model_dump(mode="json")
    for path, value in keys.items():
        section, key = path.split("__")
        fields[section][key] = value
    return Architecture.model_validate(fields)


# The chip's side is what the engine charges its unit for a compiled product that no core's memory holds.
def test_digital_side_is_the_engines():
    small = changed(core__local_buffer_bytes=16384)
    program = cimc.compile(product_model(2, 5, 24, 300), small).program
    timing = simulate(program, images=1)
    cost = dynamic_cost(DynamicProduct(2, 5, 24, 300), small, **BITS)
    assert timing.executed_by_opcode["alu"] == 10
    assert timing.busy_cycles["vector_unit"] == cost.digital
    assert (program["contexts"]["core"] == -1).all()


# Where it does, every head has a core: the units are as busy as the chip's would be, all at the same time.
def test_heads_work_on_cores_of_their_own():
    program = cimc.compile(product_model(2, 50, 24, 30), "isaac").program
    cost = dynamic_cost(DynamicProduct(2, 50, 24, 30), resolve_backend("isaac").architecture(), **BITS)
    timing = simulate(program, images=1)
    assert timing.busy_cycles["vector_unit"] == cost.digital == 2 * 50 * (1 + 1)
    cores = program["contexts"]["core"]
    assert len(cores[cores >= 0]) == 2


# By hand on isaac: 64 rows of 197 elements collected in 5 cycles each, 64 copies of a head with 4 rows of 14 cycles.
def test_cores_by_hand():
    cost = dynamic_cost(DynamicProduct(12, 197, 64, 197), resolve_backend("isaac").architecture(), **BITS)
    assert cost.cores == 64 * 5 + 4 * 14


# By hand on isaac: 64 rows written in 28 cycles each, then 64 cycles a row of the first operand, 2 to make codes of it
# and 2 to make reals of its sums; 7 column tiles leave room for two matrices on each of 768 cores, so 197 copies.
def test_arrays_by_hand():
    cost = dynamic_cost(
        DynamicProduct(1, 197, 64, 197), resolve_backend("isaac").architecture(), weight_bits=8, input_bits=8
    )
    assert cost.arrays == 64 * 28 + 64 + 2 + 2
    assert (cost.copies, cost.written) == (197, 64 * 28)
    assert cost.digital == 197 * (1 + -(-197 * 64 // 1024))


# Q by K of ViT-B/16 (197 tokens) and BERT-base (128): arrays beat the chip's one unit where a chip writes at run time
# and holds it, and nowhere the units of its cores.
@pytest.mark.parametrize(
    ("machine", "tokens", "gains"),
    [
        ("isaac", 197, True),
        ("isaac", 128, True),
        ("jia", 197, True),
        ("jain", 197, False),  # 25 column tiles, 8 arrays
        ("puma", 197, False),
        ("isaac-ce", 197, False),
        ("pimcomp", 197, False),
    ],
)
def test_attention_scores(machine: str, tokens: int, gains: bool):
    cost = dynamic_cost(
        DynamicProduct(12, tokens, 64, tokens), resolve_backend(machine).architecture(), **BITS
    )
    assert (cost.arrays is not None and cost.digital is not None and cost.arrays < cost.digital) == gains
    assert not cost.arrays_are_quicker
    assert cost.cores is not None
    assert cost.digital is not None
    assert cost.cores < cost.digital
    assert (cost.arrays is None) == (machine in ("jain", "puma", "isaac-ce", "pimcomp"))


# P by V of BERT-base: 128 rows of 28 cycles to write leave ReRAM behind the units of cores; SRAM that writes a row in a
# cycle is ahead, though its eight arrays hold one head at a time.
def test_attention_values_go_to_sram():
    product = DynamicProduct(12, 128, 128, 64)
    cost = dynamic_cost(product, resolve_backend("isaac").architecture(), **BITS)
    assert (cost.cores, cost.arrays, cost.arrays_are_quicker) == (338, 128 * 28 + 2 * 64 + 4, False)
    cost = dynamic_cost(product, resolve_backend("jain").architecture(), **BITS)
    assert cost.arrays == 12 * (128 * 3 + 128 * (64 + 1 + 4 + 3))
    assert cost.arrays_are_quicker


# Cells written in a nanosecond, a wide buffer and a slow digital unit turn the decision; slow cells turn it back.
def test_a_machine_where_arrays_win():
    product = DynamicProduct(12, 197, 64, 197)
    unit = {
        **resolve_backend("isaac").architecture().model_dump(mode="json")["chip"]["digital_unit"],
        "lanes": 16,
    }
    slower = unit | {"lanes": 1, "cycles_per_element": {"default": 64.0}}
    quick = {
        "chip__digital_unit": unit,
        "core__digital_unit": slower,
        "chip__global_buffer_bytes_per_cycle": 4096.0,
    }
    sram = dynamic_cost(
        product, changed(crossbar__write_latency_ns=1.0, **quick), weight_bits=8, input_bits=8
    )
    assert sram.arrays_are_quicker
    assert "arrays are quicker" in sram.describe()
    slow = dynamic_cost(
        product, changed(crossbar__write_latency_ns=1e7, **quick), weight_bits=8, input_bits=8
    )
    assert not slow.arrays_are_quicker


# Machines that cannot write at run time, and products larger than all arrays, have no array side.
def test_no_array_side():
    puma = resolve_backend("puma").architecture()
    assert "arrays cannot take it" in dynamic_cost(DynamicProduct(1, 2, 3, 4), puma, **BITS).describe()
    assert dynamic_cost(DynamicProduct(1, 2, 10**5, 10**5), changed(), **BITS).arrays is None


# `cimc check` prints both sides beside the product.
def test_check_prints_the_decision():
    (row,) = [
        r
        for r in check_model(product_model(12, 197, 64, 197), resolve_backend("isaac")).rows
        if r.node == "scores"
    ]
    assert row.where == "digital"
    assert "cycles on digital units of cores, 33096 cycles on the chip's digital unit, at least" in row.reason
