"""Straight-through gradients, and fine-tuning on a chip."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import cimc.analog
from cimc.analog.layers import AnalogLayer
from cimc.models.digits import digits_data
from cimc.runtime.device.loader import parse_device
from cimc.runtime.device.recipe import Chip

ROUGH = parse_device(
    """
name: rough
description: large programming error
provenance: made for this test
cell: {g_off_us: 1.0, g_on_us: 100.0, v_max: 1.5}
programming: {gaussian: {relative: 0.2}}
""",
    "rough.yaml",
)


def fit(module: nn.Module, x: Tensor, labels: Tensor, epochs: int, rate: float) -> None:
    """Adam on batches of 64, seeded."""
    module.train()
    optimiser = torch.optim.Adam(module.parameters(), rate)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels), generator=generator).split(64):
            loss = nn.functional.cross_entropy(module(x[chosen]), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    module.eval()


# A small network loses accuracy on a chip with 20 % programming error; fine-tuning through that chip wins it back, on
# the test images of the same chip, with the physics on in evaluation. Another chip has other errors.
def test_fine_tuning_regains_accuracy() -> None:
    data = digits_data()
    x, labels = torch.from_numpy(data.train_images).flatten(1), torch.from_numpy(data.train_labels)
    test_x, test_labels = torch.from_numpy(data.test_images).flatten(1), torch.from_numpy(data.test_labels)

    def accuracy(module: nn.Module) -> float:
        with torch.no_grad():
            return float((module(test_x).argmax(1) == test_labels).float().mean())

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    fit(module, x, labels, 12, 0.01)
    perfect = accuracy(module)
    module = cimc.analog.convert(module, "puma", ROUGH, calibration=[x], streaming=False, trainable=True)
    before = accuracy(module)
    fit(module, x, labels, 3, 0.003)
    after = accuracy(module)
    assert perfect > 0.93
    assert before < perfect - 0.05
    assert after > perfect - 0.02
    cimc.analog.run_of(module).use_chip(Chip(0, 1))
    assert accuracy(module) < after - 0.02


# Gradients are those of the float product of the clamped input, for weights, bias and input; inputs outside the
# calibrated range get none. The value is the chip's.
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(6, 4), (5, 6)),
        (lambda: nn.Conv1d(4, 6, 3, padding="same", groups=2), (2, 4, 9)),
        (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 7, 7)),
        (lambda: nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    ],
)
def test_gradients_are_straight_through(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    plain = make()
    x = torch.randn(shape)
    limit = float(x.abs().quantile(0.9))
    calibration = x.clamp(-limit, limit)
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    layer = cimc.analog.convert(
        make(), "puma", ROUGH, calibration=[calibration], streaming=False, trainable=True
    )
    layer.load_state_dict(state)
    assert isinstance(layer, AnalogLayer)
    assert layer.encoding is not None
    low, high = layer.encoding.low, layer.encoding.high
    assert abs(low + limit) < 0.02
    given = x.clone().requires_grad_(True)
    value = layer(given)
    direction = torch.randn(value.shape)
    (value * direction).sum().backward()
    same = x.clone().requires_grad_(True)
    smooth = plain(same.clamp(low, high))
    (smooth * direction).sum().backward()
    with torch.no_grad():
        assert torch.equal(value, layer(x))
    assert not torch.allclose(value, smooth, rtol=1e-3)
    assert given.grad is not None
    assert same.grad is not None
    inside = (x > low + 0.05) & (x < high - 0.05)
    assert torch.allclose(given.grad[inside], same.grad[inside], rtol=1e-4, atol=1e-5)
    outside = (x < low - 0.05) | (x > high + 0.05)
    assert bool(outside.any())
    assert not given.grad[outside].any()
    for name, parameter in plain.named_parameters():
        found = dict(layer.named_parameters())[name].grad
        assert found is not None
        assert parameter.grad is not None
        assert torch.allclose(found, parameter.grad, rtol=1e-4, atol=1e-5)


# A module that can be trained has the original's state: same names, same shapes, loaded either way.
def test_state_of_a_trainable_module() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    module = cimc.analog.convert(plain, "puma", "ideal", streaming=False, trainable=True)
    assert {n: v.shape for n, v in module.state_dict().items()} == {n: v.shape for n, v in state.items()}
    again = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    again.load_state_dict(module.state_dict())
    x = torch.randn(4, 6)
    with torch.no_grad():
        before = module(x)
        module.load_state_dict({name: 2 * value for name, value in state.items()})
        assert not torch.equal(module(x), before)
        module.load_state_dict(again.state_dict())
        assert torch.equal(module(x), before)
