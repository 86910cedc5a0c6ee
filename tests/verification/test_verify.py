"""What verify takes and reports: data, levels, batches, host operators, warnings, and its two forms of output."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from cimc.backends.schema import Architecture
from cimc.calibration import CalibrationWarning
from cimc.compiler import CompileOptions, build
from cimc.diagnostics import UsageError
from cimc.mapping_options import MappingOptions, Override
from cimc.pipeline import pipeline
from cimc.verification import verify, verify_static
from cimc.verification.comparing import exact_error, scaled_error
from tests.verification.conftest import Builder

Frames = dict[str, npt.NDArray[np.float32]]


def checked(report: Any) -> dict[str, str]:
    """Verdict of the last check after each pass."""
    return {check.after: check.verdict for check in report.checks}


def test_copies_and_widths_per_layer_pass(
    network: onnx.ModelProto, lossless: Architecture, frames: Frames
) -> None:
    """Copies, 4-bit weights, 16-bit inputs and real residuals keep every level equal."""
    mapping = MappingOptions(
        copies=2,
        activations="arrays",
        overrides=(
            Override(match="conv2", weight_bits=4, copies=3),
            Override(match="fc*", activation_bits=16),
        ),
    )
    report = verify(network, lossless, inputs=frames, mapping=mapping)
    assert report.ok, report.text()
    assert checked(report)["lower-bodies"] == "equal"


def test_levels_choose_what_is_checked(
    network: onnx.ModelProto, lossless: Architecture, frames: Frames
) -> None:
    """Levels that are not asked for are not in the report; those asked for still have their reference."""
    report = verify(network, lossless, inputs=frames, levels=("graph",))
    graph = {step.run.name for step in pipeline(MappingOptions()) if step.stage == "graph"}
    assert set(checked(report)) == {"import", *graph}
    report = verify(network, lossless, inputs=frames, levels=("program",))
    assert report.ok
    assert {check.level for check in report.checks} == {"mapped", "program"}
    with pytest.raises(UsageError, match="no level isa"):
        verify(network, lossless, inputs=frames, levels=("isa",))


def test_calibration_data_serve_as_inputs(
    network: onnx.ModelProto, lossless: Architecture, tmp_path: Path
) -> None:
    """Without inputs the first frames of an .npz are used, at most 16."""
    data = np.random.default_rng(1).normal(size=(20, 3, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=data)
    report = verify(network, lossless, calibration=tmp_path / "data.npz", levels=("quantised",))
    assert report.ok, report.text()
    assert report.frames == 16
    assert report.top1_agreement is not None
    assert {error.tensor for error in report.quantisation} >= {"pool1_out", "concat_out", "fc2_out"}
    assert all(0 < error.relative_error < 0.1 for error in report.quantisation)
    worst = max(report.quantisation, key=lambda error: error.relative_error)
    assert worst.sqnr_db == pytest.approx(-20 * np.log10(worst.relative_error))


def test_no_data_is_a_warning(network: onnx.ModelProto, lossless: Architecture) -> None:
    """Seeded pictures stand in for data that is not given."""
    with pytest.warns(CalibrationWarning, match="seeded pictures"):
        report = verify(network, lossless, levels=("graph",))
    assert report.ok
    assert report.frames == 8


def test_a_model_of_a_fixed_batch_is_compared_frame_by_frame(lossless: Architecture) -> None:
    """A model made for 3 images at once, on 4 images: the last group is filled up."""
    b = Builder(3)
    x = b.node("Relu", "r", [b.conv("c", "x", 2, 5, 3, pads=[1, 1, 1, 1])])
    x = b.node("Flatten", "f", [b.node("GlobalAveragePool", "g", [x])])
    model = b.model((3, 2, 6, 6), b.gemm("fc", x, 5, 4), (3, 4))
    data = np.random.default_rng(2).normal(size=(4, 2, 6, 6)).astype(np.float32)
    report = verify(model, lossless, inputs={"x": data})
    assert report.ok, report.text()
    assert report.frames == 4
    assert report.checks[0].tensors >= 5


def test_host_operators_are_compared_too(lossless: Architecture) -> None:
    """An operator that only onnxruntime has runs on every level, and the report names it."""
    b = Builder(4)
    x = b.node("Atan", "atan", [b.conv("c1", "x", 2, 5, 3)])
    x = b.node("Softmax", "soft", [b.node("Flatten", "flat", [b.conv("c2", x, 5, 3, 3)])], axis=-1)
    model = b.model((1, 2, 7, 7), x, (1, 27))
    data = np.random.default_rng(2).normal(size=(3, 2, 7, 7)).astype(np.float32)
    report = verify(model, lossless, inputs={"x": data})
    assert report.ok, report.text()
    assert report.host_operators == ("atan (Atan)",)
    assert report.host_share == 0


@pytest.mark.parametrize("kind", ["Concat", "AveragePool", "Gemm"])
def test_a_tensor_that_the_host_and_the_arrays_read(lossless: Architecture, kind: str) -> None:
    """Held as codes for the one and as real values for the other, and given out too: each level holds the same."""
    b = Builder(8)
    x = b.node("Relu", "relu", [b.conv("c1", "x", 2, 6, 3)])
    if kind == "Concat":
        y = b.node("Concat", "both", [x, b.node("Relu", "relu2", [b.conv("c2", "x", 2, 6, 3)])], axis=1)
        z = b.conv("c3", y, 12, 4, 3)
    elif kind == "AveragePool":
        y = b.node("AveragePool", "both", [x], kernel_shape=[2, 2], strides=[1, 1])
        z = b.conv("c3", y, 6, 4, 3)
    else:
        y = b.gemm("both", b.node("Flatten", "flat", [x]), 6 * 25, 24)
        z = b.gemm("fc", y, 24, 20)
    host = b.node("Atan", "atan", [y])
    model = b.model(
        (1, 2, 7, 7), z, (1, 20) if kind == "Gemm" else (1, 4, *((3, 3) if kind == "Concat" else (2, 2)))
    )
    model.graph.output.extend([onnx.ValueInfoProto(name=host), onnx.ValueInfoProto(name=y)])
    data = np.random.default_rng(2).normal(size=(2, 2, 7, 7)).astype(np.float32)
    report = verify(onnx.shape_inference.infer_shapes(model), lossless, inputs={"x": data})
    assert report.ok, report.text()
    assert report.host_operators == ("atan (Atan)",)


def test_outputs_that_do_not_vary_are_warned_of(lossless: Architecture) -> None:
    """One top-1 class over 8 frames, and fewer than 16 distinct codes."""
    b = Builder(5)
    x = b.node("Flatten", "flat", [b.conv("c", "x", 1, 2, 3)])
    model = b.model((1, 1, 3, 3), x, (1, 2))
    data = np.full((8, 1, 3, 3), 0.5, np.float32)
    report = verify(model, lossless, inputs={"x": data})
    assert report.ok
    assert len(report.warnings) == 2
    assert "distinct values" in report.warnings[0]
    assert "same largest element in all 8 frames" in report.warnings[1]


@pytest.mark.parametrize("activations", ["all", "arrays"])
def test_inputs_beyond_the_calibrated_range_saturate(
    network: onnx.ModelProto,
    lossless: Architecture,
    frames: Frames,
    activations: Literal["all", "arrays"],
) -> None:
    """Values that calibration never saw take the last code, at every level; the report says that there are many."""
    report = verify(
        network,
        lossless,
        inputs={"x": 4 * frames["x"]},
        calibration=frames,
        mapping=MappingOptions(activations=activations),
    )
    assert report.ok, report.text()
    (said,) = [text for text in report.warnings if "calibrated range" in text]
    assert "'x'" in said
    assert not any("calibrated range" in text for text in verify(network, lossless, inputs=frames).warnings)


def test_both_forms_of_the_report_say_the_same(
    network: onnx.ModelProto, lossless: Architecture, frames: Frames
) -> None:
    """JSON holds every check; the text has a line for each and ends in the verdict."""
    report = verify(network, lossless, inputs=frames)
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["ok"] is True
    assert [check["after"] for check in plain["checks"]] == [check.after for check in report.checks]
    lines = report.text().splitlines()
    assert lines[-1] == "ok: every level means the same"
    for check, line in zip(report.checks, lines[1:], strict=False):
        assert line.startswith(check.after)
        assert check.against in line


def test_static_verification_needs_no_data(
    network: onnx.ModelProto, lossless: Architecture, frames: Frames
) -> None:
    """A sound program has no finding; two tiles of a set on one crossbar are one."""
    made = build(network, lossless, None, CompileOptions(calibration=frames))
    assert made.linked is not None
    program = made.linked.program
    weights = {key: made.store.array(key) for key in program.weights}
    assert verify_static(program, weights) == []
    sets = program["array_sets"]
    first = next(int(f) for f, n in zip(sets["tile_first"], sets["tile_count"], strict=True) if n > 1)
    program["tiles"]["xbar"][first + 1] = program["tiles"]["xbar"][first]
    assert {finding.rule for finding in verify_static(program, weights)} == {"P061"}


def test_attributes_of_operators_are_onnx_s(lossless: Architecture, frames: Frames) -> None:
    """Padding counted by a pool, and dilation, mean on every level what onnxruntime makes of them."""
    b = Builder(6)
    x = b.node("AveragePool", "p", ["x"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    model = b.model((1, 3, 12, 12), b.conv("c", x, 3, 4, 3, dilations=[2, 2]), (1, 4, 8, 8))
    report = verify(model, lossless, inputs=frames)
    assert report.ok, report.text()


def test_errors_are_in_the_stated_units() -> None:
    """Exact errors are differences, infinite across kinds; scaled ones are shares of the largest magnitude."""
    codes = np.array([1, 2, 3], np.uint8)
    assert exact_error(codes, codes) == 0
    assert exact_error(codes, codes.astype(np.int8)) == float("inf")
    assert exact_error(codes, np.array([1, 4, 3], np.uint8)) == 2
    assert exact_error(codes, codes.astype(np.float32)) == float("inf")
    assert scaled_error(np.array([1.0, 10.1]), np.array([1.0, 10.0])) == pytest.approx(0.01)
    assert scaled_error(np.array([np.nan]), np.array([1.0])) == float("inf")
    assert scaled_error(np.array([np.inf, 1.0]), np.array([np.inf, 1.0])) == 0
