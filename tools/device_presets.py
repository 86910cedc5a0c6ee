"""Relative error of one product on every device of the library: ``python tools/device_presets.py``.

256 x 32 Gaussian weights, 32 half-Gaussian inputs, the coding of `isaac` (offset, 2-bit cells, 8 rows at once, 8-bit
converter, 1-bit DAC): mean over 20 chips and its 95 % interval, fresh and a day later. docs/device-file.md quotes the
output.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.device.loader import load_device, preset_names
from cimc.runtime.device.prepared import prepare
from cimc.runtime.device.product import read
from cimc.runtime.device.recipe import Chip, Recipe

CODING = Coding(parallel_rows=8)
ROWS, COLUMNS, WINDOWS, CHIPS = 256, 32, 32, 20
DAY_S = 86400.0


def errors(name: str, time_s: float, codes: Tensor, x: Tensor) -> np.ndarray:
    """Relative errors of CHIPS chips of the device called ``name``."""
    exact = (x @ codes).to(torch.float64)
    found: list[float] = []
    for chip in range(CHIPS):
        segments = tuple((128, 0) for _ in range(ROWS // 128))
        recipe = Recipe(0, CODING, segments, load_device(name), Chip(1, chip, time_s))
        result = read(recipe, prepare(recipe, codes), x).to(torch.float64) / 2.0**recipe.frac_bits
        found.append(float((result - exact).norm() / exact.norm()))
    return np.array(found)


def main() -> None:
    """Print one line a device."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    codes = torch.from_numpy(np.clip(np.rint(rng.normal(0, 32, (ROWS, COLUMNS))), -127, 127).astype(np.int64))
    x = torch.from_numpy(
        np.clip(np.rint(np.abs(rng.normal(0, 60, (WINDOWS, ROWS)))), 0, 255).astype(np.int64)
    )
    for name in preset_names():
        columns: list[str] = []
        for time_s in (0.0, DAY_S):
            error = errors(name, time_s, codes, x)
            spread = 2.093 * error.std(ddof=1) / CHIPS**0.5  # Student's t, 19 degrees of freedom
            columns.append(f"{100 * error.mean():7.2f} ± {100 * spread:.2f} %")
        print(f"{name:16s} {columns[0]}  {columns[1]}", flush=True)


if __name__ == "__main__":
    main()
