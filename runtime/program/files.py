"""A program on disk: one ``.npy`` a column and a JSON header (``docs/isa.md``, "Files").

Columns are memory-mapped on load, contain no pickles, and are named with their sha256 in the header,
so that a truncated or altered file is an error that names it. Equal programs give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from cimc.diagnostics import UsageError
from cimc.runtime.program.opcodes import IMAGE_WRITES
from cimc.runtime.program.tables import (
    AGAIN,
    FORMAT_VERSION,
    SCHEMAS,
    Columns,
    HostOperator,
    IoTensor,
    Program,
)

WRITES_SAY_WHEN = (1, 3)
"""Format since which a write says whether its cells keep what it programs."""

HEADER = "program.json"
_FORMAT = "cimc-program"


class _Header(BaseModel):
    """What ``program.json`` holds; unknown keys are an error unless the minor version is newer."""

    model_config = ConfigDict(extra="allow", strict=False)

    format: str
    version: tuple[int, int]
    header_sha256: str
    files: dict[str, str]
    names: tuple[str, ...]
    io: tuple[IoTensor, ...]
    taps: tuple[IoTensor, ...]
    hosts: tuple[HostOperator, ...]
    weights: tuple[str, ...]
    machine: dict[str, Any]
    frames: int
    total_macs: int


def table_problems(tables: Mapping[str, Columns]) -> list[str]:
    """What is wrong with the shape of ``tables``: missing or unknown tables and columns, types, lengths."""
    problems: list[str] = []
    for table in tables:
        if table not in SCHEMAS:
            problems.append(f"table '{table}' is not part of format {_version(FORMAT_VERSION)}")
    for table, schema in SCHEMAS.items():
        if table not in tables:
            problems.append(f"table '{table}' is missing")
            continue
        columns = tables[table]
        problems.extend(f"column '{table}.{name}' is unknown" for name in columns if name not in schema)
        lengths: dict[str, int] = {}
        for name, spec in schema.items():
            if name not in columns:
                problems.append(f"column '{table}.{name}' is missing")
                continue
            problem = _column_problem(columns[name], spec)
            if problem:
                problems.append(f"column '{table}.{name}' {problem}")
                continue
            lengths[name] = len(columns[name])
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
            problems.append(f"columns of table '{table}' differ in length: {listed}")
    return problems


def save_program(program: Program, folder: Path) -> None:
    """Write ``program`` into ``folder`` (made if absent; must not hold another program's files).

    Raises ``ValueError`` if the tables do not follow the schema.
    """
    problems = table_problems(program.tables)
    if problems:
        raise ValueError("; ".join(problems))
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    for table, schema in SCHEMAS.items():
        for name in schema:
            path = folder / f"{table}.{name}.npy"
            column = np.ascontiguousarray(program[table][name])
            with path.open("wb") as file:
                np.lib.format.write_array(file, _little(column), version=(1, 0), allow_pickle=False)
            files[path.name] = sha256_of(path)
    header: dict[str, Any] = {
        "format": _FORMAT,
        "version": list(FORMAT_VERSION),
        "files": files,
        "names": list(program.names),
        "io": [asdict(tensor) for tensor in program.io],
        "taps": [asdict(tensor) for tensor in program.taps],
        "hosts": [asdict(host) for host in program.hosts],
        "weights": list(program.weights),
        "machine": dict(program.machine),
        "frames": program.frames,
        "total_macs": program.total_macs,
    }
    (folder / HEADER).write_bytes(signed_json(header, "header_sha256"))


def load_program(folder: Path) -> Program:
    """The program in ``folder``; its columns are read-only memory maps.

    Raises one :class:`~cimc.diagnostics.UsageError` with every problem: no or malformed header, a newer
    major version (by name), missing, truncated or altered columns, wrong types or lengths.
    """
    header = _read_header(folder)
    newer = header.version > FORMAT_VERSION
    problems: list[str] = []
    extra = sorted(header.model_extra or ())
    if extra and not newer:
        problems.append(f"{HEADER} has unknown keys {extra}")
    tables: dict[str, dict[str, npt.NDArray[Any]]] = {table: {} for table in SCHEMAS}
    for file, digest in header.files.items():
        table, _, rest = file.partition(".")
        column = rest.removesuffix(".npy")
        if column not in SCHEMAS.get(table, {}):
            if not newer:
                problems.append(f"{file} is not a column of format {_version(FORMAT_VERSION)}")
            continue
        array = _load_column(folder / file, digest)
        if isinstance(array, str):
            problems.append(array)
            tables[table][column] = np.zeros((0,), np.void)
            continue
        tables[table][column] = array
    if not problems:
        problems = table_problems(tables)
    if problems:
        raise UsageError("; ".join(problems) + "; compile again", where=str(folder))
    if header.version < WRITES_SAY_WHEN:
        _write_again(tables)
    # The header's keys are sorted; tables and columns come in the schema's order, as built.
    ordered = {table: {name: tables[table][name] for name in schema} for table, schema in SCHEMAS.items()}
    return Program(
        tables=ordered,
        names=header.names,
        io=header.io,
        hosts=header.hosts,
        weights=header.weights,
        machine=header.machine,
        frames=header.frames,
        total_macs=header.total_macs,
        taps=header.taps,
    )


def _write_again(tables: dict[str, dict[str, npt.NDArray[Any]]]) -> None:
    """Mark the writes of an older program of several phases, which all count in every call."""
    if (tables["contexts"]["phase"] > 0).any():
        rows = tables["instructions"]
        writes = np.isin(rows["opcode"], sorted(IMAGE_WRITES))
        rows["func"] = np.where(writes, AGAIN, rows["func"]).astype(np.uint8)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def signed_json(content: Mapping[str, Any], key: str) -> bytes:
    """Canonical JSON of ``content`` with the digest of the rest under ``key``: a changed byte shows."""
    body = _canonical(content)
    return _canonical({**content, key: hashlib.sha256(body).hexdigest()}, indent=1) + b"\n"


def read_signed_json(
    path: Path, key: str, newest: tuple[int, int] = FORMAT_VERSION, kind: str = "program format"
) -> dict[str, Any]:
    """What :func:`signed_json` wrote; raises ``UsageError`` if absent, of a newer major version than
    ``newest`` (which may sign otherwise, so this comes first), malformed or altered."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path.name} is missing", where=str(path.parent)) from None
    except (ValueError, OSError, RecursionError) as error:  # brackets nested without end
        raise UsageError(f"{path.name} cannot be read: {error}", where=str(path.parent)) from None
    if not isinstance(content, dict):
        raise UsageError(f"{path.name} holds no object", where=str(path.parent))
    fields: dict[str, Any] = {str(name): value for name, value in content.items()}
    version = fields.get("version")
    if isinstance(version, list) and version and isinstance(version[0], int) and version[0] > newest[0]:
        given = ".".join(str(part) for part in version)
        raise UsageError(
            f"{kind} {given} is newer than {_version(newest)}, the newest this version of cimc reads;"
            " use a newer cimc or compile again",
            where=str(path.parent),
        )
    body = {name: value for name, value in fields.items() if name != key}
    if fields.get(key) != hashlib.sha256(_canonical(body)).hexdigest():
        raise UsageError(f"{path.name} was altered: its {key} does not match", where=str(path.parent))
    return fields


def _canonical(content: Mapping[str, Any], indent: int | None = None) -> bytes:
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(
        content, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators
    )
    return text.encode()


def _read_header(folder: Path) -> _Header:
    content = read_signed_json(folder / HEADER, "header_sha256", FORMAT_VERSION)
    if content.get("format") != _FORMAT:
        raise UsageError(f"{HEADER} is not the header of a program", where=str(folder))
    try:
        return _Header.model_validate(content)
    except ValidationError as error:
        listed = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()
        )
        raise UsageError(f"{HEADER} is malformed: {listed}", where=str(folder)) from None


def _load_column(path: Path, digest: str) -> npt.NDArray[Any] | str:
    """The mapped array, or what is wrong with its file."""
    if not path.is_file():
        return f"{path.name} is missing"
    if sha256_of(path) != digest:
        return f"{path.name} is truncated or was altered: its sha256 does not match the header's"
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        return f"{path.name} is not a plain .npy file ({error})"


def _column_problem(column: npt.NDArray[Any], spec: str) -> str:
    dtype, _, width = spec.partition(":")
    if column.dtype != np.dtype(dtype):
        return f"has type {column.dtype}, not {dtype}"
    dimensions = 2 if width else 1
    if column.ndim != dimensions:
        return f"has {column.ndim} dimensions, not {dimensions}"
    if width and column.shape[1] != int(width):
        return f"has {column.shape[1]} values a row, not {width}"
    return ""


def _little(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return column.astype(column.dtype.newbyteorder("<"), copy=False)


def _version(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
