"""The networks by name, without importing torch until one is built."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from cimc.diagnostics import UsageError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Network:
    """A network one can build."""

    name: str
    shape: tuple[int, int, int]
    """Channels, height and width of one input image."""
    classes: int
    source: str
    """``module:function`` that returns the untuned torch module."""
    summary: str


_NETWORKS = (
    Network("digits", (1, 8, 8), 10, "cimc.models.digits:digits_cnn", "3 convolutions, 8x8 digits"),
    Network("resnet-cifar-20", (3, 32, 32), 10, "cimc.models.resnet:resnet_cifar_20", "3 stages of 3 blocks"),
    Network("resnet-18", (3, 224, 224), 1000, "cimc.models.resnet:resnet_18", "basic blocks 2, 2, 2, 2"),
    Network("resnet-34", (3, 224, 224), 1000, "cimc.models.resnet:resnet_34", "basic blocks 3, 4, 6, 3"),
    Network("resnet-50", (3, 224, 224), 1000, "cimc.models.resnet:resnet_50", "bottlenecks 3, 4, 6, 3"),
    Network("resnet-101", (3, 224, 224), 1000, "cimc.models.resnet:resnet_101", "bottlenecks 3, 4, 23, 3"),
    Network(
        "squeezenet",
        (3, 224, 224),
        1000,
        "cimc.models.squeezenet:squeezenet_1_1",
        "version 1.1, 8 fire modules",
    ),
    Network(
        "mobilenet-v2",
        (3, 224, 224),
        1000,
        "cimc.models.mobilenet_v2:mobilenet_v2",
        "17 inverted residuals, depthwise 3x3",
    ),
    Network("vgg-7", (3, 32, 32), 10, "cimc.models.vgg:vgg_7", "6 convolutions, 2 linear layers, for CIFAR"),
    Network("vgg-16", (3, 224, 224), 1000, "cimc.models.vgg:vgg_16", "13 convolutions, 3 linear layers"),
)


def names() -> tuple[str, ...]:
    """Return the names ``build`` and ``export_onnx`` take."""
    return tuple(entry.name for entry in _NETWORKS)


def network(name: str) -> Network:
    """Look up one network.

    Raises
    ------
    UsageError
        If there is none of that name; the message lists the names.

    """
    for entry in _NETWORKS:
        if entry.name == name:
            return entry
    raise UsageError(f"no network is named {name!r}; there are: {', '.join(names())}")


def build(name: str, seed: int = 0) -> nn.Module:
    """Build a network with seeded random weights, in evaluation mode, whose outputs vary over inputs.

    The same name and seed give the same weights, bit for bit, on one machine and torch version.
    Input: float32 [N, *network(name).shape]. Output: float32 logits [N, network(name).classes].

    Raises
    ------
    UsageError
        If there is no such network.
    UnsupportedError
        If the outputs do not vary over 8 test images after tuning (``cimc.models.variation``).

    """
    entry = network(name)
    module, function = entry.source.split(":")
    tuning = import_module("cimc.models.tuning")
    return tuning.tuned(getattr(import_module(module), function), entry.shape, seed)
