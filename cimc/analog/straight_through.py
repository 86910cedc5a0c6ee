"""Gradients through what has none: values of the chip, gradients of the float product (docs/streaming.md, training).

The straight-through estimator (Bengio, Leonard, Courville, arXiv 1308.3432, 2013): forward is the analog result,
backward is that of the same product on clamped inputs and float weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Replace(torch.autograd.Function):
    """Forward the second argument, backward to the first."""

    @staticmethod
    def forward(ctx: Any, smooth: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def replaced(smooth: Tensor, value: Tensor) -> Tensor:
    """``value``, with the gradient of ``smooth``; both of one shape."""
    result = _Replace.apply(smooth, value)
    assert isinstance(result, Tensor)
    return result
