"""Matrices in a safetensors file: written deterministically, read memory-mapped.

The layout is the public safetensors format (8 bytes of header length, a JSON header, the data without
holes), so any safetensors reader opens the file. It is written here because two compiles must give the
same bytes and because reading must not copy the weights of a large model into memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import UsageError

_NAMES = {
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float32": "F32",
    "float64": "F64",
}
_TYPES = {tag: np.dtype(name) for name, tag in _NAMES.items()}
_LARGEST_HEADER = 100_000_000


def write_safetensors(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write ``arrays`` by name to ``path``.

    Wide types come first and names ascend within a type: every array is aligned, and equal contents
    give equal bytes whatever the order of the mapping. Raises ``ValueError`` for a type the format
    does not have.
    """
    for name, array in arrays.items():
        if array.dtype.name not in _NAMES:
            raise ValueError(f"tensor '{name}': safetensors files here do not hold {array.dtype}")
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, arrays[name].dtype.name, name))
    header: dict[str, Any] = {}
    offset = 0
    for name in names:
        array = arrays[name]
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            array = np.ascontiguousarray(arrays[name])
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)


def read_safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a safetensors file, read-only and memory-mapped, names ascending.

    Raises :class:`~cimc.diagnostics.UsageError` that names the file when it is truncated, malformed
    or holds a type outside integers and floats of 32 and 64 bits.
    """
    size = path.stat().st_size
    if size < 8:
        raise UsageError(f"{size} bytes are no safetensors file; compile again", where=path.name)
    data = np.memmap(path, dtype=np.uint8, mode="r")
    length = int.from_bytes(bytes(data[:8]), "little")
    if length > min(size - 8, _LARGEST_HEADER):
        raise UsageError(
            f"truncated: a header of {length} bytes in a file of {size}; compile again", where=path.name
        )
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _view(data, 8 + length, entries[name]) for name in sorted(entries)}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"malformed safetensors file ({error}); compile again", where=path.name) from None


def _view(data: npt.NDArray[np.uint8], start: int, entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    dtype = _TYPES[entry["dtype"]]
    shape = tuple(int(extent) for extent in entry["shape"])
    first, last = (int(offset) for offset in entry["data_offsets"])
    wanted = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if min(shape, default=0) < 0 or first < 0 or last - first != wanted or start + last > len(data):
        raise ValueError(f"shape {shape} at bytes {first}..{last} of {len(data) - start}")
    raw = data[start + first : start + last]
    if (start + first) % dtype.itemsize:
        raw = raw.copy()
    return raw.view(dtype).reshape(shape)
