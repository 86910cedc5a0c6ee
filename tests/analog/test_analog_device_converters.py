"""A live module on a device that brings its own converters: the file's rule for ranges arrives in the results."""

from __future__ import annotations

import copy

import torch
from torch import nn

from cimc.analog import convert
from cimc.runtime.device.loader import parse_device

HEAD = "name: probe\ndescription: for a test\ncell: {g_off_us: 0.0, g_on_us: 100.0}\n"


def test_the_rule_for_ranges_decides_the_error() -> None:
    """With 4 bits on 128 rows: least squares beats what covers the data, which beats what covers the worst case, and a
    step of one level clips nearly everything. A step a tile is no worse than one for the layer.
    """
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).requires_grad_(False)
    x = torch.rand(32, 64)
    exact = module(x)
    errors: dict[str, float] = {}
    for rule in ("mse", "max", "worst", "unit"):
        for shared in ("tile", "layer") if rule == "mse" else ("layer",):
            text = HEAD + f"adc: {{bits: 4, range: {shared}, calibration: {rule}}}\n"
            device = parse_device(text, "dev.yaml")
            analog = convert(copy.deepcopy(module), "puma", device, calibration=[x])
            errors[f"{rule} {shared}"] = float((analog(x) - exact).norm() / exact.norm())
    assert errors["mse tile"] <= errors["mse layer"] < errors["max layer"] < errors["worst layer"]
    assert errors["worst layer"] < 0.6
    assert errors["unit layer"] > 1
