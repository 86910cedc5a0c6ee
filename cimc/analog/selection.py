"""Which layers of a module go to arrays, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from cimc.analog.layouts import ConvLayout, Layout, LinearLayout
from cimc.diagnostics import UsageError, raise_all

_READS_WEIGHTS_ITSELF = (
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)
"""Modules of torch that multiply by their layers' weights in a fused call of their own, past the layers."""


@dataclass(frozen=True)
class Selected:
    """A layer for the arrays. ``number`` names its random streams and does not depend on what is skipped."""

    name: str
    number: int
    module: nn.Module
    layout: Layout
    embeddings: tuple[nn.Embedding, ...]
    """Those whose table is this layer's weight."""


@dataclass(frozen=True)
class Selection:
    """All layers for the arrays, and why other layers with weights are digital."""

    layers: tuple[Selected, ...]
    digital: dict[str, str]


def layout_of(module: nn.Module) -> Layout | None:
    """The layout of a layer that arrays can hold, or ``None``."""
    if isinstance(module, nn.Linear):
        return LinearLayout(module.in_features, module.out_features)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return ConvLayout.of(module)
    if _is_hf_conv1d(module):
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        return LinearLayout(weight.shape[0], weight.shape[1], transposed=True)
    return None


def _is_hf_conv1d(module: nn.Module) -> bool:
    """``transformers.pytorch_utils.Conv1D``, told without importing transformers."""
    return any(
        c.__name__ == "Conv1D" and c.__module__ == "transformers.pytorch_utils" for c in type(module).__mro__
    )


def select(module: nn.Module, skip: Sequence[str]) -> Selection:
    """Walk ``module``; ``skip`` are patterns of names (``*``, ``?``, ``[ab]``) that stay digital.

    Raises :class:`UsageError` for a pattern that matches no layer and when nothing is left for the arrays.
    """
    fused = [name for name, m in module.named_modules() if isinstance(m, _READS_WEIGHTS_ITSELF)]
    tables: dict[int, list[nn.Embedding]] = {}
    for embedding in module.modules():
        if isinstance(embedding, nn.Embedding) and embedding.max_norm is None:
            tables.setdefault(id(embedding.weight), []).append(embedding)
    layers: list[Selected] = []
    digital: dict[str, str] = {}
    unused = set(skip)
    number = 0
    for name, layer in module.named_modules():
        layout = layout_of(layer)
        if layout is None:
            if isinstance(layer, nn.modules.conv._ConvNd):  # pyright: ignore[reportPrivateUsage]  # no public base
                digital[name] = "transposed convolutions are not windows of products"
            continue
        number += 1
        matching = {pattern for pattern in skip if fnmatchcase(name, pattern)}
        unused -= matching
        owner = next((f for f in fused if name.startswith(f"{f}." if f else "")), None)
        if matching:
            digital[name] = f"skipped by '{sorted(matching)[0]}'"
        elif owner is not None:
            digital[name] = f"'{owner}' multiplies by its weights past the layer"
        else:
            tied = tuple(tables.get(id(layer.weight), ()))
            layers.append(Selected(name, number, layer, layout, tied))
    known = ", ".join(selected.name for selected in layers[:8])
    raise_all(
        [
            UsageError(f"skip pattern '{pattern}' matches no layer; layers are {known} ...", where="convert")
            for pattern in sorted(unused)
        ]
    )
    if not layers:
        raise UsageError(
            "no layer is left for the arrays: nothing is Linear, Conv1d, Conv2d, Conv3d or HF Conv1D, or all is "
            "skipped",
            where="convert",
        )
    return Selection(tuple(layers), digital)
