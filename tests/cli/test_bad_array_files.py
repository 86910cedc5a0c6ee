"""Array files that lie about themselves: refused before anything of the size they state is allocated."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest

Refused = Callable[..., None]


@dataclass(frozen=True)
class Bad:
    """What is wrong, how it is made, and how it is answered."""

    name: str
    make: Callable[[Path], None]
    message: str
    code: int = 2


def _npy(shape: tuple[int, ...], kind: str = "<f4", data: bytes = b"") -> bytes:
    """A ``.npy`` whose header states ``shape``, whatever follows."""
    file = io.BytesIO()
    header: dict[str, Any] = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def _member(content: bytes, name: str = "x.npy") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with ZipFile(folder / "data.npz", "w") as archive:
            archive.writestr(name, content)

    return make


def _bomb(folder: Path) -> None:
    """2 GiB and a little of zeros in 2 MB."""
    with (
        ZipFile(folder / "data.npz", "w", ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(_npy(((1 << 29) // 108 + 1, 3, 6, 6)))
        for _ in range(33):
            member.write(bytes(1 << 26))


def _packed_damage(folder: Path) -> None:
    """A compressed member with a byte changed in its middle."""
    np.savez_compressed(folder / "data.npz", x=np.ones((4, 3, 6, 6), np.float32))
    raw = bytearray((folder / "data.npz").read_bytes())
    raw[60] ^= 0xFF
    (folder / "data.npz").write_bytes(raw)


FILES = (
    Bad("petabytes", _member(_npy((1 << 50, 3, 6, 6))), "its header states (1125899906842624, 3, 6, 6) elements"),
    Bad("gigabytes", _member(_npy((1 << 23, 3, 6, 6))), "elements float32, more than the 0 bytes"),
    Bad("negative extent", _member(_npy((-5, 3, 6, 6))), "array 'x' cannot be read"),
    Bad("cut short", _member(_npy((2, 3, 6, 6), data=bytes(800))), "more than the 800 bytes behind it hold"),
    Bad("wide words", _member(_npy((4,), "<U900000000")), "array 'x' cannot be read"),
    Bad("no array", _member(b"once upon a time"), "array 'x' cannot be read (the magic string is not correct"),
    Bad("damaged member", _packed_damage, "cannot be read"),
    Bad("unpacks to gigabytes", _bomb, "its compressed arrays unpack to more than 2147483648 bytes"),
)  # fmt: skip


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_npz_files(refused: Refused, built: Any, case: Bad, tmp_path: Path) -> None:
    """``run --input`` and ``compile --calibration`` answer alike, and never hold what the file claims."""
    case.make(tmp_path)
    tracemalloc.start()
    try:
        refused(case, "run", built.artifact, "--input", "data.npz", "--output", "out.npz")
        given = ("--arch", "isaac", "--shape", "x=1,3,6,6", "--calibration", "data.npz")
        refused(case, "compile", built.model, *given)
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def _samples(name: str, content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "data").mkdir()
        np.save(folder / "data" / "0.npy", np.ones((2, 3, 6, 6), np.float32))
        (folder / "data" / name).write_bytes(content)

    return make


FOLDERS = (
    Bad("empty", lambda folder: (folder / "data").mkdir(), "x: holds no .npy files"),
    Bad("petabytes", _samples("1.npy", _npy((1 << 50, 3, 6, 6))), "1.npy: cannot be read as .npy (its header states"),
    Bad("no array", _samples("1.npy", b""), "1.npy: cannot be read as .npy"),
    Bad("other shape", _samples("1.npy", _npy((1, 3, 5, 5), data=bytes(300))), "1.npy: holds samples of shape"),
    Bad("words", _samples("1.npy", _npy((1, 3, 6, 6), "<U1", bytes(432))), "1.npy: holds elements <U1"),
    Bad("dates", _samples("1.npy", _npy((1, 3, 6, 6), "<M8[s]", bytes(864))), "which are no numbers"),
)  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS, ids=lambda case: case.name)
def test_folders_of_npy(refused: Refused, model: Path, case: Bad, tmp_path: Path) -> None:
    """``--calibration FOLDER``: the file that is wrong is named."""
    case.make(tmp_path)
    refused(case, "compile", model, "--arch", "isaac", "--shape", "x=1,3,6,6", "--calibration", "data")
