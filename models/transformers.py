"""A vision transformer, a BERT and a GPT-2 in torch, from a few words wide to DeiT-tiny, exported with their inputs.

The blocks are those of the papers (ViT: arXiv 2010.11929, with DeiT's sizes: arXiv 2012.12877; BERT: arXiv
1810.04805, norms behind the residuals; GPT-2: norms before them, GELU by tanh). Weights are seeded and scaled, so
that the logits of the networks, which are not trained, vary over inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from cimc.diagnostics import UsageError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Size:
    """What scales: ``width`` features in ``heads`` heads, ``layers`` blocks, logits of ``classes``."""

    width: int = 32
    heads: int = 2
    layers: int = 2
    classes: int = 10
    image: int = 16
    """Pixels along an edge of the square image of a vision transformer, and of one ``patch``."""
    patch: int = 4
    tokens: int = 8
    """Words a sequence, of a vocabulary of ``words``."""
    words: int = 50


class Layer(nn.Module):
    """Attention and a perceptron with residuals; norms before (``pre``) or after them."""

    def __init__(self, size: Size, *, causal: bool = False, pre: bool = True, gelu: str = "none"):
        super().__init__()
        width = size.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads, self.causal, self.pre, self.gelu = size.heads, causal, pre, gelu

    def attention(self, x: Tensor) -> Tensor:
        """Of ``x`` [batch, tokens, width] to itself; same shape."""
        batch, tokens, width = x.shape
        query, key, value = (
            part.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(width, dim=-1)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))

    def perceptron(self, x: Tensor) -> Tensor:
        """Two linear layers, four times as wide between; same shape."""
        return self.down(functional.gelu(self.up(x), approximate=self.gelu))

    def forward(self, x: Tensor) -> Tensor:
        """Both with their residuals; same shape."""
        if self.pre:
            x = x + self.attention(self.norm1(x))
            return x + self.perceptron(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.perceptron(x))


class Vit(nn.Module):
    """Patches of pixels, a class token, learnt positions."""

    def __init__(self, size: Size):
        super().__init__()
        tokens = (size.image // size.patch) ** 2 + 1
        self.patches = nn.Conv2d(3, size.width, size.patch, size.patch)
        self.token = nn.Parameter(torch.randn(1, 1, size.width))
        self.positions = nn.Parameter(torch.randn(1, tokens, size.width))
        self.layers = nn.Sequential(*(Layer(size) for _ in range(size.layers)))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, size.classes)

    def forward(self, image: Tensor) -> Tensor:
        """Images [batch, 3, height, width] to logits [batch, classes]."""
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.layers(x))[:, 0])


class Bert(nn.Module):
    """Embeddings of words, positions and segments; a pooler by tanh."""

    def __init__(self, size: Size):
        super().__init__()
        self.words, self.segments = nn.Embedding(size.words, size.width), nn.Embedding(2, size.width)
        self.positions, self.norm = nn.Embedding(size.tokens, size.width), nn.LayerNorm(size.width)
        self.layers = nn.Sequential(*(Layer(size, pre=False) for _ in range(size.layers)))
        self.pooler, self.head = nn.Linear(size.width, size.width), nn.Linear(size.width, size.classes)
        self.tokens = size.tokens

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        """Words and segments [batch, tokens] to logits [batch, classes]."""
        x = self.words(ids) + self.positions(torch.arange(self.tokens))[None] + self.segments(types)
        return self.head(torch.tanh(self.pooler(self.layers(self.norm(x))[:, 0])))


class Gpt2(nn.Module):
    """Causal attention, GELU by tanh, logits of every token."""

    def __init__(self, size: Size):
        super().__init__()
        self.words = nn.Embedding(size.words, size.width)
        self.positions = nn.Embedding(size.tokens, size.width)
        self.layers = nn.Sequential(*(Layer(size, causal=True, gelu="tanh") for _ in range(size.layers)))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, size.words, bias=False)
        self.tokens = size.tokens

    def forward(self, ids: Tensor) -> Tensor:
        """Words [batch, tokens] to logits [batch, tokens, words]."""
        x = self.words(ids) + self.positions(torch.arange(self.tokens))[None]
        return self.head(self.norm(self.layers(x)))


NETWORKS: dict[str, tuple[type[nn.Module], Size]] = {
    "vit": (Vit, Size()),
    "bert": (Bert, Size(classes=3)),
    "gpt2": (Gpt2, Size()),
    "vit-base": (Vit, Size(width=768, heads=12, layers=12, classes=1000, image=224, patch=16)),
    "bert-base": (Bert, Size(width=768, heads=12, layers=12, classes=2, tokens=128, words=30522)),
    "deit-tiny": (Vit, Size(width=192, heads=3, layers=12, classes=1000, image=224, patch=16)),
}
"""By name: the small ones that tests compile, ViT-B/16, BERT-base over 128 tokens, and DeiT-tiny."""


def _network(name: str) -> tuple[type[nn.Module], Size]:
    if name not in NETWORKS:
        raise UsageError(f"no transformer is named {name!r}; there are: {', '.join(NETWORKS)}")
    return NETWORKS[name]


def inputs(name: str, frames: int, seed: int) -> dict[str, Array]:
    """Seeded inputs of a network by name, frames first. Raises ``UsageError`` if there is no such network."""
    kind, size = _network(name)
    rng = np.random.default_rng(seed)
    if kind is Vit:
        return {"image": rng.normal(size=(frames, 3, size.image, size.image)).astype(np.float32)}
    ids = {"ids": rng.integers(0, size.words, (frames, size.tokens))}
    return ids if kind is Gpt2 else {**ids, "types": rng.integers(0, 2, (frames, size.tokens))}


def export(name: str, opset: int, path: Path) -> Path:
    """Write the network, in evaluation mode, by torch's exporter; return the path. Output ``logits``, batch 1.

    ``opset``: 20 decomposes attention into products and a softmax, from 23 on it is one Attention. Raises
    ``UsageError`` if there is no such network.
    """
    kind, size = _network(name)
    torch.manual_seed(0)
    network = kind(size).eval()
    with torch.no_grad():
        for layer in network.modules():  # logits of fresh weights are too alike to tell errors from
            if isinstance(layer, nn.Linear):
                layer.weight *= 2.0
    given = inputs(name, 1, 0)
    torch.onnx.export(
        network,
        tuple(torch.from_numpy(array) for array in given.values()),
        path,
        input_names=list(given),
        output_names=["logits"],
        dynamo=True,
        opset_version=opset,
        external_data=False,
        verbose=False,
    )
    return path
