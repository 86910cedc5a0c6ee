"""Queues of work on a machine, so that copies and computing overlap where it can (docs/streaming.md, pool).

A lane runs what is put on it in order. Two lanes know nothing of one another except through events. On a GPU they
are CUDA streams; on a CPU everything happens at once, through the same calls. The GPU side has not been measured.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor


class Event(Protocol):
    """A point in a lane's order."""

    def query(self) -> bool:
        """Whether all work before it is done."""
        ...


class Lane(Protocol):
    """Work in order."""

    def record(self) -> Event:
        """An event behind everything put on this lane so far."""
        ...

    def wait(self, event: Event) -> None:
        """What is put on this lane from now on starts after ``event``."""
        ...


class Machine(Protocol):
    """Where blocks compute: its two lanes and its memory."""

    @property
    def compute(self) -> Lane:
        """The lane that uses codes."""
        ...

    @property
    def copies(self) -> Lane:
        """The lane that brings codes."""
        ...

    def empty(self, size_bytes: int) -> Tensor:
        """uint8 [size_bytes] in the machine's memory."""
        ...

    def on_copies(self) -> AbstractContextManager[object]:
        """A context in which torch puts its work on the copy lane."""
        ...


class _Done:
    """The event of a machine that has finished before it answers."""

    def query(self) -> bool:
        return True


class _InlineLane:
    """Work that is done as soon as it is put."""

    def record(self) -> Event:
        return _Done()

    def wait(self, event: Event) -> None:
        assert event.query()


class HostMachine:
    """A CPU: one thread, copies at once."""

    def __init__(self) -> None:
        self.compute: Lane = _InlineLane()
        self.copies: Lane = self.compute

    def empty(self, size_bytes: int) -> Tensor:
        """uint8 [size_bytes] of ordinary memory."""
        return torch.empty(size_bytes, dtype=torch.uint8)

    def on_copies(self) -> AbstractContextManager[object]:
        """Nothing to switch."""
        return nullcontext()


class _StreamLane:
    """A CUDA stream; ``None`` is whichever is current when work is put, as torch's operators do."""

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None):
        self._device = device
        self.stream = stream

    def _here(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._device) if self.stream is None else self.stream

    def record(self) -> Event:
        event = torch.cuda.Event()
        event.record(self._here())
        return event

    def wait(self, event: Event) -> None:
        assert isinstance(event, torch.cuda.Event)
        self._here().wait_event(event)


class CudaMachine:
    """A GPU: computing on the current stream, copies on a stream of their own."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self.compute: Lane = _StreamLane(device, None)
        self.copies: Lane = _StreamLane(device, self._stream)

    def empty(self, size_bytes: int) -> Tensor:
        """uint8 [size_bytes] on the GPU, allocated once: it belongs to no stream's cache afterwards."""
        return torch.empty(size_bytes, dtype=torch.uint8, device=self._device)

    def on_copies(self) -> AbstractContextManager[object]:
        """torch's work goes to the copy stream."""
        return torch.cuda.stream(self._stream)


def machine_of(device: torch.device) -> Machine:
    """The machine of a torch device: ``cuda`` or, for every other, the host's way of doing things."""
    return CudaMachine(device) if device.type == "cuda" else HostMachine()
