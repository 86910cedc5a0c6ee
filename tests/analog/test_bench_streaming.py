"""The measurement of resident size, as its command does it, in processes of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cimc.analog.plan import BLOCK_OBJECTS_BYTES, PROCESS_BYTES


# ResNet-50 on ideal cells: resident size stays within budget and prediction, and bits are those of the resident run
# (exit code 1 says otherwise). The prediction is within 15 % of what was measured, resident and under three budgets.
# With everything streamed, 14 MB, the fixed allowances alone are 22 % of it: there the 15 % hold for the rest.
@pytest.mark.slow
def test_resident_size_is_predicted() -> None:
    command = [sys.executable, "-m", "tools.bench_streaming", "--model", "resnet-50", "--arch", "puma"]
    options = ["--device", "ideal", "--shares", "0.65", "0.8", "0.95"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["resident", *["auto_speed"] * 3, "auto_memory"]
    streamed, blocks = zip(*(map(int, row[5].split("/")) for row in rows), strict=True)
    assert streamed[0] == 0
    assert list(streamed[1:]) == [*sorted(set(streamed[1:4]), reverse=True), blocks[0]]
    for row in rows:
        assert row[-1] == "same"
        predicted, peak = float(row[2]), float(row[3])
        allowances = (PROCESS_BYTES + blocks[0] * BLOCK_OBJECTS_BYTES) / 1e6
        assert peak <= predicted
        assert predicted - (allowances if row[0] == "auto_memory" else 0) <= 1.15 * peak
