"""Qwen3 in torch (Qwen Team, "Qwen3 technical report", arXiv 2505.09388): a decoder for language.

Grouped-query attention with RMS norms on queries and keys, rotary positions, a gated perceptron, RMS norms in
front, no biases. Shapes of the published models; weights are whatever is loaded or drawn. Nothing is a buffer, so that
a network built under ``torch.device("meta")`` is complete once its parameters have values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Qwen3Shape:
    """Sizes of one model."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    hidden: int
    """Of the perceptron."""
    tied: bool
    """Whether the output uses the embedding's table."""
    theta: float = 1e6
    """Base of the rotary positions."""
    epsilon: float = 1e-6


QWEN3_0_6B = Qwen3Shape(151936, 1024, 28, 16, 8, 128, 3072, True)
"""0.60 G weights, 0.44 G of them outside the embedding."""


class RmsNorm(nn.Module):
    """``x / sqrt(mean(x^2) + epsilon) * weight`` over the last axis."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


def rotated(x: Tensor, theta: float) -> Tensor:
    """Rotary positions (Su et al., arXiv 2104.09864) on x [B, heads, T, width], halves paired."""
    tokens, width = x.shape[-2:]
    exponent = torch.arange(0, width, 2, device=x.device, dtype=torch.float32) / width
    angle = torch.arange(tokens, device=x.device, dtype=torch.float32)[:, None] / theta**exponent
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    """Causal attention: [B, T, width] -> [B, T, width]."""

    def __init__(self, shape: Qwen3Shape):
        super().__init__()
        self.shape = shape
        wide, narrow = shape.heads * shape.head_width, shape.key_heads * shape.head_width
        self.q_proj = nn.Linear(shape.width, wide, bias=False)
        self.k_proj = nn.Linear(shape.width, narrow, bias=False)
        self.v_proj = nn.Linear(shape.width, narrow, bias=False)
        self.o_proj = nn.Linear(wide, shape.width, bias=False)
        self.q_norm = RmsNorm(shape.head_width, shape.epsilon)
        self.k_norm = RmsNorm(shape.head_width, shape.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        parts = (batch, tokens, -1, self.shape.head_width)
        query = rotated(self.q_norm(self.q_proj(x).view(parts)).transpose(1, 2), self.shape.theta)
        key = rotated(self.k_norm(self.k_proj(x).view(parts)).transpose(1, 2), self.shape.theta)
        value = self.v_proj(x).view(parts).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))


class Perceptron(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, shape: Qwen3Shape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Attention and perceptron, each behind a norm and beside a residual."""

    def __init__(self, shape: Qwen3Shape):
        super().__init__()
        self.input_layernorm = RmsNorm(shape.width, shape.epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape.width, shape.epsilon)
        self.mlp = Perceptron(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen3(nn.Module):
    """ids int64 [B, T] -> logits [B, T, vocabulary]."""

    def __init__(self, shape: Qwen3Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.layers))
        self.norm = RmsNorm(shape.width, shape.epsilon)
        self.lm_head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        if shape.tied:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))


def qwen3_on_meta(shape: Qwen3Shape) -> nn.Module:
    """A Qwen3 of ``shape`` whose parameters have no values and take no memory."""
    with torch.device("meta"):
        return Qwen3(shape).eval()
