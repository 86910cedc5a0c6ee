"""The folder that an internal error leaves behind, for whoever repairs it."""

from __future__ import annotations

import platform
import shlex
import shutil
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_COPIED = (".yaml", ".yml", ".py", ".mlir")
_MAX_BYTES = 1_000_000
_PACKAGES = ("cimc", "xdsl", "onnx", "onnxruntime", "numpy", "numba", "torch", "click")


def write_reproducer(problem: BaseException, arguments: Sequence[str]) -> Path | None:
    """Write command line, traceback, versions and copies of small configuration files; return the folder.

    Models and data stay where they are: they may be large or confidential, and the command names them.
    ``None`` when neither the current folder nor the one for temporary files can be written.
    """
    folder = _new_folder()
    if folder is None:
        return None
    (folder / "command.txt").write_text(shlex.join(["cimc", *arguments]) + "\n")
    (folder / "traceback.txt").write_text("".join(traceback.format_exception(problem)))
    (folder / "versions.txt").write_text(_versions())
    for given in arguments:
        path = Path(given)
        if path.suffix in _COPIED and path.is_file() and path.stat().st_size <= _MAX_BYTES:
            shutil.copy(path, folder / path.name)
    return folder


def _new_folder() -> Path | None:
    for parent in (Path(), Path(tempfile.gettempdir())):
        try:
            return Path(tempfile.mkdtemp(prefix="cimc-crash-", dir=parent)).absolute()
        except OSError:
            continue
    return None


def _versions() -> str:
    lines = [f"python {platform.python_version()} {platform.system()} {platform.machine()}"]
    for name in _PACKAGES:
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} is not installed")
    return "\n".join(lines) + "\n"
