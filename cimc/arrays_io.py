"""Named arrays in ``.npz`` files, as the command line reads and writes them; one array in a ``.npy``.

What a file states of its size is compared with the file before anything of that size is allocated.
"""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import CimError, UsageError, raise_all

DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    BadZipFile,
    KeyError,
    RuntimeError,
    OverflowError,
    TokenError,
    zlib.error,
)
"""What numpy and zipfile raise on damaged files, other than the memory they try to take."""

MAX_UNPACKED_BYTES = 2 << 30
"""Bytes that the compressed arrays of one file may unpack to; a few megabytes of zeros unpack to gigabytes."""


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an ``.npz`` file by name.

    Raises ``UsageError``: no such file, not an ``.npz``, empty, or arrays that cannot be read (cut short,
    or Python objects, which are never loaded); all broken arrays at once.
    """
    _check_kind(path)
    try:
        loaded = np.load(path, allow_pickle=False)
    except DAMAGE as error:
        raise UsageError(f"this .npz is damaged ({first_line(error)})", where=str(path)) from error
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
    packed = [info for info in archive.zip.infolist() if info.compress_type != ZIP_STORED]
    if sum(info.file_size for info in packed) > MAX_UNPACKED_BYTES:
        raise UsageError(
            f"its compressed arrays unpack to more than {MAX_UNPACKED_BYTES} bytes; "
            "write large ones with numpy.savez, which does not compress",
            where=str(path),
        )
    sizes = {info.filename.removesuffix(".npy"): info for info in archive.zip.infolist()}
    for name in archive.files:
        try:
            with archive.zip.open(sizes[name]) as member:
                check_npy_header(member, sizes[name].file_size)
            arrays[name] = archive[name]
        except DAMAGE as error:
            errors.append(UsageError(f"array '{name}' cannot be read ({first_line(error)})", where=str(path)))
    if not archive.files:
        errors.append(UsageError("holds no arrays; it must hold one for each input", where=str(path)))
    raise_all(errors)
    return arrays


def read_npy(path: Path) -> npt.NDArray[Any]:
    """The array of a ``.npy`` file. Raises one of :data:`DAMAGE` when it is not one, is cut short or holds objects."""
    with path.open("rb") as file:
        check_npy_header(file, path.stat().st_size)
    return np.load(path, allow_pickle=False)


def check_npy_header(file: IO[bytes], size_bytes: int) -> None:
    """Raise ``ValueError`` when a ``.npy`` of ``size_bytes`` states more elements than it has bytes for."""
    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded: they are Python objects, not numbers")
    left = size_bytes - file.tell()
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize > left:
        raise ValueError(
            f"its header states {shape} elements {dtype}, more than the {left} bytes behind it hold"
        )


def first_line(error: Exception) -> str:
    """The first line of what an error says; its type when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
