"""`cimc device budget`: memory budgets of networks as a table, a file and figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cimc.cli import main
from cimc.evaluate.budgets import BudgetRow, pareto


def run(*arguments: object) -> int:
    """Exit code of ``cimc``."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return int(left.value.code or 0)


def test_more_memory_streams_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Peaks stay inside their budgets, bytes fall to 0 where all fits, auto_memory has the least peak; a budget below
    it fits nothing; CSV and figures hold the same."""
    options = ["--arch", "puma", "--device-model", "ideal", "--json", "-o", tmp_path]
    assert run("device", "budget", "digits", *options, "--plot", "--measure") == 0
    rows = json.loads(capsys.readouterr().out)
    fast = [row for row in rows if row["policy"] == "auto_speed"]
    small = [row for row in rows if row["policy"] == "auto_memory"]
    assert len(fast) == len(small) == 5
    streamed = [row["streamed_mb"] for row in fast]
    assert streamed == sorted(streamed, reverse=True)
    assert streamed[0] > 0
    assert streamed[-1] == 0
    assert all(row["peak_mb"] <= 1e3 * row["budget_gb"] for row in rows)
    assert all(a["peak_mb"] <= b["peak_mb"] for a, b in zip(small, fast, strict=True))
    assert all(row["measured_s"] > 0 for row in fast)
    with (tmp_path / "budgets.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [float(line["peak_mb"]) for line in written] == [row["peak_mb"] for row in rows]
    assert "<svg" in (tmp_path / "speed-memory.svg").read_text()

    assert run("device", "budget", "digits", *options, "--budget-gb", 0.0001) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["peak_mb"] for row in found] == [0.0, 0.0]


def test_the_front_is_what_no_other_row_beats() -> None:
    """Of peaks and times, those that are best in one for the other."""

    def row(peak_mb: float, pass_s: float) -> BudgetRow:
        return BudgetRow("n", 1, 1.0, "auto_speed", 0.0, peak_mb, pass_s, None)

    rows = [row(3, 1), row(1, 4), row(2, 4), row(0, 0), row(2, 2), row(4, 1)]
    assert [(r.peak_mb, r.pass_s) for r in pareto(rows)] == [(1, 4), (2, 2), (3, 1)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["lenet", "--device-model", "pcm"], "no network is named 'lenet'"),
        (["digits", "--device-model", "pcn"], "no device is called 'pcn'"),
        (["digits", "--device-model", "pcm", "--budget-gb", "-1"], "--budget-gb"),
        (["digits", "--device-model", "pcm", "--plot"], "say where with -o"),
    ],
)
def test_what_is_refused(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 with the reason."""
    assert run("device", "budget", *options, "--arch", "puma") == 2
    assert words in capsys.readouterr().err
