"""The table of models and machines: cells are measured once, refusals and failures keep their reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import cimc.backends
from tools.model_table import Cell, Limits, fill, markdown

LIMITS = Limits(memory_gib=4, minutes=5)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A machine of one core that cannot rewrite its weights."""
    source = Path(cimc.backends.__file__).parent / "puma.yaml"
    document: dict[str, Any] = YAML(typ="safe").load(source)
    document["name"] = "small"
    document["chip"]["cores"] = 1
    document["core"]["crossbars"] = 2
    path = tmp_path_factory.mktemp("machine") / "small.yaml"
    with path.open("w") as file:
        YAML().dump(document, file)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where cells are kept."""
    return tmp_path_factory.mktemp("table")


def test_cells_are_exact_or_refused_and_measured_once(
    folder: Path, small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network that fits runs exactly; on a smaller machine the resource, need and supply are the cell."""
    fits, refused = fill(folder, ["digits"], ["isaac", small], LIMITS, again=False)
    assert fits.ok
    assert fits.exact
    assert fits.array_share == 1.0
    assert min(fits.cycles, fits.rows, fits.program_bytes, fits.crossbars) > 0
    assert refused.ok
    assert not refused.exact
    assert "crossbars" in refused.refused
    assert capsys.readouterr().err.count("digits on") == 2
    assert fill(folder, ["digits"], ["isaac", small], LIMITS, again=False) == [fits, refused]
    assert capsys.readouterr().err == ""
    assert "| digits | isaac | " in markdown([fits])
    assert "exit 3: " in markdown([refused])


def test_a_cell_that_runs_out_of_time_says_so(folder: Path) -> None:
    """The limit is the message, and the cell is no success."""
    (cell,) = fill(folder, ["digits"], ["puma"], Limits(4, 0.001), again=True)
    assert cell.failed == "more than 0.001 minutes"
    assert not cell.ok


def test_what_is_wrong_fails_the_table() -> None:
    """Outputs that differ, products beside the arrays and findings of the verifier."""
    right = Cell("m", "isaac", exact=True, array_share=1.0)
    assert right.ok
    assert not replace(right, exact=False).ok
    assert not replace(right, array_share=0.5).ok
    assert not replace(right, findings=1).ok
