"""Heads are positions of a token's row: what splits and joins them is where parts of rows are sent."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from cimc.dialects.row_layout import columns_layout, heads_layout, token_layout
from cimc.models.transformers import export, inputs
from cimc.passes.schedule.heads import row_starts
from cimc.passes.schedule.moves import flat_numbers, row_index
from cimc.runtime.program.opcodes import AluFunction, Opcode
from cimc.runtime.verifier import verify_program

TOKENS, HEADS, FEATURES = 5, 3, 4


def moved(index: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[np.ndarray[Any, Any], ...]:
    """Features of tokens that hold Q, K and V, as ``index`` moves them."""
    x = np.random.default_rng(0).normal(size=(TOKENS, 3 * HEADS * FEATURES))
    return x, x.reshape(-1)[index]


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_split_of_heads_is_a_cut_of_rows(part: int, by_columns: bool) -> None:
    """transpose(reshape(x)) by numpy against the elements from each position's start on."""
    numbers = np.arange(TOKENS * 3 * HEADS * FEATURES).reshape(TOKENS, 3, HEADS, FEATURES)[:, part]
    index = numbers.transpose(1, 2, 0) if by_columns else numbers.transpose(1, 0, 2)
    source = token_layout((TOKENS, 3 * HEADS * FEATURES))
    target = (columns_layout if by_columns else heads_layout)(index.shape)
    starts = row_starts(row_index(index, [source], target), source, target)
    assert starts is not None
    x, wanted = moved(index)
    rows = np.stack([x[:, start : start + FEATURES] for start in starts], axis=1)
    np.testing.assert_array_equal(rows, wanted.reshape(-1)[flat_numbers(target)])


def test_a_move_between_rows_is_no_cut() -> None:
    """A transposition of tokens and features takes elements of other rows; so does a shift by one token."""
    source = token_layout((TOKENS, TOKENS))
    index = np.arange(TOKENS * TOKENS).reshape(TOKENS, TOKENS)
    for other in (index.T, np.roll(index, 1, axis=0)):
        assert row_starts(row_index(other, [source], source), source, source) is None
    assert row_starts(row_index(index, [source], source), source, source) == (0,)


def test_heads_do_not_pass_the_global_buffer(made: Callable[[str, int], tuple[Path, cimc.Artifact]]) -> None:
    """Of a ViT only the class token's way in and out moves through it; products run in a context a head and copy."""
    _, artifact = made("vit", 20)
    program = artifact.program
    names = [program.names[node] for node in program["contexts"]["node"]]
    assert names.count("index_map") == 2
    rows = program["instructions"]
    products = (rows["opcode"] == Opcode.ALU) & (rows["func"] == AluFunction.MATMUL)
    nodes = {program.names[node] for node in rows["node"][products]}
    assert len(nodes) == 4  # two layers
    cores = program["contexts"]["core"]
    assert all(cores[number] >= 0 for number, name in enumerate(names) if name in nodes)
    assert all(names.count(name) % 2 == 0 for name in nodes)  # two heads


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["isaac", "puma"])
def test_deit_tiny_is_exact(arch: str, tmp_path: Path) -> None:
    """Twelve layers of 197 tokens fit the global buffers of both machines, verify, and give level 2's bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        path = export("deit-tiny", 20, tmp_path / "deit.onnx")
    artifact = cimc.compile(path, arch, calibration=inputs("deit-tiny", 2, 1))
    assert verify_program(artifact.program, weights=artifact.weights) == []
    given = inputs("deit-tiny", 1, 2)
    found = artifact.run(given)
    np.testing.assert_array_equal(
        found.outputs["logits"], artifact.run(given, engine="quantised").outputs["logits"]
    )
    assert found.array_macs == found.total_macs > 0
