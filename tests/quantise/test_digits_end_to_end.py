"""A small trained network from ONNX to level 2, against onnxruntime in float."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from xdsl.dialects.builtin import ModuleOp

from cimc.calibration import collect_ranges, load_samples
from cimc.diagnostics import CimError, ExitCode, UsageError
from cimc.dialects.context import CimContext
from cimc.dialects.graph import ProductOperation, main_function
from cimc.dialects.levels import check_level
from cimc.frontend.onnx import import_onnx
from cimc.interpreters.quantised import execute_quantised, run_quantised
from cimc.models.digits import digits_data, train
from cimc.models.export import export_module
from cimc.passes.graph.fold_batch_norm import FoldBatchNorm
from cimc.passes.quantise.options import QuantOptions
from cimc.passes.quantise.overrides import QuantOverride
from cimc.passes.quantise.ranges import put_ranges

BATCH = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network after three epochs, as ONNX for 60 images at a time."""
    return export_module(
        train(epochs=3), (1, 8, 8), tmp_path_factory.mktemp("digits") / "d.onnx", batch=BATCH
    )


def quantised(
    model: Path, options: QuantOptions, images: npt.NDArray[np.float32] | None = None
) -> tuple[CimContext, ModuleOp]:
    """Level 2 of ``model``, calibrated on ``images``, or else on 240 training images."""
    context = CimContext()
    module = import_onnx(model, store=context.store)
    FoldBatchNorm().apply(context, module)
    images = digits_data().train_images[:240] if images is None else images
    samples = load_samples({"x": images}, module)
    put_ranges(context.store, collect_ranges(module, context.store, samples))
    for step in options.passes():
        step.apply(context, module)
    check_level(module, "quantised")
    return context, module


def logits(
    model: Path, options: QuantOptions, images: npt.NDArray[np.float32] | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Outputs on the 360 test images: float by onnxruntime, and level 2."""
    context, module = quantised(model, options, images)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    batches = digits_data().test_images.reshape(-1, BATCH, 1, 8, 8)
    real = [np.asarray(session.run(None, {"x": batch})[0]) for batch in batches]
    mine = [execute_quantised(module, context.store, {"x": batch}).outputs["logits"] for batch in batches]
    return np.concatenate(real), np.concatenate(mine)


@pytest.mark.parametrize(
    ("options", "error", "agreement"),
    [
        (QuantOptions("all"), 0.05, 0.98),
        (QuantOptions("all", signed=True), 0.05, 0.98),
        (QuantOptions("all", symmetric=True), 0.08, 0.98),
        (QuantOptions("arrays"), 0.04, 0.98),
        (QuantOptions("all", per_channel=False), 0.08, 0.97),
        (QuantOptions("all", activation_bits=16, weight_bits=16), 0.02, 0.99),
        (QuantOptions("all", activation_bits=4, weight_bits=4), 0.6, 0.8),
    ],
)
def test_level_2_is_close_to_float(
    model: Path, options: QuantOptions, error: float, agreement: float
) -> None:
    """Relative error and top-1 agreement on 360 unseen images stay within what the width allows."""
    real, mine = logits(model, options)
    assert np.linalg.norm(real - mine) / np.linalg.norm(real) < error
    assert (real.argmax(axis=1) == mine.argmax(axis=1)).mean() >= agreement
    assert len(set(mine.argmax(axis=1))) == 10


def test_sixteen_bits_inside_the_range_are_nearly_float(model: Path) -> None:
    """Calibrated on the images it is tested on, nothing saturates and only rounding is left."""
    options = QuantOptions("all", activation_bits=16, weight_bits=16)
    real, mine = logits(model, options, digits_data().test_images)
    assert np.linalg.norm(real - mine) / np.linalg.norm(real) < 3e-4


def test_more_bits_cost_less_error(model: Path) -> None:
    """Error falls with the width of weights and activations: no width is quietly another."""
    errors: list[float] = []
    for bits in (3, 4, 6, 8, 12):
        real, mine = logits(model, QuantOptions("all", activation_bits=bits, weight_bits=bits))
        errors.append(float(np.linalg.norm(real - mine)))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 20 * errors[-1]


def test_overrides_reach_the_named_layers_only(model: Path) -> None:
    """The last matching override wins, option by option; names are node names or output tensors."""
    overrides = (
        QuantOverride("*features*", weight_bits=6),
        QuantOverride("*features.3*", weight_bits=3, activation_bits=5),
        QuantOverride("logits", activation_bits=7, symmetric=True),
    )
    _, module = quantised(model, QuantOptions("all", overrides=overrides))
    layers = [op for op in main_function(module).body.block.ops if isinstance(op, ProductOperation)]
    found = [
        (op.weight_bits and op.weight_bits.value.data, str(op.input.type).split("<")[-1][:2]) for op in layers
    ]
    assert found == [(6, "u8"), (3, "u5"), (6, "u8"), (8, "i7")]


def test_an_override_that_matches_nothing_is_refused(model: Path) -> None:
    """A misspelt layer name is an error that shows names, exit code 2."""
    with pytest.raises(
        CimError, match=r"'/fc2/\*' matches none of the 4 Conv and Gemm layers; .*'/features"
    ) as caught:
        quantised(model, QuantOptions(overrides=(QuantOverride("/fc2/*", weight_bits=4),)))
    assert caught.value.exit_code == ExitCode.USAGE


def test_equal_inputs_give_equal_programs(model: Path) -> None:
    """The same model and data give the same text and the same integers."""
    (one, first), (two, second) = (quantised(model, QuantOptions()) for _ in range(2))
    assert str(first) == str(second)
    assert one.store.keys() == two.store.keys()
    assert all(one.store.sha256(key) == two.store.sha256(key) for key in one.store.keys())


def test_taps_give_codes(model: Path) -> None:
    """A tap names a tensor of the model: codes where level 2 holds codes, and a clear error elsewhere."""
    context, module = quantised(model, QuantOptions("all"))
    images = digits_data().test_images[:BATCH]
    run = execute_quantised(module, context.store, {"x": images}, taps=["x", "logits"])
    assert run.taps["x"].dtype == np.uint8
    np.testing.assert_array_equal(run.taps["logits"], run.integer_outputs["logits"])
    together = run_quantised(module, context.store, {"x": images}, taps=["x"])
    np.testing.assert_array_equal(together["logits"], run.outputs["logits"])
    with pytest.raises(UsageError, match=r"no tensor 'nowhere' at level 2"):
        execute_quantised(module, context.store, {"x": images}, taps=["nowhere"])
