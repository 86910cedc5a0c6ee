"""Run pyright in strict mode and make sure that it looked at every file.

pyright does not enter links whose target lies outside its ``include``; with a wrong configuration it
checks three files, finds nothing wrong and exits 0. So the number of files it analysed must be the
number of Python files in the tree.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Print pyright's findings; return 0 if there are none and no file was skipped."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not result.stdout.lstrip().startswith("{"):
        print(f"pyright did not run (exit {result.returncode}):\n{result.stdout}{result.stderr}")
        return 1
    report = json.loads(result.stdout)
    excluded = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]["exclude"]
    files = python_files(ROOT, excluded)
    complaints = judge(report, len(files), ROOT)
    print("\n".join(complaints) if complaints else f"pyright: {len(files)} files, no errors")
    return 1 if complaints else 0


def python_files(root: Path, excluded: list[str]) -> list[Path]:
    """Python files under ``root``, each once (links are not followed), without ``excluded`` folders.

    ``excluded`` is as in ``tool.pyright.exclude``: ``name`` at the root, ``**/name`` anywhere. pyright
    always adds hidden folders and ``node_modules`` to it.
    """
    anywhere = {"node_modules"} | {
        pattern.removeprefix("**/") for pattern in excluded if pattern.startswith("**/")
    }
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        skipped = anywhere | (set(excluded) if here == root else set[str]())
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in skipped)
        found += [here / name for name in sorted(names) if name.endswith(".py")]
    return found


def judge(report: dict[str, Any], files: int, root: Path) -> list[str]:
    """One line for each error of pyright's JSON ``report``, and one if it did not analyse ``files`` files."""
    complaints = [
        _line(found, root) for found in report["generalDiagnostics"] if found["severity"] == "error"
    ]
    analysed = report["summary"]["filesAnalyzed"]
    if analysed != files:
        complaints.append(
            f"pyright analysed {analysed} of {files} Python files; "
            "tool.pyright.include in pyproject.toml must be ['.'] and the links in cimc/ must be links"
        )
    return complaints


def _line(found: dict[str, Any], root: Path) -> str:
    path = os.path.relpath(found["file"], root)
    line = found.get("range", {}).get("start", {}).get("line", -1) + 1
    return f"{path}:{line}: {found['message']} ({found.get('rule', 'syntax')})"


if __name__ == "__main__":
    sys.exit(main())
