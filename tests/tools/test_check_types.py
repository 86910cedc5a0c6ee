"""The guard around pyright: a file that was not looked at is an error."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def guard() -> ModuleType:
    """Load ``tools/check_types.py``, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("check_types", ROOT / "tools" / "check_types.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(analysed: int, *diagnostics: dict[str, Any]) -> dict[str, Any]:
    """Build pyright's JSON, as far as the guard reads it."""
    return {"generalDiagnostics": list(diagnostics), "summary": {"filesAnalyzed": analysed}}


def test_files_are_counted_once_and_excluded_folders_not_at_all(guard: ModuleType, tmp_path: Path) -> None:
    """A linked folder counts once; ``build`` is left out at the root, the others anywhere."""
    left_out = ("real/__pycache__/c.py", "build/d.py", "real/.hidden/e.py", "real/node_modules/f.py", "g.txt")
    for name in ("a.py", "real/b.py", "real/build/h.py", *left_out):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "link").symlink_to("real")
    found = guard.python_files(tmp_path, ["**/__pycache__", "build"])
    assert {str(path.relative_to(tmp_path)) for path in found} == {"a.py", "real/build/h.py", "real/b.py"}
    assert len(found) == 3


def test_no_errors_in_all_files_is_success(guard: ModuleType) -> None:
    """Warnings are no errors."""
    warning = {"file": str(ROOT / "x.py"), "severity": "warning", "message": "hm"}
    assert guard.judge(report(12, warning), 12, ROOT) == []


def test_a_skipped_file_is_an_error(guard: ModuleType) -> None:
    """Both numbers and the remedy are in the message."""
    (complaint,) = guard.judge(report(3), 12, ROOT)
    assert "3 of 12" in complaint
    assert "include" in complaint


def test_an_error_names_file_line_and_rule(guard: ModuleType) -> None:
    """Lines count from 1, as editors do; pyright's JSON counts from 0."""
    error = {
        "file": str(ROOT / "cimc" / "x.py"),
        "severity": "error",
        "message": "is wrong",
        "rule": "reportThis",
        "range": {"start": {"line": 6, "character": 0}},
    }
    assert guard.judge(report(12, error), 12, ROOT) == ["cimc/x.py:7: is wrong (reportThis)"]
