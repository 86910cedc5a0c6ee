"""What a read holds beside cells and result is bounded by its chunk budget (docs/device.md, memory)."""

import json
import subprocess
import sys

import pytest

PROBE = """
import ctypes, json, sys
from pathlib import Path
import numpy as np
import torch
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.device.loader import parse_device
from cimc.runtime.device.prepared import prepare
from cimc.runtime.device.product import read
from cimc.runtime.device.recipe import Chip, Recipe

torch.set_num_threads(1)
effect, kernels, chunk_bytes = sys.argv[1], sys.argv[2] == "kernels", int(sys.argv[3])
text = "name: t\\ndescription: t\\nprovenance: ours\\ncell: {g_off_us: 0.0, g_on_us: 3.0}\\n" + effect
coding = Coding(dac_bits=2, converter_hi=255, frac_bits=8)
recipe = Recipe(0, coding, ((128, 0),) * 4, parse_device(text, "t"), Chip(0), h=1157)
rng = np.random.default_rng(0)
prepared = prepare(recipe, torch.from_numpy(rng.integers(-128, 128, (512, 64))), kernels)
x = torch.from_numpy(rng.integers(0, 256, (6144, 512)).astype(np.uint8))
read(recipe, prepared, x[:200], chunk_bytes=1 << 18)  # compiles

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

# Freed blocks go back to the system at once, so that resident size is what is held.
ctypes.CDLL(None).mallopt(-3, 1 << 16)
ctypes.CDLL(None).malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
result = read(recipe, prepared, x, chunk_bytes=chunk_bytes)
print(json.dumps({"peak": status("VmHWM") - before, "result": result.nbytes, "windows": len(x)}))
"""


def probe(effect: str, kernels: str, chunk_bytes: int) -> dict[str, int]:
    """Peak above start and size of the result of one read in a process of its own, bytes."""
    command = [sys.executable, "-c", PROBE, effect, kernels, str(chunk_bytes)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# Without a bound, digits alone would take 24 MiB and partial sums 24 MiB per row group. Two MiB are for pages of
# libraries that a read touches first, which count as resident.
@pytest.mark.skipif(sys.platform != "linux", reason="resident size is read from /proc")
@pytest.mark.parametrize(
    ("effect", "kernels"),
    [
        ("", "kernels"),
        ("read_noise: {gaussian: {relative: 0.05}}", "kernels"),
        ("", "tensors"),
    ],
)
def test_reads_stay_inside_their_budget(effect: str, kernels: str):
    chunk_bytes = 4 << 20
    found = probe(effect, kernels, chunk_bytes)
    assert found["result"] == 6144 * 64 * 8
    assert found["peak"] <= found["result"] + chunk_bytes + (2 << 20)
    assert found["peak"] >= found["result"]  # the measurement sees what it should
