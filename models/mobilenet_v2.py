"""MobileNetV2 (Sandler et al., "Inverted residuals and linear bottlenecks", 2018): depthwise convolutions, ReLU6."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BRANCH_WEIGHT = 0.25

_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""The paper's table 2: expansion, channels, blocks, stride of the first block."""


def _conv(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution, BatchNorm, ReLU6."""
    return [
        nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(),
    ]


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation; the shortcut joins the narrow ends.

    [N, channels, H, W] -> [N, out, H/stride, W/stride].
    """

    def __init__(self, channels: int, out: int, stride: int, expansion: int):
        super().__init__()
        hidden = expansion * channels
        self.has_shortcut = stride == 1 and channels == out
        norm = nn.BatchNorm2d(out)
        if self.has_shortcut:
            # An untrained network amplifies small differences from block to block, trained ones much less.
            nn.init.constant_(norm.weight, _BRANCH_WEIGHT)
        self.layers = nn.Sequential(
            *(_conv(channels, hidden, 1) if expansion > 1 else []),
            *_conv(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out, 1, bias=False),
            norm,
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    """[N, 3, H, W] -> [N, classes]; H and W are multiples of 32."""

    def __init__(self, classes: int):
        super().__init__()
        layers: list[nn.Module] = _conv(3, 32, 3, 2)
        channels = 32
        for expansion, out, blocks, stride in _STAGES:
            for index in range(blocks):
                layers.append(InvertedResidual(channels, out, stride if index == 0 else 1, expansion))
                channels = out
        self.features = nn.Sequential(*layers, *_conv(channels, 1280, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


def mobilenet_v2() -> nn.Module:
    """[N, 3, 224, 224] -> [N, 1000]; width 1.0: 3.5 M weights, 0.30 G multiply-accumulates an image."""
    return MobileNetV2(classes=1000)
