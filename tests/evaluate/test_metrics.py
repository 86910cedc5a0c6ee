"""Metrics and statistics against plain Python, torch and scipy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import exp, log

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

from cimc.diagnostics import UsageError
from cimc.evaluate.metrics import (
    cosine_similarity,
    perplexity,
    relative_error,
    sliding_windows,
    token_nll,
    top_k,
)
from cimc.evaluate.statistics import summarise

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_is_torchs(k: int) -> None:
    """Share of labels among torch's k largest, scores without ties."""
    scores = RNG.normal(size=(200, 20)).astype(np.float32)
    labels = RNG.integers(0, 20, 200)
    best = torch.topk(torch.from_numpy(scores), k).indices.numpy()
    expected = np.mean([label in row for label, row in zip(labels, best, strict=True)])
    assert 0 < expected < 1
    assert top_k(scores, labels, k) == expected


def test_a_collapsed_output_is_not_right_by_luck() -> None:
    """All scores equal: only class 0 counts as found."""
    labels = np.arange(10)
    assert top_k(np.ones((10, 10)), labels, 1) == 0.1


@pytest.mark.parametrize(
    ("labels", "k", "words"),
    [
        (np.zeros(3), 1, "whole number"),
        (np.zeros(4, np.int64), 1, "for each of 3"),
        (np.array([0, 1, 7]), 1, "label 7 of sample 2"),
        (np.zeros(3, np.int64), 5, "the output has 4"),
    ],
)
def test_labels_that_do_not_belong(labels: np.ndarray, k: int, words: str) -> None:
    """Type, count, range of labels, and too few classes are said."""
    with pytest.raises(UsageError, match=words):
        top_k(np.ones((3, 4)), labels, k)


def test_nll_is_torchs_cross_entropy() -> None:
    """Float64, logits large enough to overflow a naive exp."""
    logits = RNG.normal(scale=300, size=(40, 30))
    targets = RNG.integers(0, 30, 40)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(targets), reduction="none"
    )
    np.testing.assert_allclose(token_nll(logits, targets), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("tokens", "context", "stride"), [(2, 8, 4), (8, 8, 4), (9, 8, 4), (50, 8, 3), (50, 8, 7), (50, 8, 1)]
)
def test_windows_score_every_token_once(tokens: int, context: int, stride: int) -> None:
    """Every token but the first is scored exactly once, with at least context - stride tokens before it later on."""
    scored = np.zeros(tokens, int)
    for number, window in enumerate(sliding_windows(tokens, context, stride)):
        assert window.end - window.begin == min(context, tokens)
        places = np.arange(window.end - window.scored, window.end)
        scored[places] += 1
        assert number == 0 or places.min() - window.begin >= context - stride
    assert scored[0] == 0
    assert (scored[1:] == 1).all()


def _bigram(table: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda tokens: np.log(table)[tokens]


def test_perplexity_of_a_bigram_model() -> None:
    """A model that sees one token back has the same perplexity for every window: the closed form."""
    table = RNG.dirichlet(np.ones(6), size=6)
    tokens = RNG.integers(0, 6, 300)
    expected = exp(-np.mean([log(table[a, b]) for a, b in pairwise(tokens)]))
    for context, stride in ((2, 1), (16, 8), (300, 10)):
        assert perplexity(_bigram(table), tokens, context=context, stride=stride) == pytest.approx(expected)


def test_distances() -> None:
    """Cosine by sample, with zeros; relative error over all samples."""
    a, b = RNG.normal(size=(7, 3, 4)), RNG.normal(size=(7, 3, 4))
    expected = torch.nn.functional.cosine_similarity(
        torch.from_numpy(a.reshape(7, -1)), torch.from_numpy(b.reshape(7, -1))
    ).mean()
    assert cosine_similarity(a, b) == pytest.approx(float(expected))
    assert cosine_similarity(np.zeros((2, 3)), np.array([[0, 0, 0], [1, 0, 0]])) == 0.5
    assert relative_error(a, b) == pytest.approx(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()))
    with pytest.raises(UsageError, match="zero everywhere"):
        relative_error(a, np.zeros_like(a))


def test_confidence_interval_is_that_of_the_t_test() -> None:
    """A 90 % interval of 12 values, against scipy's; one value has no interval."""
    values = RNG.normal(3, 2, 12)
    expected = ttest_1samp(values, 0).confidence_interval(0.9)
    found = summarise(values.tolist(), confidence=0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.std == pytest.approx(values.std(ddof=1))
    assert summarise([0.5]).high == np.inf
    for values, confidence in (([], 0.9), ([1.0], 1.0)):
        with pytest.raises(UsageError):
            summarise(values, confidence=confidence)


def test_confidence_interval_covers_the_mean() -> None:
    """Of 1000 intervals at 95 % of 5 normals each, 931 to 967 hold the mean (99 % of the binomial)."""
    samples = RNG.normal(1.0, 2.0, (1000, 5))
    found = [summarise(row.tolist()) for row in samples]
    assert 931 <= sum(one.low <= 1.0 <= one.high for one in found) <= 967
