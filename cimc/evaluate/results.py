"""Results of a sweep as a CSV file that a killed run leaves usable and the next one continues.

One line per point, written and synced as soon as the point is done. A line that was cut off is dropped when the
file is opened again. The plan beside it says what the file belongs to; another plan is refused, not mixed in.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from cimc.diagnostics import UsageError
from cimc.evaluate.settings import Settings

CHIP = "chip"
RESULTS, PLAN = "results.csv", "plan.json"


class ResultsFile:
    """``results.csv`` and ``plan.json`` of a folder.

    ``keys`` are the settings that vary, ``metrics`` the measured columns. Raises ``UsageError`` when the folder holds
    results of another plan, or a file that is none of ours.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any], keys: Sequence[str], metrics: Sequence[str]):
        self.path = folder / RESULTS
        self._keys = tuple(keys)
        self._metrics = tuple(metrics)
        self._header = [*self._keys, CHIP, *self._metrics]
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder / PLAN, plan)
        self.done: dict[tuple[Settings, int], dict[str, float]] = {}
        if self.path.exists():
            self._read()
        else:
            self.path.write_text(",".join(self._header) + "\n")
        self._file: TextIO = self.path.open("a", newline="")

    def add(self, settings: Settings, chip: int, values: Mapping[str, float]) -> None:
        """Append one point; it survives a kill from here on."""
        given = dict(settings)
        row = (
            [_text(given[key]) for key in self._keys]
            + [str(chip)]
            + [repr(float(values[m])) for m in self._metrics]
        )
        csv.writer(self._file, lineterminator="\n").writerow(row)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done[settings, chip] = dict(values)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> None:
        text = self.path.read_text()
        whole = text[: text.rfind("\n") + 1]
        rows = list(csv.reader(whole.splitlines()))
        if not rows or rows[0] != self._header:
            raise UsageError(
                f"has the columns {','.join(rows[0] if rows else [])}, this sweep {','.join(self._header)}; "
                "give another folder",
                where=str(self.path),
            )
        if whole != text:  # the line that was being written when the run was killed
            self.path.write_text(whole)
        for number, row in enumerate(rows[1:], start=2):
            try:
                settings = tuple((key, json.loads(cell)) for key, cell in zip(self._keys, row, strict=False))
                chip = int(row[len(self._keys)])
                values = [float(cell) for cell in row[len(self._keys) + 1 :]]
                self.done[settings, chip] = dict(zip(self._metrics, values, strict=True))
            except (ValueError, IndexError) as error:
                raise UsageError(
                    f"is no line of this sweep ({error}); remove it or give another folder",
                    where=f"{self.path}:{number}",
                ) from error


def _text(value: Any) -> str:
    return json.dumps(value)


def _claim(path: Path, plan: Mapping[str, Any]) -> None:
    """Write ``plan``, or check that the one there is the same."""
    text = json.dumps(plan, indent=1, sort_keys=True) + "\n"
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)
        return
    if path.read_text() == text:
        return
    try:
        there = json.loads(path.read_text())
    except ValueError:
        there = {}
    differs = sorted(k for k in {*plan, *there} if plan.get(k) != there.get(k))
    raise UsageError(
        f"the folder holds results of another sweep (they differ in {', '.join(differs) or 'form'}); "
        "give another folder, or the same options to continue",
        where=str(path.parent),
    )
