"""The GPU kernel under Triton's interpreter (docs/device.md, fast evaluation); no GPU is needed."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

COMPARE = """
import numpy as np
import torch
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.device.dense import read_dense
from cimc.runtime.device.kernels_triton import add_group, group_of
from cimc.runtime.device.loader import parse_device
from cimc.runtime.device.prepared import prepare
from cimc.runtime.device.product import read
from cimc.runtime.device.recipe import Chip, Recipe

rng = np.random.default_rng(0)
signed = dict(weight_encoding="differential", input_encoding="sign_magnitude", input_min=-128, converter_lo=-128)
codings = [
    Coding(dac_bits=2, frac_bits=3),
    Coding(dac_bits=3, frac_bits=5, converter_hi=127, **signed),
    Coding(column_flip=True, converter_lo=-8, dac_bits=2),
]
effects = ["", "programming: {gaussian: {relative: 0.05}}", "read_noise: {gaussian: {relative: 0.05}}"]
for coding in codings:
    for effect in effects:
        text = "name: t\\ndescription: t\\nprovenance: ours\\ncell: {g_off_us: 0.0, g_on_us: 3.0}\\n" + effect
        h = 3 if coding.column_flip else 40
        recipe = Recipe(3, coding, ((128, 0), (101, 7)), parse_device(text, "t"), Chip(7, 1), h=h)
        w = torch.from_numpy(rng.integers(-100, 100, (229, 37)))
        x = torch.from_numpy(rng.integers(coding.input_min, coding.input_max + 1, (40, 229)))
        prepared = prepare(recipe, w, kernels=False)
        window = (1 << 32) - 7
        expected = read(recipe, prepared, x, window)
        found = torch.empty_like(expected)
        read_dense(recipe, prepared.dense, x, found, 1 << 24)
        for part in prepared.converted:
            place = (part.group, part.first, part.last)
            noise = None if part.variance is None else (part.variance, part.scale)
            group = group_of(recipe, place, list(part.kept), part.values, part.worth, noise)
            assert group is not None
            add_group(recipe, group, x, window, found)
        assert torch.equal(found, expected), (coding, effect)
        assert prepared.converted
print("equal")
"""


# Same integers as the tensor form for ideal, varied and noisy cells, short groups, and windows past 2^32.
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is an extra (cimc[gpu])")
def test_triton_kernel_equals_tensors():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPARE], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
