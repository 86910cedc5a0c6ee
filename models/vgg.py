"""VGG (Simonyan and Zisserman, "Very deep convolutional networks", 2014): no BatchNorm.

VGG-16 is configuration D; VGG-7 the smaller one for CIFAR that papers on computing in memory measure.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SIXTEEN = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
_SEVEN = ((1, 2), (2, 2), (4, 2))
"""Of each block before a 2x2 pool: channels in units of the width, and convolutions."""


class Vgg(nn.Module):
    """[N, 3, size, size] -> [N, classes]; ``width`` channels in the first block, ``hidden`` in the classifier.

    ``size`` is a multiple of two to the number of ``blocks``.
    """

    def __init__(
        self,
        width: int,
        hidden: tuple[int, ...],
        size: int,
        classes: int,
        blocks: tuple[tuple[int, int], ...] = _SIXTEEN,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for factor, convolutions in blocks:
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, factor * width, 3, padding=1), nn.ReLU()]
                channels = factor * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        wide = channels * (size >> len(blocks)) ** 2
        linear: list[nn.Module] = []
        for features in hidden:
            linear += [nn.Linear(wide, features), nn.ReLU(), nn.Dropout(0.5)]
            wide = features
        self.classifier = nn.Sequential(*linear, nn.Linear(wide, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def vgg_16() -> nn.Module:
    """[N, 3, 224, 224] -> [N, 1000]; 138 M weights, 15.5 G multiply-accumulates an image."""
    return Vgg(width=64, hidden=(4096, 4096), size=224, classes=1000)


def vgg_7() -> nn.Module:
    """[N, 3, 32, 32] -> [N, 10]; 13.0 M weights, 0.62 G multiply-accumulates an image."""
    return Vgg(width=128, hidden=(1024,), size=32, classes=10, blocks=_SEVEN)
