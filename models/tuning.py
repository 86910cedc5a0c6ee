"""Seeded random weights that make a network answer differently to different images.

Three steps. Weights are drawn as He et al. do ("Delving deep into rectifiers", 2015). BatchNorm
statistics are taken from 8 forward passes in training mode over structured images, since statistics
left at 0 and 1 let activations grow or vanish with depth. Layers without BatchNorm behind them are
scaled and centred in one forward pass from their own outputs (layer-sequential unit variance: Mishkin
and Matas, "All you need is a good init", 2016; centring: Krähenbühl et al., 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from cimc.models.synthetic import images
from cimc.models.variation import MIN_IMAGES, spread

_BATCHES = 8
_PER_BATCH = 4
_CALIBRATION_SEED = 0xCA11
_TEST_SEED = 0x7E57
_LOGIT_STD = 3.0
_BIAS_STD = 0.1


@contextmanager
def reproducible() -> Generator[None]:
    """Leave torch's global random state as found; use one thread, so that sums keep one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


def tuned(make: Callable[[], nn.Module], shape: tuple[int, int, int], seed: int) -> nn.Module:
    """Build with ``make``, draw weights from ``seed``, calibrate, check; see ``registry.build``."""
    generator = torch.Generator().manual_seed(seed)
    with reproducible(), torch.no_grad():
        module = make()
        draw(module, generator)
        batches = torch.from_numpy(images(_BATCHES * _PER_BATCH, shape, _CALIBRATION_SEED)).split(_PER_BATCH)
        calibrate_batch_norms(module, batches)
        scale_layers(module, torch.cat(batches[:4]), generator)
        spread(np.asarray(module(torch.from_numpy(images(MIN_IMAGES, shape, _TEST_SEED)))))
    return module.requires_grad_(False)


def draw(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights: Kaiming normal for products (grouped ones around a blur), zero biases; spread BatchNorms.

    A BatchNorm's scale is spread around what its constructor left there.
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.mul_(torch.empty_like(layer.weight).uniform_(0.5, 1.5, generator=generator))
            nn.init.normal_(layer.bias, 0.0, 0.2, generator=generator)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if isinstance(layer, nn.Conv2d) and layer.groups > 1:
                # Around a blur, as trained depthwise kernels are. Kernels without a mean keep the differences of
                # neighbours and lose the image: MobileNetV2's error at 8 bits is 0.64 with them, 0.12 with these.
                layer.weight.add_((2 / layer.weight[0].numel()) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def calibrate_batch_norms(module: nn.Module, batches: tuple[Tensor, ...]) -> None:
    """Set the running statistics to the plain average over ``batches``; leave in evaluation mode."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average: each batch counts the same
    module.train()
    for batch in batches if norms else ():
        module(batch)
    module.eval()
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def scale_layers(module: nn.Module, batch: Tensor, generator: torch.Generator) -> None:
    """Centre and scale every layer that has a bias, in order, in one forward pass over ``batch``.

    A layer with a bias is one without a BatchNorm behind it. Each channel's mean over images and
    positions becomes a small random number and its standard deviation 1, or 3 in the last layer, so that
    logits have the range of a trained network's and no class wins by its larger weights.
    """
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m.bias is not None]

    def adjust(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        assert layer.bias is not None
        std = _LOGIT_STD if layer is layers[-1] else 1.0
        channels = (1, -1, *(1,) * (output.dim() - 2))
        others = [d for d in range(output.dim()) if d != 1]
        mean = output.mean(dim=others)
        factor = std / output.std(dim=others)
        shift = torch.empty_like(mean).normal_(0.0, _BIAS_STD * std, generator=generator)
        layer.weight.mul_(factor.view(-1, *(1,) * (layer.weight.dim() - 1)))
        layer.bias.sub_(mean).mul_(factor).add_(shift)
        return (output - mean.view(channels)) * factor.view(channels) + shift.view(channels)

    hooks = [layer.register_forward_hook(adjust) for layer in layers]
    module(batch)
    for hook in hooks:
        hook.remove()
