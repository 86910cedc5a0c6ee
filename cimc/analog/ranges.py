"""Input ranges and converter steps from calibration data, in one pass of the float module (docs/numerics.md section 1).

Engines never calibrate: what is found here is fixed in the recipes of the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cimc.analog.codes import InputEncoding, finite_range, input_codes, input_encoding
from cimc.analog.layouts import Layout
from cimc.analog.matrices import Block
from cimc.runtime.crossbar.calibrate import Observed, choose_steps, full_steps
from cimc.runtime.crossbar.cells import store
from cimc.runtime.crossbar.converter import StepChoice
from cimc.runtime.crossbar.rows import group_bounds
from cimc.runtime.device.adc import observe_groups
from cimc.runtime.device.recipe import Recipe

WINDOWS = 128
"""Windows of a layer that converters are calibrated on."""
COLUMNS = 128
"""Output channels of a block that are observed, spread evenly."""
INPUTS_KEPT = 4
"""Calibration inputs whose values are kept for converters; ranges see all of them."""

Batch = Any
"""A tensor, a tuple of arguments, or a mapping of keyword arguments."""


@dataclass
class Seen:
    """What calibration saw of one layer's inputs."""

    low: float = 0.0
    high: float = 0.0
    inputs: list[Tensor] = field(default_factory=list[Tensor])
    """A few prepared inputs, where converters need them."""


def observe_inputs(
    module: nn.Module, layers: Mapping[str, tuple[nn.Module, Layout]], batches: Iterable[Batch], keep: bool
) -> dict[str, Seen]:
    """Run ``module`` on ``batches`` and note each layer's input range; ``keep`` also keeps a few inputs."""
    seen = {name: Seen() for name in layers}

    def watch(name: str, layout: Layout) -> Callable[..., None]:
        def look(_module: nn.Module, args: tuple[Any, ...]) -> None:
            x = layout.prepare(args[0].detach())
            low, high = finite_range(x, name)
            record = seen[name]
            record.low, record.high = min(record.low, low), max(record.high, high)
            if keep and len(record.inputs) < INPUTS_KEPT:
                record.inputs.append(x[:1].clone() if x.ndim > 2 else x[:WINDOWS].clone())

        return look

    hooks = [layer.register_forward_pre_hook(watch(name, layout)) for name, (layer, layout) in layers.items()]
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                call(module, batch)
    finally:
        for hook in hooks:
            hook.remove()
        module.train(was_training)
    return seen


def call(module: nn.Module, batch: Batch) -> Any:
    """``module`` of a batch in any of its three forms."""
    if isinstance(batch, Mapping):
        return module(**batch)
    return module(*batch) if isinstance(batch, tuple) else module(batch)


def encoding_of(seen: Seen, bits: int) -> InputEncoding:
    """Codes for the range that was seen."""
    return input_encoding(seen.low, seen.high, bits)


def with_steps(
    block: Block, codes: Tensor, layout: Layout, seen: Seen | None, encoding: InputEncoding | None
) -> Recipe:
    """The recipe of ``block`` with converter steps for its weights ``codes`` (N, K).

    Least squared error on the partial sums of calibration windows, or what the device's own converter asks for;
    without calibration the least step that covers every sum that can come. Both on some of the output channels.
    """
    coding = block.recipe.coding
    columns = np.unique(np.linspace(0, block.width - 1, min(COLUMNS, block.width)).round().astype(np.int64))
    weights = codes[torch.from_numpy(columns)].T.contiguous().numpy()
    windows = None
    if seen is not None and encoding is not None and seen.inputs:
        windows = _windows(block, layout, seen.inputs, encoding)
    choices: list[StepChoice] = []
    observed: list[Observed] = []
    start = 0
    for rows, wordline in block.recipe.segments:
        bounds = group_bounds([(rows, wordline)], coding.parallel_rows)
        cells, _ = store(weights[start : start + rows], coding, bounds)
        if windows is None:
            choices.append(full_steps(cells, coding, bounds))
        else:
            observed += observe_groups(windows[:, start : start + rows], cells, coding, bounds)
        start += rows
    adc = block.recipe.device.adc
    if windows is None:
        choice = _coarsest(choices)
    elif adc is None:
        choice = choose_steps(observed, coding)
    else:
        choice = adc.steps(observed, np.diff(block.recipe.bounds).tolist(), coding)
    return replace(block.recipe, coding=replace(coding, frac_bits=choice.frac_bits), h=choice.h)


def _coarsest(choices: Sequence[StepChoice]) -> StepChoice:
    """One unit for all tiles, and steps (I, J) that cover every group."""
    bits = min(choice.frac_bits for choice in choices)
    steps = [-(-choice.h.max(axis=0) >> (choice.frac_bits - bits)) for choice in choices]
    return StepChoice(np.maximum.reduce(steps), bits)


def _windows(
    block: Block, layout: Layout, inputs: Sequence[Tensor], encoding: InputEncoding
) -> np.ndarray[Any, Any]:
    """Up to :data:`WINDOWS` windows (M, K) of codes, spread evenly over the inputs that were kept."""
    found: list[Tensor] = []
    share = -(-WINDOWS // len(inputs))
    for x in inputs:
        windows = layout.windows(input_codes(x, encoding, block.name), encoding.zero)
        total = int(np.prod(windows.shape))
        numbers = np.unique(np.linspace(0, total - 1, min(share, total)).round().astype(np.int64)).tolist()
        found.append(windows.some(numbers, block.channels))
    return torch.cat(found).numpy()
