"""The digits CNN in six quantised ONNX forms, made by onnxruntime's static quantiser from 256 images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import ModelProto
from xdsl.dialects.builtin import ModuleOp

from cimc.dialects.context import CimContext
from cimc.dialects.levels import check_level
from cimc.frontend.onnx import import_onnx
from cimc.models.digits import digits_data, train
from cimc.models.export import export_module
from cimc.passes.graph.canonicalise import Canonicalise
from cimc.passes.graph.fold_batch_norm import FoldBatchNorm
from cimc.passes.quantise.options import QuantOptions

if TYPE_CHECKING:
    from onnxruntime.quantization import CalibrationDataReader

BATCH = 8
CALIBRATION_IMAGES = 256

FORMS: dict[str, dict[str, Any]] = {
    "qdq_s8_s8": {"activation": "QInt8", "weight": "QInt8"},
    "qdq_u8_s8_per_channel": {"activation": "QUInt8", "weight": "QInt8", "per_channel": True},
    "qdq_symmetric_per_channel": {
        "activation": "QInt8",
        "weight": "QInt8",
        "per_channel": True,
        "extra": {"ActivationSymmetric": True, "WeightSymmetric": True},
    },
    "qdq_s8_s4_per_channel": {"activation": "QInt8", "weight": "QInt4", "per_channel": True},
    "qdq_s16_s8": {"activation": "QInt16", "weight": "QInt8"},
    "qoperator_u8_s8": {"activation": "QUInt8", "weight": "QInt8", "format": "QOperator"},
    "qdq_u8_u8_with_zero_points": {
        "activation": "QUInt8",
        "weight": "QUInt8",
        "extra": {"WeightSymmetric": False},
    },
}
"""The six forms, and one whose weights have zero points that are not the middle of their range."""


@dataclass(frozen=True)
class Form:
    """A quantised model, and level 2 of it, made without calibration data."""

    name: str
    path: Path
    model: ModelProto
    context: CimContext
    module: ModuleOp

    def session(self, level: str = "ORT_ENABLE_ALL") -> onnxruntime.InferenceSession:
        """onnxruntime on the model; products of 8-bit codes without saturating pairs (docs/numerics.md rule 12)."""
        return session(self.model, level)


def session(model: ModelProto, level: str = "ORT_ENABLE_ALL") -> onnxruntime.InferenceSession:
    """One thread, silent, exact on CPUs without VNNI."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def calibration_reader() -> CalibrationDataReader:
    """256 training images, the way onnxruntime's quantiser asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    images = digits_data().train_images[:CALIBRATION_IMAGES]
    batches = iter([{"x": batch} for batch in images.reshape(-1, BATCH, 1, 8, 8)])

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, npt.NDArray[np.float32]]:
            # The quantiser stops at None, which its annotation leaves out.
            return next(batches, None)  # pyright: ignore[reportReturnType]

    return Reader()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained network, as the quantiser wants it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folder = tmp_path_factory.mktemp("quantised")
    path = export_module(train(), (1, 8, 8), folder / "float.onnx", batch=BATCH)
    quant_pre_process(str(path), str(folder / "prepared.onnx"))
    return folder / "prepared.onnx"


def level_2(model: ModelProto | Path) -> tuple[CimContext, ModuleOp]:
    """A quantised model at level 2, with no range given: it must bring all of its scales."""
    context = CimContext()
    module = import_onnx(model, store=context.store)
    for step in (FoldBatchNorm(), Canonicalise()):
        step.apply(context, module)
    check_level(module, "graph")
    for step in QuantOptions().passes():
        step.apply(context, module)
    check_level(module, "quantised")
    return context, module


@pytest.fixture(scope="session", params=FORMS)
def form(request: pytest.FixtureRequest, prepared: Path) -> Form:
    """Each form in turn."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    options = FORMS[request.param]
    path = prepared.with_name(f"{request.param}.onnx")
    quantize_static(
        str(prepared),
        str(path),
        calibration_reader(),
        quant_format=getattr(QuantFormat, options.get("format", "QDQ")),
        activation_type=getattr(QuantType, options["activation"]),
        weight_type=getattr(QuantType, options["weight"]),
        per_channel=options.get("per_channel", False),
        extra_options=options.get("extra", {}),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        context, module = level_2(path)
    return Form(request.param, path, onnx.load(path), context, module)
