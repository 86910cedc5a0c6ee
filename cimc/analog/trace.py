"""A pass on the ``meta`` device: which blocks are used in which order, and what else is alive (docs/streaming.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from cimc.diagnostics import UsageError
from cimc.runtime.device.streaming.memory import LiveBytes

PLAIN = (Tensor, int, float, bool, str, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class Use:
    """A layer's turn: its blocks' keys, how many windows, and bytes alive beside its reads."""

    keys: tuple[int, ...]
    windows: int
    live_bytes: int


@dataclass
class Trace:
    """One pass."""

    uses: list[Use] = field(default_factory=list[Use])
    input_bytes: int = 0
    peak_bytes: int = 0
    """Of tensors alive at once, inputs included, without what reads take."""


@dataclass
class Tracer:
    """Collects uses while a pass runs on ``meta``."""

    live: LiveBytes
    trace: Trace

    def note(self, keys: tuple[int, ...], windows: int) -> None:
        """A layer reads now."""
        self.trace.uses.append(Use(keys, windows, self.live.live + self.trace.input_bytes))


def traceable(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call can be repeated on ``meta``: no object in it that a pass might change, such as a cache."""
    return all(isinstance(leaf, PLAIN) for leaf in tree_leaves((tuple(args), dict(kwargs))))


def input_bytes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Bytes of all tensors of a call."""
    leaves = tree_leaves((tuple(args), dict(kwargs)))
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor))


def run_on_meta(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], tracer: Tracer) -> None:
    """Run ``module`` on ``meta``, its parameters and buffers replaced for the time; ``tracer`` learns of every layer.

    Raises :class:`UsageError` when the module's own code cannot run without values.
    """

    def shadow(value: Any) -> Any:
        return value.to("meta") if isinstance(value, Tensor) else value

    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shadows = {name: shadow(tensor) for name, tensor in state.items()}
    given, named = tree_map(shadow, (tuple(args), dict(kwargs)))
    tracer.trace.input_bytes = input_bytes(args, kwargs)
    try:
        with torch.no_grad(), tracer.live:
            functional_call(module, shadows, given, named, tie_weights=False)
    except RuntimeError as error:  # what torch raises where a meta tensor has no value to compute with
        raise UsageError(
            f"memory cannot be predicted, since the module computes with values in its own code ({error}); "
            "give streaming=True or False and no budget",
            where="streaming",
        ) from error
    tracer.trace.peak_bytes = tracer.live.peak + tracer.trace.input_bytes
