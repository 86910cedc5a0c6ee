"""What a converted module keeps: generation, tied tables, states, number types; and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import cimc.analog
from cimc.analog.codes import input_codes, input_encoding, weight_codes, weight_scales
from cimc.diagnostics import CimError, DoesNotFitError, UnsupportedError, UsageError
from cimc.runtime.device.recipe import Chip
from cimc.runtime.numerics.digital import quantise


def gpt2(tie: bool = True) -> Any:
    """A GPT-2 of two narrow layers from transformers: HF ``Conv1D`` everywhere, the output tied to the embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=60,
        n_positions=32,
        n_embd=32,
        n_layer=2,
        n_head=2,
        tie_word_embeddings=tie,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.4,
    )
    return GPT2LMHeadModel(config).eval()


def two_layers() -> nn.Module:
    """Seeded."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 30), nn.GELU(), nn.Linear(30, 20)).eval()


def doubled() -> nn.Module:
    """Two layers with twice the weights and biases."""
    module = two_layers()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 2
    return module


X = torch.randn(7, 40, generator=torch.Generator().manual_seed(1))


# A language model of another library generates after conversion, the same tokens streamed as resident, nearly its own
# logits, and its table exists once, as codes.
def test_generate_and_tied_embeddings() -> None:
    ids = torch.tensor([[5, 17, 3]])
    with torch.no_grad():
        wanted = gpt2()(ids).logits
    tokens: list[Any] = []
    for streaming in (False, True):
        module: Any = cimc.analog.convert(gpt2(), "puma", "ideal", streaming=streaming, example=(ids,))
        with torch.no_grad():
            logits = module(ids).logits
            tokens.append(module.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0))
        assert float((logits - wanted).norm() / wanted.norm()) < 0.1
        assert {type(m).__name__ for m in module.modules()} >= {"TiedEmbedding", "AnalogLayer"}
        assert not [n for n, p in module.named_parameters() if p.numel() > 32 * 32]
    assert torch.equal(tokens[0], tokens[1])
    assert tokens[0].shape == (1, 9)
    assert len(set(tokens[0][0].tolist())) > 3


# A tied table is looked up in the codes of the output layer: rows are what those codes stand for.
def test_tied_rows_are_dequantised_codes() -> None:
    plain = gpt2()
    table = plain.transformer.wte.weight.detach().clone()
    module = cimc.analog.convert(plain, "puma", "ideal", streaming=True)
    ids = torch.tensor([[3, 59, 3], [0, 7, 12]])
    scales = weight_scales(table, 8, "")
    wanted = (weight_codes(table, scales, 8).float() * scales[:, None])[ids]
    assert torch.equal(module.get_submodule("transformer.wte")(ids), wanted)


# States: codes and scales are saved and give the same bits elsewhere; a float checkpoint of the original is
# quantised and programmed; what belongs to another network is refused.
def test_state_of_a_frozen_module() -> None:
    module = cimc.analog.convert(two_layers(), "puma", "ideal", streaming=True)
    with torch.no_grad():
        wanted = module(X)
        state = module.state_dict()
        assert state["0.weight"].dtype == torch.int8
        assert state["0.weight"].shape == (30, 40)
        torch.manual_seed(5)
        other = nn.Sequential(nn.Linear(40, 30), nn.GELU(), nn.Linear(30, 20)).eval()
        other = cimc.analog.convert(other, "puma", "ideal", streaming=False)
        assert not torch.equal(other(X), wanted)
        other.load_state_dict(state)
        assert torch.equal(other(X), wanted)
        other.load_state_dict({k: 2 * v for k, v in two_layers().state_dict().items()})
        assert not torch.equal(other(X), wanted)
        other.load_state_dict(two_layers().state_dict())
        assert torch.equal(other(X), wanted)
        module.load_state_dict({k: 2 * v for k, v in two_layers().state_dict().items()})
        assert torch.equal(module(X), cimc.analog.convert(doubled(), "puma", "ideal", streaming=False)(X))
    with pytest.raises(UsageError, match="does not belong here"):
        other.load_state_dict({**state, "0.weight": torch.zeros(3, 4)})
    with pytest.raises(UsageError, match="come with their scales"):
        other.load_state_dict({k: v for k, v in state.items() if k != "0.weight_scale"})


# Half precision is about activations: under autocast and after ``.to(bfloat16)`` results have the narrow type, and
# the integer sums inside are not rounded (float32 results cast afterwards are the same).
def test_autocast_and_to() -> None:
    module = cimc.analog.convert(nn.Linear(400, 30), "puma", "ideal", streaming=False)
    x = torch.randn(5, 400).to(torch.bfloat16)
    with torch.no_grad():
        wanted = module(x.float()).to(torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(module(x.float()), wanted)
        bias = module.get_parameter("bias").clone()
        module.to(torch.bfloat16)
        module.load_state_dict({"bias": bias}, strict=False)
        assert module.get_buffer("weight_scale").dtype == torch.float32
        found = module(x)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), wanted.float(), atol=0.02)


# Codes are those of the numpy library, half to even, saturating at infinities, for pieces of any size.
@pytest.mark.parametrize("bits", [4, 8, 12])
def test_input_codes_are_rule_1(bits: int) -> None:
    encoding = input_encoding(-1.3, 2.6, bits)
    x = torch.randn(3, 100_003)
    x[0, :3] = torch.tensor([float("inf"), float("-inf"), encoding.scale / 2])
    wanted = quantise(x.numpy(), x.numpy().dtype.type(encoding.scale), encoding.zero, 0, (1 << bits) - 1)
    assert torch.equal(input_codes(x, encoding, "x").to(torch.int32), torch.from_numpy(wanted))


# Machines whose converters can lose information: calibrated steps come much nearer than steps that cover everything.
def test_calibrated_converters() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 600).relu()
    with torch.no_grad():
        wanted = nn.Linear(600, 16)(x)
    errors: list[float] = []
    for calibration in ([x], None):
        torch.manual_seed(0)
        x2 = torch.randn(64, 600).relu()
        module = cimc.analog.convert(
            nn.Linear(600, 16), "jia", "ideal", calibration=calibration, streaming=False
        )
        assert cimc.analog.run_of(module).converters
        with torch.no_grad():
            found = module(x2)
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors[0] < 0.1
    assert errors[0] < errors[1] / 2


# Skipped layers and those that a module multiplies by itself stay digital and are named; random streams of the
# others do not depend on what is skipped.
def test_what_stays_digital() -> None:
    module = cimc.analog.convert(two_layers(), "puma", "pcm", streaming=False, skip=["0"])
    alone = cimc.analog.convert(two_layers(), "puma", "pcm", streaming=False)
    run = cimc.analog.run_of(module)
    assert run.digital == {"0": "skipped by '0'"}
    assert isinstance(module.get_submodule("0"), nn.Linear)
    y = torch.rand(3, 30)
    with torch.no_grad():
        assert torch.equal(module.get_submodule("2")(y), alone.get_submodule("2")(y))
    fused = nn.Sequential(nn.Linear(16, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)).eval()
    with pytest.warns(UserWarning, match="stay digital"):
        module = cimc.analog.convert(fused, "puma", "ideal", streaming=False)
    assert set(cimc.analog.run_of(module).digital) == {"1.self_attn.out_proj", "1.linear1", "1.linear2"}


# Chips differ, the same chip repeats itself, and time makes it drift.
def test_chips() -> None:
    module = cimc.analog.convert(two_layers(), "puma", "pcm", streaming=False)
    run = cimc.analog.run_of(module)
    found: list[torch.Tensor] = []
    with torch.no_grad():
        for chip in (Chip(1, 0), Chip(1, 1), Chip(1, 0), Chip(1, 0, 86400.0)):
            run.use_chip(chip)
            found.append(module(X))
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[3])


# A layer used as the whole module, without a batch, with a shared instance: replaced everywhere.
def test_shapes_and_sharing() -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1)
    x = torch.randn(3, 6, 6)
    with torch.no_grad():
        wanted = conv(x)
        found = cimc.analog.convert(conv, "isaac", "ideal", streaming=False)(x)
    assert found.shape == wanted.shape
    assert float((found - wanted).norm() / wanted.norm()) < 0.03
    shared = nn.Linear(8, 8)
    module = cimc.analog.convert(nn.Sequential(shared, nn.ReLU(), shared), "puma", "ideal", streaming=True)
    assert module.get_submodule("0") is module.get_submodule("2")
    with torch.no_grad():
        module(torch.randn(2, 8))
    assert cimc.analog.run_of(module).memory_report().streamed_bytes == 2 * 64


def nan_input() -> None:
    module = cimc.analog.convert(two_layers(), "puma", "ideal", streaming=False)
    module(torch.full((2, 40), float("nan")))


def nan_weight() -> None:
    layer = nn.Linear(4, 4)
    layer.weight.data[0, 0] = float("nan")
    cimc.analog.convert(layer, "puma", "ideal")


def convert(**options: Any) -> Callable[[], nn.Module]:
    given: dict[str, Any] = {"arch": "puma", "device": "ideal", **options}
    return lambda: cimc.analog.convert(two_layers(), given.pop("arch"), given.pop("device"), **given)


# Bad input ends with one clear message of the right kind, before anything is programmed or run.
@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (convert(arch="pluma"), UsageError, "no backend is named 'pluma'"),
        (convert(device="idle"), CimError, "no device is called 'idle'"),
        (convert(streaming="fast", example=X), UsageError, "streaming is one of"),
        (convert(budget_bytes=100), DoesNotFitError, "below the codes of the largest block"),
        (convert(budget_bytes=20_000, example=X), DoesNotFitError, "give at least"),
        (convert(budget_bytes=-1, example=X), CimError, "budget"),
        (convert(inference_chunk_size=10), UsageError, "inference_chunk_size is at least"),
        (convert(skip=["9"]), UsageError, "skip pattern '9' matches no layer"),
        (convert(skip=["*"]), UsageError, "no layer is left"),
        (convert(activations="static"), UsageError, "activations is"),
        (convert(activations="calibrated"), UsageError, "needs calibration batches"),
        (convert(trainable=True, streaming=True), UsageError, "trainable keeps float weights"),
        (convert(weight_bits=40), CimError, "weight_bits must be"),
        (nan_input, UnsupportedError, "no finite range"),
        (nan_weight, UnsupportedError, "not a finite number"),
        (
            lambda: cimc.analog.convert(nn.Linear(4, 4, device="meta"), "puma", "ideal"),
            UsageError,
            "is on meta and has no values",
        ),
        (lambda: cimc.analog.run_of(two_layers()), UsageError, "no analog layer"),
        (
            lambda: cimc.analog.run_of(convert(streaming=False)()).memory_report(),
            UsageError,
            "nothing was planned yet",
        ),
    ],
)
def test_bad_input(act: Callable[[], Any], kind: type[CimError], words: str) -> None:
    with pytest.raises(kind, match=words):
        act()
