"""AlexNet (Krizhevsky et al., 2012) in the form of Caffe's ``bvlc_alexnet``: grouped convolutions, 224 x 224 images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SHAPE = (3, 224, 224)
"""Channels, height and width of one image."""

_SIZE, _ALPHA, _BETA, _BIAS = 5, 1e-4, 0.75, 1.0


class _ExportedNorm(torch.autograd.Function):
    """Local response normalisation that leaves the exporter as one ``LRN`` node."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return nn.functional.local_response_norm(x, _SIZE, _ALPHA, _BETA, _BIAS)

    @staticmethod
    def symbolic(graph: Any, x: Any) -> Any:
        return graph.op("LRN", x, size_i=_SIZE, alpha_f=_ALPHA, beta_f=_BETA, bias_f=_BIAS)


class _LocalResponseNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _ExportedNorm.apply(x)


def _convolution(channels: int, out: int, kernel: int, pad: int, groups: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, kernel, padding=pad, groups=groups), nn.ReLU()]


def _pool(*, ceil: bool = False) -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=ceil)


class AlexNet(nn.Module):
    """[N, 3, 224, 224] -> [N, 1000]: rows of 54, 26, 12 and, after a pool that rounds up, 6 pixels.

    54 is (224 - 11) / 4 + 1 without padding, as the ONNX model zoo's ``bvlcalexnet`` has it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 11, 4),
            nn.ReLU(),
            _LocalResponseNorm(),
            _pool(),
            *_convolution(96, 256, 5, 2, 2),
            _LocalResponseNorm(),
            _pool(),
            *_convolution(256, 384, 3, 1, 1),
            *_convolution(384, 384, 3, 1, 2),
            *_convolution(384, 256, 3, 1, 2),
            _pool(ceil=True),
        )
        self.classifier = nn.Sequential(
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, 1000),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))
