"""ResNet for ImageNet and for CIFAR (He et al., "Deep residual learning for image recognition", 2016).

ResNet-50 strides in the 3x3 convolution of a bottleneck (the "v1.5" of the common frameworks).
ResNet-CIFAR-20 changes width by 1x1 convolutions (the paper's option B).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_BRANCH_WEIGHT = 0.25


def _shortcut(channels: int, out: int, stride: int) -> nn.Module:
    if stride == 1 and channels == out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


def _last_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm at the end of a residual branch, at a quarter of the shortcut's weight.

    An untrained network amplifies small differences from block to block, trained ones much less.
    Relative error of ResNet-50 under 8-bit QDQ of onnxruntime, 8 calibration and 16 test images:
    0.33 at weight 0.5, 0.13 at 0.25 (2026-11-21); the outputs vary as much over images in both.
    """
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, _BRANCH_WEIGHT)
    return norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N, channels, H, W] -> [N, width, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = _last_norm(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut: [N, channels, H, W] -> [N, 4 width, H/stride, W/stride]."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        out = self.expansion * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = _last_norm(out)
        self.downsample = _shortcut(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    """Stem, stages that halve the image and double the width, global average, one linear layer.

    ``stem`` maps [N, 3, H, W] to [N, width, H', W']; ``depths`` are the blocks of each stage.
    """

    def __init__(
        self,
        stem: nn.Module,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        width: int,
        classes: int,
    ):
        super().__init__()
        self.stem = stem
        stages: list[nn.Module] = []
        channels = width
        for stage, depth in enumerate(depths):
            strides = [1 if stage == 0 else 2] + [1] * (depth - 1)
            blocks: list[nn.Module] = []
            for stride in strides:
                blocks.append(block(channels, width << stage, stride))
                channels = (width << stage) * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.pool(self.stages(self.stem(x)))
        return self.fc(torch.flatten(features, 1))


def _imagenet_stem() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
    )


def resnet_cifar_20() -> nn.Module:
    """[N, 3, 32, 32] -> [N, 10]; 20 layers, 0.27 M weights, 41 M multiply-accumulates an image."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return ResNet(stem, BasicBlock, (3, 3, 3), width=16, classes=10)


def resnet_18() -> nn.Module:
    """[N, 3, 224, 224] -> [N, 1000]; 11.7 M weights, 1.81 G multiply-accumulates an image."""
    return ResNet(_imagenet_stem(), BasicBlock, (2, 2, 2, 2), width=64, classes=1000)


def resnet_34() -> nn.Module:
    """[N, 3, 224, 224] -> [N, 1000]; 21.8 M weights, 3.66 G multiply-accumulates an image."""
    return ResNet(_imagenet_stem(), BasicBlock, (3, 4, 6, 3), width=64, classes=1000)


def resnet_50() -> nn.Module:
    """[N, 3, 224, 224] -> [N, 1000]; 25.6 M weights, 4.09 G multiply-accumulates an image."""
    return ResNet(_imagenet_stem(), Bottleneck, (3, 4, 6, 3), width=64, classes=1000)


def resnet_101() -> nn.Module:
    """[N, 3, 224, 224] -> [N, 1000]; 44.5 M weights, 7.80 G multiply-accumulates an image."""
    return ResNet(_imagenet_stem(), Bottleneck, (3, 4, 23, 3), width=64, classes=1000)
