"""VGG-16 (Simonyan and Zisserman, "Very deep convolutional networks", 2014; configuration D): no BatchNorm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BLOCKS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Of each block before a 2x2 pool: channels in units of the width, and convolutions."""


class Vgg(nn.Module):
    """[N, 3, size, size] -> [N, classes]; ``width`` channels in the first block, ``hidden`` in the classifier.

    ``size`` is a multiple of 32.
    """

    def __init__(self, width: int, hidden: int, size: int, classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for factor, convolutions in _BLOCKS:
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, factor * width, 3, padding=1), nn.ReLU()]
                channels = factor * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels * (size // 32) ** 2, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def vgg_16() -> nn.Module:
    """[N, 3, 224, 224] -> [N, 1000]; 138 M weights, 15.5 G multiply-accumulates an image."""
    return Vgg(width=64, hidden=4096, size=224, classes=1000)
