"""A fixed set of buffers that codes stream through, ahead of their use (docs/streaming.md, pool).

Buffers are allocated once and never freed while in use: a slot is refilled behind the event that ends its last
use, and used behind the event that ends its filling.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cimc.runtime.device.streaming.lanes import Event, Machine
from cimc.runtime.device.streaming.stores import Store


@dataclass(frozen=True)
class _Filled:
    """Codes under way to a slot, or there."""

    key: int
    slot: int
    ready: Event


class BufferPool:
    """``slots`` buffers of ``slot_bytes`` each; ``order`` is the order of use in one pass, which then repeats.

    One block is in use at a time: :meth:`acquire`, put work on the compute lane, :meth:`release`. A use out of order
    costs a transfer that was not ahead, and nothing else.

    Raises :class:`ValueError` when a block of ``order`` is larger than a slot or there is no slot.
    """

    def __init__(self, machine: Machine, store: Store, order: Sequence[int], slots: int, slot_bytes: int):
        if slots < 1:
            raise ValueError(f"a pool has at least one slot, got {slots}")
        large = [key for key in order if store.size_bytes(key) > slot_bytes]
        if large:
            raise ValueError(
                f"block {large[0]} has {store.size_bytes(large[0])} bytes, a slot has {slot_bytes}"
            )
        self._machine = machine
        self._store = store
        self._order = tuple(order)
        self._buffers = [machine.empty(slot_bytes) for _ in range(slots)]
        self._free: deque[tuple[int, Event | None]] = deque((slot, None) for slot in range(slots))
        self._filled: deque[_Filled] = deque()
        self._next = 0
        self._used: int | None = None
        self.fetched_bytes = 0
        """Transferred so far."""
        self.missed = 0
        """Uses that found their codes not even under way, the first of all apart."""

    @property
    def size_bytes(self) -> int:
        """Memory of the buffers."""
        return sum(buffer.numel() for buffer in self._buffers)

    def streams(self, key: int) -> bool:
        """Whether block ``key`` comes through this pool."""
        return key in self._order

    def acquire(self, key: int) -> Tensor:
        """uint8 codes of block ``key``, for work put on the compute lane from now on.

        Raises :class:`RuntimeError` while another block is in use, :class:`KeyError` for a block that does not stream.
        """
        if self._used is not None:
            raise RuntimeError("a block is in use already; release it first")
        self._skip_to(key)
        filled = self._filled.popleft()
        self._machine.compute.wait(filled.ready)
        self._used = filled.slot
        return self._buffers[filled.slot][: self._store.size_bytes(key)]

    def release(self) -> None:
        """End the use: behind the work put so far the slot may be refilled, with what is used next."""
        if self._used is None:
            raise RuntimeError("no block is in use")
        self._free.append((self._used, self._machine.compute.record()))
        self._used = None
        self._fill()

    def _skip_to(self, key: int) -> None:
        """Bring ``key`` to the front of what is filled."""
        started = bool(self._filled)
        self._fill()
        while self._filled and self._filled[0].key != key:
            # Fetched for nothing. Its slot is refilled by the lane that filled it, which keeps its order.
            self._free.append((self._filled.popleft().slot, None))
        if self._filled:
            return
        if key not in self._order:
            raise KeyError(f"block {key} does not stream")
        self._next = self._order.index(key)
        self.missed += started
        self._fill()

    def _fill(self) -> None:
        while self._free:
            slot, used = self._free.popleft()
            key = self._order[self._next]
            self._next = (self._next + 1) % len(self._order)
            if used is not None:
                self._machine.copies.wait(used)
            size = self._store.size_bytes(key)
            with self._machine.on_copies():
                self._store.fetch(key, self._buffers[slot][:size])
            self._filled.append(_Filled(key, slot, self._machine.copies.record()))
            self.fetched_bytes += size
