"""The measurement of resident size, as its command does it, in processes of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest


# The command's smallest model: resident size stays within budget and prediction, the prediction within 15 % of it,
# bits are those of the resident run. Exit code 1 says otherwise.
@pytest.mark.slow
def test_resident_size_is_predicted() -> None:
    command = [sys.executable, "-m", "tools.bench_streaming", "--model", "qwen3-tiny", "--arch", "puma"]
    options = [
        "--device",
        "ideal",
        "--resident",
        "cells",
        "--chunk",
        "262144",
        "--shares",
        "0.97",
        "0.99",
        "1.2",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert len(rows) == 5
    for row in rows:
        assert row[-1] == "same"
        assert 0 <= float(row[4].rstrip("%")) <= 15
