"""Where codes wait that are not in the machine's memory: one tier further out (docs/streaming.md, stores).

For a GPU that is pinned host memory, for a CPU a temporary file: the file's pages belong to the system's cache and not
to the process, and go when memory is short.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from cimc.diagnostics import UsageError


class Store(Protocol):
    """Codes by number. What is put again replaces what was there."""

    def put(self, key: int, codes: Tensor) -> None:
        """Keep ``codes``, contiguous of any shape, on a CPU."""
        ...

    def size_bytes(self, key: int) -> int:
        """Bytes of what was put."""
        ...

    def fetch(self, key: int, into: Tensor) -> None:
        """Copy everything of ``key`` to the uint8 tensor ``into`` of that size."""
        ...

    def fetch_rows(self, key: int, rows: Sequence[int], row_bytes: int) -> Tensor:
        """uint8 [len(rows), row_bytes] on the CPU: some rows of ``row_bytes`` each."""
        ...


def _bytes_of(codes: Tensor) -> Tensor:
    if codes.device.type != "cpu" or not codes.is_contiguous():
        raise ValueError("codes are stored from contiguous memory of the CPU")
    return codes.view(-1).view(torch.uint8)


class HostStore:
    """Codes in host memory, ``pinned`` so that a GPU copies them beside its computing.

    Raises :class:`UsageError` when the system refuses to pin that much.
    """

    def __init__(self, pinned: bool):
        self._pinned = pinned
        self._codes: dict[int, Tensor] = {}

    def put(self, key: int, codes: Tensor) -> None:
        """As :meth:`Store.put`; the codes are copied."""
        flat = _bytes_of(codes)
        try:
            kept = torch.empty(flat.shape, dtype=torch.uint8, pin_memory=self._pinned)
        except RuntimeError as error:
            raise UsageError(
                f"{flat.numel()} bytes of host memory cannot be pinned ({error}); raise the limit of locked memory",
                where="streaming",
            ) from error
        self._codes[key] = kept.copy_(flat)

    def size_bytes(self, key: int) -> int:
        """As :meth:`Store.size_bytes`."""
        return self._codes[key].numel()

    def fetch(self, key: int, into: Tensor) -> None:
        """As :meth:`Store.fetch`; does not wait for the copy on a GPU."""
        into.copy_(self._codes[key], non_blocking=True)

    def fetch_rows(self, key: int, rows: Sequence[int], row_bytes: int) -> Tensor:
        """As :meth:`Store.fetch_rows`."""
        return self._codes[key].view(-1, row_bytes)[list(rows)]


class FileStore:
    """Codes in a temporary file without a name, which the system removes when the process ends.

    Raises :class:`UsageError` when the disk takes no more.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="cimc-codes-")
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0

    def put(self, key: int, codes: Tensor) -> None:
        """As :meth:`Store.put`."""
        data = _bytes_of(codes).numpy().data
        size, done = len(data), 0
        start, room = self._places.get(key, (self._end, 0))
        if size != room:
            start = self._end
        try:
            while done < size:
                done += os.pwrite(self._file.fileno(), data[done:], start + done)
        except OSError as error:
            raise UsageError(
                f"codes cannot be written to {tempfile.gettempdir()}: {error.strerror}; set TMPDIR to a disk with room",
                where="streaming",
            ) from error
        self._places[key] = (start, size)
        self._end = max(self._end, start + size)

    def size_bytes(self, key: int) -> int:
        """As :meth:`Store.size_bytes`."""
        return self._places[key][1]

    def fetch(self, key: int, into: Tensor) -> None:
        """As :meth:`Store.fetch`."""
        start, size = self._places[key]
        self._read(into, start, size)

    def fetch_rows(self, key: int, rows: Sequence[int], row_bytes: int) -> Tensor:
        """As :meth:`Store.fetch_rows`."""
        start, _ = self._places[key]
        found = torch.empty((len(rows), row_bytes), dtype=torch.uint8)
        for place, row in zip(found, rows, strict=True):
            self._read(place, start + row * row_bytes, row_bytes)
        return found

    def _read(self, into: Tensor, start: int, size: int) -> None:
        view, done = into.numpy().data, 0
        while done < size:
            got = os.preadv(self._file.fileno(), [view[done:size]], start + done)
            if got == 0:
                raise EOFError(f"the file of codes ends at byte {start + done}, {size - done} bytes early")
            done += got


def store_for(device: torch.device) -> Store:
    """One tier beyond the memory of ``device``: pinned host memory for a GPU, a file for a CPU."""
    return HostStore(pinned=True) if device.type == "cuda" else FileStore()
