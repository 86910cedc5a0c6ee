"""An artifact on disk (``docs/artifact.md``): written aside and moved into place, checked when read.

A compile that is killed leaves ``<name>.tmp-<16 hex digits>`` at most, which :func:`open_artifact`
refuses by name and the next compile into the same place removes.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy.typing as npt

from cimc.diagnostics import UsageError
from cimc.runtime.program.files import load_program, read_signed_json, sha256_of, signed_json
from cimc.runtime.program.tables import Program
from cimc.runtime.weight_files import read_safetensors, write_safetensors

ARTIFACT_VERSION = (1, 0)
"""Major and minor version of the artifact's layout. Readers reject a newer major."""

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
PROGRAM = "program"
HOST = "host"
OPTIONAL = ("ir/",)
"""The levels' modules: the instruction stream runs without them."""

_FORMAT = "cimc-artifact"
_SIGNATURE = "manifest_sha256"
_UNFINISHED = re.compile(r"\.(tmp|old)-[0-9a-f]{16}$")


class ArtifactWriter:
    """Writes one artifact; a context manager.

    Inside the ``with`` block files are written under :attr:`folder`; :meth:`finish` writes the manifest
    and moves the folder into place. Leaving the block without ``finish`` (an error, Ctrl-C) removes
    everything written and leaves an artifact that stood there before as it was.

    Entering raises :class:`~cimc.diagnostics.UsageError` when the target exists and is no artifact, when
    its parent cannot be written, or when another compile into the same target is running. That is known
    from an advisory lock on ``<name>.lock`` beside the target, held by the process itself: the kernel
    drops it when the process ends in any way, so a lock file left by a killed compile is never stale.
    """

    def __init__(self, target: Path):
        self.target = Path(os.path.abspath(target))
        self.folder = self.target.with_name(f"{self.target.name}.tmp-{secrets.token_hex(8)}")
        self._lock = self.target.with_name(f"{self.target.name}.lock")
        self._lock_fd = -1

    def __enter__(self) -> ArtifactWriter:
        self._refuse_foreign_target()
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        except OSError as error:
            raise UsageError(f"cannot write there: {error.strerror}", where=str(self.target)) from None
        try:
            self._remove_leftovers()
            self.folder.mkdir()
        except BaseException:  # Ctrl-C may come right after the folder was made
            shutil.rmtree(self.folder, ignore_errors=True)
            self._drop_lock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            self._drop_lock()

    def path(self, name: str) -> Path:
        """Where to write the file ``name`` (relative, with ``/``); its folder exists afterwards."""
        path = self.folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise ValueError(f"'{name}' leaves the artifact")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write one file."""
        self.path(name).write_bytes(content)

    def write_weights(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write the weight image."""
        write_safetensors(self.path(WEIGHTS), arrays)

    def finish(self, *, options: Mapping[str, Any], model_sha256: str, arch_sha256: str) -> None:
        """Write the manifest, make all files durable and move the folder to the target.

        An artifact already there is replaced: it is moved aside first, so at no time does the target
        hold files of both.
        """
        names = sorted(path.relative_to(self.folder).as_posix() for path in _files_under(self.folder))
        manifest: dict[str, Any] = {
            "format": _FORMAT,
            "version": list(ARTIFACT_VERSION),
            "options": dict(options),
            "model_sha256": model_sha256,
            "arch_sha256": arch_sha256,
            "files": {
                name: {
                    "bytes": (self.folder / name).stat().st_size,
                    "sha256": sha256_of(self.folder / name),
                }
                for name in names
            },
        }
        for name in names:
            _sync(self.folder / name)
        (self.folder / MANIFEST).write_bytes(signed_json(manifest, _SIGNATURE))
        _sync(self.folder / MANIFEST)
        for folder in (path for path in self.folder.rglob("*") if path.is_dir()):
            _sync(folder)
        _sync(self.folder)
        self._refuse_foreign_target()
        self._swap()
        _sync(self.target.parent)

    def _swap(self) -> None:
        if not (self.target / MANIFEST).exists():
            os.rename(self.folder, self.target)
            return
        old = self.target.with_name(f"{self.target.name}.old-{secrets.token_hex(8)}")
        os.rename(self.target, old)
        os.rename(self.folder, self.target)
        shutil.rmtree(old)

    def _refuse_foreign_target(self) -> None:
        if _UNFINISHED.search(self.target.name) or self.target.name.endswith(".lock"):
            raise UsageError(
                "names ending in .tmp-, .old- or .lock are the compiler's own; choose another",
                where=str(self.target),
            )
        if not os.path.lexists(self.target):
            return
        if self.target.is_symlink() or not self.target.is_dir():
            raise UsageError("exists and is not a folder; choose another output", where=str(self.target))
        if not any(self.target.iterdir()) or _is_artifact(self.target):
            return
        raise UsageError(
            f"exists and is not an artifact (no {MANIFEST} of one); choose another output or remove it",
            where=str(self.target),
        )

    def _take_lock(self) -> None:
        while True:
            handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(handle, 32).decode(errors="replace").strip()
                os.close(handle)
                raise UsageError(
                    f"another compile into this folder is running (process {holder or 'unknown'});"
                    " wait for it or choose another output",
                    where=str(self.target),
                ) from None
            if _same_file(handle, self._lock):
                os.truncate(handle, 0)
                os.write(handle, f"{os.getpid()}\n".encode())
                self._lock_fd = handle
                return
            # The holder removed the file between our open and our lock: take the one there now.
            os.close(handle)

    def _drop_lock(self) -> None:
        self._lock.unlink(missing_ok=True)
        os.close(self._lock_fd)

    def _remove_leftovers(self) -> None:
        """Remove what a killed compile left; nobody else writes here while we hold the lock."""
        for path in self.target.parent.iterdir():
            if path.name.startswith(f"{self.target.name}.") and _UNFINISHED.fullmatch(
                path.name[len(self.target.name) :]
            ):
                shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class ArtifactFiles:
    """A finished artifact, opened for reading. Each file's hash is checked once, at its first use."""

    folder: Path
    manifest: Mapping[str, Any]
    _checked: set[str] = field(default_factory=set[str], repr=False)

    @property
    def arch_sha256(self) -> str:
        """Digest of the resolved architecture this artifact was made for."""
        return str(self.manifest["arch_sha256"])

    def check_architecture(self, sha256: str) -> None:
        """Raise ``UsageError`` unless the artifact was made for the architecture of that digest."""
        if self.arch_sha256 != sha256:
            raise UsageError(
                f"was compiled for architecture {self.arch_sha256[:12]}, not for the given {sha256[:12]}; "
                "compile for this architecture",
                where=str(self.folder),
            )

    @property
    def model_sha256(self) -> str:
        """Digest of the model it was made from."""
        return str(self.manifest["model_sha256"])

    @property
    def options(self) -> Mapping[str, Any]:
        """The compile's options, as the writer recorded them."""
        return self.manifest["options"]

    def names(self) -> tuple[str, ...]:
        """All files the manifest names, ascending."""
        return tuple(sorted(self.manifest["files"]))

    def path(self, name: str) -> Path:
        """The file ``name``, after its hash was checked; raises ``UsageError`` that names it otherwise."""
        if name not in self._checked:
            self._check(name)
            self._checked.add(name)
        return self.folder / name

    def read_bytes(self, name: str) -> bytes:
        """The content of one file, checked."""
        return self.path(name).read_bytes()

    def program(self) -> Program:
        """The program, its columns memory-mapped."""
        self.path(f"{PROGRAM}/program.json")
        return load_program(self.folder / PROGRAM)

    def weights(self) -> dict[str, npt.NDArray[Any]]:
        """The weight image, memory-mapped."""
        return read_safetensors(self.path(WEIGHTS))

    def host_model(self, name: str) -> bytes:
        """One ONNX sub-model of a host operator."""
        return self.read_bytes(f"{HOST}/{name}")

    def check_all(self) -> None:
        """Check every file's hash now; raises one ``UsageError`` with all that fail."""
        problems: list[str] = []
        for name in self.names():
            if name.startswith(OPTIONAL) and not (self.folder / name).exists():
                continue
            try:
                self.path(name)
            except UsageError as error:
                problems.append(error.message)
        if problems:
            raise UsageError("; ".join(problems), where=str(self.folder))

    def _check(self, name: str) -> None:
        entry = self.manifest["files"].get(name)
        if entry is None:
            raise UsageError(f"the manifest names no file '{name}'", where=str(self.folder))
        path = self.folder / name
        if not path.is_file():
            raise UsageError(f"{name} is missing; compile again", where=str(self.folder))
        if path.stat().st_size != entry["bytes"]:
            raise UsageError(
                f"{name} is truncated or was altered: {path.stat().st_size} bytes, the manifest says"
                f" {entry['bytes']}; compile again",
                where=str(self.folder),
            )
        if sha256_of(path) != entry["sha256"]:
            raise UsageError(
                f"{name} was altered: its sha256 does not match the manifest's; compile again",
                where=str(self.folder),
            )


def open_artifact(
    path: Path, *, expected_arch_sha256: str | None = None, check_all: bool = False
) -> ArtifactFiles:
    """Open the artifact at ``path``.

    The manifest, the presence and the size of every file are checked now, hashes at first use or, with
    ``check_all``, now. Raises :class:`~cimc.diagnostics.UsageError` (exit 2) for no artifact, an
    unfinished one, a newer major version, a truncated or altered file, or an architecture other than
    ``expected_arch_sha256``.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError("is not an artifact folder; compile one first", where=str(path))
    if _UNFINISHED.search(Path(os.path.abspath(folder)).name):
        raise UsageError("is what an interrupted compile left; compile again", where=str(path))
    manifest = read_signed_json(folder / MANIFEST, _SIGNATURE, ARTIFACT_VERSION, "artifact version")
    if manifest.get("format") != _FORMAT:
        raise UsageError(f"{MANIFEST} is not that of an artifact", where=str(path))
    malformed = _manifest_problem(manifest)
    if malformed:
        raise UsageError(f"{MANIFEST} is malformed: {malformed}; compile again", where=str(path))
    files = ArtifactFiles(folder, manifest)
    if expected_arch_sha256 is not None:
        files.check_architecture(expected_arch_sha256)
    _check_sizes(folder, manifest["files"])
    if check_all:
        files.check_all()
    return files


def _manifest_problem(manifest: Mapping[str, Any]) -> str:
    """What a signed manifest of another writer lacks; empty if nothing."""
    kinds = {"version": list, "options": dict, "model_sha256": str, "arch_sha256": str, "files": dict}
    for key, kind in kinds.items():
        if not isinstance(manifest.get(key), kind):
            return f"'{key}' is missing or of the wrong type"
    for name, entry in manifest["files"].items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return f"file '{name}' lies outside the artifact"
        if not isinstance(entry, dict) or not {"bytes", "sha256"} <= set(entry):
            return f"file '{name}' has no size or hash"
    return ""


def _check_sizes(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    problems: list[str] = []
    for name, entry in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            if not name.startswith(OPTIONAL):
                problems.append(f"{name} is missing")
            continue
        size = path.stat().st_size
        if size != entry["bytes"]:
            problems.append(
                f"{name} is truncated or was altered ({size} bytes, the manifest says {entry['bytes']})"
            )
    if problems:
        raise UsageError("; ".join(problems) + "; compile again", where=str(folder))


def _is_artifact(folder: Path) -> bool:
    try:
        return (
            read_signed_json(folder / MANIFEST, _SIGNATURE, ARTIFACT_VERSION, "artifact version").get(
                "format"
            )
            == _FORMAT
        )
    except UsageError:
        # An altered manifest still marks the folder as one of ours if it says so.
        return (folder / MANIFEST).is_file() and _FORMAT.encode() in (folder / MANIFEST).read_bytes()


def _files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
