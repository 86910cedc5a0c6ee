"""Bits do not depend on memory: streamed equals resident, chunked equals whole, batches equal one batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cimc.analog
from cimc.models.drawn_weights import DrawnWeights
from cimc.models.qwen3 import Qwen3Shape, qwen3_on_meta
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.device.library import DeviceModel
from cimc.runtime.device.loader import load_device, parse_device
from cimc.runtime.device.prepared import loses_nothing, prepare
from cimc.runtime.device.product import read
from cimc.runtime.device.recipe import Chip, Recipe
from cimc.runtime.device.reference import read_reference

NOISY = parse_device(
    """
name: noisy
description: programming error and read noise
provenance: made for this test
cell: {g_off_us: 1.0, g_on_us: 100.0, v_max: 1.5}
programming: {gaussian: {relative: 0.05}}
read_noise: {gaussian: {relative: 0.02}}
read_scope: read
""",
    "noisy.yaml",
)
SHAPE = Qwen3Shape(90, 32, 2, 4, 2, 8, 48, True)


class Convolutions(nn.Module):
    """Dense, grouped and depthwise convolutions of all dimensions, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(3, 6, 3, padding=2, dilation=2, groups=3)
        self.plane = nn.Conv2d(6, 12, (3, 2), stride=(2, 1), padding=(1, 0))
        self.depthwise = nn.Conv2d(12, 12, 3, padding="same", groups=12, bias=False)
        self.reflected = nn.Conv2d(12, 8, 3, padding=1, padding_mode="reflect")
        self.volume = nn.Conv3d(2, 4, 3, padding=1)
        self.head = nn.Linear(4 * 4 * 4 * 7, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.line(x)).view(len(x), 6, 8, 8)
        y = torch.relu(self.plane(y))
        y = torch.relu(self.depthwise(y))
        y = torch.relu(self.reflected(y)).view(len(x), 2, 4, 4, 7)
        return self.head(torch.relu(self.volume(y)).flatten(1))


def convolutions() -> nn.Module:
    """Seeded, with weights that keep the size of activations."""
    torch.manual_seed(0)
    module = Convolutions().eval()
    for weight in module.parameters():
        if weight.ndim > 1:
            nn.init.kaiming_normal_(weight)
    return module


def images(count: int) -> Tensor:
    """Seeded inputs [count, 3, 64]."""
    return torch.randn(count, 3, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def result(device: str | DeviceModel, x: Tensor, *, parts: int = 1, **options: Any) -> Tensor:
    """Of the convolutions, ``x`` cut into batches."""
    module = cimc.analog.convert(convolutions(), "puma", device, calibration=[images(4)], **options)
    return torch.cat([module(part) for part in x.chunk(parts)])


# Convolutions on ideal cells with a lossless converter are those of torch up to the rounding to 8 bits: every kind
# of window, group and padding is where it belongs.
def test_convolutions_are_those_of_torch() -> None:
    x = images(3)
    with torch.no_grad():
        wanted = convolutions()(x)
    found = result("ideal", x, streaming=False)
    assert float((found - wanted).norm() / wanted.norm()) < 0.05
    assert float(wanted.std(dim=0).mean()) > 0.1


# Policies, small chunks and cut batches give the bits of the resident run, with programming error and noise that is
# drawn anew for every window.
@pytest.mark.parametrize("device", ["ideal", NOISY])
def test_bits_do_not_depend_on_memory(device: str | DeviceModel) -> None:
    x = images(4)
    resident = result(device, x, streaming=False)
    every: tuple[dict[str, Any], ...] = (
        {"streaming": True},
        {"streaming": "auto_memory", "resident": "codes"},
        {"streaming": False, "inference_chunk_size": 1 << 16},
        {"streaming": True, "prefetch_depth": 3, "inference_chunk_size": 1 << 16},
        {"streaming": False, "parts": 4},
    )
    for options in every:
        assert torch.equal(result(device, x, **options), resident), options
    assert not torch.equal(resident, result("ideal", x, streaming=False)) or device == "ideal"


# A language model that never had its weights in memory: same bits streamed and resident under every budget, and
# nearly the float network with the same weights, embedding and output sharing one table.
def test_language_model_from_meta() -> None:
    draw = DrawnWeights(1)
    ids = torch.randint(0, SHAPE.vocabulary, (2, 9), generator=torch.Generator().manual_seed(2))
    plain = qwen3_on_meta(SHAPE)
    values = {name: draw(name, tuple(p.shape), 0, p.shape[0]) for name, p in plain.named_parameters()}
    values["lm_head.weight"] = draw("lm_head.weight", (SHAPE.vocabulary, SHAPE.width), 0, SHAPE.vocabulary)
    plain.load_state_dict(values, assign=True, strict=False)
    plain.embed_tokens.weight = plain.lm_head.weight = nn.Parameter(values["lm_head.weight"])  # pyright: ignore

    def made(**options: Any) -> tuple[nn.Module, Tensor]:
        module = cimc.analog.convert(
            qwen3_on_meta(SHAPE), "puma", "ideal", weights=draw, example=ids, **options
        )
        with torch.no_grad():
            return module, module(ids)

    _, resident = made(streaming=False)
    with torch.no_grad():
        wanted = plain(ids)
    assert float((resident - wanted).norm() / wanted.norm()) < 0.06
    module, streamed = made(streaming=True)
    assert torch.equal(streamed, resident)
    least = cimc.analog.run_of(module).memory_report().predicted_peak_bytes
    for share in (1.0, 1.05, 1.2):
        tight, found = made(streaming="auto", budget_bytes=int(least * share))
        assert torch.equal(found, resident)
        assert cimc.analog.run_of(tight).memory_report().predicted_peak_bytes <= least * share
    assert sum(p.numel() for p in module.parameters()) < 1000


# Rows drawn in any cut are the same rows, and names and seeds give different ones.
def test_drawn_weights() -> None:
    draw, shape = DrawnWeights(3), (200, 40)
    whole = draw("a.weight", shape, 0, 200)
    assert torch.equal(
        torch.cat([draw("a.weight", shape, a, b) for a, b in ((0, 70), (70, 71), (71, 200))]), whole
    )
    assert not torch.equal(whole, draw("b.weight", shape, 0, 200))
    assert not torch.equal(whole, DrawnWeights(4)("a.weight", shape, 0, 200))
    assert abs(float(whole.std()) * 40**0.5 - 1) < 0.03
    assert abs(float(draw("norm.weight", (2000,), 0, 2000).mean()) - 1) < 0.01


# Where the coding alone proves that nothing is lost, no cell is made, and reads are those of the cells' definition.
@pytest.mark.parametrize("encoding", ["offset", "differential", "twos_complement"])
def test_provably_lossless_products_skip_cells(encoding: Any) -> None:
    coding = Coding(
        weight_encoding=encoding, parallel_rows=16, converter_lo=-100, converter_hi=100, dac_bits=1
    )
    recipe = Recipe(3, coding, ((40, 5), (30, 0)), load_device("ideal"), Chip(1))
    assert loses_nothing(recipe)
    assert not loses_nothing(replace(recipe, h=2))
    assert not loses_nothing(replace(recipe, coding=replace(coding, parallel_rows=128)))
    assert not loses_nothing(replace(recipe, device=NOISY))
    generator = torch.Generator().manual_seed(4)
    codes = torch.randint(-128, 128, (70, 9), dtype=torch.int8, generator=generator)
    x = torch.randint(0, 256, (11, 70), dtype=torch.uint8, generator=generator)
    assert torch.equal(read(recipe, prepare(recipe, codes), x), read_reference(recipe, codes, x))
    narrow = replace(recipe, coding=replace(coding, weight_bits=6))
    with pytest.raises(ValueError, match="weights must be in"):
        prepare(narrow, codes)
