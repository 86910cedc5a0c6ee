"""Finding backends: the entry-point group ``cimc.backends``, a single file, or a bare YAML file.

Our own machines come through the same group as anyone's. A plug-in that does not load is shown with
its error and stops nobody.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from inspect import getattr_static
from pathlib import Path
from typing import Any

from cimc.backends.protocol import STAGES, Backend, BaseBackend
from cimc.diagnostics import CimError, UsageError

GROUP = "cimc.backends"
_MEMBERS = ("name", "architecture", "legal_on_arrays", "extra_passes")


class BackendWarning(UserWarning):
    """A plug-in that cannot be used."""


@dataclass(frozen=True)
class BackendEntry:
    """One registered backend, for lists: ``error`` is empty when it can be used."""

    name: str
    origin: str
    version: str
    description: str
    error: str


def list_backends() -> tuple[BackendEntry, ...]:
    """All registered backends by name, broken ones with their error; each of those warns once."""
    found = sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))
    times = Counter(entry.name for entry in found)
    listed = tuple(_listed(entry, times[entry.name]) for entry in found)
    for entry in listed:
        if entry.error:
            text = f"backend '{entry.name}' of {entry.origin} {entry.version} cannot be used: {entry.error}"
            warnings.warn(text, BackendWarning, stacklevel=1)  # keyed by text here: once a process
    return listed


def load_backend(name: str) -> Backend:
    """The registered backend ``name``.

    Raises :class:`UsageError` (exit 2) when there is none, two packages register the name, or it does
    not load. Other plug-ins are not touched.
    """
    found = tuple(entry_points(group=GROUP, name=name))
    if not found:
        known = sorted({entry.name for entry in entry_points(group=GROUP)})
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}."
        raise UsageError(f"no backend is named '{name}'; {hint} A file is given with its ending (.yaml, .py)")
    first, *others = found
    if others:
        raise UsageError(_duplicate(found))
    return _load_entry(first)


def load_backend_file(path: Path) -> Backend:
    """The backend that the Python file ``path`` defines as ``BACKEND``; the file is executed.

    Raises :class:`UsageError` (exit 2) with the line of the file when it fails.
    """
    if not path.is_file():
        raise UsageError("no such file; give the Python file that defines BACKEND", where=str(path))
    module_name = f"cimc_backend_file_{path.stem}"
    spec = spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError("not a Python file; its name must end in .py", where=str(path))
    module = module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises when it runs
        del sys.modules[module_name]
        where = f"{path}:{_line_in(path, error)}"
        raise UsageError(f"the file fails: {_said(error)}; correct it", where=where) from error
    backend = getattr(module, "BACKEND", None)
    if backend is None:
        raise UsageError("defines no BACKEND; assign the backend object to that name", where=str(path))
    return _checked(backend, str(path))


def resolve_backend(name_or_path: str | Path) -> Backend:
    """The backend of a registered name, of a ``.py`` file, or of a bare ``.yaml`` architecture file."""
    path = Path(name_or_path)
    if path.suffix == ".py":
        return load_backend_file(path)
    if path.suffix in (".yaml", ".yml"):
        return BaseBackend(path)
    return load_backend(str(name_or_path))


def _listed(entry: EntryPoint, times: int) -> BackendEntry:
    origin, version = _origin(entry)
    if times > 1:
        return BackendEntry(entry.name, origin, version, "", f"{times} entry points have this name; keep one")
    try:
        description = _load_entry(entry).architecture().description
    except CimError as error:
        return BackendEntry(entry.name, origin, version, "", str(error))
    return BackendEntry(entry.name, origin, version, description, "")


def _load_entry(entry: EntryPoint) -> Backend:
    origin, version = _origin(entry)
    where = f"backend '{entry.name}' ({entry.value} of {origin} {version})"
    try:
        loaded = entry.load()
    except Exception as error:  # a stranger's module may fail in any way
        raise UsageError(f"does not load: {_said(error)}; repair or remove {origin}", where=where) from error
    backend = _checked(loaded, where)
    if backend.name != entry.name:
        message = f"calls itself '{backend.name}'; make the entry point's name and the YAML's name equal"
        raise UsageError(message, where=where)
    return backend


def _checked(backend: Any, where: str) -> Backend:
    """``backend`` if it has all members and knows the stages; its YAML is read on the way."""
    if isinstance(backend, type):
        raise UsageError(f"BACKEND is the class {backend.__name__}; call it to make one", where=where)
    missing = [m for m in _MEMBERS if getattr_static(backend, m, None) is None]
    if missing:
        raise UsageError(f"BACKEND has no {', '.join(missing)}; see docs/backends.md", where=where)
    try:
        backend.architecture()
        stages = [stage for stage, _ in backend.extra_passes()]
    except CimError:
        raise
    except Exception as error:  # as above
        raise UsageError(f"BACKEND fails: {_said(error)}; see docs/backends.md", where=where) from error
    unknown = sorted(set(stages) - set(STAGES))
    if unknown:
        known = ", ".join(STAGES)
        raise UsageError(f"extra_passes names stage '{unknown[0]}'; stages are {known}", where=where)
    return backend


def _origin(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown package", "")


def _duplicate(entries: tuple[EntryPoint, ...]) -> str:
    origins = " and ".join(f"{_origin(entry)[0]} ({entry.value})" for entry in entries)
    return f"backend '{entries[0].name}' is registered {len(entries)} times, by {origins}; uninstall one"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _line_in(path: Path, error: BaseException) -> int:
    """The last line of ``path`` that the error passed through."""
    if isinstance(error, SyntaxError) and error.lineno:
        return error.lineno
    # Python notes files by their absolute paths.
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
    return lines[-1] if lines and lines[-1] else 1
