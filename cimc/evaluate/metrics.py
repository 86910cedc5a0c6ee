"""What an output is worth: accuracy over classes, perplexity over tokens, distance from a reference.

All take numpy arrays and compute in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UsageError

Array = npt.NDArray[Any]


def top_k(scores: Array, labels: Array, k: int) -> float:
    """Share of samples whose label is among the ``k`` best classes.

    ``scores`` (samples, classes), ``labels`` int (samples,). Of equal scores the lower class is better, so that a
    network whose outputs have collapsed is not right by luck. Raises ``UsageError`` for shapes that do not
    belong together, labels that are no class, and fewer classes than ``k``.
    """
    flat = scores.reshape(len(scores), -1)
    if labels.shape != (len(flat),) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"labels are one whole number for each of {len(flat)} samples, given {labels.dtype} {labels.shape}"
        )
    classes = flat.shape[1]
    if not 1 <= k <= classes:
        raise UsageError(f"top-{k} needs at least {max(k, 1)} classes, the output has {classes}")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise UsageError(
            f"label {labels[wrong[0]]} of sample {wrong[0]} is no class; the output has {classes} of them"
        )
    best = np.argsort(-flat.astype(np.float64), axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def token_nll(logits: Array, targets: Array) -> npt.NDArray[np.float64]:
    """Negative log likelihood of every target in nats: ``logits`` (tokens, vocabulary), ``targets`` int (tokens,)."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1, keepdims=True)
    total = np.log(np.exp(wide - top).sum(axis=1)) + top[:, 0]
    return total - wide[np.arange(len(wide)), targets]


@dataclass(frozen=True)
class Window:
    """One call of a language model: tokens [begin, end), of which the last ``scored`` predictions count."""

    begin: int
    end: int
    scored: int


def sliding_windows(tokens: int, context: int, stride: int) -> Iterator[Window]:
    """Windows of ``context`` tokens, ``stride`` apart, that score every token but the first exactly once.

    A window predicts each of its tokens but its first, and scores those that no window before it has scored, so
    every token but those of the first window has at least ``context - stride`` tokens before it. The last window
    ends with the text and is as long as the others; a text shorter than ``context`` is one window.
    """
    if not 1 <= stride < context:
        raise UsageError(f"a stride is 1 to {context - 1} for a context of {context} tokens, given {stride}")
    if tokens < 2:
        raise UsageError(f"perplexity needs at least 2 tokens, given {tokens}")
    scored = 1
    for begin in range(0, tokens, stride):
        end = min(begin + context, tokens)
        yield Window(max(0, end - context), end, end - scored)
        scored = end
        if end == tokens:
            return


def perplexity(logits_of: Callable[[Array], Array], tokens: Array, *, context: int, stride: int) -> float:
    """exp of the mean negative log likelihood of a token, over a text longer than the model's context.

    ``logits_of``: token numbers (1, T) to logits (1, T, vocabulary). ``tokens`` int (N,).
    """
    total = 0.0
    for window in sliding_windows(len(tokens), context, stride):
        given = tokens[window.begin : window.end]
        logits = logits_of(given[None])[0]
        total += float(token_nll(logits[:-1], given[1:])[-window.scored :].sum())
    return exp(total / (len(tokens) - 1))


def cosine_similarity(found: Array, reference: Array) -> float:
    """Mean over samples of the cosine between output and reference; 1 where both are zero, 0 where one is."""
    a = found.reshape(len(found), -1).astype(np.float64)
    b = reference.reshape(len(reference), -1).astype(np.float64)
    if a.shape != b.shape:
        raise UsageError(f"the output has shape {found.shape}, the reference {reference.shape}")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosines = np.divide((a * b).sum(axis=1), norms, out=np.zeros(len(a)), where=norms > 0)
    return float(np.where(both_zero, 1.0, cosines).mean())


def relative_error(found: Array, reference: Array) -> float:
    """Norm of the difference over the norm of the reference, over all samples together."""
    if found.shape != reference.shape:
        raise UsageError(f"the output has shape {found.shape}, the reference {reference.shape}")
    norm = float(np.linalg.norm(reference.astype(np.float64)))
    if not norm:
        raise UsageError("the reference is zero everywhere; a relative error needs outputs that vary")
    return float(np.linalg.norm(found.astype(np.float64) - reference.astype(np.float64))) / norm
