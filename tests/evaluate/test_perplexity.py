"""`cimc eval --metric perplexity` from a model file to the number, against onnxruntime and torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

import cimc
from cimc.arrays_io import write_arrays
from cimc.cli import main
from cimc.models.transformers import export, inputs

CONTEXT, STRIDE = 8, 4
TEXT = np.random.default_rng(7).integers(0, 50, CONTEXT + 5 * STRIDE)


def window_nll(logits: np.ndarray, targets: np.ndarray) -> list[float]:
    """Of each target, in float64, by torch."""
    found = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double(), torch.from_numpy(targets), reduction="none"
    )
    return found.tolist()


def test_perplexity_of_a_causal_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A GPT-2 of two narrow layers on ideal cells: windows written out here, their logits from the instruction stream
    and the losses from torch in float64, give the number to 1e-9; the float network in onnxruntime is within 3 %."""
    path = export("gpt2", 23, tmp_path / "gpt2.onnx")
    artifact = cimc.compile(path, "isaac", calibration=inputs("gpt2", 8, 1), output=tmp_path / "artifact")
    np.savez(tmp_path / "text.npz", tokens=TEXT)
    command = ["eval", tmp_path / "artifact", "--data", tmp_path / "text.npz", "--device-model", "ideal"]
    command += ["--metric", "perplexity", "-o", tmp_path / "out", "--json"]
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in command])
    assert not left.value.code
    found = json.loads(capsys.readouterr().out)[0]["metrics"]["perplexity"]["mean"]

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    losses: dict[str, list[float]] = {"stream": [], "float": []}
    for start in range(0, len(TEXT) - CONTEXT + 1, STRIDE):
        words = TEXT[start : start + CONTEXT]
        fresh = CONTEXT - 1 if start == 0 else STRIDE
        logits = {
            "stream": artifact.run({"ids": words[None]}).outputs["logits"][0],
            "float": np.asarray(session.run(None, {"ids": words[None]})[0])[0],
        }
        for name, values in logits.items():
            losses[name] += window_nll(values[:-1], words[1:])[-fresh:]
    assert len(losses["stream"]) == len(TEXT) - 1
    wanted = {name: float(np.exp(np.mean(values))) for name, values in losses.items()}
    assert found == pytest.approx(wanted["stream"], rel=1e-9)
    assert found == pytest.approx(wanted["float"], rel=0.03)
    assert found > 10


def test_a_text_shorter_than_the_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says so, with both lengths."""
    path = export("gpt2", 23, tmp_path / "gpt2.onnx")
    write_arrays(tmp_path / "calibration.npz", inputs("gpt2", 2, 1))
    np.savez(tmp_path / "text.npz", tokens=TEXT[:5])
    command = ["eval", path, "--arch", "isaac", "--calibration", tmp_path / "calibration.npz"]
    command += ["--data", tmp_path / "text.npz", "--device-model", "ideal", "--metric", "perplexity"]
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in [*command, "-o", tmp_path / "out"]])
    assert left.value.code == 2
    assert "the model reads 8 tokens at once, the text has 5" in capsys.readouterr().err
