"""A small CNN for scikit-learn's digits: trained in seconds, it carries the demo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cimc.models.tuning import draw, reproducible

_TEST_IMAGES = 360
_BATCH = 64
_LEARNING_RATE = 0.005


@dataclass(frozen=True)
class Digits:
    """Images float32 [n, 1, 8, 8] in 0 to 1, labels int64 [n]; 1437 to train on, 360 to test."""

    train_images: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]


class DigitsCNN(nn.Module):
    """[N, 1, 8, 8] -> logits [N, 10]."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.fc = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.features(x), 1))


def digits_cnn() -> nn.Module:
    """[N, 1, 8, 8] -> [N, 10]; 15.5 k weights, 0.45 M multiply-accumulates an image."""
    return DigitsCNN()


def digits_data() -> Digits:
    """Load scikit-learn's digits (in its wheel, no download), split 1437 to 360, stratified, seed 0."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data: Any = load_digits()
    pixels = (data.images[:, None] / 16.0).astype(np.float32)
    labels = data.target.astype(np.int64)
    split: Any = train_test_split(pixels, labels, test_size=_TEST_IMAGES, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = split
    return Digits(train_images, train_labels, test_images, test_labels)


def train(epochs: int = 20, seed: int = 0) -> nn.Module:
    """Train on the 1437 training images with Adam on one thread; return the network for evaluation.

    The learning rate falls from 0.005 to 0 along a cosine. The same seed gives the same weights.
    """
    data = digits_data()
    generator = torch.Generator().manual_seed(seed)
    pixels, labels = torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels)
    with reproducible():
        module = DigitsCNN()
        with torch.no_grad():
            draw(module, generator)
        optimiser = torch.optim.Adam(module.parameters(), _LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
        for _ in range(epochs):
            for chosen in torch.randperm(len(labels), generator=generator).split(_BATCH):
                loss = nn.functional.cross_entropy(module(pixels[chosen]), labels[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            schedule.step()
    return module.eval().requires_grad_(False)
