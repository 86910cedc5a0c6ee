"""Named arrays in ``.npz`` files, as the command line reads and writes them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import CimError, UsageError, raise_all


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an ``.npz`` file by name.

    Raises ``UsageError``: no such file, not an ``.npz``, empty, or arrays that cannot be read (cut short,
    or Python objects, which are never loaded); all broken arrays at once.
    """
    _check_kind(path)
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UsageError(f"this .npz is damaged ({_first_line(error)})", where=str(path)) from error
    with loaded:
        return _members(loaded, path)


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write an uncompressed ``.npz``: all or nothing, and equal arrays give equal bytes.

    Raises ``UsageError`` when the place cannot be written.
    """
    draft = path.with_name(f"{path.name}.tmp-{secrets.token_hex(8)}")
    try:
        with ZipFile(draft, "x", ZIP_STORED) as archive:
            for name, array in arrays.items():
                # A ZipInfo made from a name alone carries the year 1980, not today.
                with archive.open(ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        os.replace(draft, path)
    except OSError as error:
        raise UsageError(f"cannot write there: {error.strerror}", where=str(path)) from error
    finally:
        draft.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuse a place for results before the work begins: a folder, or a file in a folder that is not there."""
    if path.is_dir():
        raise UsageError("this is a folder; give the name of a file", where=str(path))
    if not path.absolute().parent.is_dir():
        raise UsageError("its folder does not exist; create it first", where=str(path))


def _check_kind(path: Path) -> None:
    """Refuse what is no ``.npz`` by its first bytes: numpy would guess at Python objects and say so."""
    how = "write one with numpy.savez, arrays by input name"
    if not path.exists():
        raise UsageError(f"there is no such file; {how}", where=str(path))
    if path.is_dir():
        raise UsageError(f"this is a folder, not an .npz file; {how}", where=str(path))
    try:
        with path.open("rb") as file:
            start = file.read(6)
    except OSError as error:
        raise UsageError(f"cannot read the file: {error.strerror}", where=str(path)) from error
    if start == b"\x93NUMPY":
        raise UsageError(f"this is one array without a name (.npy), not an .npz file; {how}", where=str(path))
    if not start.startswith(b"PK"):
        raise UsageError(f"this is not an .npz file; {how}", where=str(path))


def _members(archive: Any, path: Path) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {}
    errors: list[CimError] = []
    for name in archive.files:
        try:
            arrays[name] = archive[name]
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            errors.append(
                UsageError(f"array '{name}' cannot be read ({_first_line(error)})", where=str(path))
            )
    if not archive.files:
        errors.append(UsageError("holds no arrays; it must hold one for each input", where=str(path)))
    raise_all(errors)
    return arrays


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
