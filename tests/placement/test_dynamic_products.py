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


# The digital side is what the engine charges the chip's unit for the compiled product.
def test_digital_side_is_the_engines():
    timing = simulate(cimc.compile(product_model(2, 5, 24, 300), "isaac").program, images=1)
    cost = dynamic_cost(
        DynamicProduct(2, 5, 24, 300), resolve_backend("isaac").architecture(), weight_bits=8, input_bits=8
    )
    assert timing.executed_by_opcode["alu"] == 10
    assert timing.busy_cycles["vector_unit"] == cost.digital


# By hand on isaac: 64 rows of 28 cycles, 263 cycles to carry 12,608 bytes to every copy, 197 windows of 64 cycles.
def test_arrays_by_hand():
    cost = dynamic_cost(
        DynamicProduct(1, 197, 64, 197), resolve_backend("isaac").architecture(), weight_bits=8, input_bits=8
    )
    totals = [263 * c + 64 * 28 + -(-197 // c) * 64 for c in range(1, 198)]
    assert cost.arrays == min(totals)
    assert cost.copies == totals.index(min(totals)) + 1
    assert cost.written == 263 * cost.copies + 64 * 28
    assert cost.digital == 197 * (1 + -(-197 * 64 // 1024))


# Q by K of ViT-B/16 (197 tokens) and BERT-base (128) would gain where a chip writes at run time and holds it.
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
    assert cost.arrays_are_quicker == gains, cost.describe()
    assert (cost.arrays is None) == (machine in ("jain", "puma", "isaac-ce", "pimcomp"))


# P by V of BERT-base stays digital on isaac: twice the rows to write for half the columns.
def test_attention_values_stay_digital():
    cost = dynamic_cost(DynamicProduct(12, 128, 128, 64), resolve_backend("isaac").architecture(), **BITS)
    assert (cost.digital, cost.arrays, cost.arrays_are_quicker) == (13_824, 15_244, False)


# Cells written in a nanosecond, a wide buffer and a slow digital unit turn the decision; slow cells turn it back.
def test_a_machine_where_arrays_win():
    product = DynamicProduct(12, 197, 64, 197)
    unit = {
        **resolve_backend("isaac").architecture().model_dump(mode="json")["chip"]["digital_unit"],
        "lanes": 16,
    }
    quick = {"chip__digital_unit": unit, "chip__global_buffer_bytes_per_cycle": 4096.0}
    sram = dynamic_cost(
        product, changed(crossbar__write_latency_ns=1.0, **quick), weight_bits=8, input_bits=8
    )
    assert sram.arrays_are_quicker
    assert "arrays would be quicker" in sram.describe()
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
    assert "cycles on the digital unit, at least" in row.reason
