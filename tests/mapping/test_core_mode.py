"""Core mode: one instruction computes an output row of what a core holds; everything else is as in crossbar mode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import cimc
from cimc import models
from cimc.backends.loader import load_architecture
from cimc.backends.schema import Architecture
from cimc.mapping_options import MappingOptions
from cimc.runtime.program.assembler import assemble
from cimc.runtime.program.opcodes import Opcode
from cimc.runtime.program.tables import SCHEMAS
from cimc.runtime.program.text import disassemble
from cimc.runtime.verifier import verify_program

FRAMES = 3

ONE_COPY = MappingOptions(copies=1)


def jia(**crossbar: object) -> Architecture:
    """The machine with some numbers of its crossbar changed."""
    fields = load_architecture("jia").model_dump(mode="json")
    fields["crossbar"] |= crossbar
    return Architecture.model_validate(fields)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network of convolutions, pools and a Gemm."""
    return models.export_onnx("digits", tmp_path_factory.mktemp("core") / "digits.onnx")


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    """Seeded pictures."""
    return {"x": models.images(FRAMES, models.network("digits").shape, seed=1)}


@pytest.fixture(scope="module")
def made(digits: Path, images: dict[str, np.ndarray]) -> cimc.Artifact:
    """The network on jia, a copy each: rows stay whole."""
    return cimc.compile(digits, "jia", calibration=images, mapping=ONE_COPY, require_arrays=True)


def test_a_row_is_one_instruction_of_a_core(made: cimc.Artifact) -> None:
    """Reads and writes are those of cores, reads stand in no loop over positions, and a core has one context."""
    rows = made.program["instructions"]
    found = set(rows["opcode"].tolist())
    assert Opcode.READ_CORE in found
    assert Opcode.WRITE_CORE in found
    assert not found & {Opcode.READ_XB, Opcode.READ_ROW, Opcode.WRITE_XB, Opcode.WRITE_ROW}
    reads = np.flatnonzero(rows["opcode"] == Opcode.READ_CORE)
    depth = np.cumsum((rows["opcode"] == Opcode.LOOP).astype(int) - (rows["opcode"] == Opcode.END))
    assert (depth[reads] % 2 == 0).all()  # images and output rows
    assert rows["m"][reads].tolist()[0] == 8
    cores = made.program["contexts"]["core"]
    used = cores[cores >= 0]
    assert len(np.unique(used)) == len(used)
    assert verify_program(made.program, weights=dict(made.weights)) == []


def test_core_and_crossbar_mode_compute_the_same(
    made: cimc.Artifact, digits: Path, images: dict[str, np.ndarray]
) -> None:
    """Integer for integer the results, instructions and products are those of crossbar mode and of level 2."""
    other = jia().model_copy(update={"mode": "crossbar", "name": "jia-xb"})
    crossbar = cimc.compile(digits, other, calibration=images, mapping=ONE_COPY, require_arrays=True).run(
        images
    )
    stream = made.run(images)
    walked = made.run({"x": images["x"][:1]}, walk=True)
    reference = made.run(images, engine="quantised").integer_outputs["logits"]
    np.testing.assert_array_equal(stream.integer_outputs["logits"], crossbar.integer_outputs["logits"])
    np.testing.assert_array_equal(stream.integer_outputs["logits"], reference)
    np.testing.assert_array_equal(walked.integer_outputs["logits"], reference[:1])
    assert len(np.unique(reference)) > 8
    assert stream.executed_instructions == crossbar.executed_instructions
    assert stream.array_macs == crossbar.array_macs == stream.total_macs > 0


def test_a_read_of_a_core_takes_its_positions_times_a_read(made: cimc.Artifact) -> None:
    """Busy cycles of the arrays are 8 digits of 10 cycles for each window; both engines count a window as one."""
    timing = made.simulate(images=FRAMES)
    stages = [stage for stage in made.report["stages"] if stage["crossbars"]]
    windows = sum(stage["macs"] // (stage["weights"][0] * stage["weights"][1]) for stage in stages)
    assert len(stages) >= 4
    assert timing.executed_reads == FRAMES * windows
    assert timing.busy_cycles["arrays"] == 80 * timing.executed_reads
    assert timing.busy_cycles == timing.attributed_cycles
    assert (
        timing.executed_instructions
        == made.run({"x": np.zeros((FRAMES, 1, 8, 8), np.float32)}).executed_instructions
    )


def test_text_reads_back(made: cimc.Artifact) -> None:
    """``read_core`` and ``write_core`` have a text form that assembles to the same tables."""
    text = disassemble(made.program)
    assert "read_core" in text
    assert "write_core" in text
    again = assemble(text)
    for table, columns in SCHEMAS.items():
        for column in columns:
            np.testing.assert_array_equal(again[table][column], made.program[table][column])


@pytest.mark.parametrize(
    ("field", "change", "rule"), [("m", 1, "P040"), ("m", -8, "P012"), ("m", -1, "P050")]
)
def test_wrong_positions_are_found(made: cimc.Artifact, field: str, change: int, rule: str) -> None:
    """A window too many leaves the row, none at all is no read, one too few leaves sums unwritten."""
    broken = assemble(disassemble(made.program))
    rows = broken["instructions"]
    at = int(np.flatnonzero(rows["opcode"] == Opcode.READ_CORE)[0])
    columns = {name: np.array(column) for name, column in rows.items()}
    columns[field][at] += change
    tables = {**broken.tables, "instructions": columns}
    found = verify_program(replace(broken, tables=tables))
    assert rule in {finding.rule for finding in found}


def test_a_converter_that_loses_is_the_same_in_the_stream_and_at_the_mapped_level(
    digits: Path, images: dict[str, np.ndarray]
) -> None:
    """With 5 bits instead of 8 the stream equals the mapped level exactly and differs from level 2."""
    lossy = cimc.compile(digits, jia(adc_bits=5), calibration=images, require_arrays=True)
    stream = lossy.run(images)
    mapped = lossy.run(images, engine="mapped")
    exact = lossy.run(images, engine="quantised")
    np.testing.assert_array_equal(stream.integer_outputs["logits"], mapped.integer_outputs["logits"])
    assert (stream.integer_outputs["logits"] != exact.integer_outputs["logits"]).any()
    error = np.linalg.norm(stream.outputs["logits"] - exact.outputs["logits"])
    assert error < 0.5 * np.linalg.norm(exact.outputs["logits"])


def _convolutions() -> onnx.ModelProto:
    """Stride, groups, depthwise, dilation, a transposed convolution and a product."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((0.2 * rng.normal(size=shape)).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["b"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=16),
        helper.make_node(
            "Conv", ["b", "w3"], ["c"], kernel_shape=[3, 3], pads=[2, 2, 2, 2], dilations=[2, 2], group=4
        ),
        helper.make_node("ConvTranspose", ["c", "w4"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["d"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w5"], ["y"]),
    ]
    weights = [
        weight("w1", 16, 3, 3, 3),
        weight("w2", 16, 1, 3, 3),
        weight("w3", 32, 4, 3, 3),
        weight("w4", 32, 8, 2, 2),
        weight("w5", 8, 10),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 16, 16])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph(nodes, "convolutions", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_all_kinds_of_convolution_in_core_mode() -> None:
    """Every kind runs on the cores, equal to the mapped level and to level 2, also element by element."""
    x = {"x": np.random.default_rng(1).normal(size=(4, 3, 16, 16)).astype(np.float32)}
    made = cimc.compile(_convolutions(), "jia", calibration=x, require_arrays=True)
    stream = made.run(x)
    reference = made.run(x, engine="quantised").integer_outputs["y"]
    np.testing.assert_array_equal(stream.integer_outputs["y"], reference)
    np.testing.assert_array_equal(made.run(x, engine="mapped").integer_outputs["y"], reference)
    walked = made.run({"x": x["x"][:1]}, walk=True)
    np.testing.assert_array_equal(walked.integer_outputs["y"], reference[:1])
    assert stream.array_macs == stream.total_macs > 0
    assert len(np.unique(reference)) > 8
