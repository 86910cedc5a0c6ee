"""How much memory is in use: of the process, of live tensors, and what a run promised (docs/streaming.md)."""

from __future__ import annotations

import ctypes
import sys
import tracemalloc
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from cimc.diagnostics import DoesNotFitError


def resident_bytes() -> int:
    """Resident size of this process (Linux). Raises :class:`OSError` where there is no ``/proc``."""
    return _status("VmRSS")


def peak_resident_bytes() -> int:
    """Largest resident size since the start or :func:`reset_peak` (Linux)."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Let :func:`peak_resident_bytes` start anew from the present size (Linux, ``man 5 proc``, clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def available_bytes(device: torch.device) -> int:
    """Memory that can still be used on ``device``: what the driver, or the system, calls free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024


def release_free_memory() -> None:
    """Give the system what the C library's allocator keeps of freed memory (glibc; elsewhere nothing happens)."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


_CASTING: tuple[Any, ...] = (
    torch.ops.aten.sum,
    torch.ops.aten.mean,
    torch.ops.aten.prod,
    torch.ops.aten.cumsum,
)
"""Operators that first copy their input to another type of result (torch 2.13 on a CPU, seen by its profiler)."""


class LiveBytes(TorchDispatchMode):
    """Bytes of tensors that torch made inside this context and that are still alive; ``peak`` of them.

    ``held`` are those alive when the context ends.

    Counts what operators return and, of what they take for themselves, the copies of :data:`_CASTING`. On the ``meta``
    device nothing is allocated, and the numbers are what the device would need.
    """

    def __init__(self, *, arrays: bool = False) -> None:
        """``arrays``: count what numpy and Python allocate too, as ``tracemalloc`` sees it."""
        super().__init__()
        self.live = 0
        self.peak = 0
        self.held = 0
        # References of its own: the registry of weakref.finalize is the process's, and its growth would count here.
        self._seen: dict[int, weakref.ref[Any]] = {}
        self._arrays = arrays
        self._before = 0

    def __enter__(self) -> LiveBytes:
        """Start to count."""
        if self._arrays:
            tracemalloc.start()
            self._before = tracemalloc.get_traced_memory()[0]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop, the arrays since the last operator included."""
        super().__exit__(*error)
        self._note(0)
        self._seen.clear()  # what is freed from here on does not count
        self.held = self.live
        if self._arrays:
            self.held += tracemalloc.get_traced_memory()[0] - self._before
            tracemalloc.stop()

    def _note(self, hidden_bytes: int) -> None:
        arrays = 0
        if self._arrays:
            arrays = tracemalloc.get_traced_memory()[1] - self._before
            tracemalloc.reset_peak()
        self.peak = max(self.peak, self.live + hidden_bytes + arrays)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator, then count the storages of its results that are new."""
        given = {self._id(t) for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for made in tree_iter(result):
            if isinstance(made, Tensor) and self._id(made) not in given:
                self._count(made)
        self._note(_hidden(func, args, result))
        return result

    @staticmethod
    def _id(tensor: Tensor) -> int:
        return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]  # no public identity

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        identity, size = self._id(tensor), storage.nbytes()
        if identity in self._seen:
            return
        self._seen[identity] = weakref.ref(storage, lambda _: self._gone(identity, size))
        self.live += size

    def _gone(self, identity: int, size: int) -> None:
        # Arrays that were made since the last operator existed beside this tensor.
        self._note(0)
        del self._seen[identity]
        self.live -= size


def _hidden(func: Any, args: tuple[Any, ...], result: Any) -> int:
    """Bytes of the copy that a reduction makes of its input."""
    if getattr(func, "overloadpacket", None) not in _CASTING or not isinstance(result, Tensor):
        return 0
    return args[0].numel() * result.element_size() if args[0].dtype != result.dtype else 0


class Ledger:
    """What a run has taken of what it promised, in bytes.

    Raises :class:`DoesNotFitError` when more is taken: the prediction was wrong, and the run stops before memory does.
    """

    def __init__(self, limit_bytes: int | None):
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.peak_bytes = 0

    def take(self, size_bytes: int, what: str) -> None:
        """Count ``size_bytes`` for ``what``; give them back with a negative number."""
        self.held_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        if self.limit_bytes is not None and size_bytes > 0 and self.held_bytes > self.limit_bytes:
            raise DoesNotFitError(
                f"{what} needs {size_bytes} bytes more than the {self.limit_bytes} that were predicted; "
                "plan again with an input of this size",
                where="streaming",
            )

    @contextmanager
    def taken(self, size_bytes: int, what: str) -> Generator[None]:
        """Hold ``size_bytes`` for the time of the context."""
        self.take(size_bytes, what)
        try:
            yield
        finally:
            self.take(-size_bytes, what)
