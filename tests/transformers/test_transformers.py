"""A ViT, a BERT and a GPT-2, decomposed and with opset 23's Attention: no host, exact, near float."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from cimc.models.transformers import inputs
from cimc.runtime.program.opcodes import Opcode
from cimc.runtime.verifier import verify_program

Made = Callable[[str, int], Any]
FORMS = [(name, opset) for name in ("vit", "bert", "gpt2") for opset in (20, 23)]


@pytest.mark.parametrize(("name", "opset"), FORMS)
def test_no_operator_falls_to_the_host(made: Made, name: str, opset: int) -> None:
    """Static products run on the arrays, all of them, everything else on the digital units."""
    _, artifact = made(name, opset)
    assert artifact.program.hosts == ()
    assert Opcode.HOST not in artifact.program["instructions"]["opcode"]
    found = artifact.run(inputs(name, 1, 2))
    assert found.array_macs == found.total_macs > 0


@pytest.mark.parametrize("name", ["vit", "bert", "gpt2"])
def test_opset_23_brings_attention_as_one_operator(made: Made, name: str) -> None:
    """The two forms are different graphs: products and a softmax, or Attention."""
    kinds = [{node.op_type for node in onnx.load(made(name, opset)[0]).graph.node} for opset in (20, 23)]
    assert "Attention" in kinds[1]
    assert "Attention" not in kinds[0]
    assert "Softmax" in kinds[0]


@pytest.mark.parametrize(("name", "opset"), FORMS)
def test_all_levels_compute_the_same_bits(made: Made, name: str, opset: int) -> None:
    """Level 2, the mapped level and the program agree to the last bit, frame by frame."""
    _, artifact = made(name, opset)
    for seed in (2, 3):
        given = inputs(name, 1, seed)
        runs = [artifact.run(given, engine=e).outputs["logits"] for e in ("quantised", "mapped", "program")]
        np.testing.assert_array_equal(runs[1], runs[0])
        np.testing.assert_array_equal(runs[2], runs[0])


@pytest.mark.parametrize(("name", "opset"), FORMS)
def test_logits_are_near_float(made: Made, name: str, opset: int) -> None:
    """Relative to onnxruntime in float32, 8-bit weights and array inputs cost less than 0.06."""
    path, artifact = made(name, opset)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted, found = [], []
    for seed in range(10, 15):
        given = inputs(name, 1, seed)
        wanted.append(np.asarray(session.run(None, given)[0]))
        found.append(artifact.run(given).outputs["logits"])
    real, mine = np.concatenate(wanted), np.concatenate(found)
    assert real.std(axis=0).max() > 0.1 * np.abs(real).max()  # the inputs matter
    assert np.linalg.norm(mine - real) < 0.06 * np.linalg.norm(real)


@pytest.mark.parametrize(("name", "opset"), FORMS)
def test_the_verifier_finds_nothing(made: Made, name: str, opset: int) -> None:
    """Programs of transformers pass every rule."""
    _, artifact = made(name, opset)
    assert verify_program(artifact.program, weights=artifact.weights) == []


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_the_intervals_are_those_of_a_pipeline(made: Made, name: str) -> None:
    """The cycle engine runs them; frames overlap, so that the next one ends sooner than the first."""
    _, artifact = made(name, 23)
    timing = artifact.simulate(8)
    assert 0 < timing.interval_cycles < timing.latency_ns * artifact.program.machine["clock_ghz"]
