"""Models that take and give integers: they cross the host link as they are, and nothing converts them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

import cimc
from cimc.calibration import CalibrationWarning, random_samples
from cimc.cli import main
from cimc.compiler import Compiled, CompileOptions, build
from cimc.dialects.cim import StageOp
from cimc.dialects.context import CimContext
from cimc.dialects.mem import HostCallOp, InputOp
from cimc.frontend.onnx import import_onnx
from cimc.models.digits import digits_data
from cimc.passes.schedule.copies.bounds import bounds
from cimc.passes.schedule.estimate.inputs import InputRow
from cimc.passes.schedule.estimate.units import Units
from cimc.runtime.program import Element
from tests.fewer_cores import with_fewer_cores
from tests.quantised_models.conftest import BATCH, Form, session
from tests.quantised_models.test_operators import codes, model, node, scalars

Array = npt.NDArray[Any]

ISAAC = with_fewer_cores("isaac")
FRAMES = 2 * BATCH
two_forms = pytest.mark.parametrize("form", ["qdq_s8_s8", "qoperator_u8_s8"], indirect=True)
"""Signed and unsigned integers, conversions and operators on codes."""


def cut(form: Form) -> ModelProto:
    """The form without the QuantizeLinear at its input and the DequantizeLinear at its output."""
    model = ModelProto()
    model.CopyFrom(form.model)
    graph = model.graph
    first = next(n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "x")
    last = next(n for n in graph.node if n.output[0] == "logits")
    assert last.op_type == "DequantizeLinear"
    element = helper.np_dtype_to_tensor_dtype(quantiser(form)[1].dtype)
    graph.input[0].CopyFrom(helper.make_tensor_value_info(first.output[0], element, [BATCH, 1, 8, 8]))
    graph.output[0].CopyFrom(helper.make_tensor_value_info(last.input[0], element, [BATCH, 10]))
    graph.node.remove(first)
    graph.node.remove(last)
    onnx.checker.check_model(model)
    return model


def quantiser(form: Form) -> tuple[Array, Array]:
    """Scale and zero point of the input."""
    stored = {t.name: numpy_helper.to_array(t) for t in form.model.graph.initializer}
    first = next(n for n in form.model.graph.node if n.op_type == "QuantizeLinear")
    return stored[first.input[1]], stored[first.input[2]]


def codes_of(images: Array, form: Form) -> Array:
    """QuantizeLinear as ONNX defines it, in numpy."""
    scale, zero = quantiser(form)
    ends = np.iinfo(zero.dtype)
    return np.clip(np.rint(images / scale) + zero.astype(np.float32), ends.min, ends.max).astype(zero.dtype)


@dataclass(frozen=True)
class Border:
    """The cut model, integers to give it, and those onnxruntime gives back."""

    path: Path
    artifact: cimc.Artifact
    given: str
    got: str
    x: Array
    wanted: Array


@pytest.fixture(scope="module")
def border(form: Form, tmp_path_factory: pytest.TempPathFactory) -> Border:
    """Compiled for isaac without calibration data."""
    folder = tmp_path_factory.mktemp("border")
    model = cut(form)
    onnx.save(model, folder / "integers.onnx")
    given, got = model.graph.input[0].name, model.graph.output[0].name
    x = codes_of(digits_data().test_images[:FRAMES].reshape(-1, 1, 8, 8), form)
    reference = session(model)
    found = [np.asarray(reference.run(None, {given: batch})[0]) for batch in np.split(x, FRAMES // BATCH)]
    artifact = cimc.compile(folder / "integers.onnx", ISAAC, output=folder / "integers.cim")
    return Border(folder / "integers.onnx", artifact, given, got, x, np.concatenate(found))


@two_forms
def test_integers_go_through_every_level_as_they_are(border: Border) -> None:
    """Levels 2 and 3 and the stream equal onnxruntime's integers, and the I/O table says which cross the link."""
    assert len(np.unique(border.wanted)) > 20
    for engine in ("mapped", "program"):
        run = border.artifact.run({border.given: border.x}, engine=engine)
        np.testing.assert_array_equal(run.outputs[border.got], border.wanted, err_msg=engine)
        assert run.outputs[border.got].dtype == border.x.dtype
    for batch, wanted in zip(np.split(border.x, 2), np.split(border.wanted, 2), strict=True):
        level_2 = border.artifact.run({border.given: batch}, engine="quantised")
        np.testing.assert_array_equal(level_2.outputs[border.got], wanted)
    program = border.artifact.program
    assert {Element(io.element) for io in program.io if io.direction in ("in", "out")} == {
        Element.of(border.x.dtype)
    }


@two_forms
def test_the_host_link_carries_one_byte_an_element(border: Border) -> None:
    """64 codes in and 10 out: bytes over the link's and the buffer's width, by hand; the digital unit of the chip has
    nothing to do at the input, and the run moves no other bytes over the link."""
    made = build(border.path, ISAAC, None, CompileOptions())
    terms = bounds(made.modules["mapped"], ISAAC).interval
    link, chip = ISAAC.chip.host_link, ISAAC.chip
    assert link is not None
    assert terms["host_link"] == Fraction(64 + 10) / Fraction(link.bytes_per_cycle)
    assert terms["global_buffer"] == Fraction(2 * (64 + 10)) / Fraction(chip.global_buffer_bytes_per_cycle)
    assert not [op for op in made.modules["mapped"].walk() if isinstance(op, HostCallOp)]
    (given,) = (op for op in made.modules["mapped"].walk() if isinstance(op, InputOp))
    row = InputRow.of(given, Units(ISAAC))
    # A row of 8 bytes takes one cycle of the link, one to store and one to read, each behind its latency.
    assert row.head == 1 + link.latency_cycles + 1 + chip.global_buffer_latency_cycles
    assert row.between == 2
    timing = border.artifact.simulate(images=4)
    assert timing.energy_pj["host_link"] == 4 * (64 + 10) * link.energy_pj_per_byte


@two_forms
def test_the_command_line_takes_integers(
    border: Border, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """run gives the integers, simulate and eval work, and float32 data is one line that says what the model takes."""
    labels = border.wanted.argmax(axis=1)
    labels[:3] = (labels[:3] + 1) % 10
    integers, real = tmp_path / "integers.npz", tmp_path / "real.npz"
    arrays: dict[str, Any] = {border.given: border.x, "labels": labels}
    np.savez(tmp_path / "labelled.npz", **arrays)
    np.savez(integers, **{border.given: arrays[border.given]})
    np.savez(real, **{border.given: arrays[border.given].astype(np.float32)})
    folder, out = border.artifact.path, tmp_path / "out.npz"

    def call(*arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return int(left.value.code or 0), capfd.readouterr().err

    assert call("run", folder, "--input", integers, "--output", out) == (0, "")
    with np.load(out) as found:
        np.testing.assert_array_equal(found[border.got], border.wanted)
    assert call("simulate", folder, "--images", 2) == (0, "")
    code, said = call("run", folder, "--input", real, "--output", out)
    assert code == 2
    assert said == f"error: input '{border.given}': must hold {border.x.dtype}, given float32\n"
    measured = tmp_path / "eval"
    data = ("--data", tmp_path / "labelled.npz", "--device-model", "ideal", "-o", measured)
    assert call("eval", folder, *data)[0] == 0
    assert (measured / "results.csv").read_text() == f"chip,top1\n0,{13 / 16}\n"


def two_readers(*scales: float) -> ModelProto:
    """Convolutions of one uint8 image that read it under ``scales``, their sum, and the image itself."""
    constants = scalars(z=np.uint8(119), ws=0.0625, wz=np.int8(0), ys=0.25, yz=np.uint8(100))
    constants |= {f"s{i}": np.asarray(scale, np.float32) for i, scale in enumerate(scales)}
    nodes = [node("Identity", ["x"], ["same"])]
    for i in range(len(scales)):
        constants[f"w{i}"] = codes(i, (4, 3, 1, 1))
        nodes += [
            node("DequantizeLinear", ["x", f"s{i}", "z"], [f"d{i}"]),
            node("DequantizeLinear", [f"w{i}", "ws", "wz"], [f"v{i}"]),
            node("Conv", [f"d{i}", f"v{i}"], [f"c{i}"]),
            node("QuantizeLinear", [f"c{i}", "ys", "yz"], [f"q{i}"]),
        ]
    outputs = ["same", *(f"q{i}" for i in range(len(scales)))]
    return model(nodes, {"x": [1, 3, 5, 6]}, outputs, constants, element=onnx.TensorProto.UINT8)


@pytest.mark.parametrize(("scales", "casts"), [((0.5, 0.125), 2), ((0.5, 0.5), 1)])
def test_readers_of_any_scales_share_the_input(scales: tuple[float, float], casts: int) -> None:
    """Two readers that state different scales, a third that wants integers: one input, a cast each, one where the
    scales agree, and onnxruntime's integers everywhere."""
    source = two_readers(*scales)
    x = codes(8, (4, 3, 5, 6), np.uint8)
    made: Compiled = build(source, ISAAC, None, CompileOptions())
    mapped = made.modules["mapped"]
    assert not [op for op in mapped.walk() if isinstance(op, HostCallOp)]
    (given,) = (op for op in mapped.walk() if isinstance(op, InputOp))
    assert len([u for u in given.result.uses if u.operation.name == "cim.storage_cast"]) == casts
    reference = session(source, "ORT_DISABLE_ALL")
    names = [value.name for value in source.graph.output]
    artifact = cimc.compile(source, ISAAC)
    for frame in np.split(x, len(x)):
        wanted = reference.run(None, {"x": frame})
        for engine in ("graph", "quantised", "mapped", "program"):
            run = artifact.run({"x": frame}, engine=engine)
            for name, array in zip(names, wanted, strict=True):
                np.testing.assert_array_equal(run.outputs[name], np.asarray(array), err_msg=engine)


def two_layers(read: float) -> ModelProto:
    """Convolutions of 3 x 3, the second of which reads the codes of the first, made under 0.25, under ``read``."""
    constants = scalars(xs=0.03125, ws=0.0625, wz=np.int8(0), hs=0.25, rs=read, ys=4.0, z=np.uint8(119))
    constants |= {"w": codes(1, (8, 3, 3, 3)), "v": codes(2, (4, 8, 3, 3))}
    nodes = [
        node("QLinearConv", ["x", "xs", "z", "w", "ws", "wz", "hs", "z"], ["h"], pads=[1, 1, 1, 1]),
        node("QLinearConv", ["h", "rs", "z", "v", "ws", "wz", "ys", "z"], ["y"], pads=[1, 1, 1, 1]),
    ]
    return model(nodes, {"x": [1, 3, 12, 12]}, ["y"], constants, element=onnx.TensorProto.UINT8)


def test_a_cast_between_stages_changes_no_bound() -> None:
    """Codes that are read under another scale go from core to core as before: onnxruntime's integers, and the bounds,
    copies and pieces of the network whose scales agree."""
    other, same = two_layers(0.5), two_layers(0.25)
    x = codes(8, (2, 3, 12, 12), np.uint8)
    run = cimc.compile(other, ISAAC).run({"x": x})
    reference = session(other, "ORT_DISABLE_ALL")
    wanted = np.concatenate([np.asarray(reference.run(None, {"x": frame})[0]) for frame in np.split(x, 2)])
    assert len(np.unique(wanted)) > 50
    np.testing.assert_array_equal(run.outputs["y"], wanted)
    found = [build(source, ISAAC, None, CompileOptions()) for source in (other, same)]
    casts = [sum(op.name == "cim.storage_cast" for op in made.modules["mapped"].walk()) for made in found]
    assert casts == [4, 2]
    # On one core the crossbars have to be shared, and the bound on the latency rests on who waits for whom.
    one_core = ISAAC.model_copy(update={"chip": ISAAC.chip.model_copy(update={"cores": 1})})
    bound, wanted_bound = (bounds(made.modules["mapped"], one_core) for made in found)
    assert bound.late_work > bound.critical_path
    assert bound == wanted_bound
    dealt = [
        [(op.copies, op.pieces) for op in made.modules["mapped"].walk() if isinstance(op, StageOp)]
        for made in found
    ]
    assert dealt[0] == dealt[1]


def after_numbers(*nodes: onnx.NodeProto, shape: list[int], dtype: type[np.integer[Any]]) -> ModelProto:
    """``nodes`` from the integers x to the codes or the real value r, then a convolution of r's codes, as integers."""
    constants = scalars(xs=0.03125, xz=np.uint8(119), ws=0.0625, wz=np.int8(0), ys=0.25, yz=np.uint8(100))
    constants |= {"w": codes(1, (4, 3, 1, 1)), "part": np.float32(1 / 64) * np.ones(1, np.float32)}
    conv = node("QLinearConv", ["r", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"])
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return model([*nodes, conv], {"x": shape}, ["y"], constants, element=element)


CAST = (
    node("Cast", ["x"], ["f"], to=onnx.TensorProto.FLOAT),
    node("Mul", ["f", "part"], ["m"]),
    node("QuantizeLinear", ["m", "xs", "xz"], ["r"]),
)
TURN = (node("Transpose", ["x"], ["r"], perm=[0, 3, 1, 2]),)


@pytest.mark.parametrize(
    ("nodes", "shape", "dtype"),
    [(CAST, [1, 3, 5, 6], np.uint8), (CAST, [1, 3, 5, 6], np.int16), (TURN, [1, 5, 6, 3], np.uint8)],
    ids=["cast of uint8", "cast of int16", "channels last"],
)
def test_integers_that_get_their_scale_later(
    nodes: tuple[onnx.NodeProto, ...], shape: list[int], dtype: type[np.integer[Any]]
) -> None:
    """Integers cast to float32 and normalised, and images whose channels come last: no host operator, and
    onnxruntime's integers at every level. Scales are powers of two, so that its float32 is exact."""
    source = after_numbers(*nodes, shape=shape, dtype=dtype)
    low, high = (-300, 300) if dtype is np.int16 else (0, 256)
    x = np.random.default_rng(3).integers(low, high, (4, *shape[1:])).astype(dtype)
    reference = session(source, "ORT_DISABLE_ALL")
    wanted = np.concatenate([np.asarray(reference.run(None, {"x": frame[np.newaxis]})[0]) for frame in x])
    assert len(np.unique(wanted)) > 50
    made = build(source, ISAAC, None, CompileOptions())
    assert not [op for op in made.modules["mapped"].walk() if isinstance(op, HostCallOp)]
    artifact = cimc.compile(source, ISAAC)
    for engine in ("mapped", "program"):
        np.testing.assert_array_equal(artifact.run({"x": x}, engine=engine).outputs["y"], wanted)
    for level in ("graph", "quantised"):
        found = [artifact.run({"x": frame[np.newaxis]}, engine=level).outputs["y"] for frame in x]
        np.testing.assert_array_equal(np.concatenate(found), wanted)


def test_ranges_without_data_come_from_codes_of_random_numbers() -> None:
    """An input of integers that is read as codes gets those of standard normal numbers: within half a step of numbers
    with mean 0 and variance 1, where no code saturates."""
    context = CimContext()
    module = import_onnx(two_readers(0.0625), store=context.store)
    with pytest.warns(CalibrationWarning):
        samples = random_samples(module, runs=40)
    real = (samples.arrays["x"].astype(np.float64) - 119) * 0.0625
    assert samples.arrays["x"].dtype == np.uint8
    assert abs(real.mean()) < 0.1
    assert abs(real.std() - 1) < 0.05
