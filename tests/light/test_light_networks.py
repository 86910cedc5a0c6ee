"""The light networks of the onnx wheel end to end on isaac: exact, all products on the arrays, nothing on the host."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

import cimc
from cimc import models
from cimc.diagnostics import UsageError
from cimc.models.light import NAMES, SHAPE, image_input, reseeded
from cimc.runtime.verifier import verify_program
from tests.fewer_cores import with_fewer_cores

if TYPE_CHECKING:
    from onnx import ModelProto

FAST = ("squeezenet", "shufflenet")
"""On a quarter of the cores; the others need all."""

LIMIT = {"densenet121": 0.35, "inception_v1": 0.4, "inception_v2": 0.45, "vgg19": 0.6}
"""Relative error (2-norm) of 8-bit level 2 against onnxruntime on the float model; 0.3 for the others."""

PHASES = {"bvlc_alexnet": 2, "zfnet512": 3, "vgg19": 4}
"""Networks larger than the chip."""


def on_the_wheel(name: str) -> ModelProto:
    """The network as the onnx wheel holds it."""
    return onnx.load(
        Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    )


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in NAMES]
)
def test_stream_equals_level_two(name: str) -> None:
    """No finding of the verifier; every output integer of the stream equals level 2; every product is read from cells;
    no operator is left to the host; level 2 is near the float model, whose answers differ from image to image."""
    model = reseeded(name)
    port = image_input(model)
    machine = with_fewer_cores("isaac", 12, 16) if name in FAST else "isaac"
    made = cimc.compile(
        model, machine, calibration={port: models.images(8, SHAPE, seed=1)}, require_arrays=True
    )
    assert verify_program(made.program) == []
    assert made.report["host_operators"] == []
    assert int(made.program["contexts"]["phase"].max()) + 1 == PHASES.get(name, 1)

    x = models.images(2 if name in FAST else 1, SHAPE, seed=2)
    level_2, stream = made.run({port: x}, engine="quantised"), made.run({port: x})
    assert stream.integer_outputs.keys() == level_2.integer_outputs.keys() == {model.graph.output[0].name}
    for output, codes in level_2.integer_outputs.items():
        np.testing.assert_array_equal(stream.integer_outputs[output], codes)
        np.testing.assert_array_equal(stream.outputs[output], level_2.outputs[output])
        assert len(np.unique(codes)) >= 16
    assert stream.array_macs == stream.total_macs == made.report["total_macs"] * len(x)

    real = float_outputs(model, port, x)
    given = next(iter(level_2.outputs.values()))
    assert np.linalg.norm(given - real) / np.linalg.norm(real) < LIMIT.get(name, 0.3)


def float_outputs(model: ModelProto, port: str, x: Any) -> Any:
    """Logits of onnxruntime, image by image."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([np.asarray(session.run(None, {port: image[None]})[0]) for image in x])


@pytest.mark.parametrize("name", FAST)
def test_only_weights_change(name: str) -> None:
    """Reseeding keeps every node but those that made weights and the last softmax, and every initializer an input."""
    model, given = reseeded(name), on_the_wheel(name)
    kinds = Counter(n.op_type for n in given.graph.node if n.op_type not in ("ConstantOfShape", "Softmax"))
    assert Counter(n.op_type for n in model.graph.node) == kinds
    stored = {t.name for t in model.graph.initializer}
    assert stored < {value.name for value in model.graph.input}
    assert len(model.graph.input) == len(stored) + 1
    onnx.checker.check_model(model, full_check=True)


def test_a_seed_decides_the_weights() -> None:
    """One seed gives one model, bit for bit; another gives other weights."""
    first, again, other = (reseeded("squeezenet", seed) for seed in (0, 0, 1))
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    one, another = (onnx.numpy_helper.to_array(m.graph.initializer[0]) for m in (first, other))
    assert not np.array_equal(one, another)


def test_unknown_name() -> None:
    """A name that is no light network is refused with those there are."""
    with pytest.raises(UsageError, match=r"lenet.*squeezenet"):
        reseeded("lenet")


def test_constant_weights_test_nothing() -> None:
    """The file as it comes answers one value for every image: why its weights are drawn anew."""
    model = on_the_wheel("squeezenet")
    port = next(v.name for v in model.graph.input if v.name.startswith("data"))
    found = float_outputs(model, port, models.images(2, SHAPE, seed=2))
    assert len(np.unique(found)) == 1
