"""A network with its input given as integers is the network behind their reals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from cimc import models
from tools.integer_inputs import SCALE, ZERO_POINT, main


def test_integers_stand_for_reals(tmp_path: Path) -> None:
    """onnxruntime gives the same for codes as the float model does for what they stand for, and outputs vary."""
    path = models.export_onnx("digits", tmp_path / "digits.onnx")
    result = tmp_path / "digits-u8.onnx"
    assert main([str(path), str(result)]) == 0
    assert main([str(path)]) == 2
    shape = models.network("digits").shape
    codes = np.random.default_rng(1).integers(0, 256, (1, *shape[-3:]), np.uint8)
    reals = ((codes.astype(np.float32) - ZERO_POINT) * SCALE).astype(np.float32)
    outputs = [
        np.asarray(
            ort.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, {"x": given})[0]
        )
        for file, given in ((path, reals), (result, codes))
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.ptp(outputs[0]) > 0.1
