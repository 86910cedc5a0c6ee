"""Share of an array's current that its wires lose, and the time to know it: ``python tools/ir_drop.py``.

Segments of 1 ohm, cells of 1 to 100 uS, every row driven; one thread. docs/device-file.md quotes the output.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from cimc.runtime.device.ir_drop import nodal_effective_us


def main() -> None:
    """Print one line a size."""
    torch.set_num_threads(1)
    nodal_effective_us(torch.ones((2, 2), dtype=torch.float64), 1.0, 1.0, 0.0, 0.0)
    for size in (32, 64, 128, 256):
        g_us = torch.from_numpy(np.random.default_rng(0).uniform(1, 100, (size, size)))
        start = time.perf_counter()
        effective = nodal_effective_us(g_us, 1.0, 1.0, 0.0, 0.0)
        seconds = time.perf_counter() - start
        ideal = g_us.sum(dim=0)
        error = float((effective.sum(dim=0) - ideal).norm() / ideal.norm())
        print(f"{size} x {size}: {100 * error:.2f} % of the column currents, {seconds:.2f} s")


if __name__ == "__main__":
    main()
