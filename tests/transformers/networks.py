"""A small ViT, BERT and GPT-2 in torch: two layers, seeded weights scaled so that logits vary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, TOKENS, WORDS = 32, 2, 8, 50


class Layer(nn.Module):
    """Attention and a perceptron with residuals; norms before (``pre``) or after them."""

    def __init__(self, *, causal: bool = False, pre: bool = True, gelu: str = "none"):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.causal, self.pre, self.gelu = causal, pre, gelu

    def attention(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        query, key, value = (
            part.view(batch, tokens, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in self.qkv(x).split(WIDTH, dim=-1)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, WIDTH))

    def perceptron(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x), approximate=self.gelu))

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            x = x + self.attention(self.norm1(x))
            return x + self.perceptron(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.perceptron(x))


class Vit(nn.Module):
    """Patches of 4 x 4 pixels, a class token, learnt positions (DeiT)."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, 17, WIDTH))
        self.layers = nn.Sequential(Layer(), Layer())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.layers(x))[:, 0])


class Bert(nn.Module):
    """Embeddings of words, positions and segments; a pooler by tanh."""

    def __init__(self):
        super().__init__()
        self.words, self.segments = nn.Embedding(WORDS, WIDTH), nn.Embedding(2, WIDTH)
        self.positions, self.norm = nn.Embedding(TOKENS, WIDTH), nn.LayerNorm(WIDTH)
        self.layers = nn.Sequential(Layer(pre=False), Layer(pre=False))
        self.pooler, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        x = self.words(ids) + self.positions(torch.arange(TOKENS))[None] + self.segments(types)
        return self.head(torch.tanh(self.pooler(self.layers(self.norm(x))[:, 0])))


class Gpt2(nn.Module):
    """Causal attention, GELU by tanh, logits of every token."""

    def __init__(self):
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.layers = nn.Sequential(Layer(causal=True, gelu="tanh"), Layer(causal=True, gelu="tanh"))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.positions(torch.arange(TOKENS))[None]
        return self.head(self.norm(self.layers(x)))


NETWORKS: dict[str, type[nn.Module]] = {"vit": Vit, "bert": Bert, "gpt2": Gpt2}


def inputs(name: str, frames: int, seed: int) -> dict[str, np.ndarray]:
    """Random inputs of a network, frames first."""
    rng = np.random.default_rng(seed)
    if name == "vit":
        return {"image": rng.normal(size=(frames, 3, 16, 16)).astype(np.float32)}
    ids = {"ids": rng.integers(0, WORDS, (frames, TOKENS))}
    return ids if name == "gpt2" else {**ids, "types": rng.integers(0, 2, (frames, TOKENS))}


def export(name: str, opset: int, path: Path) -> Path:
    """The network in ONNX form: by torch's exporter at ``opset``, 20 decomposed, 23 with Attention."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    with torch.no_grad():
        for layer in network.modules():  # logits of fresh weights are too alike to tell errors from
            if isinstance(layer, nn.Linear):
                layer.weight *= 2.0
    given: Any = tuple(torch.from_numpy(array) for array in inputs(name, 1, 0).values())
    names = list(inputs(name, 1, 0))
    torch.onnx.export(
        network,
        given,
        path,
        input_names=names,
        output_names=["logits"],
        dynamo=True,
        opset_version=opset,
        external_data=False,
        verbose=False,
    )
    return path
